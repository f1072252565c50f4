"""The launches of a LARS and of a LAMB step (layerwise.cu): norms of every part, their ratios, the move.

A layer's weights are one part of theta, its biases another. Nothing here allocates memory or waits for
the device. dtype and contiguity are checked when the arguments are bound (`sources.bind`).
"""

from __future__ import annotations

from typing import Any

from . import launchers
from .launchers import REDUCTION_BLOCKS, THREADS, Launcher
from .step import OF_A_SPAN

__all__ = ["LayerwiseKernels", "layer_partials_shape", "layer_ratios_shape"]

Array = Any


def layer_partials_shape(layers: int) -> tuple[int, int, int]:
    """Shape of the float64 scratch array of the first sums."""
    return (2 * layers, 2, REDUCTION_BLOCKS)


def layer_ratios_shape(layers: int) -> tuple[int]:
    """Shape of the float64 array of the ratios."""
    return (2 * layers,)


class LayerwiseKernels:
    """The kernels of layerwise.cu on one device, for arrays of one dtype.

    Arguments of both rules: theta and the state (P,) of the dtype, Delta padded; spans (layers, 7) int64 (layers.cuh);
    partials and ratios as above, overwritten; squares (layers * REDUCTION_BLOCKS,) float64; constants (steps, width) of
    the dtype and step (1,) int64 as in layerwise.cu; D = Delta / rows, plus decay * Theta on the weights. Moves theta
    and the state in place.
    """

    def __init__(self, device: Launcher, kind: str) -> None:
        self._device, self._kind = device, kind

    def lars(
        self,
        theta: Array,
        Delta: Array,
        velocity: Array,
        spans: Array,
        partials: Array,
        ratios: Array,
        squares: Array,
        constants: Array,
        step: Array,
        rows: int,
    ) -> None:
        """One LARS step; constants as in fastnn.optimizers.LARS."""
        grid = _checked(theta, (velocity,), spans, partials, ratios, squares)
        where = (constants, constants.shape[1], step)
        self._launch("lars_norms", grid, theta, Delta, spans, partials, squares, *where, rows)
        self._launch("layer_ratios", (grid[1],), ratios, partials, grid[0], *where, 1)
        self._launch("lars_move", grid, theta, Delta, velocity, spans, ratios, *where, rows)

    def lamb(
        self,
        theta: Array,
        Delta: Array,
        m: Array,
        v: Array,
        spans: Array,
        partials: Array,
        ratios: Array,
        squares: Array,
        constants: Array,
        step: Array,
        rows: int,
    ) -> None:
        """One LAMB step; scale = 1 / (1 - beta1^t), correction = 1 / (1 - beta2^t)."""
        grid = _checked(theta, (m, v), spans, partials, ratios, squares)
        where = (constants, constants.shape[1], step)
        self._launch("lamb_norms", grid, theta, Delta, m, v, spans, partials, squares, *where, rows)
        self._launch("layer_ratios", (grid[1],), ratios, partials, grid[0], *where, 0)
        self._launch("lamb_move", grid, theta, m, v, spans, ratios, *where)

    def _launch(self, kernel: str, grid: tuple[int, ...], *arguments: Any) -> None:
        self._device.launch(kernel, self._kind, grid, (THREADS,), arguments)


def _checked(
    theta: Array, state: tuple[Array, ...], spans: Array, partials: Array, ratios: Array, squares: Array
) -> tuple[int, int]:
    """The grid: blocks that stride over a part, and the parts.

    Raises
    ------
    ValueError
        Shapes that do not fit together.
    """
    layers = spans.shape[0]
    wanted = [
        ("spans", spans, (layers, OF_A_SPAN)),
        ("partials", partials, layer_partials_shape(layers)),
        ("ratios", ratios, layer_ratios_shape(layers)),
        ("squares", squares, (layers * REDUCTION_BLOCKS,)),
    ]
    wanted += [(f"state[{number}]", x, tuple(theta.shape)) for number, x in enumerate(state)]
    for name, x, shape in wanted:
        if tuple(x.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(x.shape)}")
    (blocks,), _ = launchers.striding(theta.size, REDUCTION_BLOCKS)
    return blocks, 2 * layers
