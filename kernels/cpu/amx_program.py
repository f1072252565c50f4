"""Many training steps in one compiled call, with the products of kernels/cpu/amx.py: for float32 on CPUs with Intel's matrix unit.

The same steps as kernels/cpu/program.py, on theta as it lies. Each thread takes its slice of the batch, in tiles of at most C rows, through the network and back,
and adds up its own Delta; a barrier; each adds the Deltas of all for its share of the units, updates these and lays their weights out as factors for the next
step; a barrier. (Sharing the weights as kernels/cpu/split_program.py does was tried and was slower at every size: sums of fewer inputs at a time, more meetings.)

Rows of float32 data are read where they lie, in shuffled order, and asked for some rows ahead.

Symbols as in the lecture; for one number of threads results are the same bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from . import inner, part, per_dtype
from .amx import INPUTS, PIECE, SIDE, add_up, configure, forward, groups_of, pack_turned, pack_weights, release, steps_of
from .amx_thin import FEW, few_to_many, lay_out_few, many_to_few, sums_of_rows
from .gather import gather_rows
from .on_demand import activate_at, derivative_at
from .operations import sum_of_squares
from .panel_output import cost_and_delta
from .panel_parts import move_numbers
from .panels import RECTIFY, address, rows_at, vector_at
from .team import barrier
from .workspace import Data, Rule, Run, Shape, hyper_of, kinds, own, uncounted

__all__ = ["ROOM_AHEAD", "AmxMemory", "amx_program"]

RELU = 3  # its code
# Rows of data that are asked for before they are laid out, which happens that long before they are used; and most of them beyond a tile.
AHEAD, ROOM_AHEAD = 32, 48


class AmxMemory(NamedTuple):
    """Of all threads, float32 unless said, C-contiguous. C: rows of a thread's tile; B = C + 16; P_l: a layer's size to whole groups of 16, a little more where `spaced` says so; "any": as amx.py says.

    packed, state1, state2 (P,) : theta and the rule's state; grads (team, P at least)
    weights (any,) : of all layers as factors, for the way forth, and back from the second on; layers (L,) int64 : where each begins there, in pieces, then the end
    x (team, C * s_1) : rows that had to be converted; a, d (team, B * (P_2 + ... + P_L)) : activations and deltas of layers 2..L; d begins as zeros
    side, right, rooms (team, any) : rows as left factor, columns as right factor, sums of a block; turned (team, any) : deltas, transposed
    rows (team, (FEW + 1) * the widest P, of any layer) : biases of a layer, then zeros; sums of deltas
    h, e, wanted (team, C * K), labels (team, C) int64 : outputs, their deltas and the targets without padding
    errands (team, 16 at least) int64 : what a thread's products lay out meanwhile
    places (L + 1, B), firsts (team, C + ROOM_AHEAD) int64 : where rows of each layer's width begin, the first all 0; and those of the data, and of the next tile's first
    ones (1,), zeros (B * the widest P,), registers (64,) uint8, costs (team * 16,) float64, hits (team * 16,) int64
    """

    packed: Any
    grads: Any
    state1: Any
    state2: Any
    weights: Any
    layers: Any
    x: Any
    a: Any
    d: Any
    side: Any
    right: Any
    rooms: Any
    turned: Any
    rows: Any
    h: Any
    e: Any
    wanted: Any
    labels: Any
    errands: Any
    places: Any
    firsts: Any
    ones: Any
    zeros: Any
    registers: Any
    costs: Any
    hits: Any


class Factors(NamedTuple):
    """Where a thread's factors and sums lie, as addresses, and where in `weights` each layer begins, in pieces."""

    weights: Any
    begin: Any
    right: Any
    room: Any
    rows: Any
    turned: Any
    errand: Any


