"""Products of the first layer on Intel's matrix unit where the data are uint8: pixels, and other small counts.

A bfloat16 holds a uint8 exactly. So rows of them lie in one part, and three products of parts take the place of the six
in kernels/cpu/amx.py. What the data are scaled by multiplies sums, which are as exact as they were, and deltas.
"""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from . import JIT, exported, once
from .amx import add_up_of, forward_of
from .amx_layout import LEFT_BYTES, RIGHT_BYTES
from .panels import called, vector_at

__all__ = ["add_up_bytes", "bytes_addresses", "forward_bytes"]

# Of uint8 rows, which begin at x + places[i], and otherwise as in kernels/cpu/amx.py:
#
# forward_bytes: out[i] = bias + scale sum_k x_ik W_jk; bias is not 0
# add_up_bytes:  out = keep out + share left x
if JIT:
    _FORWARD_BYTES, _ADD_UP_BYTES = 11, 12  # places in the table, behind those of kernels/cpu/amx_thin.py
    _float, _integer = types.float32, types.int64

    def _forward(x, places, m, depth, left, W, width, bias, scale, out, out_step, gate, ahead, errand):
        forward_of(LEFT_BYTES, x, places, m, depth, left, W, width, bias, scale, out, out_step, gate, ahead, errand)

    def _add_up(left, n_out, x, places, m, n_in, right, room, out, step, share, keep, ahead, errand):
        add_up_of(RIGHT_BYTES, left, n_out, x, places, m, n_in, right, room, out, step, share, keep, ahead, errand)

    @intrinsic
    def forward_bytes(
        typingctx, table, x, places, m, depth, left, W, width, bias, scale, out, out_step, gate, ahead, errand
    ):
        """See above."""
        return types.void(table, *[_integer] * 8, _float, *[_integer] * 5), called(_FORWARD_BYTES)

    @intrinsic
    def add_up_bytes(
        typingctx, table, left, n_out, x, places, m, n_in, right, room, out, step, share, keep, ahead, errand
    ):
        """See above."""
        return types.void(table, *[_integer] * 10, _float, _float, *[_integer] * 2), called(_ADD_UP_BYTES)

else:

    def _rows(x, places, m, width):
        return np.stack(
            [vector_at(x + place, np.uint8(0), width) for place in vector_at(places, np.int64(0), m)]
        ).astype(np.float32)

    def forward_bytes(table, x, places, m, depth, left, W, width, bias, scale, out, out_step, gate, ahead, errand):
        """The same in NumPy."""
        forward_of(LEFT_BYTES, _rows(x, places, m, depth), W, width, bias, scale, out, out_step, gate)

    def add_up_bytes(table, left, n_out, x, places, m, n_in, right, room, out, step, share, keep, ahead, errand):
        """The same in NumPy."""
        add_up_of(RIGHT_BYTES, left, n_out, _rows(x, places, m, n_in), out, step, share, keep)


@once
def _compiled():
    """Both, once per process: their code must not be freed."""
    whole = types.int64
    return exported(_forward, types.void(*[whole] * 8, types.float32, *[whole] * 5)), exported(
        _add_up, types.void(*[whole] * 10, types.float32, types.float32, *[whole] * 2)
    )


def bytes_addresses(wanted):
    """(2,) int64, or zeros."""
    return np.array([function.address for function in _compiled()] if JIT and wanted else [0, 0], np.int64)
