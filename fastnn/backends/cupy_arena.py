"""The memory of a training program: predicted from the architecture and the batch, taken once, handed out as views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..activations import Activation
from ..kernels.cuda import sources
from ..kernels.cuda.launchers import MAX_CHUNKS, partials_shape
from .cupy_contract import Device
from .cupy_products import aux_ld, row_ld
from .cupy_update import has_copy, padded, update_pieces

__all__ = ["ALIGNMENT", "Arena", "Pieces", "pieces_of_program", "steps_per_upload"]

Array = Any
Pieces = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]  # name -> shape and dtype
ALIGNMENT = 256  # of each view: what matrix products like best
ORDER_ROWS, MOST_STEPS = 1 << 16, 4096  # of the row numbers and of the constants that are on the device at a time


def steps_per_upload(batch: int) -> int:
    """Steps whose row numbers and constants are put on the device at a time."""
    return max(1, min(MOST_STEPS, ORDER_ROWS // batch))


def pieces_of_program(
    sizes: Sequence[int],
    rows: int,
    batch: int,
    kind: str,
    compute: str,
    rule: str,
    hidden: Sequence[Activation],
    workspace: int,
    clips: bool = False,
) -> Pieces:
    """What a program needs for batches of `batch` rows of which `rows` are computed at a time.

    sizes (s_1, ..., s_L); kind one of `sources.KINDS`; compute: arithmetic of products; rule: name of the optimizer;
    hidden: activations of the hidden layers; workspace in bytes; clips: the optimizer has a `clip_norm`.
    """
    real, store = sources.real(kind), sources.store(kind)
    layers, steps, lds = len(sizes) - 1, steps_per_upload(batch), [row_ld(size, kind) for size in sizes]
    pieces: Pieces = {f"a{layer}": ((rows, ld), store) for layer, ld in enumerate(lds[:-1])}
    # Two deltas are alive at a time, the one that arrives and the one that is made from it.
    pieces |= {f"delta{turn}": ((rows * max(lds[1:]),), store) for turn in range(min(2, layers))}
    pieces |= {
        f"mask{layer}": ((rows, aux_ld(sizes[layer]) // 8), np.dtype(np.uint8))
        for layer in range(1, layers)
        if hidden[layer - 1].name == "relu"
    }
    pieces |= {f"beside{layer}": ((rows, lds[layer]), store) for layer in range(1, layers) if hidden[layer - 1].of_z}
    pieces["Delta"] = (padded(sizes)[1],), real
    if has_copy(sizes, kind, compute):
        pieces["low"] = (padded(sizes)[1],), store
    pieces["chunks"] = (MAX_CHUNKS * sum(sizes[1:]),), real
    pieces["partials"] = partials_shape(), np.dtype(np.float64)
    pieces["totals"] = (2,), np.dtype(np.float64)
    pieces["order"] = (steps * batch,), np.dtype(np.int64)
    pieces["drawn"] = (2,), np.dtype(np.int64)
    pieces |= update_pieces(rule, sizes, steps, real, clips)
    pieces["tables"] = (2, layers, 4), np.dtype(np.int64)
    pieces["workspace"] = (max(1, workspace),), np.dtype(np.uint8)
    pieces["workspace_beside"] = (max(1, workspace),), np.dtype(np.uint8)  # of products that may run beside others
    return pieces


class Arena:
    """One allocation, cut into pieces.

    Parameters
    ----------
    device : Device
    pieces : Pieces
        What is wanted.

    Raises
    ------
    MemoryError
        The device has not that much.
    """

    def __init__(self, device: Device, pieces: Pieces) -> None:
        memory = device.empty((self.size(pieces),), np.uint8)
        device.clear(memory)
        offset, self._views = 0, {}
        for name, (shape, dtype) in pieces.items():
            self._views[name] = device.view(memory, offset, shape, dtype)
            offset += _padded(shape, dtype)

    @property
    def names(self) -> list[str]:
        """Of the pieces."""
        return list(self._views)

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    @staticmethod
    def size(pieces: Pieces) -> int:
        """Bytes that an arena of these pieces takes."""
        return sum(_padded(shape, dtype) for shape, dtype in pieces.values())


def _padded(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.ceil(math.prod(shape) * dtype.itemsize / ALIGNMENT) * ALIGNMENT
