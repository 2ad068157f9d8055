"""Checks: whether what goes into a model, and the float model itself, can be trusted."""
