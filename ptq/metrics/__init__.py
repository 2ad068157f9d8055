"""Metrics: how outputs become values, and what two models on the same samples say about a drop."""
