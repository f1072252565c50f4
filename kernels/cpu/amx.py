"""Products of float32 on Intel's matrix unit (AMX), each number in three parts of bfloat16: as exact as float32 products are, at about twice their speed.

The unit multiplies bfloat16 alone, sixteen times as fast as vectors multiply float32. Six products of parts (kernels/cpu/amx_code.py) take their place, and the sums,
rounded less often, come out closer to the exact ones than a chain of float32 additions. What differs: a number beyond 3.38e38 in size becomes infinite, products
with an infinite factor are NaN, and parts below 1.2e-38 count as zero.

Both factors are laid out in pieces first, 32 inputs of 16 rows or columns each: weights once a step, for the way forth and back (`pack_weights`), deltas
transposed (`pack_turned`), rows of data or activations by the products themselves, some at a time:

    forward   z_i = bias + sum_k x_ik W_jk, and the ReLU or its derivative if asked for
    add_up    Delta_jk = keep Delta_jk + share sum_i delta_ij x_ik

Sums run in an order that does not depend on the other rows. Without JIT, NumPy does the same on the same memory.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

import llvmlite.binding
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from . import JIT, exported, inner
from .amx_code import MOST, PIECE, PRODUCTS, SIDE, TILE, block_of_sums, block_to_weights, finish_row, left_row, right_pair, turn_tiles
from .amx_code import configure as _configure
from .amx_code import release as _release
from .panels import RECTIFY, called, rows_at, vector_at
from .team import ask_to_read

__all__ = [
    "INPUTS",
    "PIECE",
    "REGISTERS",
    "ROOM",
    "SIDE",
    "add_up",
    "addresses",
    "configure",
    "forward",
    "groups_of",
    "left_pieces",
    "missing",
    "pack_turned",
    "pack_weights",
    "release",
    "steps_of",
]

INPUTS = 2 * SIDE  # of a piece
NEAR_BYTES, FAR_BYTES = 1 << 18, 5 << 17  # of left factors at a time: more where the weights come from beyond the second-level cache, so that they come less often
WEIGHTS_NEAR = 2 << 20  # bytes of a layer's weights as factors that stay near
ROOM = MOST * TILE  # bytes of the sums of a block
# Shapes of the eight registers, as the instruction wants them (manual, 18.2): palette 1, 64 bytes a row, 16 rows.
REGISTERS = np.concatenate([[1], np.zeros(15), [64, 0] * 8, np.zeros(16), [SIDE] * 8, np.zeros(8)]).astype(np.uint8)
_ARCH_PRCTL, _ASK, _TILES = 158, 0x1023, 18  # Linux, x86-64: the number of the system call, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
_NEEDED = ("amx-tile", "amx-bf16", "avx512f", "avx512bw")


@functools.cache
def missing() -> str | None:
    """Why the unit cannot be used, or None. The first call asks the system for leave, which the process then has for good: contexts of its threads may be 8 KiB larger."""
    if not JIT:
        return None  # NumPy takes its place
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return "AMX is used on Linux with x86-64 alone"
    features = llvmlite.binding.get_host_cpu_features()
    if lacking := [name for name in _NEEDED if not features.get(name)]:
        return f"this processor, or what lies between it and this process, has no {', '.join(lacking)}"
    if ctypes.CDLL(None, use_errno=True).syscall(_ARCH_PRCTL, _ASK, _TILES) != 0:
        return f"the system does not let this process use AMX (error {ctypes.get_errno()})"
    return None


def _groups_of(width):
    return (width + SIDE - 1) // SIDE


def _steps_of(depth):
    return (depth + INPUTS - 1) // INPUTS


def _rows_at_once(steps, groups):
    """Rows of so many pieces of inputs that become left factors at a time, where the right factor has so many groups of columns."""
    most = NEAR_BYTES if steps * groups * PIECE <= WEIGHTS_NEAR else FAR_BYTES
    return max(1, most // (steps * 2 * PIECE)) * INPUTS


def left_pieces(rows, steps):
    """Room for the left factors of so many rows of at most so many pieces of inputs each, in pieces: for all of them, or as many as are made at a time."""
    return min(2 * _steps_of(rows) * steps, max(2 * steps, FAR_BYTES // PIECE))


rows_at_once = inner(_rows_at_once) if JIT else _rows_at_once
groups_of = inner(_groups_of) if JIT else _groups_of  # of 16 rows or columns
steps_of = inner(_steps_of) if JIT else _steps_of  # pieces of 32 inputs


if JIT:
    configure, release = _configure, _release

    def _next(left, other):
        """Of `left` groups of 16, how many to take beside `other` more in a block; three where one would be left over."""
        return min(left, 3 if left == 3 or other == 1 else 2) if other < 3 else min(left, 2)

    _next = inner(_next)

    def _forward(x, places, m, depth, left, W, width, bias, out, out_step, gate, coming, asked):
        place, steps, columns = vector_at(places, np.int64(0), m), (depth + INPUTS - 1) // INPUTS, width // SIDE
        of_group, most = steps * PIECE, rows_at_once(steps, columns)
        each = (asked * 4 + groups_of(m) * columns - 1) // (groups_of(m) * columns)  # rows asked for with a block, most of which have four groups of sums
        row = np.int64(0)
        for first in range(0, m, most):
            end = min(m, first + most)
            for i in range(first, end, SIDE):
                for s in range(steps):
                    to = left + ((i - first) // SIDE * steps + s) * PIECE
                    for k in range(i, min(end, i + SIDE)):
                        left_row(x + 4 * (place[k] + s * INPUTS), depth - s * INPUTS, to + (k - i) * 64)
            groups, begin = groups_of(end - first), out + first * out_step
            j = 0
            while j < columns:
                c = _next(columns - j, np.int64(2))
                i = 0
                while i < groups:
                    r = _next(groups - i, c)
                    some = min(each, asked - row)
                    to = begin + i * SIDE * out_step + 64 * j
                    block_of_sums(r, c, left + i * of_group, of_group, W + j * of_group, of_group, steps, np.int64(1), to, out_step, SIDE * out_step, x, coming + 8 * row, some)
                    row += some
                    i += r
                j += c
            for i in range(first, end if bias != 0 else first):
                finish_row(out + i * out_step, width, bias, gate + i * out_step if gate > RECTIFY else gate)

    def _add_up(left, n_out, x, places, m, n_in, right, room, out, share, keep, coming, asked):
        place, steps = vector_at(places, np.int64(0), m), (m + INPUTS - 1) // INPUTS
        rows, of_group, fresh, none, step = groups_of(n_out), steps * PIECE, np.int64(keep == 0), np.int64(0), 4 * n_in
        each = (asked * 2 + rows - 1) // rows
        for j in range(0, n_in, 2 * SIDE):
            c = 2 if n_in - j > SIDE else 1
            for k in range(0, steps * INPUTS, 2):
                count, count_of_next = n_in - j if k < m else none, n_in - j if k + 1 < m else none
                row, to = x + 4 * (place[min(k, m - 1)] + j), right + k // INPUTS * PIECE + k % INPUTS * 32
                next_row = x + 4 * (place[min(k + 1, m - 1)] + j)
                right_pair(row, count, next_row, count_of_next, to)
                if c == 2:
                    right_pair(row + 64, count - SIDE, next_row + 64, count_of_next - SIDE, to + of_group)
            i, asking = 0, none
            while i < rows:
                r = _next(rows - i, c)
                a, to = left + i * of_group, out + i * SIDE * step + 4 * j
                if share == 1 and (fresh or keep == 1) and (i + r) * SIDE <= n_out and j + c * SIDE <= n_in:
                    block_of_sums(r, c, a, of_group, right, of_group, steps, fresh, to, step, SIDE * step, none, none, none)
                else:
                    block_of_sums(r, c, a, of_group, right, of_group, steps, np.int64(1), room, np.int64(64), c * TILE, none, none, none)
                    block_to_weights(room, min(r * SIDE, n_out - i * SIDE), min(c * SIDE, n_in - j), to, step, share, keep)
                some = min(each, asked - asking)
                later = vector_at(coming + 8 * asking, none, some)
                for k in range(some):
                    for line in range(c):
                        ask_to_read(x + 4 * (later[k] + j + line * SIDE))
                asking += some
                i += r

    def _pack_turned(d, step, m, width, left):
        steps = (m + INPUTS - 1) // INPUTS
        for j in range(0, width, SIDE):
            for s in range(steps):
                to = left + (j // SIDE * steps + s) * PIECE
                for p in range(SIDE):
                    i = s * INPUTS + 2 * p
                    row = d + i * step + 4 * j
                    right_pair(row, width - j if i < m else np.int64(0), row + step, width - j if i + 1 < m else np.int64(0), to + 64 * p)
                turn_tiles(to, np.int64(3))

    def _pack_weights(W, first, last, n_out, n_in, forth, back):
        step, steps = 4 * n_in, (n_in + INPUTS - 1) // INPUTS
        for j in range(first, last, SIDE):
            for s in range(steps):
                to = forth + (j // SIDE * steps + s) * PIECE
                for k in range(j, j + SIDE):  # units that are not there are zeros: the step before left its transposed tile here
                    left_row(W + k * step + 4 * s * INPUTS, n_in - s * INPUTS if k < last else np.int64(0), to + (k - j) * 64)
                turn_tiles(to, np.int64(3))
        if back != 0:
            steps = (n_out + INPUTS - 1) // INPUTS
            for k in range(0, n_in, SIDE):
                for j in range(first, last, 2):
                    row = W + j * step + 4 * k
                    right_pair(row, n_in - k, row + step, n_in - k if j + 1 < last else np.int64(0), back + (k // SIDE * steps + j // INPUTS) * PIECE + j % INPUTS * 32)

else:

    def configure(at):
        """NumPy needs none."""

    def release():
        """Nor this."""

    def _pieces(at, groups, steps, inner_shape):
        """The parts in memory, as (groups, steps, 3, ...) bfloat16 in uint16."""
        return rows_at(at, np.float32(0), 1, groups * steps * PIECE // 4)[0].view(np.uint16).reshape(groups, steps, 3, *inner_shape)

    def _parts(x):
        """(3, ...) bfloat16 in uint16."""
        pieces = []
        for _ in range(2):
            part = (x.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)
            pieces.append(part)
            x = x - part.view(np.float32)
        return np.stack([(part >> 16).astype(np.uint16) for part in (*pieces, x.view(np.uint32))])

    def _whole(x, rows, columns):
        full = np.zeros((rows, columns), np.float32)
        full[: x.shape[0], : x.shape[1]] = x
        return full

    def _as_left(x):
        """(groups, steps, 3, 16, 32) of rows (m, depth)."""
        groups, steps = groups_of(x.shape[0]), steps_of(x.shape[1])
        return _parts(_whole(x, groups * SIDE, steps * INPUTS)).reshape(3, groups, SIDE, steps, INPUTS).transpose(1, 3, 0, 2, 4)

    def _as_right(x):
        """(groups, steps, 3, 16, 16, 2) of inputs (depth, width)."""
        groups, steps = groups_of(x.shape[1]), steps_of(x.shape[0])
        return _parts(_whole(x, steps * INPUTS, groups * SIDE)).reshape(3, steps, SIDE, 2, groups, SIDE).transpose(4, 1, 0, 2, 5, 3)

    def _floats(pieces):
        return (pieces.astype(np.uint32) << 16).view(np.float32)

    def _product(left, right, rows, columns, steps):
        """(16 * groups of rows, 16 * groups of columns), of the parts in memory."""
        g, h = groups_of(rows), groups_of(columns)
        a = _floats(_pieces(left, g, steps, (SIDE, INPUTS))).transpose(2, 0, 3, 1, 4).reshape(3, g * SIDE, steps * INPUTS)
        b = _floats(_pieces(right, h, steps, (SIDE, SIDE, 2))).transpose(2, 1, 3, 5, 0, 4).reshape(3, steps * INPUTS, h * SIDE)
        return sum(a[p] @ b[q] for p, q in PRODUCTS)

    def _rows_of(at, m, step, width):
        return np.lib.stride_tricks.as_strided(vector_at(at, np.float32(0), width), (m, width), (step, 4))

    def _gathered(x, places, m, depth):
        return np.stack([vector_at(x + 4 * place, np.float32(0), depth) for place in vector_at(places, np.int64(0), m)])

    def forward(table, x, places, m, depth, left, W, width, bias, out, out_step, gate, coming, asked):
        """The same in NumPy."""
        pieces = np.ascontiguousarray(_as_left(_gathered(x, places, m, depth)))
        z = _product(pieces.ctypes.data, W, m, width, steps_of(depth))[:m] + (vector_at(bias, np.float32(0), width) if bias else 0)
        if gate == RECTIFY:
            z[z < 0] = 0
        elif gate:
            a = _rows_of(gate, m, out_step, width)
            z *= np.where(a > 0, np.float32(1), a)
        _rows_of(out, m, out_step, width)[...] = z

    def add_up(table, left, n_out, x, places, m, n_in, right, room, out, share, keep, coming, asked):
        """The same in NumPy."""
        pieces = np.ascontiguousarray(_as_right(_gathered(x, places, m, n_in)))
        Delta, total = rows_at(out, np.float32(0), n_out, n_in), share * _product(left, pieces.ctypes.data, n_out, n_in, steps_of(m))[:n_out, :n_in]
        Delta[...] = keep * Delta + total if keep else total

    def pack_turned(table, d, step, m, width, left):
        """The same in NumPy."""
        rows = _rows_of(d, m, step, width)
        _pieces(left, groups_of(width), steps_of(m), (SIDE, INPUTS))[...] = _as_left(rows.T)

    def pack_weights(table, W, first, last, n_out, n_in, forth, back):
        """The same in NumPy."""
        weights = rows_at(W, np.float32(0), n_out, n_in)
        _pieces(forth, groups_of(n_out), steps_of(n_in), (SIDE, SIDE, 2))[...] = _as_right(weights.T)
        if back:
            _pieces(back, groups_of(n_in), steps_of(n_out), (SIDE, SIDE, 2))[...] = _as_right(weights)


# By address; numbers are float32, strides in bytes. `table`: from `addresses`. left, right, forth, back: pieces, 64-byte aligned.
#
# forward:      out[i] = bias + sum_k x_ik W_jk for i < m, where row i lies at x + 4 places[i], its `depth` numbers side by side; no bias where that is 0; width a multiple of 16;
#               rows of out to the next multiple of 16 may be overwritten. left: room for `left_pieces`.
#               gate: 0; or, with a bias, RECTIFY for the ReLU, or the address of rows like out's, outputs of a ReLU, whose derivative multiplies out
# add_up:       out (n_out, n_in) = keep out + share left x, rows of x (m, n_in) as above; out is not read where keep is 0. right: room for 32 columns of m rows as right factor; room: ROOM bytes
#               Both meanwhile ask for the first `depth`, or n_in, numbers of `asked` rows, which begin at x + 4 coming[i]
# pack_turned:  d (m, width), rows `step` bytes apart, as left factor (width, m)
# pack_weights: units first..last of W (n_out, n_in), first a multiple of 16 and last too unless it is n_out, as right factor W^T, and W unless back is 0. Without JIT all units
if JIT:
    _FORWARD, _ADD_UP, _PACK_TURNED, _PACK_WEIGHTS = 0, 1, 2, 3  # places in the table, before those of on_demand.py
    _float, _integer = types.float32, types.int64

    @intrinsic
    def forward(typingctx, table, x, places, m, depth, left, W, width, bias, out, out_step, gate, coming, asked):
        """See above."""
        return types.void(table, *[_integer] * 13), called(_FORWARD)

    @intrinsic
    def add_up(typingctx, table, left, n_out, x, places, m, n_in, right, room, out, share, keep, coming, asked):
        """See above."""
        return types.void(table, *[_integer] * 9, _float, _float, *[_integer] * 2), called(_ADD_UP)

    @intrinsic
    def pack_turned(typingctx, table, d, step, m, width, left):
        """See above."""
        return types.void(table, *[_integer] * 5), called(_PACK_TURNED)

    @intrinsic
    def pack_weights(typingctx, table, W, first, last, n_out, n_in, forth, back):
        """See above."""
        return types.void(table, *[_integer] * 7), called(_PACK_WEIGHTS)


@functools.cache
def _compiled():
    """[(place in the table, function)], once per process: their code must not be freed."""
    whole = types.int64
    return [
        (_FORWARD, exported(_forward, types.void(*[whole] * 13))),
        (_ADD_UP, exported(_add_up, types.void(*[whole] * 9, types.float32, types.float32, *[whole] * 2))),
        (_PACK_TURNED, exported(_pack_turned, types.void(*[whole] * 5))),
        (_PACK_WEIGHTS, exported(_pack_weights, types.void(*[whole] * 7))),
    ]


def addresses():
    """(4,) int64, before those of on_demand.py."""
    made = np.zeros(4, np.int64)
    for place, function in _compiled() if JIT else ():
        made[place] = function.address
    return made
