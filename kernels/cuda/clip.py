"""The launches that scale a gradient which is too long (clip.cu).

Nothing here allocates memory or waits for the device. dtype and contiguity are checked when the arguments are bound
(`sources.bind`).
"""

from __future__ import annotations

from typing import Any

from . import launchers
from .launchers import REDUCTION_BLOCKS, THREADS, Launcher
from .step import OF_A_SPAN

__all__ = ["ClipKernels", "clip_partials_shape"]

Array = Any


def clip_partials_shape(layers: int) -> tuple[int]:
    """Shape of the float64 scratch array of the first sums."""
    return (2 * layers * REDUCTION_BLOCKS,)


class ClipKernels:
    """The kernels of clip.cu on one device, for arrays of one dtype."""

    def __init__(self, device: Launcher, kind: str) -> None:
        self._device, self._kind = device, kind

    def __call__(
        self,
        theta: Array,
        Delta: Array,
        spans: Array,
        partials: Array,
        clip: Array,
        constants: Array,
        step: Array,
        rows: int,
    ) -> None:
        """Changes Delta (padded) so that D = Delta / rows, plus decay * Theta on the weights, is at most clip[0] long.

        theta (P,) of the dtype; spans (layers, 7) int64 (layers.cuh); partials as above, overwritten; clip (2,)
        float64, of which [1] is overwritten with the factor; constants (steps, width) of the dtype and step (1,) int64
        as in update.cu.

        Raises
        ------
        ValueError
            Shapes that do not fit together.
        """
        layers = spans.shape[0]
        for name, x, shape in (
            ("spans", spans, (layers, OF_A_SPAN)),
            ("partials", partials, clip_partials_shape(layers)),
            ("clip", clip, (2,)),
        ):
            if tuple(x.shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(x.shape)}")
        (blocks,), _ = launchers.striding(theta.size, REDUCTION_BLOCKS)
        grid, where = (blocks, 2 * layers), (constants, constants.shape[1], step, rows)
        self._device.launch("clip_norms", self._kind, grid, (THREADS,), (theta, Delta, spans, partials, *where))
        count = blocks * 2 * layers
        self._device.launch("clip_factor", self._kind, (1,), (THREADS,), (clip, partials, count))
        self._device.launch("clip_delta", self._kind, grid, (THREADS,), (theta, Delta, spans, clip, *where))
