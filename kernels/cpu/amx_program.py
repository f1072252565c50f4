"""Many training steps in one compiled call, with the products of kernels/cpu/amx.py: for float32 on CPUs with Intel's
matrix unit.

The same steps as kernels/cpu/program.py, on theta as it lies. Each thread takes its slice of the batch, in tiles of at
most C rows, through the network and back, and adds up its own Delta; a barrier; each adds the Deltas of all for its
share of the units, updates these and lays their weights out as factors for the next step; a barrier. Where the factors
are few, each thread lays out all of them for itself, behind the barrier: what it has written itself is near. (Sharing
the first layer's weights as kernels/cpu/split_program.py does was tried twice and was within 5 % at its best: the rows'
way from memory takes the time, and is no shorter.)

Rows of float32 and uint8 data are read where they lie, in shuffled order, and asked for some rows ahead.

Symbols as in the lecture; for one number of threads results are the same bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from . import inner, per_dtype
from .amx import INPUTS, SIDE, configure, release
from .amx_parts import AHEAD, ROOM_AHEAD, Factors, few_at, lay_out, share_of, through
from .codes import GRADIENT, SGD
from .gather import gather_rows
from .operations import sum_of_squares
from .panel_parts import move_numbers
from .panels import address, rows_at, vector_at
from .team import barrier
from .workspace import Data, Drawn, Rule, Run, Shape, batch_of, factors_of, hyper_of, kinds, own, record, uncounted

__all__ = ["AmxMemory", "amx_program"]


class AmxMemory(NamedTuple):
    """Of all threads, float32 unless said, C-contiguous. C: rows of a thread's tile; B = C + 16; P_l: a layer's size to
    whole groups of 16, a little more where `spaced` says so; "any": as amx.py says.

    packed, state1, state2 (P,) : theta, as it is, and the rule's state
    grads (team, P at least)
    weights (1 or team, any) : of all layers as factors, for the way forth, and back from the second on, for all threads
        or for each
    layers (L,) int64 : where each layer begins there, in pieces, then the end
    x (team, C * s_1) : rows that had to be converted
    a, d (team, B * (P_2 + ... + P_L)) : activations and deltas of layers 2..L; d begins as zeros
    beside (as a, or smaller where no layer wants it) : g'(z) where it is not known from a = g(z) (OF_Z)
    side, right (team, any) : rows as left factor, columns as right factor
    rooms (team, any) : sums of a block
    turned (team, any) : deltas, transposed
    rows (team, (FEW + 1) * the widest P, of any layer) : biases of a layer, then zeros; sums of deltas
    h, e, wanted (team, C * K), labels (team, C) int64 : outputs, their deltas and the targets without padding
    shares (team, C) : weights of the rows
    errands (team, 16 at least) int64 : what a thread's products lay out meanwhile
    places (L + 1, B) int64 : where rows of each layer's width begin; the first all 0
    firsts (team, C + ROOM_AHEAD) int64 : where rows of the data begin, and the first of the next tile
    ones (1,), zeros (B * the widest P,)
    registers (64,) uint8
    costs (team * 16,) float64, hits (team * 16,) int64
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
    beside: Any
    side: Any
    right: Any
    rooms: Any
    turned: Any
    rows: Any
    h: Any
    e: Any
    wanted: Any
    shares: Any
    labels: Any
    errands: Any
    places: Any
    firsts: Any
    ones: Any
    zeros: Any
    registers: Any
    costs: Any
    hits: Any


def own_units(layer, shape, me, team):
    """The units (first, last + 1) of a layer that thread `me` moves, and lays out if it does not lay out all."""
    # pairs of units are not divided where both factors are wanted
    return share_of(shape.sizes[layer + 1], INPUTS if layer > 0 else SIDE, me, team)


own_units = inner(own_units)


