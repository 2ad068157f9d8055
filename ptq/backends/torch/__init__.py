"""PyTorch's two ways to quantize: FX graph mode and PyTorch 2 export. torch is imported when one is used."""

from ptq.backends.torch import fx, pt2e

BACKENDS = (fx.BACKEND, pt2e.BACKEND)
