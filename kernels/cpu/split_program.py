"""Many training steps in one compiled call, the weights of the lower layers split among a team of threads.

As kernels/cpu/panel_program.py, whose memory and products these are, but where threads there divide the rows of a batch and add their
Deltas up, here each keeps the weights of its own inputs of the lower `split` layers to itself: only it reads, transposes and moves
them, so they stay in its core's cache and never cross to another. What crosses are sums, deltas and the parameters of the upper layers, which are few.
(In the field's words: tensor parallel below, data parallel above. M. Shoeybi et al., "Megatron-LM", 2019, arXiv:1909.08053, section 3,
cuts layers so; A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, arXiv:1404.5997, joins the two kinds.)

A tile of rows goes through a step so:

  each lower layer     every thread multiplies its own inputs; a barrier; each adds up all threads' sums and takes g, for its own columns,
                       which are its inputs of the next layer; of the last lower layer for all columns of its own rows
  the upper layers     each thread takes its rows forward, to the cost, and back to the deltas of the last lower layer; it adds up its own Delta; a barrier
  each lower layer     from the last to the first: every thread multiplies all deltas by its inputs' weights, transposed, which gives the deltas of its own
                       columns of the layer below; then its weights' gradient; a barrier. The first has no layer below, and none

and after the last tile moves its own weights, and its share of the upper ones by the Deltas of all. There are 2 split barriers a tile; what a
barrier orders is told where it stands. For one number of threads results are the same bit for bit.

Memory besides that of panel_program, with C the rows of a tile for all threads together, and all rows of x, its places and numbers in `firsts` those of all threads:
  x (team, C * s_1 at least)  own inputs of rows that had to be converted
  low (2, (C + H) * (P_1 + ... + P_split-1))  activations and deltas of all but the last lower layer, of which each thread writes its columns
  a, d (team, (C + H) * (P_split + ... + P_L))  activations and deltas of the others, rows of this thread
  grads (1, N_low + team * N_up)  gradients of the lower layers, then of the upper ones of each thread
  parts (team, (2 (C + H) + 1) * the widest lower P)  a thread's sums of one layer and of the next, by turns; a row of biases
"""

from __future__ import annotations

import numpy as np

from . import inner, part, per_dtype
from .gather import gather_rows
from .on_demand import activate_at, derivative_at
from .panel_parts import accumulate, early, layer_gradient, move, squares, through, turn
from .panel_program import signature
from .panels import AHEAD, PANEL, address, apply, itemsize, rows_at, step_of, transpose, vector_at
from .program import _share
from .team import barrier
from .vectors import FETCH

__all__ = ["split_program"]

RELU = 3  # its code


