"""Correction: weights rounded so that errors cancel over the calibration samples, and a bias that takes up the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ptq.calibration.patches import Doubles, Moments
from ptq.quantization.quantizer import Quantizer

_DAMPING = 0.01  # of the mean variance, as in the source
_BLOCK = 128  # columns whose errors reach the rest at once, as in the source
_SHARES = np.linspace(0.5, 1, 11)  # of the whole range, those tried for a grid of few bits
_FEW = 7  # bits; of a grid that has as many, the whole range won in every layer it was tried on


def fit_weights(
    rows: npt.NDArray[np.float32],
    quantizer: Quantizer,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    moments: Moments,
    centred: bool = True,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(rounded, scale, zero_point): `round_weights` over [low, high], of shape () or (outputs,).

    With fewer than 7 bits, over the share of that range, one a grid, that leaves the least expected error.
    """
    scale, zero_point = quantizer.grids(low, high)
    with threadpool_limits(limits=1, user_api="blas"):
        factors = [_Factor.of(hessian) for hessian in _hessians(moments, centred)]
    rounded = _round(rows, quantizer, scale, zero_point, factors)
    if quantizer.bits >= _FEW:
        return rounded, scale, zero_point
    whole = not scale.shape
    best = expected_error(rows, rounded, moments, centred)
    best = best.sum() if whole else best
    for share in _SHARES[-2::-1]:
        other, zero = quantizer.grids(share * np.asarray(low), share * np.asarray(high))
        tried = _round(rows, quantizer, other, zero, factors)
        lost = expected_error(rows, tried, moments, centred)
        lost = lost.sum() if whole else lost
        better = lost < best
        rounded = np.where(np.broadcast_to(better, len(rows))[:, None], tried, rounded)
        scale, zero_point = np.where(better, other, scale), np.where(better, zero, zero_point)
        best = np.where(better, lost, best)
    return rounded, scale, zero_point


def round_weights(
    rows: npt.NDArray[np.float32],
    quantizer: Quantizer,
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.int64],
    moments: Moments,
    centred: bool = True,
) -> npt.NDArray[np.float32]:
    """`rows` on the grid, rounded column by column, each column's error made up for in those still to come.

    Minimises the expected squared error of the layer's output instead of that of its weights. `rows` has shape
    (outputs, length), `scale` and `zero_point` (outputs,) or (); outputs of a group follow one another. `centred` when
    the layer has a bias to take up the mean of the error (`bias_shift`), so that only its variance counts. Uses inputs,
    never labels.

    Source: Frantar et al. (2022), GPTQ, arXiv:2210.17323, with the columns in the order of falling variance and the
    covariance of the inputs as the Hessian.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        factors = [_Factor.of(hessian) for hessian in _hessians(moments, centred)]
    return _round(rows, quantizer, scale, zero_point, factors)


def expected_error(
    rows: npt.NDArray[np.float32], rounded: npt.NDArray[np.float32], moments: Moments, centred: bool
) -> Doubles:
    """Expected squared error of every output, shape (outputs,), of `rounded` for `rows`; `centred`: its variance."""
    lost, outputs = rows.astype(np.float64) - rounded, len(rows) // len(moments.mean)
    each = np.empty(len(rows))
    with threadpool_limits(limits=1, user_api="blas"):
        for group, hessian in enumerate(_hessians(moments, centred)):
            part = lost[group * outputs : (group + 1) * outputs]
            each[group * outputs : (group + 1) * outputs] = ((part @ hessian) * part).sum(axis=1)
    return each


def _hessians(moments: Moments, centred: bool) -> Iterator[Doubles]:
    for mean, covariance in zip(moments.mean, moments.covariance, strict=True):
        yield covariance if centred else covariance + np.outer(mean, mean)


def bias_shift(
    rows: npt.NDArray[np.float32], rounded: npt.NDArray[np.float32], moments: Moments
) -> npt.NDArray[np.float32]:
    """What to add to the bias, shape (outputs,), so that the output's mean is that of the float layer.

    Source: Nagel et al. (2019), Data-Free Quantization Through Weight Equalization and Bias Correction,
    arXiv:1906.04721, section 4.2, with the mean measured on calibration samples.
    """
    lost = rows.astype(np.float64) - rounded
    groups = lost.reshape(len(moments.mean), -1, lost.shape[1])
    shift = np.einsum("gok,gk->go", groups, moments.mean).reshape(-1)
    moved: npt.NDArray[np.float32] = shift.astype(np.float32)
    return moved


@dataclass(frozen=True, eq=False)
class _Factor:
    """The columns of a group in the order of falling variance, and the upper factor of their damped inverse Hessian."""

    order: npt.NDArray[np.intp]
    upper: Doubles

    @classmethod
    def of(cls, hessian: Doubles) -> _Factor:
        variance = np.diag(hessian)
        order = np.argsort(-variance, kind="stable")
        return cls(order, _upper(hessian[np.ix_(order, order)], _DAMPING * float(variance.mean()) or 1.0))


def _round(
    rows: npt.NDArray[np.float32],
    quantizer: Quantizer,
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.int64],
    factors: list[_Factor],
) -> npt.NDArray[np.float32]:
    rounded = np.empty(rows.shape, np.float32)
    outputs = len(rows) // len(factors)
    scales = np.broadcast_to(scale, len(rows)).astype(np.float64)
    zeros = np.broadcast_to(zero_point, len(rows)).astype(np.float64)
    with threadpool_limits(limits=1, user_api="blas"):  # the same bits whatever the cores
        for group, factor in enumerate(factors):
            part = slice(group * outputs, (group + 1) * outputs)
            rounded[part] = _round_group(rows[part].astype(np.float64), quantizer, scales[part], zeros[part], factor)
    return rounded


def _round_group(rows: Doubles, quantizer: Quantizer, scale: Doubles, zero: Doubles, factor: _Factor) -> Doubles:
    length, order, upper = rows.shape[1], factor.order, factor.upper
    # a weight's column is a row here: all that is touched lies together
    left, rounded = np.ascontiguousarray(rows.T[order]), np.empty((length, len(rows)))
    for start in range(0, length, _BLOCK):
        block = slice(start, min(start + _BLOCK, length))
        errors = np.empty((block.stop - start, len(rows)))
        for column in range(start, block.stop):
            steps = np.rint(left[column] / scale) + zero
            rounded[column] = (np.clip(steps, quantizer.qmin, quantizer.qmax) - zero) * scale
            errors[column - start] = (left[column] - rounded[column]) / upper[column, column]
            left[column + 1 : block.stop] -= np.outer(upper[column, column + 1 : block.stop], errors[column - start])
        left[block.stop :] -= upper[block, block.stop :].T @ errors
    back = np.empty_like(order)
    back[order] = np.arange(length)
    return rounded[back].T


def _upper(hessian: Doubles, damping: float) -> Doubles:
    """The upper factor of the damped inverse; damped more where inputs depend on one another too closely."""
    try:
        return np.linalg.cholesky(np.linalg.inv(hessian + damping * np.eye(len(hessian)))).T
    except np.linalg.LinAlgError:
        return _upper(hessian, 10 * damping)
