"""What NumPy's stand-ins for compiled products share where nothing is compiled: rows of float32 by address, strides
in bytes.
"""

from __future__ import annotations

import numpy as np

from .panels import RECTIFY, vector_at

__all__ = ["finished", "rows_apart", "rows_at_places"]


def rows_apart(at, m, step, width):
    """The (m, width) numbers whose rows begin `step` bytes apart, as an array."""
    return np.lib.stride_tricks.as_strided(vector_at(at, np.float32(0), width), (m, width), (step, 4))


def rows_at_places(x, places, m, width):
    """A copy (m, width) of rows that begin at x + 4 places[i]."""
    return np.stack([vector_at(x + 4 * place, np.float32(0), width) for place in vector_at(places, np.int64(0), m)])


def finished(z, gate, step):
    """z (m, width) itself, after what `gate` asks for: 0 nothing, RECTIFY a ReLU, an address of a ReLU's outputs,
    rows `step` bytes apart, its derivative.
    """
    if gate == RECTIFY:
        z[z < 0] = 0
    elif gate:
        a = rows_apart(gate, *z.shape[:1], step, z.shape[1])
        z *= np.where(a > 0, np.float32(1), a)
    return z
