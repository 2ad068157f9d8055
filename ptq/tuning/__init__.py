"""A search for the fastest or the smallest quantized model that meets a bar."""
