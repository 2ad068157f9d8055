"""CrossMoments: what a layer is given and what it should give, over all samples, up to second order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptq.calibration.patches import Doubles, Moments
from ptq.data.samples import Float32

_DAMPING = 0.01  # of the mean variance of the inputs: how much weights are held where they are


class CrossMoments:
    """Means and covariances of a layer's patches, (groups, n, length), and of its wanted outputs, (groups, n, outputs).

    All in float64. `finish` before anything is asked.
    """

    def __init__(self) -> None:
        self._count = 0
        none: Doubles = np.zeros(())
        self._mean = self._wanted = self._products = self._cross = self._few = none

    def add(self, patches: Float32, wanted: Float32) -> None:
        """Take in what belongs together, place by place."""
        self._count += patches.shape[1]
        self._mean = self._mean + patches.sum(axis=1, dtype=np.float64)
        self._wanted = self._wanted + wanted.sum(axis=1, dtype=np.float64)
        self._products = self._products + patches.transpose(0, 2, 1) @ patches
        self._cross = self._cross + wanted.transpose(0, 2, 1) @ patches

    def finish(self) -> CrossMoments:
        """Sums turned into means; itself."""
        self._mean, self._wanted = self._mean / self._count, self._wanted / self._count
        self._products = self._products / self._count - self._mean[:, :, None] * self._mean[:, None, :]
        self._cross = self._cross / self._count - self._wanted[:, :, None] * self._mean[:, None, :]
        length = self._products.shape[1]
        spread = np.trace(self._products, axis1=1, axis2=2) / length
        self._few = np.multiply.outer(spread * (length / self._count), np.eye(length))
        return self

    @property
    def moments(self) -> Moments:
        """Of the patches alone, drawn towards independent ones the more, the fewer there were."""
        return Moments(self._mean, self._products + self._few)

    def least_squares(self, rows: Float32, centred: bool) -> Float32:
        """The weights, shape (outputs, length), that give what is wanted with the least squared error, held near
        `rows`; `centred` when a bias takes up the mean."""
        old = rows.astype(np.float64)
        outputs, found = len(old) // len(self._mean), np.empty(old.shape, np.float32)
        for group, (mean, wanted) in enumerate(zip(self._mean, self._wanted, strict=True)):
            part = slice(group * outputs, (group + 1) * outputs)
            square, cross = self._products[group], self._cross[group]
            if not centred:
                square, cross = square + np.outer(mean, mean), cross + np.outer(wanted, mean)
            held = square + self._few[group] + (_DAMPING * float(np.diag(square).mean()) or 1.0) * np.eye(len(square))
            found[part] = old[part] + np.linalg.solve(held, (cross - old[part] @ square).T).T
        return found

    def left(self, rows: Float32) -> npt.NDArray[np.float32]:
        """The bias, shape (outputs,), with which `rows` give the mean that is wanted."""
        groups = rows.astype(np.float64).reshape(len(self._mean), -1, rows.shape[1])
        bias: Doubles = self._wanted - np.einsum("gok,gk->go", groups, self._mean)
        moved: npt.NDArray[np.float32] = bias.reshape(-1).astype(np.float32)
        return moved
