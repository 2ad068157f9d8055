"""Backends: what makes and runs artifacts, one file or folder each, found by its name."""
