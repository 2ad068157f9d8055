"""Latency: the time ratio of two models, measured in turns."""
