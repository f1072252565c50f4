"""Many training steps in one compiled call, the weights of the lower layers split among a team of threads.

As kernels/cpu/panel_program.py, whose memory and products these are, but where threads there divide the rows of a batch
and add their Deltas up, here each keeps the weights of its own inputs of the lower `split` layers to itself: only it
reads, transposes and moves them, so they stay in its core's cache and never cross to another. What crosses are sums,
deltas and the parameters of the upper layers, which are few. (In the field's words: tensor parallel below, data
parallel above. M. Shoeybi et al., "Megatron-LM", 2019, arXiv:1909.08053, section 3, cuts layers so; A. Krizhevsky, "One
weird trick for parallelizing convolutional neural networks", 2014, arXiv:1404.5997, joins the two kinds.)

A tile of rows goes through a step so:

  each lower layer     every thread multiplies its own inputs; a barrier; each adds up all threads' sums and takes g,
                       for its own columns, which are its inputs of the next layer; of the last lower layer for all
                       columns of its own rows
  the upper layers     each thread takes its rows forward, to the cost, and back to the deltas of the last lower layer;
                       it adds up its own Delta; a barrier
  each lower layer     from the last to the first: every thread multiplies all deltas by its inputs' weights,
                       transposed, which gives the deltas of its own columns of the layer below; then its weights'
                       gradient; a barrier. The first has no layer below, and none

and after the last tile moves its own weights, and its share of the upper ones by the Deltas of all. There are 2 split
barriers a tile; what a barrier orders is told where it stands. For one number of threads results are the same bit for
bit.

Memory besides that of panel_program, with C the rows of a tile for all threads together, and all rows of x, its places
and numbers in `firsts` those of all threads:
  x (team, C * s_1 at least)  own inputs of rows that had to be converted
  low (2, (C + H) * (P_1 + ... + P_split-1))  activations and deltas of all but the last lower layer, of which each
                                              thread writes its columns; a third row, of what `beside` is to a,
                                              where a layer wants it
  a, d, beside (team, (C + H) * (P_split + ... + P_L))  of the others, rows of this thread
  grads (1, N_low + team * N_up)  gradients of the lower layers, then of the upper ones of each thread
  parts (team, (2 (C + H) + 1) * the widest lower P)  a thread's sums of one layer and of the next, by turns; a row of
  biases
"""

from __future__ import annotations

import numpy as np

from . import inner, part, per_dtype
from .codes import GRADIENT, POISSON, RELU, SGD, SIGMOID_CROSS_ENTROPY, SQUARED_ERROR
from .gather import gather_rows
from .on_demand import activate_at, derivative_at
from .panel_parts import (
    accumulate,
    decay,
    drop_layer,
    early,
    layer_gradient,
    move,
    rows_at_hand,
    rows_to_come,
    through,
    turn,
)
from .panel_program import signature
from .panels import AHEAD, PANEL, address, apply, itemsize, rows_at, step_of, transpose, vector_at
from .program import part_of
from .team import barrier
from .vectors import FETCH
from .workspace import Drawn, batch_of, factors_of, hyper_of, own, uncounted

__all__ = ["split_program"]


