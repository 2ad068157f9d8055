"""Correction: weights rounded so that errors cancel over the calibration samples, and a bias that takes up the rest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ptq.calibration.patches import Doubles, Moments
from ptq.quantization.quantizer import Quantizer

_DAMPING = 0.01  # of the mean variance, as in the source
_BLOCK = 128  # columns whose errors reach the rest at once, as in the source


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
    rounded = np.empty(rows.shape, np.float32)
    outputs = len(rows) // len(moments.mean)
    scales = np.broadcast_to(scale, len(rows)).astype(np.float64)
    zeros = np.broadcast_to(zero_point, len(rows)).astype(np.float64)
    with threadpool_limits(limits=1, user_api="blas"):  # the same bits whatever the cores
        for group, (mean, covariance) in enumerate(zip(moments.mean, moments.covariance, strict=True)):
            part = slice(group * outputs, (group + 1) * outputs)
            hessian = covariance if centred else covariance + np.outer(mean, mean)
            rounded[part] = _round_group(rows[part].astype(np.float64), quantizer, scales[part], zeros[part], hessian)
    return rounded


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


def _round_group(rows: Doubles, quantizer: Quantizer, scale: Doubles, zero: Doubles, hessian: Doubles) -> Doubles:
    length = rows.shape[1]
    variance = np.diag(hessian)
    damping = _DAMPING * float(variance.mean()) or 1.0
    order = np.argsort(-variance, kind="stable")
    upper = _factor(hessian[np.ix_(order, order)], damping)
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


def _factor(hessian: Doubles, damping: float) -> Doubles:
    """The upper factor of the damped inverse; damped more where inputs depend on one another too closely."""
    try:
        return np.linalg.cholesky(np.linalg.inv(hessian + damping * np.eye(len(hessian)))).T
    except np.linalg.LinAlgError:
        return _factor(hessian, 10 * damping)
