"""Grids: rounding with gradients: of activations onto a grid whose scale is learned, of weights that are learned."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptq.quantization.quantizer import Quantizer

if TYPE_CHECKING:
    from torch import Tensor


@cache
def _fake() -> Any:
    """The autograd function that rounds a tensor onto a grid and passes gradients on (straight through).

    Source: Esser et al. (2020), Learned Step Size Quantization, arXiv:1902.08153, for the gradient of the scale.
    """
    import torch

    class Fake(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, qmin: int, qmax: int) -> Tensor:
            rounded = torch.fake_quantize_per_tensor_affine(x, scale, zero, qmin, qmax)
            ctx.save_for_backward(x, rounded, scale)
            ctx.bounds = qmin - int(zero) - 0.5, qmax - int(zero) + 0.5
            return rounded

        @staticmethod
        def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
            x, rounded, scale = ctx.saved_tensors
            low, high = (each * scale for each in ctx.bounds)
            inside = slopes[0] * ((x >= low) & (x <= high))
            moved = torch.dot(slopes[0].reshape(-1), rounded.reshape(-1)) - torch.dot(inside.reshape(-1), x.reshape(-1))
            return inside, moved / scale, None, None, None

    return Fake


class ActivationGrid:
    """The grid of an activation: `growth` is the logarithm of its scale over the scale it starts with."""

    def __init__(self, quantizer: Quantizer, low: float, high: float) -> None:
        import torch

        self.quantizer = quantizer
        self.first, self.zero = quantizer.parameters(low, high)
        self.growth = torch.zeros((), requires_grad=True)
        self._zero = torch.tensor(self.zero, dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        """`x` rounded."""
        rounded: Tensor = _fake().apply(x, self.scale, self._zero, self.quantizer.qmin, self.quantizer.qmax)
        return rounded

    @property
    def scale(self) -> Tensor:
        """The scale, with its gradient."""
        return self.growth.exp() * float(self.first)

    @property
    def moved(self) -> bool:
        """Whether it is another than it was at first."""
        return float(self.growth.detach()) != 0.0

    @property
    def range(self) -> tuple[float, float]:
        """(low, high) that has this grid."""
        scale = float(self.growth.detach().exp()) * float(self.first)
        return (self.quantizer.qmin - self.zero) * scale, (self.quantizer.qmax - self.zero) * scale


class WeightRows:
    """The weights of a layer in steps of their grid, learned together with its scale.

    `weights` are on the grid already; `wanted` is where they came from. A weight starts on the side of its level that
    it came from, at most `_NEAR` steps away.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        weights: npt.NDArray[np.float32],
        wanted: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
        zero: npt.NDArray[np.int64],
        axis: int | None,
    ) -> None:
        import torch

        shape = [1] * weights.ndim
        if axis is not None:
            shape[axis] = -1
        self.quantizer, self.axis = quantizer, axis
        self.zero = zero
        self._first, self._shift = scale.reshape(shape), zero.reshape(shape)
        level = np.rint(weights / self._first)
        near = np.clip(wanted / self._first - level, -_NEAR, _NEAR)
        self.steps = torch.tensor(level + near, dtype=torch.float32, requires_grad=True)
        self.growth = torch.zeros(tuple(self._first.shape), requires_grad=True)

    def __call__(self) -> Tensor:
        """The weights, rounded."""
        import torch

        growth = self.growth.exp()
        steps = self.steps / growth
        low, high = (torch.tensor(each - self._shift, dtype=torch.float32) for each in self._bounds)
        held = torch.clamp(steps, low, high)
        return (held + (torch.round(held) - held).detach()) * self.scales

    @property
    def scales(self) -> Tensor:
        """The scales, with their gradient, as they are multiplied with the weights."""
        import torch

        return self.growth.exp() * torch.from_numpy(self._first)

    @property
    def _bounds(self) -> tuple[int, int]:
        return self.quantizer.qmin, self.quantizer.qmax

    @property
    def scale(self) -> npt.NDArray[np.float32]:
        """The scales, of the shape given."""
        grown = np.exp(self.growth.detach().numpy().astype(np.float64)) * self._first
        found: npt.NDArray[np.float32] = grown.astype(np.float32).reshape(self.zero.shape)
        return found


_NEAR = 0.45
