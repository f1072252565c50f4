"""Many training steps in one compiled call, with no Python between them.

Layer sizes, activation codes, the pair, the rule and the plan are data, not types: one compilation
per dtype serves every architecture, optimizer, batch size and number of threads, and is cached on disk.

A team of threads shares each batch in one of two ways; products are single-threaded BLAS.

Shared (wide nets): the batch is taken in chunks of rows that stay in the cache. Each thread takes its
share of the chunk's rows forward and back to the deltas; a barrier; each accumulates Delta for its
share of every layer's units over all rows of the chunk, and after the last chunk updates exactly
those parameters; a barrier. Nothing is summed over threads.

Sliced (narrow nets, where moving rows between cores would cost more than adding a few parameters):
each thread takes its slice of the batch, tile by tile, forward, back and into a Delta of its own; a
barrier; each adds up and updates its share of the units; a barrier.

For one number of threads results are the same bit for bit; another number, or another chunk, only
changes where sums are cut.

Memory, all C-contiguous of the network's dtype, given by the caller (C = rows of a chunk):
  theta, state1, state2 (P,), grads (team if sliced else 1, P)  laid out layer by layer: weights (s_{l+1}, s_l), then biases
  x (C * s_1,), a, d (C * (s_2 + ... + s_L),)  the gathered rows; activations and deltas of layers 2..L
  h (C * s_L,)  the outputs; chunk_classes (C,) int64, chunk_values (C * s_L,)  the gathered targets
  partials (team * widest,); costs (team * 16,) float64, hits (team * 16,) int64
  squares (L - 1, 2, team, 2) float64, zeros at first: the sums of kernels/cpu/layerwise.py, of weights and of biases
"""

from __future__ import annotations

from numba.core import types

from . import compiled, part, per_dtype
from .gather import gather, gather_rows
from .gemm import gemm_nn, gemm_nt, gemm_tn_columns
from .layerwise import LAYERWISE, move, prepare
from .operations import activate, add, add_bias, copy, cost_of_rows, hits_of_rows, output_delta, sum_columns, sum_of_squares, times_derivative, update
from .team import AT_ONCE, barrier, call_back

__all__ = ["training_program"]


