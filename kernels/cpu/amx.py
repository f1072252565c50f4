"""Products of float32 on Intel's matrix unit (AMX), each number in three parts of bfloat16: as exact as float32
products are, at about twice their speed.

The unit multiplies bfloat16 alone, sixteen times as fast as vectors multiply float32. Six products of parts
(kernels/cpu/amx_code.py) take their place, and the sums, rounded less often, come out closer to the exact ones than a
chain of float32 additions. What differs: a number beyond 3.38e38 in size becomes infinite, products with an infinite
factor are NaN, and parts below 1.2e-38 count as zero.

Both factors are laid out in pieces first, 32 inputs of 16 rows or columns each: weights once a step, for the way forth
and back (`pack_weights`), deltas transposed (`pack_turned`), rows of data or activations by the products themselves,
some at a time:

    forward   z_i = bias + sum_k x_ik W_jk, and the ReLU or its derivative if asked for
    add_up    Delta_jk = keep Delta_jk + share sum_i delta_ij x_ik

Where x is uint8 (kernels/cpu/amx_bytes.py), it lies in one part, three products of parts are all, and a quarter of the
bytes is read.

Sums run in an order that does not depend on the other rows. Without JIT, NumPy does the same on the same memory.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

import numpy as np
from numba.core import config, types
from numba.extending import intrinsic

from . import JIT, exported, inner, once
from .amx_code import MOST, PACE, PRODUCTS, block_of_sums, block_to_weights, finish_row
from .amx_code import configure as _configure
from .amx_code import release as _release
from .amx_layout import (
    ERRAND,
    LEFT_BYTES,
    NUMBERS,
    PIECE,
    RIGHT_BYTES,
    SIDE,
    TILE,
    finish_errand,
    right_pair,
    turn_pairs,
)
from .panels import RECTIFY, called, rows_at, vector_at
from .plain import finished, rows_apart, rows_at_places
from .vectors import FEATURES

__all__ = [
    "ERRAND",
    "INPUTS",
    "PIECE",
    "REGISTERS",
    "ROOM",
    "SIDE",
    "add_up",
    "add_up_of",
    "addresses",
    "configure",
    "forward",
    "forward_of",
    "groups_of",
    "left_pieces",
    "missing",
    "pack_turned",
    "pack_weights",
    "release",
    "right_pieces",
    "steps_of",
]

INPUTS = 2 * SIDE  # of a piece
NEAR_GROUPS = 2  # of 16 rows, that are left factors at a time while those to come are laid out
# of left factors at a time where the weights come from beyond the second-level cache, so that they come less often;
# laid out before, not meanwhile
FAR_BYTES = 5 << 17
WEIGHTS_NEAR = 2 << 20  # bytes of a layer's weights as factors that stay near
ROOM = MOST * TILE  # bytes of the sums of a block
# Shapes of the eight registers, as the instruction wants them (manual, 18.2): palette 1, 64 bytes a row, 16 rows.
REGISTERS = np.concatenate([[1], np.zeros(15), [64, 0] * 8, np.zeros(16), [SIDE] * 8, np.zeros(8)]).astype(np.uint8)
# Linux, x86-64: the number of the system call, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
_ARCH_PRCTL, _ASK, _TILES = 158, 0x1023, 18
_NEEDED = ("amx-tile", "amx-bf16", "avx512f", "avx512bw")


@functools.cache
def missing() -> str | None:
    """Why the unit cannot be used, or None. The first call asks the system for leave, which the process then has
    for good: contexts of its threads may be 8 KiB larger.
    """
    if not JIT:
        return None  # NumPy takes its place
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return "AMX is used on Linux with x86-64 alone"
    if lacking := [name for name in _NEEDED if not FEATURES.get(name)]:
        if config.CPU_FEATURES is not None:
            return f"NUMBA_CPU_NAME or NUMBA_CPU_FEATURES leave out {', '.join(lacking)}"
        return f"this processor, or what lies between it and this process, has no {', '.join(lacking)}"
    if ctypes.CDLL(None, use_errno=True).syscall(_ARCH_PRCTL, _ASK, _TILES) != 0:
        return f"the system does not let this process use AMX (error {ctypes.get_errno()})"
    return None


def _groups_of(width):
    return (width + SIDE - 1) // SIDE


def _steps_of(depth):
    return (depth + INPUTS - 1) // INPUTS


def _groups_at_once(steps, columns, piece):
    """Groups of 16 rows, of so many pieces of inputs, that become left factors at a time, or one more; where the
    right factor has so many groups of columns.
    """
    return NEAR_GROUPS if steps * columns * PIECE <= WEIGHTS_NEAR else max(NEAR_GROUPS, FAR_BYTES // (steps * piece))


def left_pieces(rows, steps):
    """Room for the left factors of so many rows of at most so many pieces of inputs each, in pieces: twice where
    they are few, those in use and those to come.
    """
    groups = _groups_of(rows)
    return max(2 * min(NEAR_GROUPS + 1, groups) * steps, min(groups * steps, FAR_BYTES // PIECE + steps))


def right_pieces(rows):
    """Room for 32 columns of so many rows as right factor, in use and to come, in pieces."""
    return 4 * _steps_of(rows)


groups_at_once = inner(_groups_at_once) if JIT else _groups_at_once
groups_of = inner(_groups_of) if JIT else _groups_of  # of 16 rows or columns
steps_of = inner(_steps_of) if JIT else _steps_of  # pieces of 32 inputs


if JIT:
    configure, release = _configure, _release

    def _next(left, other):
        """Of `left` groups of 16, how many to take in a block beside `other` of the other factor: enough sums for
        none to wait for its last addition, and registers for two of each factor.
        """
        return min(left, 3 if other == 1 else 2)

    _next = inner(_next)

    def _errand(errand, units, right, rows, x, count, to, places, of_group, ahead):
        """What is to be laid out next, as kernels/cpu/amx_layout.py says."""
        fields = vector_at(errand, np.int64(0), ERRAND)
        fields[0] = units
        fields[1] = right
        fields[2] = 0
        fields[3] = rows
        fields[4] = x
        fields[5] = count
        fields[6] = to
        fields[7] = places
        fields[8] = of_group
        fields[9] = ahead

    _errand = inner(_errand)

    def _pace(units, products):
        """Of an errand, so that it is done a little before so many products of tiles are."""
        return min(PACE, PACE * units * 17 // (16 * products) + 1)

    _pace = inner(_pace)

    def _forward_of(form, x, places, m, depth, left, W, width, bias, scale, out, out_step, gate, ahead, errand):
        octets, piece, products = (True, TILE, 3) if form == LEFT_BYTES else (False, PIECE, 6)
        steps, columns, groups = (depth + INPUTS - 1) // INPUTS, width // SIDE, groups_of(m)
        of_group = steps * piece
        most = groups_at_once(steps, columns, piece)
        units = (steps + 1) // 2 if octets else steps
        twice, weights_group = np.int64(1 if most == NEAR_GROUPS else 0), steps * PIECE
        side, first, n = np.int64(0), np.int64(0), groups if groups <= most + 1 else most  # groups
        _errand(errand, min(m, n * SIDE) * units, 0, min(m, n * SIDE), x, depth, left, places, of_group, ahead)
        while n > 0:
            finish_errand(form, errand)
            begin = out + first * SIDE * out_step
            now = left + side * (NEAR_GROUPS + 1) * of_group
            end = min(m, (first + n) * SIDE)
            left_over = groups - first - n
            n_next = left_over if left_over <= most + 1 else most
            rows = min(m - end, n_next * SIDE)
            side, pace = twice - side, np.int64(0)
            if twice == 1 and n_next > 0:
                _errand(
                    errand, rows * units, 0, rows, x, depth, left + side * (NEAR_GROUPS + 1) * of_group,
                    places + 8 * end, of_group, ahead,
                )  # fmt: skip
                pace = _pace(rows * units, products * n * columns * steps)
            j = 0
            while j < columns:
                c = _next(columns - j, min(n, 2))
                i = 0
                while i < n:
                    r = _next(n - i, c)
                    to = begin + i * SIDE * out_step + 64 * j
                    block_of_sums(
                        form, r, c, now + i * of_group, of_group, W + j * weights_group, weights_group, steps,
                        np.int64(1), to, out_step, SIDE * out_step, errand, pace,
                    )  # fmt: skip
                    i += r
                j += c
            if twice == 0 and n_next > 0:
                _errand(errand, rows * units, 0, rows, x, depth, left, places + 8 * end, of_group, ahead)
            for i in range(first * SIDE, end if bias != 0 else first * SIDE):
                finish_row(out + i * out_step, width, scale, bias, gate + i * out_step if gate > RECTIFY else gate)
            first, n = first + n, n_next

    def _add_up_of(form, left, n_out, x, places, m, n_in, right, room, out, step, share, keep, ahead, errand):
        size, piece, products = (1, TILE, 3) if form == RIGHT_BYTES else (4, PIECE, 6)
        steps = (m + INPUTS - 1) // INPUTS
        rows = groups_of(n_out)
        of_group = steps * PIECE
        of_columns = steps * piece
        fresh = np.int64(keep == 0)
        none = np.int64(0)
        units = steps * SIDE
        _errand(errand, units, 1, m, x, n_in, right, places, of_columns, ahead)
        for j in range(0, n_in, 2 * SIDE):
            finish_errand(form, errand)
            c, now, pace = 2 if n_in - j > SIDE else 1, right + (j // (2 * SIDE) % 2) * 2 * of_columns, none
            if n_in - j > 2 * SIDE:
                _errand(
                    errand, units, 1, m, x + size * (2 * SIDE + j), n_in - j - 2 * SIDE,
                    right + (1 - j // (2 * SIDE) % 2) * 2 * of_columns, places, of_columns, ahead,
                )  # fmt: skip
                pace = _pace(units, products * rows * c * steps)
            i = 0
            while i < rows:
                r = _next(rows - i, c)
                a, to = left + i * of_group, out + i * SIDE * step + 4 * j
                if share == 1 and (fresh or keep == 1) and (i + r) * SIDE <= n_out and j + c * SIDE <= n_in:
                    block_of_sums(
                        form, r, c, a, of_group, now, of_columns, steps, fresh, to, step, SIDE * step, errand, pace
                    )
                else:
                    block_of_sums(
                        form, r, c, a, of_group, now, of_columns, steps, np.int64(1), room, np.int64(64), c * TILE,
                        errand, pace,
                    )  # fmt: skip
                    block_to_weights(
                        room, min(r * SIDE, n_out - i * SIDE), min(c * SIDE, n_in - j), to, step, share, keep
                    )
                i += r

    # the first argument is a literal: what the factors are
    forward_of, add_up_of = inner(_forward_of), inner(_add_up_of)

    def _forward(x, places, m, depth, left, W, width, bias, scale, out, out_step, gate, ahead, errand):
        forward_of(NUMBERS, x, places, m, depth, left, W, width, bias, scale, out, out_step, gate, ahead, errand)

    def _add_up(left, n_out, x, places, m, n_in, right, room, out, step, share, keep, ahead, errand):
        add_up_of(NUMBERS, left, n_out, x, places, m, n_in, right, room, out, step, share, keep, ahead, errand)

    def _pack_turned(d, step, m, width, left, first, steps):
        for j in range(0, width, SIDE):
            for s in range((m + INPUTS - 1) // INPUTS):
                i, count = s * INPUTS, width - j
                rows = d + i * step + 4 * j
                turn_pairs(
                    rows, m - i, count, rows + SIDE * step, m - i - SIDE, count, step,
                    left + (j // SIDE * steps + first + s) * PIECE,
                )  # fmt: skip

    def _pack_weights(W, step, first, last, n_out, n_in, forth, back):
        steps = (n_in + INPUTS - 1) // INPUTS
        for j in range(first, last, SIDE):
            for s in range(steps):
                rows, count = W + j * step + 4 * s * INPUTS, n_in - s * INPUTS
                turn_pairs(
                    rows, last - j, count, rows + 4 * SIDE, last - j, count - SIDE, step,
                    forth + (j // SIDE * steps + s) * PIECE,
                )  # fmt: skip
        if back != 0:
            steps = (n_out + INPUTS - 1) // INPUTS
            for k in range(0, n_in, SIDE):
                for j in range(first, last, INPUTS):
                    for p in range(j, min(last, j + SIDE)):
                        row, to = W + p * step + 4 * k, back + (k // SIDE * steps + j // INPUTS) * PIECE + (p - j) * 64
                        right_pair(row, n_in - k, row + SIDE * step, n_in - k if p + SIDE < last else np.int64(0), to)

else:

    def configure(at):
        """NumPy needs none."""

    def release():
        """Nor this."""

    def _pieces(at, groups, steps):
        """The parts in memory, as (groups, steps, 3, 16, 16, 2) bfloat16 in uint16."""
        return (
            rows_at(at, np.float32(0), 1, groups * steps * PIECE // 4)[0]
            .view(np.uint16)
            .reshape(groups, steps, 3, SIDE, SIDE, 2)
        )

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
        """(groups, steps, 3, 16, 16, 2) of rows (m, depth)."""
        groups, steps = groups_of(x.shape[0]), steps_of(x.shape[1])
        return (
            _parts(_whole(x, groups * SIDE, steps * INPUTS))
            .reshape(3, groups, SIDE, steps, 2, SIDE)
            .transpose(1, 3, 0, 2, 5, 4)
        )

    def _as_right(x):
        """(groups, steps, 3, 16, 16, 2) of inputs (depth, width)."""
        groups, steps = groups_of(x.shape[1]), steps_of(x.shape[0])
        return (
            _parts(_whole(x, steps * INPUTS, groups * SIDE))
            .reshape(3, steps, 2, SIDE, groups, SIDE)
            .transpose(4, 1, 0, 3, 5, 2)
        )

    def _floats(pieces):
        return (pieces.astype(np.uint32) << 16).view(np.float32)

    def _product(left, right, rows, columns, steps, products):
        """(16 * groups of rows, 16 * groups of columns), of the parts in memory."""
        g, h = groups_of(rows), groups_of(columns)
        a = _floats(_pieces(left, g, steps)).transpose(2, 0, 3, 1, 5, 4).reshape(3, g * SIDE, steps * INPUTS)
        b = _floats(_pieces(right, h, steps)).transpose(2, 1, 5, 3, 0, 4).reshape(3, steps * INPUTS, h * SIDE)
        return sum(a[p] @ b[q] for p, q in products)

    def forward_of(form, x, W, width, bias, scale, out, out_step, gate):
        """The same in NumPy, of rows x (m, depth)."""
        m, depth = x.shape
        pieces = np.ascontiguousarray(_as_left(x))
        z = _product(pieces.ctypes.data, W, m, width, steps_of(depth), PRODUCTS[form])[:m]
        rows_apart(out, m, out_step, width)[...] = finished(
            scale * z + vector_at(bias, np.float32(0), width) if bias else z, gate, out_step
        )

    def add_up_of(form, left, n_out, x, out, step, share, keep):
        """The same in NumPy, of rows x (m, n_in)."""
        m, n_in = x.shape
        pieces = np.ascontiguousarray(_as_right(x))
        total = share * _product(left, pieces.ctypes.data, n_out, n_in, steps_of(m), PRODUCTS[form])[:n_out, :n_in]
        Delta = rows_apart(out, n_out, step, n_in)
        Delta[...] = keep * Delta + total if keep else total

    def forward(table, x, places, m, depth, left, W, width, bias, scale, out, out_step, gate, ahead, errand):
        """The same in NumPy."""
        forward_of(NUMBERS, rows_at_places(x, places, m, depth), W, width, bias, scale, out, out_step, gate)

    def add_up(table, left, n_out, x, places, m, n_in, right, room, out, step, share, keep, ahead, errand):
        """The same in NumPy."""
        add_up_of(NUMBERS, left, n_out, rows_at_places(x, places, m, n_in), out, step, share, keep)

    def pack_turned(table, d, step, m, width, left, first, steps):
        """The same in NumPy."""
        rows = rows_apart(d, m, step, width)
        _pieces(left, groups_of(width), steps)[:, first : first + steps_of(m)] = _as_left(rows.T)

    def pack_weights(table, W, step, first, last, n_out, n_in, forth, back):
        """The same in NumPy."""
        weights = rows_apart(W, n_out, step, n_in)
        _pieces(forth, groups_of(n_out), steps_of(n_in))[...] = _as_right(weights.T)
        if back:
            _pieces(back, groups_of(n_in), steps_of(n_out))[...] = _as_right(weights)


# By address; numbers are float32, strides in bytes. `table`: from `addresses`. left, right, forth, back: pieces,
# 64-byte aligned.
#
# forward:      out[i] = bias + scale sum_k x_ik W_jk for i < m, where row i lies at x + 4 places[i], its `depth`
#               numbers side by side; no bias or scale where bias is 0; width a multiple of 16; rows of out to the next
#               multiple of 16 may be overwritten. left: room for `left_pieces`
#               gate: 0; or, with a bias, RECTIFY for the ReLU, or the address of rows like out's, outputs of a ReLU,
#               whose derivative multiplies out
# add_up:       out (n_out, n_in), rows `step` bytes apart, = keep out + share left x, rows of x (m, n_in) as above; out
#               is not read where keep is 0. right: room for `right_pieces`; room: ROOM bytes
# errand:       room for ERRAND int64 numbers
# ahead:        0; or how many rows ahead forward asks for rows, with places for them beyond m, and add_up for columns
# pack_turned:  d (m, width), rows `step` bytes apart, as left factor (width, m), whose pieces begin with number `first`
#               of so many `steps`: others' rows may lie before and behind
# pack_weights: units first..last of W (n_out, n_in), rows `step` bytes apart, as right factor W^T, and W too unless
#               back is 0. first is a multiple of 16 (of 32 if back is not 0), and so is last unless it is n_out.
#               Without JIT all units
if JIT:
    _FORWARD, _ADD_UP, _PACK_TURNED, _PACK_WEIGHTS = 0, 1, 2, 3  # places in the table, before those of on_demand.py
    _float, _integer = types.float32, types.int64

    @intrinsic
    def forward(typingctx, table, x, places, m, depth, left, W, width, bias, scale, out, out_step, gate, ahead, errand):
        """See above."""
        return types.void(table, *[_integer] * 8, _float, *[_integer] * 5), called(_FORWARD)

    @intrinsic
    def add_up(typingctx, table, left, n_out, x, places, m, n_in, right, room, out, step, share, keep, ahead, errand):
        """See above."""
        return types.void(table, *[_integer] * 10, _float, _float, *[_integer] * 2), called(_ADD_UP)

    @intrinsic
    def pack_turned(typingctx, table, d, step, m, width, left, first, steps):
        """See above."""
        return types.void(table, *[_integer] * 7), called(_PACK_TURNED)

    @intrinsic
    def pack_weights(typingctx, table, W, step, first, last, n_out, n_in, forth, back):
        """See above."""
        return types.void(table, *[_integer] * 8), called(_PACK_WEIGHTS)


@once
def _compiled():
    """[(place in the table, function)], once per process: their code must not be freed."""
    whole = types.int64
    return [
        (_FORWARD, exported(_forward, types.void(*[whole] * 8, types.float32, *[whole] * 5))),
        (_ADD_UP, exported(_add_up, types.void(*[whole] * 10, types.float32, types.float32, *[whole] * 2))),
        (_PACK_TURNED, exported(_pack_turned, types.void(*[whole] * 7))),
        (_PACK_WEIGHTS, exported(_pack_weights, types.void(*[whole] * 8))),
    ]


def addresses():
    """(4,) int64, before those of on_demand.py."""
    made = np.zeros(4, np.int64)
    for place, function in _compiled() if JIT else ():
        made[place] = function.address
    return made
