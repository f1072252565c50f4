"""Many training steps in one compiled call, for networks whose parameters stay in the cache.

The same steps as kernels/cpu/program.py, with the products of kernels/cpu/panels.py in place of BLAS.
Parameters are packed for them once per call: layer l is a panel (s_l + 1, P_l), inputs down, outputs
across and padded with zeros to whole vectors, its biases the last row. Rows of float data are read where
they lie, in shuffled order; the lines of the next rows are asked for while these are multiplied, so that
shuffling costs a narrow network little. Delta's propagation needs the panels of layers 2.. transposed;
each thread keeps that copy for itself. Steps of one row do without: a transpose costs more than all their other products.

A single output (regression, two classes) fills one lane of a vector: `thin`, its z are the products of the rows below with its weights,
kept as one row where the transposed panel would be, and its gradient is one row too.

Each thread takes a slice of the batch, in tiles of at most C rows, through the network and back, and adds up its own Delta; a barrier;
each adds the Deltas of all and updates its share of the parameters; a barrier. Where moving the parameters between cores costs more than
moving what became of the rows, threads share the weights instead: kernels/cpu/split_program.py.

Symbols as in the lecture; for one number of threads results are the same bit for bit.

Memory, all C-contiguous and of the network's dtype unless said, given by the caller (S = P_1 + ... + P_L, without
the inputs, each a little more where `spaced` says so; H = AHEAD rows more than asked for, which `apply` may overwrite):
  packed, state1, state2 (N,)  the panels of all layers, one after another; grads (team, N)
  turned (team, ...)  transposed panels of layers 2..L; x (team, C * s_1)  rows that had to be converted
  a, d (team, (C + H) * S)  activations and deltas of layers 2..L; d begins as zeros, and the padding of the last layer's stays so
  side (team, min(C, TALL) * the widest P)  deltas of some rows in panels, if any layer has several
  h, e, wanted (team, C * K), labels (team, C) int64  outputs, their deltas and the targets without padding
  low, parts  of kernels/cpu/split_program.py alone
  places (L + 1, C + H) int64  where rows of each layer's width begin, the first all 0; firsts (team, 2 C + H) likewise in the data,
  for the rows at hand and from C + H on for those to be asked for
  ones (1,), zeros ((C + H) * the widest P,); costs (team * 16,) float64, hits (team * 16,) int64
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from . import per_dtype
from .gather import gather_rows
from .panel_parts import accumulate, early, move, squares, through, turn
from .panels import AHEAD, address, itemsize, rows_at, vector_at
from .program import _share
from .team import barrier

__all__ = ["panel_program", "signature"]


def _worker(
    me, team, split, meeting, panels, source, read, native, scale, classes, values, by_class, order, start, stop, batch, capacity,
    sizes, widths, blocks, starts, turns, codes, slopes, pair, rule, hypers, t, l2,
    packed, grads, state1, state2, turned, x, a, d, side, h, e, wanted, labels, low, parts, places, firsts, ones, zeros, costs, hits,
):  # fmt: skip
    """Thread `me` of `team` through steps start..stop over the rows `order`. Packed, state, costs and hits move.

    `native`: the rows of X are numbers of the network's dtype side by side, and are used where they lie.
    source, read, scale, targets, l2, hypers, t, costs and hits as in kernels/cpu/program.py. Not used: split.
    """
    layers, n_in, K, block = sizes.size - 1, sizes[0], sizes[sizes.size - 1], capacity + AHEAD
    shape = sizes, widths, blocks, starts, turns, codes, slopes
    kind = packed.dtype.type
    zero, one, integer = kind(0), kind(1), np.int64(0)
    size = itemsize(zero)
    # Views made from addresses do not count references, which costs an atomic operation each way, tens of times per step.
    theta, nothing, place, T = address(packed), address(zeros), address(places), address(turned[me]) if batch > 1 else np.int64(0)
    all_grads, grad_step = address(grads), grads.shape[1] * size
    my_a, my_d, room = address(a[me]), address(d[me]), address(side[me])
    my_x, my_firsts = address(x[me]), address(firsts[me])
    first = vector_at(my_firsts, integer, firsts.shape[1])
    state1_at, state2_at = address(state1) if state1.size else np.int64(0), address(state2) if state2.size else np.int64(0)
    rows_in_order, my_labels = vector_at(address(order), integer, order.size), vector_at(address(labels[me]), integer, capacity)
    my_wanted, my_h, my_e = rows_at(address(wanted[me]), zero, capacity, K), rows_at(address(h[me]), zero, capacity, K), rows_at(address(e[me]), zero, capacity, K)
    my_zeros, the_classes, the_values = vector_at(nothing, zero, zeros.size), vector_at(address(classes), integer, classes.size), rows_at(address(values), zero, values.shape[0], K)
    my_sums = vector_at(address(costs) + (16 * me + 1) * 8, np.float64(0), 2)  # beside this thread's cost: nobody else's line
    row_step = source[1] // size if native else n_in
    cost, right, asked = 0.0, 0, 0
    thin = K == 1 and layers > 1 and batch > 1 and (pair == 1 or pair == 2)
    # The last panel's place in `turned` has room for this row too: it would hold at least as many rows as a vector has numbers.
    spare = T + (turns[layers - 1] + widths[layers - 2]) * size if thin else np.int64(0)
    for step in range(start, stop):
        turn(panels, zero, 1, thin, shape, theta, T, nothing)
        begin_row = step * batch
        m = min(begin_row + batch, order.size) - begin_row
        t += 1
        hyper = vector_at(address(hypers) + min(step - start, hypers.shape[0] - 1) * hypers.shape[1] * 8, np.float64(0), hypers.shape[1])
        from_row, to_row = _share(m, me, team)
        # Where one tile holds the batch and nothing is summed over threads, plain gradient descent needs no
        # gradient: the product itself moves the panel, (1 - alpha lambda/n) M - (alpha/m) sum x delta.
        direct = rule == 0 and team == 1 and m <= capacity
        share, keep, biases_keep = (kind(-hyper[0] / m), kind(1 - hyper[0] * l2), one) if direct else (one, zero, zero)
        if direct and l2 != 0:
            for layer in range(layers):
                cost += m * l2 / 2 * squares(zero, theta + blocks[layer] * size, widths[layer], sizes[layer], integer, sizes[layer])
        begin, into, last = from_row, theta if direct else all_grads + me * grad_step, me == team - 1
        while begin < to_row or begin == from_row:
            count = min(capacity, to_row - begin)
            mine = rows_in_order[begin_row + begin : begin_row + begin + count]
            if native:
                for i in range(count + AHEAD if count else 0):
                    first[i] = mine[min(i, count - 1)] * row_step
                # The first rows of this thread's next tile are asked for during this one's gradient.
                next_row = begin_row + (begin + count if begin + count < to_row else m + from_row)
                asked = min(early(capacity), order.size - next_row)
                for i in range(asked):
                    first[block + i] = rows_in_order[next_row + i] * row_step
            elif count > 0:
                gather_rows(source, read, scale, mine, rows_at(my_x, zero, count, n_in))
                for i in range(count + AHEAD):
                    first[i] = min(i, count - 1) * row_step
            where = source[0] if native else my_x
            if count > 0:
                tile_cost, tile_right = through(
                    mine, 0, thin, panels, zero, where, my_firsts, native, place, block, shape, pair, theta, T, my_a, my_d,
                    the_classes, the_values, by_class, my_labels, my_wanted, my_h, my_e, my_zeros, my_sums,
                )  # fmt: skip
                cost += tile_cost
                right += tile_right
            accumulate(
                panels, zero, 0, thin, count, block, shape, where, my_firsts, asked, my_a, my_d, room, spare, place, address(ones),
                into, share, keep, biases_keep,
            )  # fmt: skip
            if not direct:
                keep = biases_keep = one
            begin += max(1, count)
        if team > 1:
            barrier(meeting, me, team)
        if not direct:
            for layer in range(layers):
                depth, at = sizes[layer], blocks[layer] * size
                k, k_end = _share(depth, me, team)
                first1, first2 = (state1_at + at if state1.size else state1_at), (state2_at + at if state2.size else state2_at)
                cost += move(zero, team, True, m, rule, hyper, t, l2, widths[layer], depth, k, k_end, last, theta + at, all_grads + at, grad_step, first1, first2)
        if team > 1:
            barrier(meeting, me, team)
    costs[16 * me] = cost
    hits[16 * me] = right


def signature(name):
    """The types of `_worker` in this dtype, and of those of the programs that are called like it."""
    real, integer, double, flag = getattr(types, name), types.int64, types.float64, types.boolean

    def read(kind, ndim):
        return types.Array(kind, ndim, "C", readonly=True)

    vector, indices, doubles = types.Array(real, 1, "C"), types.Array(integer, 1, "C"), types.Array(double, 1, "C")
    table, integers = types.Array(real, 2, "C"), types.Array(integer, 2, "C")
    return types.void(
        integer, integer, integer, indices, indices, indices, integer, flag, real, read(integer, 1), read(real, 2), flag, read(integer, 1), integer, integer, integer, integer,
        *[indices] * 6, vector, integer, integer, types.Array(double, 2, "C"), integer, double,
        vector, table, vector, vector, *[table] * 8, integers, *[table] * 2, integers, integers, vector, vector, doubles, indices,
    )  # fmt: skip


panel_program = per_dtype(_worker, signature)  # data, targets and order may be read-only