def _share(total, me, team):
    """The part (first, last + 1) of 0..total that belongs to thread `me`; cut at multiples of 8 where there is enough."""
    step = -(-total // team)
    if step >= 16:
        step = -(-step // 8) * 8
    return min(total, me * step), min(total, (me + 1) * step)


_share = compiled(_share)


def _weights(vector, offsets, sizes, layer):
    """The view (s_{l+1}, s_l) of a flat vector."""
    start = offsets[layer]
    return vector[start : start + sizes[layer + 1] * sizes[layer]].reshape((sizes[layer + 1], sizes[layer]))


_weights = compiled(_weights)


def _biases(vector, offsets, sizes, layer):
    """The view (s_{l+1},) of a flat vector."""
    return vector[offsets[layer] + sizes[layer + 1] * sizes[layer] : offsets[layer + 1]]


_biases = compiled(_biases)


def _rows_of(buffer, begin, capacity, width, lo, hi):
    """Rows lo..hi of the (capacity, width) block that begins at `begin * capacity` of a buffer."""
    first = begin * capacity
    return buffer[first + lo * width : first + hi * width].reshape((hi - lo, width))


_rows_of = compiled(_rows_of)


def _forward(xs, lo, hi, capacity, sizes, offsets, starts, codes, slopes, theta, a):
    """Overwrites rows lo..hi of a with the hidden layers' activations and the output layer's z."""
    layers = sizes.size - 1
    for layer in range(layers):
        W = _weights(theta, offsets, sizes, layer)
        z = _rows_of(a, starts[layer], capacity, sizes[layer + 1], lo, hi)
        if layer == 0:
            gemm_nt(xs, W, z, 1.0, 0.0)
        else:
            gemm_nt(_rows_of(a, starts[layer - 1], capacity, sizes[layer], lo, hi), W, z, 1.0, 0.0)
        b = _biases(theta, offsets, sizes, layer)
        if layer < layers - 1:
            activate(codes[layer], slopes[layer], z, b)
        else:
            add_bias(z, b)


_forward = part(_forward)


def _deltas(lo, hi, capacity, sizes, offsets, starts, codes, slopes, theta, a, d):
    """Overwrites rows lo..hi of the hidden layers' deltas from the output layer's."""
    for layer in range(sizes.size - 2, 0, -1):
        upper = _rows_of(d, starts[layer], capacity, sizes[layer + 1], lo, hi)
        lower = _rows_of(d, starts[layer - 1], capacity, sizes[layer], lo, hi)
        gemm_nn(upper, _weights(theta, offsets, sizes, layer), lower, 1.0, 0.0)
        times_derivative(codes[layer - 1], slopes[layer - 1], lower, _rows_of(a, starts[layer - 1], capacity, sizes[layer], lo, hi))


_deltas = part(_deltas)


def _through(
    mine, lo, hi, capacity, source, read, scale, classes, values, by_class, sizes, offsets, starts, codes, slopes, pair,
    theta, x, a, d, h, chunk_classes, chunk_values, partial,
):  # fmt: skip
    """Takes the rows `mine` of the data through the network and back to the deltas, in rows lo..hi of x, a, d, h.

    Returns (cost sum, rows that are right).
    """
    last, K = sizes.size - 2, sizes[sizes.size - 1]
    xs = _rows_of(x, 0, capacity, sizes[0], lo, hi)
    wanted = _rows_of(chunk_values, 0, capacity, K, lo, hi)
    labels = chunk_classes[lo:hi]
    gather_rows(source, read, scale, mine, xs)
    if by_class:
        for i in range(hi - lo):
            labels[i] = classes[mine[i]]
    else:
        gather(values, mine, wanted)
    _forward(xs, lo, hi, capacity, sizes, offsets, starts, codes, slopes, theta, a)
    z = _rows_of(a, starts[last], capacity, K, lo, hi)
    outputs = _rows_of(h, 0, capacity, K, lo, hi)
    partial[:K] = 0
    copy(z, outputs)
    activate(codes[last], slopes[last], outputs, partial[:K])
    cost = cost_of_rows(pair, z, outputs, labels, wanted, by_class)
    right = hits_of_rows(pair, outputs, labels, wanted, by_class)
    top = _rows_of(d, starts[last], capacity, K, lo, hi)
    output_delta(pair, codes[last], slopes[last], outputs, labels, wanted, by_class, top)
    _deltas(lo, hi, capacity, sizes, offsets, starts, codes, slopes, theta, a, d)
    return cost, right


_through = part(_through)


def _accumulate(layer, first, last, lo, hi, capacity, sizes, offsets, starts, x, a, d, Delta, alpha, beta):
    """Units first..last of a layer's weights in Delta become beta Delta + alpha delta^T a over rows lo..hi."""
    n_in, n_out = sizes[layer], sizes[layer + 1]
    delta = _rows_of(d, starts[layer], capacity, n_out, lo, hi)
    inputs = _rows_of(x, 0, capacity, n_in, lo, hi) if layer == 0 else _rows_of(a, starts[layer - 1], capacity, n_in, lo, hi)
    gemm_tn_columns(delta, first, last, inputs, _weights(Delta, offsets, sizes, layer), alpha, beta)


_accumulate = part(_accumulate)


def _accumulate_biases(layer, first, last, lo, hi, capacity, fresh, sizes, offsets, starts, d, grad, partial):
    """grad of the biases of units first..last: column sums of delta over rows lo..hi, overwritten if fresh, else accumulated."""
    db = _biases(grad, offsets, sizes, layer)
    if fresh:
        db[first:last] = 0
    sum_columns(_rows_of(d, starts[layer], capacity, sizes[layer + 1], lo, hi), first, last, db, partial)


_accumulate_biases = part(_accumulate_biases)


def _worker(
    me, team, sliced, meeting, source, read, scale, classes, values, by_class, order, start, stop, batch, capacity,
    sizes, offsets, starts, codes, slopes, pair, rule, hypers, t, l2,
    theta, grads, state1, state2, x, a, d, h, chunk_classes, chunk_values, partials, costs, hits, squares,
):  # fmt: skip
    """Thread `me` of `team` through steps start..stop over the rows `order`. Theta, state, costs and hits move.

    source, read, scale: where the rows of X lie and how they are read, see kernels/cpu/gather.py. Targets: classes (n,) if by_class, else values (n, s_L). l2 is lambda / n. t: steps taken before.
    hypers (1 or stop - start, any): Optimizer.hyper() for all steps, or a row for each.
    costs[16 me] becomes the cost sum of this thread's rows, with its part of the L2 cost; hits likewise.
    """
    layers = sizes.size - 1
    widest = partials.size // team
    partial = partials[me * widest : (me + 1) * widest]
    tile = capacity // team if sliced else capacity
    grad = grads[me] if sliced else grads[0]
    cost, right = 0.0, 0
    for step in range(start, stop):
        rows = order[step * batch : min((step + 1) * batch, order.size)]
        m = rows.size
        t += 1
        hyper = hypers[min(step - start, hypers.shape[0] - 1)]
        # Where one chunk holds the batch and nothing is summed over threads, plain gradient descent
        # needs no gradient vector: the product itself moves theta, in one pass,
        # (1 - alpha lambda/n) theta - (alpha/m) delta^T a.
        direct = rule == 0 and m <= capacity and (team == 1 or not sliced)
        from_row, to_row = _share(m, me, team) if sliced else (0, m)
        if sliced and from_row == to_row:
            grad[:] = 0
        for begin in range(from_row, to_row, tile):
            C = min(tile, to_row - begin)
            lo, hi = (me * tile, me * tile + C) if sliced else _share(C, me, team)
            shift = begin - lo if sliced else begin
            if hi > lo:
                chunk_cost, chunk_right = _through(
                    rows[shift + lo : shift + hi], lo, hi, capacity, source, read, scale, classes, values, by_class, sizes, offsets, starts, codes, slopes, pair,
                    theta, x, a, d, h, chunk_classes, chunk_values, partial,
                )  # fmt: skip
                cost += chunk_cost
                right += chunk_right
            if not sliced:
                barrier(meeting, me, team)
            fresh = begin == from_row
            alpha, beta = 1.0, 0.0 if fresh else 1.0
            if direct:
                alpha, beta = -hyper[0] / m, 1 - hyper[0] * l2
            for layer in range(layers):
                n_in, n_out = sizes[layer], sizes[layer + 1]
                first, last = (0, n_out) if sliced else _share(n_out, me, team)
                if last == first:
                    continue
                if direct and l2 != 0:
                    own = slice(offsets[layer] + first * n_in, offsets[layer] + last * n_in)
                    cost += m * l2 / 2 * sum_of_squares(theta[own])
                low, high = (lo, hi) if sliced else (0, C)
                target = theta if direct else grad
                _accumulate(layer, first, last, low, high, capacity, sizes, offsets, starts, x, a, d, target, alpha, beta)
                _accumulate_biases(layer, first, last, low, high, capacity, fresh, sizes, offsets, starts, d, grad, partial)
            if not sliced and begin + C < m:
                barrier(meeting, me, team)
        if sliced:
            barrier(meeting, me, team)
        for layer in range(layers):
            n_in, n_out = sizes[layer], sizes[layer + 1]
            first, last = _share(n_out, me, team)
            if last == first:
                continue
            for biases in range(2):  # the weights of its units, then their biases; one call for both compiles faster than two
                if direct and not biases:  # theta has moved already, and nothing is to be added up
                    continue
                begin = offsets[layer] + (n_out * n_in + first if biases else first * n_in)
                end = begin + (last - first) * (1 if biases else n_in)
                decay = 0.0 if biases else l2
                if rule >= LAYERWISE:
                    w, grad_of_w = theta[begin:end], grads[0][begin:end]
                    if sliced:
                        for other in range(1, team):
                            add(grads[other][begin:end], grad_of_w)
                    if decay != 0:
                        cost += m * decay / 2 * sum_of_squares(w)
                    prepare(rule, hyper, t, w, grad_of_w, state1[begin:end], state2[begin:end], 1 / m, decay, not biases, squares[layer, biases, me])
                    continue
                for i in range(begin, end, AT_ONCE):
                    k = min(i + AT_ONCE, end)
                    w, grad_of_w = theta[i:k], grads[0][i:k]
                    if sliced:
                        call_back(w.ctypes.data, w.nbytes)
                        for other in range(1, team):
                            add(grads[other][i:k], grad_of_w)
                    if decay != 0:
                        cost += m * decay / 2 * sum_of_squares(w)
                    update(rule, hyper, t, w, grad_of_w, state1[i:k], state2[i:k], 1 / m, decay)
        if rule >= LAYERWISE:
            barrier(meeting, me, team)  # the norms of a layer are sums over all threads
            for layer in range(layers):
                n_in, n_out = sizes[layer], sizes[layer + 1]
                first, last = _share(n_out, me, team)
                for biases in range(2):
                    begin = offsets[layer] + (n_out * n_in + first if biases else first * n_in)
                    end = begin + (last - first) * (1 if biases else n_in)
                    move(rule, hyper, theta[begin:end], grads[0][begin:end], state1[begin:end], not biases, squares[layer, biases])
        barrier(meeting, me, team)
    costs[16 * me] = cost
    hits[16 * me] = right


def _signature(name):
    real, integer, double, flag = getattr(types, name), types.int64, types.float64, types.boolean

    def read(kind, ndim):
        return types.Array(kind, ndim, "C", readonly=True)

    vector, indices, doubles = types.Array(real, 1, "C"), types.Array(integer, 1, "C"), types.Array(double, 1, "C")
    return types.void(
        integer, integer, flag, indices, indices, integer, real, read(integer, 1), read(real, 2), flag, read(integer, 1), integer, integer, integer, integer,
        indices, indices, indices, indices, vector, integer, integer, types.Array(double, 2, "C"), integer, double,
        vector, types.Array(real, 2, "C"), *[vector] * 6, indices, *[vector] * 2, doubles, indices, types.Array(double, 4, "C"),
    )  # fmt: skip


training_program = per_dtype(_worker, _signature)  # data, targets and order may be read-only
