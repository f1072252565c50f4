"""Rows of the data as they come, converted and scaled on their way into the workspace.

X arrives as bytes with a code for its dtype, so one compilation serves all; nothing of X is ever
copied whole. Rows are asked for a few ahead of their use, because a shuffled order gives the
processor nothing to guess from.
"""

from __future__ import annotations

import numpy as np

from . import compiled, part
from .team import prefetch

__all__ = ["KINDS", "gather", "gather_rows"]

# dtype name -> code of the branch in `_gather_rows`. What data sets really come in; each more would
# cost every user half a second of compilation.
KINDS = {"float32": 0, "float64": 1, "uint8": 2, "bool": 2, "int64": 3}

_AHEAD = 4  # rows asked for before they are copied; measured best of 1, 2, 4, 8


def _gather(values, rows, x):
    """Overwrites x (m, n) with values[rows], of one dtype."""
    m, n = x.shape
    for i in range(m):
        source = values[rows[i]]
        for j in range(n):
            x[i, j] = source[j]


gather = compiled(_gather)


def _typed(flat, width, rows, scale, x):
    """Overwrites x (m, n) with scale * rows of flat, which holds rows of n numbers of any dtype; width is a row's bytes."""
    m, n = x.shape
    kind = x.dtype.type
    for i in range(min(_AHEAD, m)):
        prefetch(flat, rows[i] * width, width)
    for i in range(m):
        if i + _AHEAD < m:
            prefetch(flat, rows[i + _AHEAD] * width, width)
        source = flat[rows[i] * n : rows[i] * n + n]
        target = x[i]
        for j in range(n):
            target[j] = kind(source[j]) * scale


_typed = part(_typed)


def _gather_rows(data, code, scale, rows, x):
    """Overwrites x (m, n) with scale times those rows of the data.

    data: bytes of a C-contiguous (N, n) array of the dtype with this code (KINDS); scale: of x's dtype.
    """
    n = x.shape[1]
    if code == 0:
        _typed(data.view(np.float32), 4 * n, rows, scale, x)
    elif code == 1:
        _typed(data.view(np.float64), 8 * n, rows, scale, x)
    elif code == 2:
        _typed(data, n, rows, scale, x)
    else:
        _typed(data.view(np.int64), 8 * n, rows, scale, x)


gather_rows = part(_gather_rows)
