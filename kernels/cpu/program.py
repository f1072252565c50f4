"""Many training steps in one compiled call, with no Python between them.

Layer sizes, activation codes, the pair, the rule and the plan are data, not types: one compilation
per dtype serves every architecture, optimizer, batch size and number of threads, and is cached on disk.

A team of threads shares each batch, which is taken in chunks of rows that stay in the cache:
  1. each thread takes its share of the chunk's rows through all layers, forward and back to the deltas;
  2. each thread accumulates Delta for its share of every layer's units, over all rows of the chunk,
     and after the last chunk updates exactly those parameters.
A barrier stands after each. Nothing is summed over threads, so every parameter sees the same
additions in the same order whatever the number of threads; products are single-threaded BLAS.

Memory, all C-contiguous of the network's dtype, given by the caller (C = rows of a chunk):
  theta, grad, state1, state2 (P,)  the flat vectors: layer by layer weights (s_{l+1}, s_l), then biases
  x (C * s_1,), a, d (C * (s_2 + ... + s_L),)  the gathered rows; activations and deltas of layers 2..L
  h (C * s_L,)  the outputs; chunk_classes (C,) int64, chunk_values (C * s_L,)  the gathered targets
  partials (team * widest,), scalars (team * 16,), const (2,) = (1, 0); costs (team * 16,) float64, hits (team * 16,) int64
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from . import JIT, compiled
from .gemm import gemm_nn, gemm_nt, gemm_tn_columns
from .operations import activate_rows, add_bias, cost_of_rows, hits_of_rows, output_delta, sum_columns, sum_of_squares, times_derivative, update
from .team import barrier, prefetch

__all__ = ["training_program"]

_AHEAD = 4  # rows asked for before they are copied; measured best of 1, 2, 4, 8


def _gather(X, rows, x):
    """Overwrites x (m, n) with X[rows]."""
    m, n = x.shape
    for i in range(min(_AHEAD, m)):
        prefetch(X, rows[i])
    for i in range(m):
        if i + _AHEAD < m:
            prefetch(X, rows[i + _AHEAD])
        row = rows[i]
        for j in range(n):
            x[i, j] = X[row, j]


_gather = compiled(_gather)


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


def _forward(xs, lo, hi, capacity, sizes, offsets, starts, codes, slopes, theta, a, one, zero):
    """Overwrites rows lo..hi of a with the hidden layers' activations and the output layer's z. Returns BLAS' status."""
    layers = sizes.size - 1
    status = 0
    for layer in range(layers):
        W = _weights(theta, offsets, sizes, layer)
        z = _rows_of(a, starts[layer], capacity, sizes[layer + 1], lo, hi)
        if layer == 0:
            status |= gemm_nt(xs, W, z, one, zero)
        else:
            status |= gemm_nt(_rows_of(a, starts[layer - 1], capacity, sizes[layer], lo, hi), W, z, one, zero)
        b = _biases(theta, offsets, sizes, layer)
        if layer < layers - 1:
            activate_rows(codes[layer], slopes[layer], z, b, z)
        else:
            add_bias(z, b)
    return status


_forward = compiled(_forward)


def _deltas(lo, hi, capacity, sizes, offsets, starts, codes, slopes, theta, a, d, one, zero):
    """Overwrites rows lo..hi of the hidden layers' deltas from the output layer's. Returns BLAS' status."""
    status = 0
    for layer in range(sizes.size - 2, 0, -1):
        upper = _rows_of(d, starts[layer], capacity, sizes[layer + 1], lo, hi)
        lower = _rows_of(d, starts[layer - 1], capacity, sizes[layer], lo, hi)
        status |= gemm_nn(upper, _weights(theta, offsets, sizes, layer), lower, one, zero)
        times_derivative(codes[layer - 1], slopes[layer - 1], lower, _rows_of(a, starts[layer - 1], capacity, sizes[layer], lo, hi))
    return status


_deltas = compiled(_deltas)


