"""Quantization: dtypes, methods that choose ranges, and what corrects a model."""