def _share(total, multiple, me, team):
    """The part (first, last + 1) of 0..total that belongs to thread `me`, cut at multiples."""
    whole = (total + multiple - 1) // multiple
    return min(total, whole * me // team * multiple), min(total, whole * (me + 1) // team * multiple)


_share = inner(_share)


def _step(shape, layer):
    """Numbers from one row of what a layer makes to the next."""
    return shape.starts[layer + 1] - shape.starts[layer]


_step = inner(_step)


def _padded_biases(zero, own, shape, layer, out):
    """Overwrites P numbers at an address with a layer's biases, then zeros."""
    n_out, P = shape.sizes[layer + 1], shape.widths[layer]
    b, row = vector_at(own.theta + (shape.blocks[layer] + n_out * shape.sizes[layer]) * 4, zero, n_out), vector_at(out, zero, P)
    for j in range(n_out):
        row[j] = b[j]
    for j in range(n_out, P):
        row[j] = zero


_padded_biases = inner(_padded_biases)


def _lay_out(table, zero, layer, first, last, few, shape, own, factors):
    """Lays units first..last of a layer's weights out as factors; or as kernels/cpu/amx_thin.py says, if it has few inputs or outputs."""
    n_in, n_out, W = shape.sizes[layer], shape.sizes[layer + 1], own.theta + shape.blocks[layer] * 4
    forth = factors.weights + factors.begin[layer] * PIECE
    back = forth + groups_of(n_out) * steps_of(n_in) * PIECE if layer > 0 else np.int64(0)
    if few:
        lay_out_few(zero, W, W + n_out * n_in * 4, first, last, n_out, n_in, shape.widths[layer if layer == 0 else layer - 1], layer == 0, forth)
    elif last > first:
        pack_weights(table, W, first, last, n_out, n_in, forth, back)


_lay_out = inner(_lay_out)


def _few(shape, layer):
    """Whether a layer is the first, of few inputs, or the last, of few outputs."""
    last = shape.codes.size - 1
    return (layer == 0 and shape.sizes[0] <= FEW) or (layer == last > 0 and shape.sizes[last + 1] <= FEW)


_few = inner(_few)


def _take(zero, out, step, count, sums, share, keep):
    """out_i = keep out_i + share sums_i for `count` numbers; those of out lie `step` numbers apart. Addresses: out, sums."""
    totals, to = vector_at(sums, zero, count), vector_at(out, zero, (count - 1) * step + 1)
    for i in range(count):
        to[i * step] = keep * to[i * step] + share * totals[i] if keep != 0 else share * totals[i]


_take = inner(_take)


def _gradient(table, zero, layer, few, inputs, where, m, delta, deltas, shape, factors, grads, share, keep, biases_keep, ahead):
    """A layer's Delta, as `_through` says, of m rows of inputs and of deltas; deltas: where the rows of the latter begin."""
    n_in, n_out, step, nothing = shape.sizes[layer], shape.sizes[layer + 1], _step(shape, layer), np.int64(0)
    Delta, width, sums = grads + shape.blocks[layer] * 4, shape.widths[layer], factors.rows
    biases = Delta + n_out * n_in * 4
    if few and layer == 0:  # the sums of the deltas are the last row
        sums_of_rows(table, inputs, where, m, n_in, delta, step * 4, width, sums)
        for k in range(n_in):
            _take(zero, Delta + 4 * k, n_in, n_out, sums + 4 * width * k, share, keep)
        _take(zero, biases, 1, n_out, sums + 4 * width * n_in, share, biases_keep)
        return
    if few:
        below = shape.widths[layer - 1]
        sums_of_rows(table, delta, deltas, m, n_out, inputs, _step(shape, layer - 1) * 4, below, sums)
        for j in range(n_out):
            _take(zero, Delta + 4 * n_in * j, 1, n_in, sums + 4 * below * j, share, keep)
    else:
        pack_turned(table, delta, step * 4, m, n_out, factors.turned)
        add_up(table, factors.turned, n_out, inputs, where, m, n_in, factors.right, factors.room, Delta, share, keep, ahead, factors.errand)
    sums_of_rows(table, nothing, nothing, m, nothing, delta, step * 4, width, sums)
    _take(zero, biases, 1, n_out, sums, share, biases_keep)


_gradient = inner(_gradient)


def _through(mine, table, zero, x, ahead, block, shape, by_class, own, factors, grads, share, keep, biases_keep):
    """Takes the rows `mine`, whose inputs begin at x + 4 first[i], through the network and back. Returns (cost sum, rows that are right).

    grads (an address, where theta's begins) become keep of themselves, or biases_keep, and share of the rows' Delta.
    ahead: as in kernels/cpu/amx.py, of x.
    """
    sizes, widths, starts, codes, slopes = shape.sizes, shape.widths, shape.starts, shape.codes, shape.slopes
    m, last, a, d, nothing = mine.size, sizes.size - 2, own.a, own.d, np.int64(0)
    for layer in range(last + 1):
        z, step, rectified = a + block * starts[layer] * 4, _step(shape, layer), layer < last and codes[layer] == RELU
        inputs, where, soon = (x, own.firsts, ahead) if layer == 0 else (a + block * starts[layer - 1] * 4, own.places + layer * 8 * block, nothing)
        forth, gate = factors.weights + factors.begin[layer] * PIECE, np.int64(RECTIFY if rectified else 0)
        if not _few(shape, layer):
            _padded_biases(zero, own, shape, layer, factors.rows)
            forward(table, inputs, where, m, sizes[layer], own.side, forth, widths[layer], factors.rows, z, step * 4, gate, soon, factors.errand)
        elif layer == 0:
            few_to_many(table, inputs, where, m, sizes[0], forth, widths[0], z, step * 4, gate, np.int64(1))
        else:
            b = own.theta + (shape.blocks[layer] + sizes[layer] * sizes[layer + 1]) * 4
            many_to_few(table, inputs, _step(shape, layer - 1) * 4, m, forth, widths[layer - 1], sizes[layer + 1], b, z, step * 4, factors.rows)
        if layer < last and not rectified:
            activate_at(table, zero, codes[layer], slopes[layer], z, 1, m * step, own.nothing)
    step = _step(shape, last)
    cost, right = cost_and_delta(table, mine, by_class, shape, own, rows_at(a + block * starts[last] * 4, zero, m, step), rows_at(d + block * starts[last] * 4, zero, m, step))
    for layer in range(last, -1, -1):
        n_out, few, step = sizes[layer + 1], _few(shape, layer), _step(shape, layer)
        delta, deltas = d + block * starts[layer] * 4, own.places + (layer + 1) * 8 * block
        inputs, where, soon = (x, own.firsts, ahead) if layer == 0 else (a + block * starts[layer - 1] * 4, own.places + layer * 8 * block, nothing)
        if layer > 0:
            lower, lower_step, rectified = d + block * starts[layer - 1] * 4, _step(shape, layer - 1), codes[layer - 1] == RELU
            forth, gate = factors.weights + factors.begin[layer] * PIECE, inputs if rectified else nothing
            if few:
                few_to_many(table, delta, deltas, m, n_out, forth, widths[layer - 1], lower, lower_step * 4, gate, nothing)
            else:
                back = forth + groups_of(n_out) * steps_of(sizes[layer]) * PIECE
                forward(table, delta, deltas, m, n_out, own.side, back, widths[layer - 1], own.nothing, lower, lower_step * 4, gate, nothing, factors.errand)
            if not rectified:
                derivative_at(table, zero, codes[layer - 1], slopes[layer - 1], lower, inputs, m * lower_step)
        _gradient(table, zero, layer, few, inputs, where, m, delta, deltas, shape, factors, grads, share, keep, biases_keep, soon)
    return cost, right


_through = part(_through)


def _worker(me, team, split, meeting, table, data, run, shape, rule, memory):
    """Thread `me` of `team` through the steps of the run. Packed, state, costs and hits move.

    costs[16 me] becomes the cost sum of this thread's rows, with its part of the L2 cost; hits[16 me] how many of them were right. Not used: split.
    """
    data, shape, rule = uncounted(data, shape, rule)
    layers, n_in, block, nought = shape.codes.size, shape.sizes[0], run.capacity + SIDE, np.int64(0)
    kind = memory.packed.dtype.type
    zero, one = kind(0), kind(1)
    mine = own(me, False, nought, data, run, memory)
    all_grads, grad_step = address(memory.grads), memory.grads.shape[1] * 4
    begin_of = vector_at(address(memory.layers), nought, layers + 1)
    factors = Factors(
        address(memory.weights), begin_of, address(memory.right[me]), address(memory.rooms[me]), address(memory.rows[me]), address(memory.turned[me]), address(memory.errands[me])
    )
    row_step = data.source[1] // 4 if data.native else n_in
    order, first = vector_at(mine.order, nought, run.order.size), vector_at(mine.firsts, nought, memory.firsts.shape[1])
    cost, right, t, few = 0.0, 0, rule.t, _few(shape, 0)
    configure(address(memory.registers))
    for layer in range(layers):
        unit, end = _share(shape.sizes[layer + 1], INPUTS if layer > 0 else SIDE, me, team)
        _lay_out(table, zero, layer, unit, end, _few(shape, layer), shape, mine, factors)
    barrier(meeting, me, team)
    for step in range(run.start, run.stop):
        begin_row = step * run.batch
        m = min(begin_row + run.batch, order.size) - begin_row
        t += 1
        hyper = hyper_of(rule, step - run.start)
        from_row, to_row = _share(m, INPUTS, me, team)
        # Where one tile holds the batch and nothing is summed over threads, plain gradient descent needs no
        # gradient: the product itself moves theta, (1 - alpha lambda/n) theta - (alpha/m) delta^T a.
        direct = rule.code == 0 and team == 1 and m <= run.capacity
        share, keep, biases_keep = (kind(-hyper[0] / m), kind(1 - hyper[0] * rule.l2), one) if direct else (one, zero, zero)
        if direct and rule.l2 != 0:
            for layer in range(layers):
                cost += m * rule.l2 / 2 * sum_of_squares(vector_at(mine.theta + shape.blocks[layer] * 4, zero, shape.sizes[layer] * shape.sizes[layer + 1]))
        into = mine.theta if direct else all_grads + me * grad_step
        if from_row == to_row:
            vector_at(into, zero, shape.blocks[layers])[:] = zero
        for begin in range(from_row, to_row, run.capacity):
            count, ahead, x = min(run.capacity, to_row - begin), nought, mine.x
            rows = order[begin_row + begin : begin_row + begin + count]
            if data.native:
                x, ahead = data.source[0], np.int64(0 if few else AHEAD)
                next_row = begin_row + (begin + count if begin + count < to_row else m + from_row)
                for i in range(count):
                    first[i] = rows[i] * row_step
                for i in range(0 if few else ROOM_AHEAD):
                    first[count + i] = order[min(next_row + i, order.size - 1)] * row_step
            else:
                gather_rows(data.source, data.read, data.scale, rows, rows_at(mine.x, zero, count, n_in))
                for i in range(count):
                    first[i] = i * row_step
            tile_cost, tile_right = _through(rows, table, zero, x, ahead, block, shape, data.by_class, mine, factors, into, share, keep, biases_keep)
            cost += tile_cost
            right += tile_right
            if not direct:
                keep = biases_keep = one
        barrier(meeting, me, team)  # all Deltas are there, and all have read the weights
        for layer in range(layers):
            n_below, n_out = shape.sizes[layer], shape.sizes[layer + 1]
            unit, end = _share(n_out, INPUTS if layer > 0 else SIDE, me, team)  # pairs of units are not divided where both factors are wanted
            weights, biases = (shape.blocks[layer] + unit * n_below) * 4, (shape.blocks[layer] + n_out * n_below + unit) * 4
            if not direct:
                cost += move_numbers(zero, team, m, rule, hyper, t, weights, (end - unit) * n_below, rule.l2, mine, all_grads, grad_step)
                move_numbers(zero, team, m, rule, hyper, t, biases, end - unit, 0.0, mine, all_grads, grad_step)
            if step + 1 < run.stop:
                _lay_out(table, zero, layer, unit, end, _few(shape, layer), shape, mine, factors)
        barrier(meeting, me, team)  # theta has moved, and all weights are laid out
    release()
    memory.costs[16 * me] = cost
    memory.hits[16 * me] = right


def _signature(name):
    of, integer, real = kinds(name), types.int64, getattr(types, name)
    indices, vector, table, numbers = types.Array(integer, 1, "C"), types.Array(real, 1, "C"), types.Array(real, 2, "C"), types.Array(integer, 2, "C")
    fields = (
        vector, table, vector, vector, vector, indices, *[table] * 11, *[numbers] * 4, vector, vector, types.Array(types.uint8, 1, "C"), types.Array(types.float64, 1, "C"), indices,
    )  # fmt: skip
    memory = types.BaseTuple.from_types(fields, AmxMemory)
    return types.void(integer, integer, integer, indices, indices, of[Data], of[Run], of[Shape], of[Rule], memory)


amx_program = per_dtype(_worker, _signature)
