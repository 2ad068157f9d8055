"""The methods ptq brings. One file a method, found by its name: a `METHOD`, see `ptq.quantization.method`."""
