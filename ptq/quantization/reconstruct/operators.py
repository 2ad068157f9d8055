"""Operators: what ONNX nodes compute, in PyTorch, so that errors have gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Operator = Callable[[Sequence[Any], dict[str, Any]], Any]
"""Takes the input tensors, None for one left out, and the attributes; returns the outputs, one or a tuple."""


def operators() -> dict[str, Operator]:
    """The operators there are, by ONNX's name. Imports torch."""
    import torch
    from torch.nn import functional as f

    def conv(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        x, weight, bias = *given[:2], given[2] if len(given) > 2 else None
        kernel = tuple(weight.shape[2:])
        strides = tuple(attributes.get("strides", [1] * len(kernel)))
        dilations = tuple(attributes.get("dilations", [1] * len(kernel)))
        before, after = _pads(attributes, tuple(x.shape[2:]), kernel, strides, dilations)
        if before != after:
            x, before = f.pad(x, _both(before, after)), (0,) * len(kernel)
        convolve = (f.conv1d, f.conv2d, f.conv3d)[len(kernel) - 1]
        return convolve(x, weight, bias, strides, before, dilations, attributes.get("group", 1))

    def gemm(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        a, b = given[0], given[1]
        a, b = a.T if attributes.get("transA") else a, b.T if attributes.get("transB") else b
        product = attributes.get("alpha", 1.0) * (a @ b)
        return product if len(given) < 3 else product + attributes.get("beta", 1.0) * given[2]

    def pool(given: Sequence[Any], attributes: dict[str, Any], largest: bool) -> Tensor:
        x, kernel = given[0], tuple(attributes["kernel_shape"])
        strides = tuple(attributes.get("strides", [1] * len(kernel)))
        before, after = _pads(attributes, tuple(x.shape[2:]), kernel, strides, (1,) * len(kernel))
        if largest:
            padded = f.pad(x, _both(before, after), value=float("-inf"))
            return (f.max_pool1d, f.max_pool2d, f.max_pool3d)[len(kernel) - 1](padded, kernel, strides)
        mean = (f.avg_pool1d, f.avg_pool2d, f.avg_pool3d)[len(kernel) - 1]
        total = mean(f.pad(x, _both(before, after)), kernel, strides)
        if not any((*before, *after)) or attributes.get("count_include_pad"):
            return total
        inside = f.pad(torch.ones_like(x[:1, :1]), _both(before, after))
        return total / mean(inside, kernel, strides)

    def reduce_mean(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        axes = attributes.get("axes") or (given[1].tolist() if len(given) > 1 else list(range(given[0].ndim)))
        return given[0].mean(dim=tuple(axes), keepdim=bool(attributes.get("keepdims", 1)))

    def reshape(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        keeps = not attributes.get("allowzero")
        sizes = [given[0].shape[i] if size == 0 and keeps else size for i, size in enumerate(given[1].tolist())]
        return given[0].reshape(sizes)

    def flatten(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        axis = attributes.get("axis", 1) % (given[0].ndim + 1)
        return given[0].reshape(int(torch.tensor(given[0].shape[:axis]).prod()), -1)

    def squeeze(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        axes = attributes.get("axes") or (given[1].tolist() if len(given) > 1 else None)
        return given[0].squeeze() if axes is None else given[0].squeeze(tuple(axes))

    def unsqueeze(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        axes = attributes.get("axes") or given[1].tolist()
        x = given[0]
        for axis in sorted(each % (x.ndim + len(axes)) for each in axes):
            x = x.unsqueeze(axis)
        return x

    def clip(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        low, high = ([*given[1:], None, None])[:2]
        low, high = attributes.get("min", low), attributes.get("max", high)
        return torch.clamp(given[0], None if low is None else float(low), None if high is None else float(high))

    def batch_norm(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        x, scale, bias, mean, variance = given
        return f.batch_norm(x, mean, variance, scale, bias, eps=attributes.get("epsilon", 1e-5))

    def layer_norm(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        shape = given[0].shape[attributes.get("axis", -1) :]
        bias = given[2] if len(given) > 2 else None
        return f.layer_norm(given[0], shape, given[1], bias, attributes.get("epsilon", 1e-5))

    def gather(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        axis, chosen = attributes.get("axis", 0) % given[0].ndim, given[1]
        picked = given[0].index_select(axis, chosen.reshape(-1) % given[0].shape[axis])
        return picked.reshape(*given[0].shape[:axis], *chosen.shape, *given[0].shape[axis + 1 :])

    def transpose(given: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
        return given[0].permute(attributes.get("perm", list(range(given[0].ndim))[::-1]))

    def over_space(x: Tensor) -> tuple[int, ...]:
        return tuple(range(2, x.ndim))

    return {
        "Add": lambda x, _: x[0] + x[1],
        "AveragePool": lambda x, a: pool(x, a, largest=False),
        "BatchNormalization": batch_norm,
        "Clip": clip,
        "Concat": lambda x, a: torch.cat(list(x), a["axis"]),
        "Conv": conv,
        "Div": lambda x, _: x[0] / x[1],
        "Erf": lambda x, _: torch.erf(x[0]),
        "Flatten": flatten,
        "Gather": gather,
        "Gelu": lambda x, a: f.gelu(x[0], approximate=a.get("approximate", b"none").decode()),
        "Gemm": gemm,
        "GlobalAveragePool": lambda x, _: x[0].mean(dim=over_space(x[0]), keepdim=True),
        "GlobalMaxPool": lambda x, _: x[0].amax(dim=over_space(x[0]), keepdim=True),
        "HardSigmoid": lambda x, a: torch.clamp(a.get("alpha", 0.2) * x[0] + a.get("beta", 0.5), 0, 1),
        "HardSwish": lambda x, _: f.hardswish(x[0]),
        "Identity": lambda x, _: x[0],
        "LayerNormalization": layer_norm,
        "LeakyRelu": lambda x, a: f.leaky_relu(x[0], a.get("alpha", 0.01)),
        "MatMul": lambda x, _: x[0] @ x[1],
        "MaxPool": lambda x, a: pool(x, a, largest=True),
        "Mul": lambda x, _: x[0] * x[1],
        "Pow": lambda x, _: x[0] ** x[1],
        "ReduceMean": reduce_mean,
        "Relu": lambda x, _: torch.relu(x[0]),
        "Reshape": reshape,
        "Shape": lambda x, _: torch.tensor(x[0].shape, dtype=torch.int64),
        "Sigmoid": lambda x, _: torch.sigmoid(x[0]),
        "Softmax": lambda x, a: torch.softmax(x[0], a.get("axis", -1)),
        "Sqrt": lambda x, _: torch.sqrt(x[0]),
        "Squeeze": squeeze,
        "Sub": lambda x, _: x[0] - x[1],
        "Tanh": lambda x, _: torch.tanh(x[0]),
        "Transpose": transpose,
        "Unsqueeze": unsqueeze,
    }


def _pads(
    attributes: dict[str, Any],
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is padded before and after each spatial dimension."""
    how, rank = attributes.get("auto_pad", b"NOTSET").decode(), len(kernel)
    if not how.startswith("SAME"):
        pads = tuple(attributes.get("pads", [0] * 2 * rank))
        return pads[:rank], pads[rank:]
    total = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    less, more = tuple(each // 2 for each in total), tuple(each - each // 2 for each in total)
    return (less, more) if how == "SAME_UPPER" else (more, less)


def _both(before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    """Pads in torch's order: the last dimension first."""
    return [each for pair in zip(before[::-1], after[::-1], strict=True) for each in pair]