def _worker(
    me, team, meeting, X, classes, values, by_class, order, start, stop, batch, capacity,
    sizes, offsets, starts, codes, slopes, pair, rule, hyper, t, l2,
    theta, grad, state1, state2, x, a, d, h, chunk_classes, chunk_values, partials, scalars, const, costs, hits,
):  # fmt: skip
    """Thread `me` of `team` through steps start..stop over X[order]. Returns BLAS' status; theta, state, costs and hits move.

    Targets: classes (n,) if by_class, else values (n, s_L). l2 is lambda / n. t: steps taken before.
    costs[16 me] += the cost sum of this thread's rows, with its part of the L2 cost; hits likewise.
    """
    one, zero = const[:1], const[1:]
    layers, K = sizes.size - 1, sizes[sizes.size - 1]
    widest = partials.size // team
    partial = partials[me * widest : (me + 1) * widest]
    scales = scalars[16 * me : 16 * me + 2]
    cost, right, status = 0.0, 0, 0
    for step in range(start, stop):
        rows = order[step * batch : min((step + 1) * batch, order.size)]
        t += 1
        for begin in range(0, rows.size, capacity):
            C = min(capacity, rows.size - begin)
            lo, hi = _share(C, me, team)
            if hi > lo:
                mine = rows[begin + lo : begin + hi]
                xs = _rows_of(x, 0, capacity, sizes[0], lo, hi)
                wanted = _rows_of(chunk_values, 0, capacity, K, lo, hi)
                labels = chunk_classes[lo:hi]
                _gather(X, mine, xs)
                if by_class:
                    for i in range(hi - lo):
                        labels[i] = classes[mine[i]]
                else:
                    _gather(values, mine, wanted)
                status |= _forward(xs, lo, hi, capacity, sizes, offsets, starts, codes, slopes, theta, a, one, zero)
                z = _rows_of(a, starts[layers - 1], capacity, K, lo, hi)
                outputs = _rows_of(h, 0, capacity, K, lo, hi)
                partial[:K] = 0
                activate_rows(codes[layers - 1], slopes[layers - 1], z, partial[:K], outputs)
                cost += cost_of_rows(pair, z, outputs, labels, wanted, by_class)
                right += hits_of_rows(pair, outputs, labels, wanted, by_class)
                top = _rows_of(d, starts[layers - 1], capacity, K, lo, hi)
                output_delta(pair, codes[layers - 1], slopes[layers - 1], outputs, labels, wanted, by_class, top)
                status |= _deltas(lo, hi, capacity, sizes, offsets, starts, codes, slopes, theta, a, d, one, zero)
            barrier(meeting, team)
            beta = zero if begin == 0 else one
            # Plain gradient descent over a batch of one chunk needs no gradient vector: the product
            # itself moves theta, (1 - alpha lambda/n) theta - (alpha/m) delta^T a, in one pass.
            direct = rule == 0 and rows.size <= capacity
            if direct:
                scales[0], scales[1] = -hyper[0] / rows.size, 1 - hyper[0] * l2
            for layer in range(layers):
                n_in, n_out = sizes[layer], sizes[layer + 1]
                first, last = _share(n_out, me, team)
                if last == first:
                    continue
                delta = _rows_of(d, starts[layer], capacity, n_out, 0, C)
                inputs = _rows_of(x, 0, capacity, n_in, 0, C) if layer == 0 else _rows_of(a, starts[layer - 1], capacity, n_in, 0, C)
                biases = offsets[layer] + n_out * n_in
                own = slice(offsets[layer] + first * n_in, offsets[layer] + last * n_in)
                if l2 != 0 and begin == 0:
                    cost += rows.size * l2 / 2 * sum_of_squares(theta[own])
                db = _biases(grad, offsets, sizes, layer)
                if direct:
                    status |= gemm_tn_columns(delta, first, last, inputs, _weights(theta, offsets, sizes, layer), scales[:1], scales[1:2])
                else:
                    status |= gemm_tn_columns(delta, first, last, inputs, _weights(grad, offsets, sizes, layer), one, beta)
                if begin == 0:
                    db[first:last] = 0
                sum_columns(delta, first, last, db, partial)
                if begin + C == rows.size:
                    if not direct:
                        update(rule, hyper, t, theta[own], grad[own], state1[own], state2[own], 1 / rows.size, l2)
                    own = slice(biases + first, biases + last)
                    update(rule, hyper, t, theta[own], grad[own], state1[own], state2[own], 1 / rows.size, 0.0)
            barrier(meeting, team)
    costs[16 * me] = cost
    hits[16 * me] = right
    return status


_compiled_for: dict[str, object] = {}


def training_program(dtype):
    """`_worker` compiled for float32 or float64, once per process; read from the disk cache if it is there.

    The signature is given, so nothing else can ever be compiled silently; X, targets and order may
    be read-only.
    """
    name = np.dtype(dtype).name
    if name not in _compiled_for:
        _compiled_for[name] = compiled(_worker, _signature(name))
    return _compiled_for[name]


def _signature(name):
    if not JIT:
        return None
    real, integer, double, flag = getattr(types, name), types.int64, types.float64, types.boolean

    def read(kind, ndim):
        return types.Array(kind, ndim, "C", readonly=True)

    vector, indices, doubles = types.Array(real, 1, "C"), types.Array(integer, 1, "C"), types.Array(double, 1, "C")
    return integer(
        integer, integer, indices, read(real, 2), read(integer, 1), read(real, 2), flag, read(integer, 1), integer, integer, integer, integer,
        indices, indices, indices, indices, vector, integer, integer, doubles, integer, double,
        *[vector] * 8, indices, *[vector] * 4, doubles, indices,
    )  # fmt: skip
