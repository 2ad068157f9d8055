"""Data: samples, inputs and files, read within limits."""
