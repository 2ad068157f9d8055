"""Calibration: what is seen of tensors in one pass over the calibration samples."""
