"""Parameters, and an optimizer's state, on their way into panels and back, by a team of threads.

A vector as theta has, for each layer, its weights (outputs, inputs) row by row and then its biases; in panels
(kernels/cpu/panels.py) inputs go down and outputs across. So every block of a vector's side is transposed, in
registers where it is whole. A member takes every `team`-th piece of a panel, of so many inputs that they stay in the
first-level cache while lines that several outputs' weights lie on are read or written again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba.core import types

from . import JIT, exported, inner, once
from .panel_code import MOST, PANEL
from .panels import itemsize, vector_at
from .vectors import VECTOR

if JIT:
    from .panel_code import transpose_block

__all__ = ["FIELDS", "Packing", "packing"]

PIECE = 128  # inputs
# of a layer: inputs, outputs, padded outputs; where weights and biases begin in the vector, and its panels; in numbers
FIELDS = 6


class Packing(NamedTuple):
    """`pack` and `unpack`, called like C and without the GIL (without JIT they are Python), with

    (zero, me, team, layers, shape, vector, packed)

    zero: a number of the dtype; me, team: the member and how many there are, who may come at any time; then addresses,
    of shape (layers, FIELDS) int64, and of the numbers.
    """

    pack: Callable[..., None]
    unpack: Callable[..., None]


def _copied(zero, packing, outer, outer_step, panel, q, width, first, last):
    """Inputs first..last - 1 of a panel of q vectors, of which `width` outputs count, from `outer` (outputs, inputs),
    rows outer_step numbers apart, if packing; else to it. Addresses: outer, panel.
    """
    size = itemsize(zero)
    count = VECTOR // size
    whole = first + (last - first) // count * count
    for v in range(q):
        column = v * count
        here = min(count, width - column)
        at, target = outer + column * outer_step * size, panel + v * VECTOR
        done = first
        if here == count:
            for k in range(first, whole, count):
                if packing:
                    transpose_block(zero, at + k * size, outer_step, here, at, target + k * q * VECTOR, q * count)
                else:
                    transpose_block(zero, target + k * q * VECTOR, q * count, here, at, at + k * size, outer_step)
            done = whole
        for j in range(here):
            row = vector_at(at + j * outer_step * size, zero, last)
            inside = vector_at(target + j * size, zero, (last - 1) * q * count + 1)
            for k in range(done, last):
                if packing:
                    inside[k * q * count] = row[k]
                else:
                    row[k] = inside[k * q * count]


def _each_piece(zero, packing, me, team, layers, shape, vector, packed):
    size = itemsize(zero)
    count, piece = VECTOR // size, 0
    numbers = vector_at(shape, np.int64(0), layers * FIELDS)
    for layer in range(layers):
        at = layer * FIELDS
        n_in, n_out, P = numbers[at], numbers[at + 1], numbers[at + 2]
        weights, biases, panel = numbers[at + 3], numbers[at + 4], packed + numbers[at + 5] * size
        for column in range(0, P, PANEL // size):
            q = min(MOST, (P - column) // count)
            width = min(q * count, n_out - column)
            for first in range(0, n_in, PIECE):
                if piece % team == me:
                    outer = vector + (weights + column * n_in) * size
                    _copied(zero, packing, outer, n_in, panel, q, width, first, min(first + PIECE, n_in))
                piece += 1
            if piece % team == me:
                outside = vector_at(vector + (biases + column) * size, zero, width)
                last = vector_at(panel + n_in * q * VECTOR, zero, width)
                for j in range(width):
                    if packing:
                        last[j] = outside[j]
                    else:
                        outside[j] = last[j]
            panel += (n_in + 1) * q * VECTOR


def _pack(zero, me, team, layers, shape, vector, packed):
    _each_piece(zero, True, me, team, layers, shape, vector, packed)


def _unpack(zero, me, team, layers, shape, vector, packed):
    _each_piece(zero, False, me, team, layers, shape, vector, packed)


if JIT:
    _copied, _each_piece = inner(_copied), inner(_each_piece)
else:

    def transpose_block(zero, source, stride, valid, nothing, target, target_stride):
        """The same in NumPy, where all rows are valid."""
        n = VECTOR // itemsize(zero)
        block = [vector_at(source + i * stride * itemsize(zero), zero, n).copy() for i in range(valid)]
        for i, row in enumerate(np.transpose(block)):
            vector_at(target + i * target_stride * itemsize(zero), zero, n)[...] = row


@once
def _compiled(name):
    """Once per process: their code must not be freed."""
    real = getattr(types, name)
    signature = types.void(real, *[types.int64] * 6)
    return exported(_pack, signature), exported(_unpack, signature)


def packing(dtype):
    """`Packing` of this dtype."""
    if not JIT:
        return Packing(_pack, _unpack)
    pack, unpack = _compiled(np.dtype(dtype).name)
    return Packing(pack.ctypes, unpack.ctypes)
