"""The outputs of a network for one row, of whose weights other threads read a share: for networks beyond a core's
cache.

Helpers sit and watch for rows to come (`attend`), because to wake a thread takes as long as to read a megabyte. The one
who calls (`lead`) asks those who are there at this moment; without any it does all alone. Nobody waits for a helper to
come, and a helper that has begun is waited for, because it works on the caller's memory.

A seat: int64, a line apart; its state, and the address of the row's work:
  AWAY -> COMING by who sends for a helper, -> FREE by the first who comes, or -> AWAY by who sent; FREE -> ASKED ->
  BUSY by a leader, who writes the address between; BUSY -> FREE by the helper; FREE -> DISMISSED by anyone, -> AWAY by
  the helper, who leaves
The work: addresses of `layers` (as in one_row.py), x and the activations, layers, room per layer and bytes of a number;
then, a line apart, the layer that is open (from 1 on; one more than there are: over), and for each layer the parts that
were taken and those that are done.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from . import compiled, once, per_dtype
from .one_row import finish_layer, sums_of_rows
from .panels import address, itemsize, vector_at
from .prediction import finite
from .team import atomic_add, atomic_load, atomic_store, give_way, pause
from .vectors import VECTOR

__all__ = [
    "ALONE",
    "AWAY",
    "COMING",
    "CROWDED",
    "FREE",
    "HELPED",
    "NOT_FINITE",
    "attend",
    "dismiss",
    "lead",
    "new_seats",
    "withdraw",
]

AWAY, COMING, FREE, ASKED, BUSY, DISMISSED = range(6)
NOT_FINITE, ALONE, CROWDED, HELPED = range(4)  # what became of a row
_LINE = 16  # numbers between two that different threads write: two cache lines, which are fetched together
_VECTORS = 2  # of outputs in a part: 32 rows of weights of float32
_INT64 = ir.IntType(64)


def new_seats(count):
    """Memory for so many helpers; its last line counts the leaders at work."""
    return np.zeros((count + 1, _LINE), np.int64)


@intrinsic
def _changed(typingctx, place, before, after):
    """Writes `after` to the int64 at an address if it is `before`, at once. Whether it was."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _INT64.as_pointer())
        result = builder.cmpxchg(pointer, args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(types.intp, types.int64, types.int64), codegen


def _ask(seats, helpers, work):
    """Asks those helpers who are free. Which, as bits."""
    asked = 0
    for s in range(helpers):
        state = seats + 8 * _LINE * s
        if atomic_load(state) == FREE and _changed(state, FREE, ASKED):
            atomic_store(state + 8, work)
            atomic_store(state, BUSY)
            asked |= 1 << s
    return asked


def _parts(zero, n_out):
    """Of so many outputs; the last may be smaller."""
    whole = _VECTORS * VECTOR // itemsize(zero)
    return (n_out + whole - 1) // whole


_ask, _parts = compiled(_ask), compiled(_parts)


def _do_parts(zero, work, layer, leads, seats, helpers):
    """Sums of one part of a layer's outputs after another, until all are taken. The leader begins in front, helpers at
    the end, so that a core reads the same weights in every row and its cache may have kept them. Asks helpers who have
    come meanwhile, if `helpers` is more than 0. Which, as bits."""
    size = itemsize(zero)
    step = VECTOR // size
    numbers = vector_at(work, np.int64(0), 5)
    numbers_of_layer = vector_at(numbers[0] + 40 * layer, np.int64(0), 3)
    n_in, n_out, W = numbers_of_layer[0], numbers_of_layer[1], numbers_of_layer[2]
    x = numbers[1] if layer == 0 else numbers[2] + (layer - 1) * numbers[4]
    z = numbers[2] + layer * numbers[4]
    taken, parts = work + 8 * _LINE * (2 + 2 * layer), _parts(zero, n_out)
    own, asked = 0, 0
    while True:
        asked |= _ask(seats, helpers, work)
        if atomic_add(taken, 1) >= parts:
            return asked
        if leads:
            own += 1
            begin = (own - 1) * _VECTORS * step
        else:
            begin = (parts - 1 - atomic_add(taken + 8, 1)) * _VECTORS * step
        for j in range(begin, min(n_out, begin + _VECTORS * step), step):
            sums_of_rows(zero, W + j * n_in * size, n_in, n_out - 1 - j, x, z + j * size)
        atomic_add(taken + 8 * _LINE, 1)


_do_parts = compiled(_do_parts)


def _lead(X, layers, h, seats, helpers):
    """Overwrites h (1, s_L) with a^(L) of X (1, s_1), with those that are free of the first so many helpers.
    NOT_FINITE if X is not, h is then left alone; CROWDED: others lead now, so nobody was asked.
    """
    zero = h.dtype.type(0)
    size = itemsize(zero)
    count, widest = layers.shape[0], 0
    for layer in range(count):
        widest = max(widest, layers[layer, 1])
    room = (widest + VECTOR // size) * size  # whole vectors are written
    scratch = np.empty(count * room, np.uint8)
    memory = np.zeros((2 + 2 * count) * _LINE, np.int64)
    memory[:6] = address(layers), address(X), address(scratch), count, room, size
    work, seat, leaders = address(memory), address(seats), address(seats) + 8 * _LINE * (seats.shape[0] - 1)
    opened = work + 8 * _LINE

    crowded, finite_x, asked = atomic_add(leaders, 1) > 0, True, 0
    if crowded:
        helpers = 0
    for layer in range(count):
        atomic_store(opened, layer + 1)
        asked |= _do_parts(zero, work, layer, True, seat, helpers)
        done, parts, spins = work + 8 * _LINE * (3 + 2 * layer), _parts(zero, layers[layer, 1]), 0
        while atomic_load(done) < parts:
            spins = give_way(spins)
        z = address(scratch) + layer * room
        if layer == 0 and not abs(vector_at(z, zero, 1)[0]) < np.inf and not finite(X):
            # NaN and infinity in X reach every z; so may overflow
            finite_x = False
            break
        finish_layer(zero, layers, layer, z)
    atomic_store(opened, count + 1)
    for s in range(helpers):
        state, spins = seat + 8 * _LINE * s, 0
        while asked >> s & 1 and atomic_load(state) == BUSY and atomic_load(state + 8) == work:
            spins = give_way(spins)
    atomic_add(leaders, -1)
    if finite_x:
        outputs = vector_at(address(scratch) + (count - 1) * room, zero, h.shape[1])
        for j in range(h.shape[1]):
            h[0, j] = outputs[j]
    memory[0] = scratch[0]  # Numba frees an array after its last use, and their addresses are none
    if not finite_x:
        return NOT_FINITE
    if asked:
        return HELPED
    return CROWDED if crowded else ALONE


def _attend(seats, number, patience, rows):
    """Helps with rows of either dtype at a seat until nobody has asked for `patience` looks, or so many rows were
    done, or dismissed; at once if nobody is expected there. How many rows it was.
    """
    state = address(seats) + 8 * _LINE * number
    if not _changed(state, COMING, FREE):
        return 0
    looks, served = 0, 0
    while True:
        now = atomic_load(state)
        looks += 1
        if now == BUSY:
            work = atomic_load(state + 8)
            if vector_at(work, np.int64(0), 6)[5] == 4:
                _help(np.float32(0), work)
            else:
                _help(np.float64(0), work)
            atomic_store(state, FREE)
            looks, served = 0, served + 1
        elif now == DISMISSED or (
            now == FREE and (looks > patience or served >= rows) and _changed(state, FREE, DISMISSED)
        ):
            atomic_store(state, AWAY)
            return served
        else:
            pause()


def _help(zero, work):
    """Does parts of each layer that the leader opens, until it is over."""
    count, opened = vector_at(work, np.int64(0), 4)[3], work + 8 * _LINE
    layer, spins = 0, 0
    while layer <= count:
        now = atomic_load(opened)
        if now == layer:
            spins = give_way(spins)
        else:
            layer, spins = now, 0
            if layer <= count:
                _do_parts(zero, work, layer - 1, False, work, 0)


_help = compiled(_help)


def _dismiss(seats):
    """Sends away the helpers who are free."""
    for s in range(seats.shape[0] - 1):
        _changed(address(seats) + 8 * _LINE * s, FREE, DISMISSED)


def _withdraw(seats, number):
    """Nobody is expected at this seat any more; False if somebody has come."""
    return _changed(address(seats) + 8 * _LINE * number, COMING, AWAY)


_SEATS = types.Array(types.int64, 2, "C")


def _lead_signature(name):
    real = getattr(types, name)
    row = types.Array(real, 2, "C", readonly=True)
    return types.int64(row, types.Array(types.int64, 2, "C"), types.Array(real, 2, "C"), _SEATS, types.int64)


lead = per_dtype(_lead, _lead_signature)


@once
def attend():
    """`_attend`, compiled or read from the disk cache."""
    return compiled(_attend, types.int64(_SEATS, types.int64, types.int64, types.int64))


@once
def dismiss():
    """`_dismiss`, as above."""
    return compiled(_dismiss, types.void(_SEATS))


@once
def withdraw():
    """`_withdraw`, as above."""
    return compiled(_withdraw, types.boolean(_SEATS, types.int64))
