"""Many training steps in one compiled call, for networks whose parameters stay in the cache.

The same steps as kernels/cpu/program.py, with the products of kernels/cpu/panels.py in place of BLAS.
Parameters are packed for them once per call: layer l is a panel (s_l + 1, P_l), inputs down, outputs
across and padded with zeros to whole vectors, its biases the last row. Rows of float data are read where
they lie, in shuffled order; the lines of the next rows are asked for while these are multiplied, so that
shuffling costs a narrow network little. Delta's propagation needs the panels of layers 2.. transposed;
each thread keeps that copy for itself. Steps of one row do without: a transpose costs more than all their other products.

A single output (regression, two classes) fills one lane of a vector: `thin`, its z are the products of the rows below with its weights,
kept as one row where the transposed panel would be, and its gradient is one row too.

Each thread takes a slice of the batch, in tiles of at most C rows, through the network and back. Then

sliced: it adds up its own Delta; a barrier; each adds the Deltas of all and updates its share of the parameters;
shared: after every tile a barrier; each adds up Delta for its share of every layer's inputs over the rows of all.

Which is cheaper depends on whether Delta or the rows are larger. Symbols as in the lecture; for one number of
threads results are the same bit for bit.

Memory, all C-contiguous and of the network's dtype unless said, given by the caller (S = P_1 + ... + P_L, without
the inputs, each a little more where `spaced` says so; H = AHEAD rows more than asked for, which `apply` may overwrite):
  packed, state1, state2 (N,)  the panels of all layers, one after another; grads (team if sliced else 1, N)
  turned (team, ...)  transposed panels of layers 2..L; x (team, C * s_1)  rows that had to be converted
  a, d (team, (C + H) * S)  activations and deltas of layers 2..L; d begins as zeros, and the padding of the last layer's stays so
  side (team, min(C, TALL) * the widest P)  deltas of some rows in panels, if any layer has several
  h, e, wanted (team, C * K), labels (team, C) int64  outputs, their deltas and the targets without padding
  places (L + 1, C + H) int64  where rows of each layer's width begin, the first all 0; firsts (team, 2 C + H) likewise in the data,
  for the rows at hand and from C + H on for those to be asked for
  ones (1,), zeros ((C + H) * the widest P,); costs (team * 16,) float64, hits (team * 16,) int64
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from . import compiled, part, per_dtype
from .gather import gather_rows
from .on_demand import activate_at, derivative_at
from .operations import add, sum_of_squares, update
from .panel_output import cost_and_delta
from .panels import AHEAD, PANEL, RECTIFY, address, apply, dots, gradient, itemsize, rows_at, step_of, transpose, vector_at
from .program import _share
from .team import AT_ONCE, barrier, call_back

__all__ = ["TALL", "panel_program", "signature", "squares"]

TALL, EVEN = 96, 4  # rows of a gradient at a time: their deltas of one panel and a line of each row's inputs fill the first-level cache; in multiples of these


def _through(
    mine, thin, panels, zero, x, first, ahead, places, block, sizes, widths, blocks, starts, turns, codes, slopes, pair, packed, turned, a, d,
    classes, values, by_class, labels, wanted, h, e, zeros, sums,
):  # fmt: skip
    """Takes the rows `mine`, which begin at x + first[i], through the network and back to the deltas. Returns (cost sum, rows that are right).

    Addresses: x, first, places, packed, turned, a, d. A layer's rows begin block * starts[layer] numbers behind a and d.
    """
    m, layers, size = mine.size, sizes.size - 1, itemsize(zero)
    last = layers - 1
    nothing = address(zeros)
    for layer in range(layers):
        n_in, P = sizes[layer], widths[layer]
        M, z = packed + blocks[layer] * size, a + block * starts[layer] * size
        rectified = layer < last and codes[layer] == 3
        if layer == 0:
            apply(panels, zero, x, first, m, (m + 1) // 2 if ahead else 0, m, M, n_in + 1, P, n_in, 0, z, RECTIFY if rectified else 0)
        elif layer == last and thin:
            dots(panels, zero, a + block * starts[layer - 1] * size, 0, step_of(widths[layer - 1], size), m, turned + turns[layer] * size, widths[layer - 1], z)
            bias = vector_at(M + n_in * P * size, zero, 1)[0]
            outputs = vector_at(z, zero, m)
            for i in range(m):
                outputs[i] += bias
        else:
            apply(panels, zero, a + block * starts[layer - 1] * size, places + layer * 8 * block, m, 0, m, M, n_in + 1, P, n_in, 0, z, RECTIFY if rectified else 0)
        if layer < last and not rectified:
            activate_at(panels, zero, codes[layer], slopes[layer], z, 1, m * step_of(P, size), nothing)
    K, P = sizes[layers], step_of(widths[last], size)
    z, top = rows_at(a + block * starts[last] * size, zero, m, 1 if thin else P), rows_at(d + block * starts[last] * size, zero, m, P)
    cost, right = cost_and_delta(panels, pair, codes[last], slopes[last], z, K, mine, classes, values, by_class, labels[:m], wanted[:m], h[:m], e[:m], zeros, sums, top)
    for layer in range(last, 0, -1):
        P, Q = widths[layer], widths[layer - 1]
        upper, lower = d + block * starts[layer] * size, d + block * starts[layer - 1] * size
        below = a + block * starts[layer - 1] * size
        rectified = turned != 0 and codes[layer - 1] == 3
        if turned == 0:
            dots(panels, zero, packed + blocks[layer] * size, sizes[layer] + 1, 0, sizes[layer], upper, P, lower)
        else:
            T_rows, gate = 1 if thin and layer == last else P, below if rectified else 0
            apply(panels, zero, upper, places + (layer + 1) * 8 * block, m, 0, m, turned + turns[layer] * size, T_rows, Q, sizes[layer + 1], nothing, lower, gate)
        if not rectified:
            derivative_at(panels, zero, codes[layer - 1], slopes[layer - 1], lower, below, m * step_of(Q, size))
    return cost, right


_through = part(_through)


def squares(zero, matrix, width, depth, k, k_end):
    """Sum of the squares of rows k..k_end of a matrix (depth + 1, width) in panels, at an address."""
    total, size = 0.0, itemsize(zero)
    for column in range(0, width, PANEL // size):
        across = min(PANEL // size, width - column)
        total += sum_of_squares(vector_at(matrix + (column * (depth + 1) + k * across) * size, zero, (k_end - k) * across))
    return total


squares = compiled(squares)


def _turn(panels, zero, thin, sizes, widths, blocks, turns, packed, turned, nothing):
    """Overwrites the transposed panels of layers 2..L; packed, turned, nothing: addresses."""
    last, size = widths.size - 1, itemsize(zero)
    for layer in range(1, last + 1 if turned != 0 else 0):
        M, M_rows, T = packed + blocks[layer] * size, sizes[layer] + 1, turned + turns[layer] * size
        if layer == last and thin:
            weights, P = vector_at(M, zero, M_rows * widths[layer]), widths[layer]
            row = vector_at(T, zero, sizes[layer])
            for k in range(row.size):
                row[k] = weights[k * P]
        else:
            transpose(panels, zero, M, M_rows, widths[layer], sizes[layer], nothing, T, widths[layer - 1])


_turn = part(_turn)


def _side_by_side(zero, d, step, m, width, room):
    """Overwrites room with (m, width) in panels, whose rows lie `step` numbers apart at d. d, room: addresses."""
    size = itemsize(zero)
    for column in range(0, width, PANEL // size):
        across = min(PANEL // size, width - column)
        rows, panel = rows_at(d + column * size, zero, m, step), rows_at(room + column * m * size, zero, m, across)
        for i in range(m):
            for j in range(across):
                panel[i, j] = rows[i, j]


_side_by_side = part(_side_by_side)


def _move(me, team, sliced, zero, m, rule, hyper, t, l2, sizes, widths, blocks, theta, all_grads, grad_step, state1, state2):
    """Adds up the Deltas of all threads, if sliced, and moves theta, for this thread's share of every layer's inputs. Returns the L2 cost of these weights for m rows.

    Addresses: theta, all_grads, whose rows are grad_step bytes long.
    """
    cost, size = 0.0, itemsize(zero)
    for layer in range(widths.size):
        P, depth = widths[layer], sizes[layer]
        k, k_end = _share(depth, me, team)
        if l2 != 0:
            cost += m * l2 / 2 * squares(zero, theta + blocks[layer] * size, P, depth, k, k_end)
        for column in range(0, P, PANEL // size):
            across = min(PANEL // size, P - column)
            panel = blocks[layer] + column * (depth + 1)
            for biases in range(2):  # weights, which decay; then, by one thread, biases, which do not
                if biases:
                    begin, count = (panel + depth * across) * size, across if me == team - 1 else 0
                else:
                    begin, count = (panel + k * across) * size, (k_end - k) * across
                for at in range(begin, begin + count * size, AT_ONCE * size):
                    n = min(AT_ONCE, count - (at - begin) // size)
                    own_grad = vector_at(all_grads + at, zero, n)
                    if team > 1:
                        call_back(theta + at, n * size)
                    if sliced:
                        for other in range(1, team):
                            add(vector_at(all_grads + other * grad_step + at, zero, n), own_grad)
                    own1 = vector_at(address(state1) + at, zero, n if state1.size else 0)
                    own2 = vector_at(address(state2) + at, zero, n if state2.size else 0)
                    update(rule, hyper, t, vector_at(theta + at, zero, n), own_grad, own1, own2, 1 / m, 0.0 if biases else l2)
    return cost


_move = part(_move)


def _worker(
    me, team, sliced, meeting, panels, source, read, native, scale, classes, values, by_class, order, start, stop, batch, capacity,
    sizes, widths, blocks, starts, turns, codes, slopes, pair, rule, hypers, t, l2,
    packed, grads, state1, state2, turned, x, a, d, side, h, e, wanted, labels, places, firsts, ones, zeros, costs, hits,
):  # fmt: skip
    """Thread `me` of `team` through steps start..stop over the rows `order`. Packed, state, costs and hits move.

    `native`: the rows of X are numbers of the network's dtype side by side, and are used where they lie.
    source, read, scale, targets, l2, hypers, t, costs and hits as in kernels/cpu/program.py.
    """
    layers, n_in, K, block = sizes.size - 1, sizes[0], sizes[sizes.size - 1], capacity + AHEAD
    kind = packed.dtype.type
    zero, one, integer = kind(0), kind(1), np.int64(0)
    size = itemsize(zero)
    # Views made from addresses do not count references, which costs an atomic operation each way, tens of times per step.
    theta, nothing, place, T = address(packed), address(zeros), address(places), address(turned[me]) if batch > 1 else np.int64(0)
    grad, all_grads, grad_step = address(grads[me if sliced else 0]), address(grads), grads.shape[1] * size
    a_all, a_step, d_all, d_step = address(a), a.shape[1] * size, address(d), d.shape[1] * size
    room = address(side[me])
    x_all, x_step, firsts_all, firsts_step = address(x), x.shape[1] * size, address(firsts), firsts.shape[1] * 8
    first = vector_at(firsts_all + me * firsts_step, integer, firsts.shape[1])
    rows_in_order, my_labels = vector_at(address(order), integer, order.size), vector_at(address(labels[me]), integer, capacity)
    my_wanted, my_h, my_e = rows_at(address(wanted[me]), zero, capacity, K), rows_at(address(h[me]), zero, capacity, K), rows_at(address(e[me]), zero, capacity, K)
    my_zeros, the_classes, the_values = vector_at(nothing, zero, zeros.size), vector_at(address(classes), integer, classes.size), rows_at(address(values), zero, values.shape[0], K)
    my_sums = vector_at(address(costs) + (16 * me + 1) * 8, np.float64(0), 2)  # beside this thread's cost: nobody else's line
    row_step = source[1] // size if native else n_in
    cost, right, asked = 0.0, 0, 0
    thin = K == 1 and layers > 1 and batch > 1 and (pair == 1 or pair == 2)
    # The last panel's place in `turned` has room for this row too: it would hold at least as many rows as a vector has numbers.
    spare, Q = T + (turns[layers - 1] + widths[layers - 2]) * size if thin else np.int64(0), widths[layers - 2] if thin else np.int64(0)
    for step in range(start, stop):
        _turn(panels, zero, thin, sizes, widths, blocks, turns, theta, T, nothing)
        begin_row = step * batch
        m = min(begin_row + batch, order.size) - begin_row
        t += 1
        hyper = vector_at(address(hypers) + min(step - start, hypers.shape[0] - 1) * hypers.shape[1] * 8, np.float64(0), hypers.shape[1])
        from_row, to_row = _share(m, me, team)
        most = _share(m, 0, team)[1]  # rows of the largest slice
        # Where one tile holds each slice and nothing is summed over threads, plain gradient descent needs no
        # gradient: the product itself moves the panel, (1 - alpha lambda/n) M - (alpha/m) sum x delta.
        direct = rule == 0 and most <= capacity and (team == 1 or not sliced)
        share, keep = (kind(-hyper[0] / m), kind(1 - hyper[0] * l2)) if direct else (one, zero)
        for begin in range(0, most, capacity):
            tile_from = min(from_row + begin, to_row)
            count = min(tile_from + capacity, to_row) - tile_from
            if count > 0:
                mine = rows_in_order[begin_row + tile_from : begin_row + tile_from + count]
                if native:
                    for i in range(count + AHEAD):
                        first[i] = mine[min(i, count - 1)] * row_step
                    # The next tile of this thread: half of its rows are asked for during this one's gradient, the others when it is there.
                    next_row = begin_row + tile_from + (count if tile_from + count < to_row else m + from_row - tile_from)
                    asked = min((capacity + 1) // 2, order.size - next_row)
                    for i in range(asked):
                        first[block + i] = rows_in_order[next_row + i] * row_step
                else:
                    gather_rows(source, read, scale, mine, rows_at(x_all + me * x_step, zero, count, n_in))
                    for i in range(count + AHEAD):
                        first[i] = min(i, count - 1) * row_step
                tile_cost, tile_right = _through(
                    mine, thin, panels, zero, source[0] if native else x_all + me * x_step, firsts_all + me * firsts_step, native, place, block,
                    sizes, widths, blocks, starts, turns, codes, slopes, pair, theta, T, a_all + me * a_step, d_all + me * d_step,
                    the_classes, the_values, by_class, my_labels, my_wanted, my_h, my_e, my_zeros, my_sums,
                )  # fmt: skip
                cost += tile_cost
                right += tile_right
            if not sliced and team > 1:
                barrier(meeting, me, team)
            for member in range(me if sliced else 0, me + 1 if sliced else team):
                member_from, member_to = _share(m, member, team)
                rows = min(member_from + begin + capacity, member_to) - min(member_from + begin, member_to)
                fresh = begin == 0 and (sliced or member == 0)
                if rows <= 0 and not fresh:
                    continue
                inputs, deltas = a_all + member * a_step, d_all + member * d_step
                for layer in range(layers - 1, -1, -1):
                    P, depth = widths[layer], sizes[layer]
                    k, k_end = (0, depth) if sliced else _share(depth, me, team)
                    panel = (theta if direct else grad) + blocks[layer] * size
                    delta = deltas + block * starts[layer] * size
                    if k_end > k and direct and fresh and l2 != 0:
                        cost += m * l2 / 2 * squares(zero, panel, P, depth, k, k_end)
                    # TALL rows at a time, so that a panel of their deltas stays in the first-level cache; from several panels on they are laid side by side first.
                    across = thin and layer == layers - 1 and (sliced or team == 1)  # Delta's one column as a row, which fills vectors; then into the column
                    if layer == 0:
                        from_x, where = source[0] if native else x_all + member * x_step, firsts_all + member * firsts_step
                    else:
                        from_x, where = inputs + block * starts[layer - 1] * size, place + layer * 8 * block
                    soon = asked if layer == 0 and member == me else 0
                    wide, lying = (Q, from_x) if across else (P, delta)
                    width_step = step_of(wide, size)
                    tall = rows if rows <= TALL else -(-rows // -(-rows // TALL) // EVEN) * EVEN
                    i = 0
                    while i < rows or i == 0:
                        m_i, first_rows, d_i = min(tall, rows - i), fresh and i == 0, lying + i * width_step * size
                        if wide * size > PANEL and m_i > 1:
                            _side_by_side(zero, d_i, width_step, m_i, wide, room)
                            d_i = room
                        before = keep if first_rows else one
                        if across:
                            gradient(panels, zero, delta, place + (layer + 1) * 8 * block + 8 * i, m_i, place, 0, d_i, spare, 1, Q, 0, 1, share, zero)
                            column, sums = vector_at(panel, zero, depth * P), vector_at(spare, zero, depth)
                            if before == zero:
                                for j in range(depth):
                                    column[j * P] = sums[j]
                            else:
                                for j in range(depth):
                                    column[j * P] = before * column[j * P] + sums[j]
                        elif k_end > k:
                            gradient(panels, zero, from_x + k * size, where + 8 * i, m_i, where + 8 * (block + i), soon - i, d_i, panel, depth + 1, P, k, k_end - k, share, before)
                        if sliced or me == team - 1:  # the biases, as weights of an input that is 1
                            biases_keep = (one if direct else zero) if first_rows else one
                            d_b = delta + i * P * size if across else d_i
                            gradient(panels, zero, address(ones), place, m_i, place, 0, d_b, panel, depth + 1, P, depth, 1, share, biases_keep)
                        i += max(1, m_i)
            if not sliced and team > 1 and begin + capacity < most:
                barrier(meeting, me, team)
        if sliced and team > 1:
            barrier(meeting, me, team)
        if not direct:
            cost += _move(me, team, sliced, zero, m, rule, hyper, t, l2, sizes, widths, blocks, theta, all_grads, grad_step, state1, state2)
        if team > 1:
            barrier(meeting, me, team)
    costs[16 * me] = cost
    hits[16 * me] = right


def signature(name):
    """The types of `_worker`, in this dtype."""
    real, integer, double, flag = getattr(types, name), types.int64, types.float64, types.boolean

    def read(kind, ndim):
        return types.Array(kind, ndim, "C", readonly=True)

    vector, indices, doubles = types.Array(real, 1, "C"), types.Array(integer, 1, "C"), types.Array(double, 1, "C")
    table, integers = types.Array(real, 2, "C"), types.Array(integer, 2, "C")
    return types.void(
        integer, integer, flag, indices, indices, indices, integer, flag, real, read(integer, 1), read(real, 2), flag, read(integer, 1), integer, integer, integer, integer,
        *[indices] * 6, vector, integer, integer, types.Array(double, 2, "C"), integer, double,
        vector, table, vector, vector, *[table] * 8, integers, integers, integers, vector, vector, doubles, indices,
    )  # fmt: skip


panel_program = per_dtype(_worker, signature)  # data, targets and order may be read-only
