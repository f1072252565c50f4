"""Many training steps in one compiled call, with no Python between them.

Layer sizes, activation codes, the pair and the rule are data, not types: one compilation per
dtype serves every architecture, optimizer and batch size, and is cached on disk.

Memory, all C-contiguous of the network's dtype, given by the caller:
  theta, grad, state1, state2 (P,)  the flat vectors; layer l's weights (s_{l+1}, s_l), then biases
  x (batch * s_1,), a (batch * (s_2 + ... + s_L),)  the gathered rows and the activations of layers 2..L
  h (batch * s_L,), delta, below (batch * widest,)  the outputs, and the deltas of a layer and of the one below
  batch_classes (batch,) int64, batch_values (batch * s_L,)  the gathered targets
  partial (widest,), const (2,) = (1, 0)
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from . import JIT, compiled
from .gemm import gemm_nn, gemm_nt, gemm_tn
from .operations import activate_rows, add_bias, cost_of_rows, hits_of_rows, output_delta, sum_columns, sum_of_squares, times_derivative, update_range

__all__ = ["training_program"]


def _gather(X, rows, x):
    """Overwrites x (m, n) with X[rows]."""
    for i in range(rows.size):
        x[i] = X[rows[i]]


_gather = compiled(_gather)


def _weights(vector, offsets, sizes, layer):
    """The view (s_{l+1}, s_l) of a flat vector."""
    start = offsets[layer]
    return vector[start : start + sizes[layer + 1] * sizes[layer]].reshape((sizes[layer + 1], sizes[layer]))


_weights = compiled(_weights)


def _biases(vector, offsets, sizes, layer):
    """The view (s_{l+1},) of a flat vector."""
    return vector[offsets[layer] + sizes[layer + 1] * sizes[layer] : offsets[layer + 1]]


_biases = compiled(_biases)


def _forward(x, sizes, offsets, starts, codes, slopes, theta, a, one, zero):
    """Overwrites a with the activations of the hidden layers and z of the output layer. x (m, s_1). Returns BLAS' status."""
    m, layers = x.shape[0], sizes.size - 1
    status = 0
    for layer in range(layers):
        z = a[starts[layer] * m : starts[layer + 1] * m].reshape((m, sizes[layer + 1]))
        if layer == 0:
            status |= gemm_nt(x, _weights(theta, offsets, sizes, 0), z, one, zero)
        else:
            below = a[starts[layer - 1] * m : starts[layer] * m].reshape((m, sizes[layer]))
            status |= gemm_nt(below, _weights(theta, offsets, sizes, layer), z, one, zero)
        b = _biases(theta, offsets, sizes, layer)
        if layer < layers - 1:
            activate_rows(codes[layer], slopes[layer], z, b, z)
        else:
            add_bias(z, b)
    return status


_forward = compiled(_forward)


def _backward(x, sizes, offsets, starts, codes, slopes, theta, grad, a, delta, below, partial, one, zero):
    """Overwrites grad with Delta of the batch, from delta of the output layer (in `delta`). Returns BLAS' status."""
    m, layers = x.shape[0], sizes.size - 1
    status = 0
    for layer in range(layers - 1, -1, -1):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        d = delta[: m * n_out].reshape((m, n_out))
        db = _biases(grad, offsets, sizes, layer)
        db[:] = 0
        sum_columns(d, db, partial)
        if layer == 0:
            status |= gemm_tn(d, x, _weights(grad, offsets, sizes, 0), one, zero)
        else:
            inputs = a[starts[layer - 1] * m : starts[layer] * m].reshape((m, n_in))
            status |= gemm_tn(d, inputs, _weights(grad, offsets, sizes, layer), one, zero)
            lower = below[: m * n_in].reshape((m, n_in))
            status |= gemm_nn(d, _weights(theta, offsets, sizes, layer), lower, one, zero)
            times_derivative(codes[layer - 1], slopes[layer - 1], lower, inputs)
            delta, below = below, delta
    return status


_backward = compiled(_backward)


def _run(
    X, classes, values, by_class, order, start, stop, batch,
    sizes, offsets, starts, codes, slopes, pair, rule, hyper, t, l2,
    theta, grad, state1, state2, x, a, h, delta, below, batch_classes, batch_values, partial, const,
):  # fmt: skip
    """Steps start..stop over X[order]. Returns (cost sum with L2, rows, hits, BLAS' status); theta and state move.

    Targets: classes (n,) if by_class, else values (n, s_L). l2 is lambda / n. t: steps taken before.
    """
    one, zero = const[:1], const[1:]
    layers, K = sizes.size - 1, sizes[sizes.size - 1]
    cost, count, hits, status = 0.0, 0, 0, 0
    for step in range(start, stop):
        rows = order[step * batch : min((step + 1) * batch, order.size)]
        m = rows.size
        xs = x[: m * sizes[0]].reshape((m, sizes[0]))
        wanted = batch_values[: m * K].reshape((m, K))
        _gather(X, rows, xs)
        if by_class:
            for i in range(m):
                batch_classes[i] = classes[rows[i]]
        else:
            _gather(values, rows, wanted)
        status |= _forward(xs, sizes, offsets, starts, codes, slopes, theta, a, one, zero)
        z = a[starts[layers - 1] * m : starts[layers] * m].reshape((m, K))
        outputs, d = h[: m * K].reshape((m, K)), delta[: m * K].reshape((m, K))
        partial[:K] = 0
        activate_rows(codes[layers - 1], slopes[layers - 1], z, partial[:K], outputs)
        step_cost = cost_of_rows(pair, z, outputs, batch_classes, wanted, by_class)
        hits += hits_of_rows(pair, outputs, batch_classes, wanted, by_class)
        output_delta(pair, codes[layers - 1], slopes[layers - 1], outputs, batch_classes, wanted, by_class, d)
        if l2 != 0:
            for layer in range(layers):
                step_cost += m * l2 / 2 * sum_of_squares(_weights(theta, offsets, sizes, layer).ravel())
        status |= _backward(xs, sizes, offsets, starts, codes, slopes, theta, grad, a, delta, below, partial, one, zero)
        t += 1
        for layer in range(layers):
            weights_end = offsets[layer] + sizes[layer + 1] * sizes[layer]
            update_range(rule, hyper, t, theta, grad, state1, state2, offsets[layer], weights_end, 1 / m, l2)
            update_range(rule, hyper, t, theta, grad, state1, state2, weights_end, offsets[layer + 1], 1 / m, 0.0)
        cost += step_cost
        count += m
    return cost, count, hits, status


_compiled_for: dict[str, object] = {}


def training_program(dtype):
    """`_run` compiled for float32 or float64, once per process; read from the disk cache if it is there.

    The signature is given, so nothing else can ever be compiled silently; X, targets and order may
    be read-only.
    """
    name = np.dtype(dtype).name
    if name not in _compiled_for:
        _compiled_for[name] = compiled(_run, _signature(name))
    return _compiled_for[name]


def _signature(name):
    if not JIT:
        return None
    real, integer, double, flag = getattr(types, name), types.int64, types.float64, types.boolean

    def read(kind, ndim):
        return types.Array(kind, ndim, "C", readonly=True)

    vector, indices = types.Array(real, 1, "C"), types.Array(integer, 1, "C")
    return types.Tuple((double, integer, integer, integer))(
        read(real, 2), read(integer, 1), read(real, 2), flag, read(integer, 1), integer, integer, integer,
        indices, indices, indices, indices, vector, integer, integer, types.Array(double, 1, "C"), integer, double,
        *[vector] * 9, indices, *[vector] * 3,
    )  # fmt: skip
