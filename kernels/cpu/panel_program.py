"""Many training steps in one compiled call, for networks whose parameters stay in the cache.

The same steps as kernels/cpu/program.py, with the products of kernels/cpu/panels.py in place of BLAS.
Parameters are packed for them once per call: layer l is a panel (s_l + 1, P_l), inputs down, outputs
across and padded with zeros to whole vectors, its biases the last row. Rows of float data are read where
they lie, in shuffled order; the lines of the next rows are asked for while these are multiplied, so that
shuffling costs a narrow network little. Delta's propagation needs the panels of layers 2.. transposed;
each thread keeps that copy for itself. Steps of one row do without: a transpose costs more than all their other
products.

A single output (regression, two classes) fills one lane of a vector: `thin`, its z are the products of the rows below
with its weights, kept as one row where the transposed panel would be, and its gradient is one row too.

Each thread takes a slice of the batch, in tiles of at most C rows, through the network and back, and adds up its own
Delta; a barrier; each adds the Deltas of all and updates its share of the parameters; a barrier. Where moving the
parameters between cores costs more than moving what became of the rows, threads share the weights instead:
kernels/cpu/split_program.py.

Symbols as in the lecture; for one number of threads results are the same bit for bit.

Memory, all C-contiguous and of the network's dtype unless said, given by the caller (S = P_1 + ... + P_L, without
the inputs, each a little more where `spaced` says so; H = AHEAD rows more than asked for, which `apply` may overwrite):
  packed, state1, state2 (N,)  the panels of all layers, one after another; grads (team, N)
  turned (team, ...)  transposed panels of layers 2..L
  x (team, C * s_1)  rows that had to be converted
  a, d (team, (C + H) * S)  activations and deltas of layers 2..L; d begins as zeros, and the padding of the last
                            layer's stays so
  beside (as a, or one number where no layer wants it)  g'(z) where it is not known from a = g(z) (OF_Z)
  side (team, min(C, TALL) * the widest P)  deltas of some rows in panels, if any layer has several
  h, e, wanted (team, C * K), labels (team, C) int64  outputs, their deltas and the targets without padding
  shares (team, C)  weights of the rows
  low, parts  of kernels/cpu/split_program.py alone
  places (L + 1, C + H) int64  where rows of each layer's width begin; the first all 0
  firsts (team, 2 C + H) int64  where rows of the data begin: those at hand, and from C + H on those to be asked for
  ones (H,), zeros ((C + H) * the widest P,)
  costs (team * 16,) float64, hits (team * 16,) int64
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from . import per_dtype
from .codes import GRADIENT, POISSON, SGD, SIGMOID_CROSS_ENTROPY, SQUARED_ERROR
from .gather import gather_rows
from .panel_parts import accumulate, decay, move, rows_at_hand, rows_to_come, through, turn
from .panels import AHEAD, address, itemsize, rows_at, vector_at
from .program import part_of
from .team import barrier
from .workspace import Data, Drawn, Memory, Rule, Run, Shape, batch_of, factors_of, hyper_of, kinds, own, uncounted

__all__ = ["panel_program", "signature"]


def _worker(me, team, split, meeting, panels, data, run, shape, rule, memory):
    """Thread `me` of `team` through the steps of the run. Packed, state, costs and hits move.

    costs[16 me] grows by the cost sum of this thread's rows, with its part of the L2 cost; hits[16 me] how many of them
    were right. Not used: split.
    """
    data, shape, rule = uncounted(data, shape, rule)
    layers = shape.sizes.size - 1
    n_in = shape.sizes[0]
    K = shape.sizes[shape.sizes.size - 1]
    block = run.capacity + AHEAD
    kind = memory.packed.dtype.type
    zero, one, integer = kind(0), kind(1), np.int64(0)
    size = itemsize(zero)
    mine = own(me, run.batch > 1, integer, data, run, memory)
    all_grads, grad_step = address(memory.grads), memory.grads.shape[1] * size
    row_step = data.source[1] // size if data.native else n_in
    order = vector_at(mine.order, np.int64(0), run.order.size)
    first = vector_at(mine.firsts, np.int64(0), memory.firsts.shape[1])
    cost, right, asked, t = memory.costs[16 * me], memory.hits[16 * me], 0, rule.t
    thin = (
        K == 1
        and layers > 1
        and run.batch > 1
        and (shape.pair == SIGMOID_CROSS_ENTROPY or shape.pair == SQUARED_ERROR or shape.pair >= POISSON)
    )
    if team > 1:
        barrier(meeting, me, team)  # all parameters are packed
    for step in range(run.start, run.stop):
        turn(panels, zero, 1, thin, shape, mine)
        begin_row, m = batch_of(run, order.size, step)
        t += 1
        hyper = hyper_of(rule, step - run.start)
        from_row, to_row = part_of(m, me, team)
        direct = (rule.code == SGD or rule.code == GRADIENT) and team == 1 and m <= run.capacity
        share, keep, biases_keep = factors_of(direct, rule, hyper, m, zero)
        if direct and rule.l2 != 0:
            for layer in range(layers):
                cost += decay(zero, m, rule.l2, layer, integer, shape.sizes[layer], shape, mine)
        begin, into, last = from_row, mine.theta if direct else all_grads + me * grad_step, me == team - 1
        while begin < to_row or begin == from_row:
            count = min(run.capacity, to_row - begin)
            rows = order[begin_row + begin : begin_row + begin + count]
            if data.native:
                rows_at_hand(rows, row_step, first)
                next_row = begin_row + (begin + count if begin + count < to_row else m + from_row)
                asked = rows_to_come(order, next_row, run.capacity, row_step, first[block:])
            elif count > 0:
                gather_rows(data.source, data.read, data.scale, rows, rows_at(mine.x, zero, count, n_in))
                for i in range(count + AHEAD):
                    first[i] = min(i, count - 1) * row_step
            x = data.source[0] if data.native else mine.x
            if count > 0:
                tile_cost, tile_right = through(
                    rows, 0, thin, panels, zero, x, data.native, block, shape, data.by_class, mine,
                    Drawn(run.key, step, begin),
                )  # fmt: skip
                cost += tile_cost
                right += tile_right
            accumulate(panels, zero, 0, thin, count, block, shape, x, asked, mine, into, share, keep, biases_keep)
            if not direct:
                keep = biases_keep = one
            begin += max(1, count)
        if team > 1:
            barrier(meeting, me, team)
        if not direct:
            for layer in range(layers):
                k, k_end = part_of(shape.sizes[layer], me, team)
                cost += move(
                    zero, team, True, m, rule, hyper, t, shape, layer, k, k_end, last, mine, all_grads, grad_step
                )
        if team > 1:
            barrier(meeting, me, team)
    memory.costs[16 * me] = cost
    memory.hits[16 * me] = right


def signature(name):
    """The types of `_worker` in this dtype, and of those of the programs that are called like it."""
    of, integer, indices = kinds(name), types.int64, types.Array(types.int64, 1, "C")
    return types.void(integer, integer, integer, indices, indices, of[Data], of[Run], of[Shape], of[Rule], of[Memory])


panel_program = per_dtype(_worker, signature)
