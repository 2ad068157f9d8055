"""Models: float models in their forms, and how they become ONNX."""
