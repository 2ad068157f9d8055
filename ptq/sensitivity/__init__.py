"""Which layers of a model lose what by quantization: measured on unlabelled samples, one pass for all layers."""