def _columns(width, count, me, team):
    """The part (first, last + 1) of a layer's columns that belongs to thread `me`, in whole cache lines of `count` numbers, which no two write."""
    lines = (width + count - 1) // count
    return min(lines * me // team * count, width), min(lines * (me + 1) // team * count, width)


_columns = inner(_columns)


def _own_inputs(sizes, widths, layer, count, me, team):
    """The part (first, last + 1) of a layer's inputs whose weights belong to thread `me`: the columns of the layer below that it makes itself."""
    if layer == 0:
        return _share(sizes[0], me, team)
    first, end = _columns(widths[layer - 1], count, me, team)
    return min(first, sizes[layer]), min(end, sizes[layer])


_own_inputs = inner(_own_inputs)


def _add_parts(zero, team, parts, part_step, step, row, row_end, column, column_end, biases, rectify, out):
    """Overwrites rows of out, `step` numbers apart, with the biases and the sums of all threads, in the order of the threads; then, if asked for, their ReLU. Addresses: parts, biases, out.

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
        row, target = vector_at(M + (column * (depth + 1) + depth * across) * size, zero, across), vector_at(out + column * size, zero, across)
        for j in range(across):
            target[j] = row[j]


_biases = inner(_biases)


def _each_row(panels, zero, code, slope, m, step, n, delta, a, nothing):
    """a (m, n), rows `step` numbers apart, becomes g(a); or, if delta is not 0, delta g'(z). Addresses: delta, a."""
    size = itemsize(zero)
    for i in range(m if n > 0 else 0):
        if delta == 0:
            activate_at(panels, zero, code, slope, a + i * step * size, 1, n, nothing)
        else:
            derivative_at(panels, zero, code, slope, delta + i * step * size, a + i * step * size, n)


_each_row = inner(_each_row)


def _forward(me, team, split, meeting, panels, zero, x, first, native, m, places, block, shape, packed, low_a, a, parts, part_step, half, nothing):
    """Takes the inputs of m rows through the lower layers: own columns of low_a, and own rows of a. Addresses but meeting's."""
    sizes, widths, blocks, starts, _, codes, slopes = shape
    size = itemsize(zero)
    count, nought = FETCH // size, np.int64(0)
    biases = parts + me * part_step + 2 * half
    for layer in range(split):
        depth, P = sizes[layer], widths[layer]
        step, M = step_of(P, size), packed + blocks[layer] * size
        sums = parts + layer % 2 * half
        own = sums + me * part_step
        k, k_end = _own_inputs(sizes, widths, layer, count, me, team)
        if layer == 0:
            ahead = early(m) if native else 0
            apply(panels, zero, x, first, m, ahead, m, M, depth + 1, P, k, k_end - k, nothing, own, step, 0)
        else:
            below = low_a + (block * starts[layer - 1] + k) * size
            apply(panels, zero, below, places + layer * 8 * block, m, 0, m, M, depth + 1, P, k, k_end - k, nothing, own, step, 0)
        barrier(meeting, me, team)  # all sums of this layer are there; nobody writes them again before the next
        _biases(zero, M, depth, P, biases)
        rectified = codes[layer] == RELU
        if layer < split - 1:
            c, c_end = _columns(P, count, me, team)
            z = low_a + block * starts[layer] * size
            _add_parts(zero, team, sums, part_step, step, nought, m, c, c_end, biases, rectified, z)
            if not rectified:
                _each_row(panels, zero, codes[layer], slopes[layer], m, step, c_end - c, nought, z + c * size, nothing)
        else:
            row, row_end = _share(m, me, team)
            z = a + block * starts[layer] * size
            _add_parts(zero, team, sums, part_step, step, row, row_end, nought, P, biases, rectified, z - row * step * size)
            if not rectified and row_end > row:
                activate_at(panels, zero, codes[layer], slopes[layer], z, 1, (row_end - row) * step, nothing)


_forward = part(_forward)


def _backward(
    me, team, split, meeting, panels, zero, x, first, asked, m, places, block, shape, packed, turned,
    low_a, low_d, all_d, d_step, room, ones, grads, share, keep, biases_keep, nothing,
):  # fmt: skip
    """Takes the deltas of all rows, of which each thread has its own behind all_d, back through the lower layers, and adds up the gradients of own weights. Addresses but meeting's."""
    sizes, widths, blocks, starts, _, codes, slopes = shape
    size = itemsize(zero)
    count = FETCH // size
    for layer in range(split - 1, -1, -1):
        depth, P, M = sizes[layer], widths[layer], packed + blocks[layer] * size
        step = step_of(P, size)
        k, k_end = _own_inputs(sizes, widths, layer, count, me, team)
        if layer > 0:
            c, c_end = _columns(widths[layer - 1], count, me, team)
            Q, Q_step = c_end - c, step_of(widths[layer - 1], size)
            T, below = turned, (block * starts[layer - 1] + c) * size  # one place for all layers, which stays in the cache; the upper ones have theirs behind
            transpose(panels, zero, M, depth + 1, P, k, k_end - k, nothing, T, Q)
        groups = team if layer == split - 1 else 1  # whose rows lie one after another
        if layer > 0:
            rectified = codes[layer - 1] == RELU
            for group in range(groups):
                row, row_end = _share(m, group, groups)
                delta = all_d + group * d_step if layer == split - 1 else low_d
                delta, shift = delta + block * starts[layer] * size, row * Q_step * size
                gate = low_a + below + shift if rectified else 0
                rows, to = row_end - row, low_d + below + shift
                apply(panels, zero, delta, places + (layer + 1) * 8 * block, rows, 0, rows, T, P, Q, 0, sizes[layer + 1], nothing, to, Q_step, gate)
            if not rectified:
                _each_row(panels, zero, codes[layer - 1], slopes[layer - 1], m, Q_step, Q, low_d + below, low_a + below, nothing)
        before, biases_before, one = keep, biases_keep, type(zero)(1)
        for group in range(groups):
            row, row_end = _share(m, group, groups)
            delta = (all_d + group * d_step if layer == split - 1 else low_d) + block * starts[layer] * size
            rows_of_x, where, coming, soon = x, first + 8 * row, first + 8 * (block + row), asked - row
            if layer > 0:
                rows_of_x, where, coming, soon = low_a + below, places + 8 * (layer * block + row), places, 0
            with_biases = ones if me == team - 1 else 0
            if row_end > row or group == 0:
                layer_gradient(
                    panels, zero, rows_of_x, where, coming, soon, row_end - row, delta, step, P, room, grads + blocks[layer] * size, depth + 1, k, k_end - k, share, before,
                    with_biases, places, biases_before,
                )  # fmt: skip
            before = biases_before = one
        if layer > 0:
            barrier(meeting, me, team)  # all deltas of the layer below are there


_backward = part(_backward)


def _worker(
    me, team, split, meeting, panels, source, read, native, scale, classes, values, by_class, order, start, stop, batch, capacity,
    sizes, widths, blocks, starts, turns, codes, slopes, pair, rule, hypers, t, l2,
    packed, grads, state1, state2, turned, x, a, d, side, h, e, wanted, labels, low, parts, places, firsts, ones, zeros, costs, hits,
):  # fmt: skip
    """Thread `me` of `team` through steps start..stop over the rows `order`. Packed, state, costs and hits move.

    split: the lower layers whose weights are shared, at least one and fewer than there are. The others as in kernels/cpu/panel_program.py.
    """
    layers, n_in, K, block = sizes.size - 1, sizes[0], sizes[sizes.size - 1], capacity + AHEAD
    shape = sizes, widths, blocks, starts, turns, codes, slopes
    kind = packed.dtype.type
    zero, one, integer = kind(0), kind(1), np.int64(0)
    size = itemsize(zero)
    theta, nothing, place, T = address(packed), address(zeros), address(places), address(turned[me])
    all_grads, grad_step, all_ones = address(grads), (grads.shape[1] - blocks[split]) // parts.shape[0] * size, address(ones)
    low_a, low_d, all_parts, part_step = address(low[0]), address(low[1]), address(parts), parts.shape[1] * size
    upper = block * starts[split - 1] * size  # a and d begin with this layer
    my_a, all_d, d_step, room = address(a[me]) - upper, address(d) - upper, d.shape[1] * size, address(side[me])
    my_x, my_firsts = address(x[me]), address(firsts[me])
    first = vector_at(my_firsts, integer, firsts.shape[1])
    state1_at, state2_at = address(state1) if state1.size else np.int64(0), address(state2) if state2.size else np.int64(0)
    rows_in_order, my_labels = vector_at(address(order), integer, order.size), vector_at(address(labels[me]), integer, capacity)
    my_wanted, my_h, my_e = rows_at(address(wanted[me]), zero, capacity, K), rows_at(address(h[me]), zero, capacity, K), rows_at(address(e[me]), zero, capacity, K)
    my_zeros, the_classes, the_values = vector_at(nothing, zero, zeros.size), vector_at(address(classes), integer, classes.size), rows_at(address(values), zero, values.shape[0], K)
    my_sums = vector_at(address(costs) + (16 * me + 1) * 8, np.float64(0), 2)
    widest = 0
    for layer in range(split):
        widest = max(widest, step_of(widths[layer], size))
    half = block * widest * size  # bytes from the sums of one layer to those of the next
    own, own_end = _share(n_in, me, team)
    n_own = own_end - own
    row_step = source[1] // size if native else n_own
    my_source = source.copy()  # of own inputs
    my_source[0] += own * source[2]
    cost, right, asked = 0.0, 0, 0
    thin = K == 1 and (pair == 1 or pair == 2)
    spare = T + (turns[layers - 1] + widths[layers - 2]) * size if thin else np.int64(0)  # as in panel_program
    for step in range(start, stop):
        begin_row = step * batch
        m = min(begin_row + batch, order.size) - begin_row
        t += 1
        hyper = vector_at(address(hypers) + min(step - start, hypers.shape[0] - 1) * hypers.shape[1] * 8, np.float64(0), hypers.shape[1])
        # Where one tile holds the batch, plain gradient descent needs no gradient of the lower layers: the product itself moves the panel.
        direct = rule == 0 and m <= capacity
        share, keep, biases_keep = (kind(-hyper[0] / m), kind(1 - hyper[0] * l2), one) if direct else (one, zero, zero)
        into, fresh = theta if direct else all_grads, zero
        for begin in range(0, m, capacity):
            count = min(capacity, m - begin)
            those = rows_in_order[begin_row + begin : begin_row + begin + count]
            if native:
                for i in range(count + AHEAD):
                    first[i] = those[min(i, count - 1)] * row_step
                # The first rows of the next tile are asked for during this one's gradient.
                next_row = begin_row + begin + count
                asked = min(early(capacity), order.size - next_row)
                for i in range(asked):
                    first[block + i] = rows_in_order[next_row + i] * row_step
            else:
                gather_rows(my_source, read, scale, those, rows_at(my_x, zero, count, n_own))
                for i in range(count + AHEAD):
                    first[i] = min(i, count - 1) * row_step
            where = my_source[0] if native else my_x
            _forward(
                me, team, split, meeting, panels, zero, where, my_firsts, native, count, place, block, shape, theta, low_a, my_a,
                all_parts, part_step, half, nothing,
            )  # fmt: skip
            if begin == 0:  # the upper parameters were moved before the barrier of the first sums
                turn(panels, zero, split, thin, shape, theta, T, nothing)
            row, row_end = _share(count, me, team)
            my_d = all_d + me * d_step
            if row_end > row:
                tile_cost, tile_right = through(
                    those[row:row_end], split, thin, panels, zero, where, my_firsts, False, place, block, shape, pair, theta, T,
                    my_a, my_d, the_classes, the_values, by_class, my_labels, my_wanted, my_h, my_e, my_zeros, my_sums,
                )  # fmt: skip
                cost += tile_cost
                right += tile_right
            accumulate(
                panels, zero, split, thin, row_end - row, block, shape, where, my_firsts, 0, my_a, my_d, room, spare, place, all_ones,
                all_grads + me * grad_step, one, fresh, fresh,
            )  # fmt: skip
            barrier(meeting, me, team)  # all deltas of the last lower layer are there, and all upper Deltas; all have read the upper parameters
            if direct and l2 != 0:
                for layer in range(split):
                    k, k_end = _own_inputs(sizes, widths, layer, FETCH // size, me, team)
                    cost += m * l2 / 2 * squares(zero, theta + blocks[layer] * size, widths[layer], sizes[layer], k, k_end)
            _backward(
                me, team, split, meeting, panels, zero, where, my_firsts, asked, count, place, block, shape, theta, T,
                low_a, low_d, all_d, d_step, room, all_ones, into, share, keep, biases_keep, nothing,
            )  # fmt: skip
            fresh = one
            if not direct:
                keep = biases_keep = one
        for layer in range(layers):
            depth, at = sizes[layer], blocks[layer] * size
            k, k_end = _share(depth, me, team)
            if layer < split:
                k, k_end = _own_inputs(sizes, widths, layer, FETCH // size, me, team)
            first1, first2 = (state1_at + at if state1.size else state1_at), (state2_at + at if state2.size else state2_at)
            summed, last = layer >= split, me == team - 1
            if summed or not direct:
                cost += move(zero, team, summed, m, rule, hyper, t, l2, widths[layer], depth, k, k_end, last, theta + at, all_grads + at, grad_step, first1, first2)
    costs[16 * me] = cost
    hits[16 * me] = right


split_program = per_dtype(_worker, signature)