def _columns(width, count, me, team):
    """The part (first, last + 1) of a layer's columns that belongs to thread `me`, in whole cache lines of `count`
    numbers, which no two write.
    """
    lines = (width + count - 1) // count
    return min(lines * me // team * count, width), min(lines * (me + 1) // team * count, width)


_columns = inner(_columns)


def _own_inputs(sizes, widths, layer, count, me, team):
    """The part (first, last + 1) of a layer's inputs whose weights belong to thread `me`: the columns of the layer
    below that it makes itself.
    """
    if layer == 0:
        return part_of(sizes[0], me, team)
    first, end = _columns(widths[layer - 1], count, me, team)
    return min(first, sizes[layer]), min(end, sizes[layer])


_own_inputs = inner(_own_inputs)


def _add_parts(zero, team, parts, part_step, step, row, row_end, column, column_end, biases, rectify, out):
    """Overwrites rows of out, `step` numbers apart, with the biases and the sums of all threads, in the order of the
    threads; then, if asked for, their ReLU. Addresses: parts, biases, out.

    parts, out: of row 0, column 0; a thread's sums begin part_step bytes behind those of the one before.
    """
    size, n = itemsize(zero), column_end - column
    b = vector_at(biases + column * size, zero, n)
    for i in range(row, row_end):
        at = (i * step + column) * size
        z = vector_at(out + at, zero, n)
        s = vector_at(parts + at, zero, n)
        if team == 1:
            for j in range(n):
                z[j] = b[j] + s[j]
        else:
            other = vector_at(parts + part_step + at, zero, n)
            for j in range(n):
                z[j] = b[j] + (s[j] + other[j])
        for member in range(2, team):
            other = vector_at(parts + member * part_step + at, zero, n)
            for j in range(n):
                z[j] += other[j]
        if rectify:
            for j in range(n):
                z[j] = zero if z[j] < zero else z[j]  # NaN stays NaN


_add_parts = inner(_add_parts)


def _biases(zero, M, depth, width, out):
    """Copies the last row of a matrix (depth + 1, width) in panels to out. Addresses: M, out."""
    size = itemsize(zero)
    for column in range(0, width, PANEL // size):
        across = min(PANEL // size, width - column)
        row = vector_at(M + (column * (depth + 1) + depth * across) * size, zero, across)
        target = vector_at(out + column * size, zero, across)
        for j in range(across):
            target[j] = row[j]


_biases = inner(_biases)


def _each_row(panels, zero, code, slope, kept, m, step, n, delta, a, nothing, beside):
    """a (m, n), rows `step` numbers apart, becomes g(a); or, if delta is not 0, delta g'(z), from a = g(z) / kept.
    Addresses: delta, a; beside: as in kernels/cpu/on_demand.py.
    """
    size = itemsize(zero)
    for i in range(m if n > 0 else 0):
        if delta == 0:
            activate_at(panels, zero, code, slope, a + i * step * size, 1, n, nothing, beside)
        else:
            derivative_at(panels, zero, code, slope, kept, delta + i * step * size, a + i * step * size, n, beside)


_each_row = inner(_each_row)


def _forward(
    me, team, split, meeting, panels, zero, x, native, m, block, shape, own, low_a, low_beside, parts, part_step, half,
    drawn,
):  # fmt: skip
    """Takes the inputs of m rows through the lower layers: own columns of low_a, and own rows of own.a. Addresses:
    x, low_a, parts. low_beside: of low_a, as own.beside.
    """
    sizes, widths, starts, codes, slopes = shape.sizes, shape.widths, shape.starts, shape.codes, shape.slopes
    size = itemsize(zero)
    count, nought = FETCH // size, np.int64(0)
    biases = parts + me * part_step + 2 * half
    for layer in range(split):
        depth, P = sizes[layer], widths[layer]
        step, M = step_of(P, size), own.theta + shape.blocks[layer] * size
        sums = parts + layer % 2 * half
        own_sums = sums + me * part_step
        k, k_end = _own_inputs(sizes, widths, layer, count, me, team)
        if layer == 0:
            ahead = early(m) if native else 0
            apply(
                panels, zero, x, own.firsts, m, ahead, m, M, depth + 1, P, k, k_end - k, own.nothing, own_sums, step, 0
            )
        else:
            below = low_a + (block * starts[layer - 1] + k) * size
            apply(
                panels, zero, below, own.places + layer * 8 * block, m, 0, m, M, depth + 1, P, k, k_end - k,
                own.nothing, own_sums, step, 0,
            )  # fmt: skip
        barrier(meeting, me, team)  # all sums of this layer are there; nobody writes them again before the next
        _biases(zero, M, depth, P, biases)
        rectified = codes[layer] == RELU
        if layer < split - 1:
            c, c_end = _columns(P, count, me, team)
            z = low_a + block * starts[layer] * size
            _add_parts(zero, team, sums, part_step, step, nought, m, c, c_end, biases, rectified, z)
            if not rectified:
                _each_row(
                    panels, zero, codes[layer], slopes[layer], shape.kept[layer], m, step, c_end - c, nought,
                    z + c * size, own.nothing, low_beside,
                )  # fmt: skip
            drop_layer(panels, zero, layer, z + c * size, m, step, c_end - c, c, drawn, shape)
        else:
            row, row_end = part_of(m, me, team)
            z = own.a + block * starts[layer] * size
            _add_parts(
                zero, team, sums, part_step, step, row, row_end, nought, P, biases, rectified, z - row * step * size
            )
            if not rectified and row_end > row:
                activate_at(
                    panels, zero, codes[layer], slopes[layer], z, 1, (row_end - row) * step, own.nothing, own.beside
                )
            own_rows = Drawn(drawn.key, drawn.step, drawn.row + row)
            drop_layer(panels, zero, layer, z, row_end - row, step, P, nought, own_rows, shape)


_forward = part(_forward)


def _backward(
    me, team, split, meeting, panels, zero, x, asked, m, block, shape, own, low_a, low_beside, low_d, all_d, d_step,
    grads, share, keep, biases_keep, drawn,
):  # fmt: skip
    """Takes the deltas of all rows, of which each thread has its own behind all_d, back through the lower layers, and
    adds up the gradients of own weights.

    Addresses: x, low_a, low_d, all_d, grads.
    """
    sizes, widths, starts, codes, slopes = shape.sizes, shape.widths, shape.starts, shape.codes, shape.slopes
    first, places = own.firsts, own.places
    size = itemsize(zero)
    count = FETCH // size
    for layer in range(split - 1, -1, -1):
        depth, P, M = sizes[layer], widths[layer], own.theta + shape.blocks[layer] * size
        step = step_of(P, size)
        k, k_end = _own_inputs(sizes, widths, layer, count, me, team)
        if layer > 0:
            c, c_end = _columns(widths[layer - 1], count, me, team)
            Q, Q_step = c_end - c, step_of(widths[layer - 1], size)
            # one place for all layers, which stays in the cache; the upper ones have theirs behind
            T, below = own.turned, (block * starts[layer - 1] + c) * size
            transpose(panels, zero, M, depth + 1, P, k, k_end - k, own.nothing, T, Q)
        groups = team if layer == split - 1 else 1  # whose rows lie one after another
        if layer > 0:
            rectified = codes[layer - 1] == RELU
            for group in range(groups):
                row, row_end = part_of(m, group, groups)
                delta = all_d + group * d_step if layer == split - 1 else low_d
                delta, shift = delta + block * starts[layer] * size, row * Q_step * size
                gate = low_a + below + shift if rectified else 0
                rows, to = row_end - row, low_d + below + shift
                apply(
                    panels, zero, delta, places + (layer + 1) * 8 * block, rows, 0, rows, T, P, Q, 0, sizes[layer + 1],
                    own.nothing, to, Q_step, gate,
                )  # fmt: skip
            drop_layer(panels, zero, layer - 1, low_d + below, m, Q_step, Q, c, drawn, shape)
            if not rectified:
                _each_row(
                    panels, zero, codes[layer - 1], slopes[layer - 1], shape.kept[layer - 1], m, Q_step, Q,
                    low_d + below, low_a + below, own.nothing, low_beside,
                )  # fmt: skip
        before, biases_before, one = keep, biases_keep, type(zero)(1)
        for group in range(groups):
            row, row_end = part_of(m, group, groups)
            delta = (all_d + group * d_step if layer == split - 1 else low_d) + block * starts[layer] * size
            rows_of_x, where, coming, soon = x, first + 8 * row, first + 8 * (block + row), asked - row
            if layer > 0:
                rows_of_x, where, coming, soon = low_a + below, places + 8 * (layer * block + row), places, 0
            with_biases = own.ones if me == team - 1 else 0
            if row_end > row or group == 0:
                layer_gradient(
                    panels, zero, rows_of_x, where, coming, soon, row_end - row, delta, step, P, own.side,
                    grads + shape.blocks[layer] * size, depth + 1, k, k_end - k, share, before, with_biases, places,
                    biases_before,
                )  # fmt: skip
            before = biases_before = one
        if layer > 0:
            barrier(meeting, me, team)  # all deltas of the layer below are there


_backward = part(_backward)


def _worker(me, team, split, meeting, panels, data, run, shape, rule, memory):
    """Thread `me` of `team` through the steps of the run. Packed, state, costs and hits move.

    split: the lower layers whose weights are shared, at least one and fewer than there are. The others as in
    kernels/cpu/panel_program.py.
    """
    data, shape, rule = uncounted(data, shape, rule)
    layers = shape.sizes.size - 1
    n_in = shape.sizes[0]
    K = shape.sizes[shape.sizes.size - 1]
    block = run.capacity + AHEAD
    kind = memory.packed.dtype.type
    zero, one = kind(0), kind(1)
    size = itemsize(zero)
    upper = block * shape.starts[split - 1] * size  # a and d begin with this layer
    mine = own(me, True, upper, data, run, memory)
    all_grads = address(memory.grads)
    grad_step = (memory.grads.shape[1] - shape.blocks[split]) // memory.parts.shape[0] * size
    low_a = address(memory.low[0])
    low_d = address(memory.low[1])
    low_beside = address(memory.low[memory.low.shape[0] - 1]) - low_a
    all_parts = address(memory.parts)
    part_step = memory.parts.shape[1] * size
    all_d, d_step = address(memory.d) - upper, memory.d.shape[1] * size
    widest = 0
    for layer in range(split):
        widest = max(widest, step_of(shape.widths[layer], size))
    half = block * widest * size  # bytes from the sums of one layer to those of the next
    own_input, own_end = part_of(n_in, me, team)
    n_own = own_end - own_input
    row_step = data.source[1] // size if data.native else n_own
    source = data.source.copy()  # of own inputs
    source[0] += own_input * source[2]
    order = vector_at(mine.order, np.int64(0), run.order.size)
    first = vector_at(mine.firsts, np.int64(0), memory.firsts.shape[1])
    cost, right, asked, t = memory.costs[16 * me], memory.hits[16 * me], 0, rule.t
    thin = K == 1 and (shape.pair == SIGMOID_CROSS_ENTROPY or shape.pair == SQUARED_ERROR or shape.pair >= POISSON)
    barrier(meeting, me, team)  # all parameters are packed
    for step in range(run.start, run.stop):
        begin_row, m = batch_of(run, order.size, step)
        t += 1
        hyper = hyper_of(rule, step - run.start)
        # of the lower layers, whose Deltas are summed over no threads
        direct = (rule.code == SGD or rule.code == GRADIENT) and m <= run.capacity
        share, keep, biases_keep = factors_of(direct, rule, hyper, m, zero)
        into, fresh = mine.theta if direct else all_grads, zero
        for begin in range(0, m, run.capacity):
            count = min(run.capacity, m - begin)
            rows = order[begin_row + begin : begin_row + begin + count]
            if data.native:
                rows_at_hand(rows, row_step, first)
                asked = rows_to_come(order, begin_row + begin + count, run.capacity, row_step, first[block:])
            else:
                gather_rows(source, data.read, data.scale, rows, rows_at(mine.x, zero, count, n_own))
                for i in range(count + AHEAD):
                    first[i] = min(i, count - 1) * row_step
            x, drawn = source[0] if data.native else mine.x, Drawn(run.key, step, begin)
            _forward(
                me, team, split, meeting, panels, zero, x, data.native, count, block, shape, mine, low_a, low_beside,
                all_parts, part_step, half, drawn,
            )  # fmt: skip
            if begin == 0:  # the upper parameters were moved before the barrier of the first sums
                turn(panels, zero, split, thin, shape, mine)
            row, row_end = part_of(count, me, team)
            if row_end > row:
                tile_cost, tile_right = through(
                    rows[row:row_end], split, thin, panels, zero, x, False, block, shape, data.by_class, mine,
                    Drawn(run.key, step, begin + row),
                )  # fmt: skip
                cost += tile_cost
                right += tile_right
            accumulate(
                panels, zero, split, thin, row_end - row, block, shape, x, 0, mine, all_grads + me * grad_step, one,
                fresh, fresh,
            )  # fmt: skip
            # all deltas of the last lower layer are there, and all upper Deltas; all have read the upper parameters
            barrier(meeting, me, team)
            if direct and rule.l2 != 0:
                for layer in range(split):
                    k, k_end = _own_inputs(shape.sizes, shape.widths, layer, FETCH // size, me, team)
                    cost += decay(zero, m, rule.l2, layer, k, k_end, shape, mine)
            _backward(
                me, team, split, meeting, panels, zero, x, asked, count, block, shape, mine, low_a, low_beside, low_d,
                all_d, d_step, into, share, keep, biases_keep, drawn,
            )  # fmt: skip
            fresh = one
            if not direct:
                keep = biases_keep = one
        for layer in range(layers):
            k, k_end = (
                _own_inputs(shape.sizes, shape.widths, layer, FETCH // size, me, team)
                if layer < split
                else part_of(shape.sizes[layer], me, team)
            )
            summed, last = layer >= split, me == team - 1
            if summed or not direct:
                cost += move(
                    zero, team, summed, m, rule, hyper, t, shape, layer, k, k_end, last, mine, all_grads, grad_step
                )
    barrier(meeting, me, team)  # all parameters have moved, and may be unpacked
    memory.costs[16 * me] = cost
    memory.hits[16 * me] = right


split_program = per_dtype(_worker, signature)