def _worker(me, team, split, meeting, table, data, run, shape, rule, memory):
    """Thread `me` of `team` through the steps of the run. Packed, state, costs and hits move.

    costs[16 me] grows by the cost sum of this thread's rows, with its part of the L2 cost; hits[16 me] how many of them
    were right. Not used: split.
    """
    data, shape, rule = uncounted(data, shape, rule)
    layers, n_in, block, nought = shape.codes.size, shape.sizes[0], run.capacity + SIDE, np.int64(0)
    kind = memory.packed.dtype.type
    zero, one = kind(0), kind(1)
    mine = own(me, False, nought, data, run, memory)
    all_grads, grad_step = address(memory.grads), memory.grads.shape[1] * 4
    begin_of = vector_at(address(memory.layers), nought, layers + 1)
    each = memory.weights.shape[0] == team  # lays out all factors for itself
    factors = Factors(
        address(memory.weights[me if each else 0]),
        begin_of,
        address(memory.right[me]),
        address(memory.rooms[me]),
        address(memory.rows[me]),
        address(memory.turned[me]),
        address(memory.errands[me]),
    )
    octets = data.native and data.source[3] == 1
    row_step = data.source[1] // data.source[3] if data.native else n_in
    order, first = vector_at(mine.order, nought, run.order.size), vector_at(mine.firsts, nought, memory.firsts.shape[1])
    cost, right, t, few = memory.costs[16 * me], memory.hits[16 * me], rule.t, few_at(shape, 0)
    configure(address(memory.registers))
    for layer in range(layers):
        unit, end = (nought, shape.sizes[layer + 1]) if each else own_units(layer, shape, me, team)
        lay_out(table, zero, layer, unit, end, few_at(shape, layer), shape, mine, factors)
    barrier(meeting, me, team)
    for step in range(run.start, run.stop):
        begin_row, m = batch_of(run, order.size, step)
        t += 1
        hyper = hyper_of(rule, step - run.start)
        from_row, to_row = share_of(m, INPUTS, me, team)
        direct = (rule.code == SGD or rule.code == GRADIENT) and team == 1 and m <= run.capacity
        share, keep, biases_keep = factors_of(direct, rule, hyper, m, zero)
        if direct and rule.l2 != 0:
            for layer in range(layers):
                weights = vector_at(
                    mine.theta + shape.blocks[layer] * 4, zero, shape.sizes[layer] * shape.sizes[layer + 1]
                )
                cost += m * rule.l2 / 2 * sum_of_squares(weights)
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
            tile_cost, tile_right = through(
                rows, 0, table, zero, x, octets, data.scale, ahead, block, shape, data.by_class, mine, factors, into,
                share, keep, biases_keep, Drawn(run.key, step, begin),
            )  # fmt: skip
            cost += tile_cost
            right += tile_right
            if not direct:
                keep = biases_keep = one
        barrier(meeting, me, team)  # all Deltas are there, and all have read the weights
        for layer in range(layers):
            n_below, n_out = shape.sizes[layer], shape.sizes[layer + 1]
            unit, end = own_units(layer, shape, me, team)
            weights = (shape.blocks[layer] + unit * n_below) * 4
            biases = (shape.blocks[layer] + n_out * n_below + unit) * 4
            if not direct:
                cost += move_numbers(
                    zero, team, m, rule, hyper, t, weights, (end - unit) * n_below, True, mine, all_grads, grad_step
                )
                move_numbers(zero, team, m, rule, hyper, t, biases, end - unit, False, mine, all_grads, grad_step)
            if not each and step + 1 < run.stop:
                lay_out(table, zero, layer, unit, end, few_at(shape, layer), shape, mine, factors)
        barrier(meeting, me, team)  # theta has moved, and all weights that are laid out for all
        if each and step + 1 < run.stop:
            for layer in range(layers):
                lay_out(table, zero, layer, nought, shape.sizes[layer + 1], few_at(shape, layer), shape, mine, factors)
    release()
    memory.costs[16 * me] = cost
    memory.hits[16 * me] = right


def _signature(name):
    of, integer, real = kinds(name), types.int64, getattr(types, name)
    indices, numbers = types.Array(integer, 1, "C"), types.Array(integer, 2, "C")
    vector, table = types.Array(real, 1, "C"), types.Array(real, 2, "C")
    memory = record(
        AmxMemory, packed=vector, grads=table, state1=vector, state2=vector, weights=table, layers=indices, x=table,
        a=table, d=table, beside=table, side=table, right=table, rooms=table, turned=table, rows=table, h=table,
        e=table, wanted=table, shares=table, labels=numbers, errands=numbers, places=numbers, firsts=numbers,
        ones=vector, zeros=vector, registers=types.Array(types.uint8, 1, "C"), costs=types.Array(types.float64, 1, "C"),
        hits=indices,
    )  # fmt: skip
    return types.void(integer, integer, integer, indices, indices, of[Data], of[Run], of[Shape], of[Rule], memory)


amx_program = per_dtype(_worker, _signature)
