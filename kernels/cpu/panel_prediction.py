"""The outputs of a network for many rows, with the products of kernels/cpu/panels.py: one compiled call on packed
parameters.

Memory, all C-contiguous of the network's dtype, given by the caller: X (m, s_1), read where it lies; out (m, s_L);
packed as in kernels/cpu/panel_program.py; a ((ROWS + AHEAD) * (P_1 + ... + P_L),) and first (2 ROWS + AHEAD,) int64 are
scratch; places (L + 1, ROWS + AHEAD) int64 and zeros as there.
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from . import per_dtype
from .codes import RELU
from .on_demand import activate_at
from .panels import AHEAD, RECTIFY, address, apply, itemsize, rows_at, step_of
from .prediction import finite, first_finite

__all__ = ["ROWS", "panel_prediction"]

ROWS = 64  # at a time


def _predict(X, panels, sizes, widths, blocks, starts, codes, slopes, packed, a, first, places, zeros, out):
    """Overwrites out (m, s_L) with a^(L). Returns False, with out unfinished, if X holds NaN or infinity."""
    layers, n_in, K, block = sizes.size - 1, sizes[0], sizes[sizes.size - 1], ROWS + AHEAD
    zero = packed.dtype.type(0)
    size = itemsize(zero)
    theta, rows, place, nothing = address(packed), address(a), address(places), address(zeros)
    total = X.shape[0]
    for begin in range(0, total, ROWS):
        m, listed = min(ROWS, total - begin), min(2 * ROWS, total - begin)
        for i in range(listed + AHEAD):
            first[i] = min(begin + i, total - 1) * n_in  # the rows that fill the last tile are read too
        for layer in range(layers):
            depth, P, step = sizes[layer], widths[layer], step_of(widths[layer], size)
            z = rows + block * starts[layer] * size
            x = address(X) if layer == 0 else rows + block * starts[layer - 1] * size
            where = address(first) if layer == 0 else place + layer * 8 * block
            # not of the first: infinity in X must be seen in z
            rectified = 0 < layer < layers - 1 and codes[layer] == RELU
            apply(
                panels, zero, x, where, m, ROWS if layer == 0 else 0, listed, theta + blocks[layer] * size, depth + 1,
                P, 0, depth, 0, z, step, RECTIFY if rectified else 0,
            )  # fmt: skip
            if layer == 0 and not first_finite(rows_at(z, zero, m, step)) and not finite(X[begin : begin + m]):
                return False
            if layer < layers - 1 and not rectified:
                activate_at(panels, zero, codes[layer], slopes[layer], z, 1, m * step, nothing, np.int64(0))
        last = rows_at(rows + block * starts[layers - 1] * size, zero, m, step_of(widths[layers - 1], size))
        for i in range(m):
            for j in range(K):
                out[begin + i, j] = last[i, j]
        outputs = address(out) + begin * K * size
        activate_at(panels, zero, codes[layers - 1], slopes[layers - 1], outputs, m, K, nothing, np.int64(0))
    return True


def _signature(name):
    real, indices = getattr(types, name), types.Array(types.int64, 1, "C")
    vector, rows = types.Array(real, 1, "C"), types.Array(real, 2, "C", readonly=True)
    return types.boolean(
        rows, *[indices] * 6, vector, vector, vector, indices, types.Array(types.int64, 2, "C"), vector,
        types.Array(real, 2, "C"),
    )  # fmt: skip


panel_prediction = per_dtype(_predict, _signature)
