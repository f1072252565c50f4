"""The elementwise and row-wise parts of forward, backward and update, in place on C-contiguous arrays.

Symbols as in the lecture. Functions are selected by the codes of fastnn.activations, fastnn.costs
and fastnn.optimizers, outside the inner loops, so that one compilation serves every network.
`code` 0 identity, 1 sigmoid, 2 tanh, 3 relu, 4 leaky_relu, 5 softmax, 6 exp, 7 silu, 8 gelu; `pair` 0 softmax with
cross-entropy, 1 sigmoid with cross-entropy, 2 elementwise with squared error, 3 softmax with it, 4 exp
with poisson; of identity outputs 5 huber, 6 quantile, 7 absolute_error.
Scalars are made with `type` so that a float32 array never meets a float64 number.
"""

from __future__ import annotations

import numpy as np

from . import compiled, inner
from .codes import (
    EXP,
    GELU,
    GRADIENT,
    HUBER,
    LEAKY_RELU,
    MOMENTUM,
    POISSON,
    QUANTILE,
    RELU,
    SGD,
    SIGMOID,
    SIGMOID_CROSS_ENTROPY,
    SILU,
    SOFTMAX,
    SOFTMAX_CROSS_ENTROPY,
    SOFTMAX_SQUARED_ERROR,
    SQUARED_ERROR,
    TANH,
)
from .elementary import exp, largest, sigmoid, tanh, wide_vectors
from .smooth import gelu, silu

__all__ = [
    "activate",
    "activate_and_differentiate",
    "add",
    "add_bias",
    "copy",
    "cost_of_rows",
    "hits_of_rows",
    "output_delta",
    "sum_columns",
    "sum_of_squares",
    "times_derivative",
    "update",
    "within",
]


def _within(label, K):
    """A class as an index below K. It was checked, but in the caller's memory, where another thread may have written
    since.
    """
    return label if label >= 0 and label < K else np.int64(0)


within = inner(_within)


def _add_bias(z, b):
    """Accumulates: z (m, n) += b (n,)."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            z[i, j] += b[j]


add_bias = compiled(_add_bias)


def _softmax(a):
    """Overwrites each row of a (m, n) with its softmax. NaN or +inf anywhere in a row makes all of it NaN."""
    wide_vectors()
    flat = a.ravel()
    for i in range(a.shape[0]):
        row = a[i]
        top = largest(row)
        for j in range(row.size):
            row[j] -= top
    for i in range(flat.size):
        flat[i] = exp(flat[i])
    for i in range(a.shape[0]):
        row = a[i]
        total = row.dtype.type(0)
        for j in range(row.size):
            total += row[j]
        share = row.dtype.type(1) / total
        for j in range(row.size):
            row[j] *= share


_softmax = compiled(_softmax)


def _activate(code, slope, a, b):
    """Overwrites a (m, n), which holds z without its bias, with g(a + b); b (n,). `slope` is the leaky ReLU's.

    One array in and out: with two, the compiler checks whether they overlap, and where they are the
    same it takes a loop that is not vectorised, seven times slower for tanh. Functions that cost more than
    the bias run over all rows at once, because a row of ten numbers fills no vector.
    """
    wide_vectors()
    m, n = a.shape
    zero = a.dtype.type(0)
    flat = a.ravel()
    if code == SIGMOID:
        add_bias(a, b)
        for i in range(flat.size):
            flat[i] = sigmoid(flat[i])
    elif code == TANH:
        add_bias(a, b)
        for i in range(flat.size):
            flat[i] = tanh(flat[i])
    elif code == RELU or (code == LEAKY_RELU and slope == zero):
        for i in range(m):
            row = a[i]
            for j in range(n):
                v = row[j] + b[j]
                row[j] = zero if v < zero else v  # this way round NaN stays NaN
    elif code == LEAKY_RELU:
        for i in range(m):
            row = a[i]
            for j in range(n):
                v = row[j] + b[j]
                row[j] = v if v > zero else v * slope
    else:
        add_bias(a, b)
        if code == SOFTMAX:
            _softmax(a)
        elif code == EXP:
            for i in range(flat.size):
                flat[i] = exp(flat[i])
        elif code == SILU:
            for i in range(flat.size):
                flat[i] = silu(flat[i])[0]
        elif code == GELU:
            for i in range(flat.size):
                flat[i] = gelu(flat[i])[0]


activate = compiled(_activate)


def _activate_and_differentiate(code, a, b, slopes):
    """The same for silu and gelu, and overwrites slopes (m, n) with g'(a + b): z, which tells it, is overwritten."""
    wide_vectors()
    add_bias(a, b)
    flat, of_each = a.ravel(), slopes.ravel()
    if code == SILU:
        for i in range(flat.size):
            flat[i], of_each[i] = silu(flat[i])
    else:
        for i in range(flat.size):
            flat[i], of_each[i] = gelu(flat[i])


activate_and_differentiate = compiled(_activate_and_differentiate)


def _copy(z, a):
    """Overwrites a (m, n) with z."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            a[i, j] = z[i, j]


copy = inner(_copy)


def _times_derivative(code, slope, share, delta, a):
    """delta (m, n) *= g'(z), in place, from a = g(z) / share, which is 1 - p of units with dropout, else 1; of silu and
    gelu a is g'(z) itself. A NaN in a makes delta NaN.
    """
    zero, one = a.dtype.type(0), a.dtype.type(1)
    for i in range(delta.shape[0]):
        d, h = delta[i], a[i]
        if code == SIGMOID:
            for j in range(d.size):
                g = h[j] * share
                d[j] *= g * (one - g)
        elif code == TANH:
            for j in range(d.size):
                g = h[j] * share
                d[j] *= one - g * g
        elif code == RELU:
            for j in range(d.size):
                d[j] *= one if h[j] > zero else (zero if h[j] <= zero else h[j])
        elif code == LEAKY_RELU:
            for j in range(d.size):
                d[j] *= one if h[j] > zero else (slope if h[j] <= zero else h[j])
        elif code >= EXP:  # its g' is a itself
            for j in range(d.size):
                d[j] *= h[j]


times_derivative = compiled(_times_derivative)


def _slopes_of(pair, parameter, one):
    """(below, above): the slopes of a tilted cost where h is below the target, and above."""
    return (-parameter, one - parameter) if pair == QUANTILE else (-one, one)


_slopes_of = inner(_slopes_of)


def _output_delta(pair, code, slope, a, classes, values, by_class, weights, delta):
    """Overwrites delta (m, K) with the delta of the output layer from a = h (m, K), no 1/m.

    slope: the activation's parameter, or the cost's where it has one.
    Targets: classes (m,) if by_class, else values (m, K); the other is not read. weights (m,) of
    the rows, or none (0,).
    """
    m, K = a.shape
    zero, one = a.dtype.type(0), a.dtype.type(1)
    for i in range(m):
        if by_class:
            for j in range(K):
                delta[i, j] = a[i, j] - (one if classes[i] == j else zero)
        else:
            for j in range(K):
                delta[i, j] = a[i, j] - values[i, j]
    if pair == SQUARED_ERROR:
        times_derivative(code, slope, one, delta, a)
    elif pair == SOFTMAX_SQUARED_ERROR:
        for i in range(m):
            dot = zero
            for j in range(K):
                dot += delta[i, j] * a[i, j]
            for j in range(K):
                delta[i, j] = a[i, j] * (delta[i, j] - dot)
    elif pair == HUBER:
        for i in range(m):
            for j in range(K):
                e = delta[i, j]
                delta[i, j] = slope if e > slope else (-slope if e < -slope else e)  # NaN stays NaN
    elif pair > HUBER:
        below, above = _slopes_of(pair, slope, one)
        for i in range(m):
            for j in range(K):
                e = delta[i, j]
                delta[i, j] = above if e > zero else (below if e < zero else e)
    if weights.size > 0:
        for i in range(m):
            for j in range(K):
                delta[i, j] *= weights[i]


output_delta = compiled(_output_delta)


def _cost_of_rows(pair, slope, z, a, classes, values, by_class, weights):
    """Sum over rows of the cost, each times its weight if weights (m,) are given and not (0,), from z, a (m, K) of the
    output layer, in float64. slope: as for `output_delta`. See fastnn.costs.
    """
    m, K = z.shape
    zero = z.dtype.type(0)
    below, above = _slopes_of(pair, np.float64(slope), np.float64(1))
    cost = 0.0
    for i in range(m):
        of_row = 0.0
        if pair == SOFTMAX_CROSS_ENTROPY:
            top = z[i, 0]
            for j in range(1, K):
                top = z[i, j] if z[i, j] > top else top
            total = zero
            for j in range(K):
                total += exp(z[i, j] - top)
            log_sum = np.log(np.float64(total))
            if by_class:
                of_row = log_sum + (np.float64(top) - np.float64(z[i, classes[i]]))
            else:
                for j in range(K):
                    of_row += np.float64(values[i, j]) * (log_sum + (np.float64(top) - np.float64(z[i, j])))
        elif pair == SIGMOID_CROSS_ENTROPY:
            for j in range(K):
                v = z[i, j]
                of_row += (
                    np.float64(zero if v < zero else v)
                    - np.float64(v) * values[i, j]
                    + np.log1p(np.float64(exp(-abs(v))))
                )
        elif pair == POISSON:
            for j in range(K):
                v, y = np.float64(z[i, j]), np.float64(values[i, j])
                of_row += exp(v) - y
                if y > 0:  # 0 log 0 is 0
                    of_row -= y * (v - np.log(y))
        else:
            for j in range(K):
                wanted = np.float64(classes[i] == j) if by_class else np.float64(values[i, j])
                e = np.float64(a[i, j]) - wanted
                if pair < HUBER:
                    of_row += e * e / 2
                elif pair == HUBER:
                    size = abs(e)
                    of_row += e * e / 2 if size <= slope else slope * (size - np.float64(slope) / 2)
                else:
                    of_row += above * e if e > 0 else below * e
        cost += of_row * np.float64(weights[i]) if weights.size > 0 else of_row
    return cost


cost_of_rows = compiled(_cost_of_rows)


def _hits_of_rows(pair, a, classes, values, by_class):
    """Rows that are right: the first largest output is the class, or where the first largest probability is, or every
    output is on its target's side of 1/2; 0 for values.
    """
    m, K = a.shape
    half = a.dtype.type(0.5)
    hits = 0
    for i in range(m):
        if by_class:
            best = 0
            for j in range(1, K):
                if a[i, j] > a[i, best]:
                    best = j
            hits += int(best == classes[i])
        elif pair == SOFTMAX_CROSS_ENTROPY:
            best, wanted = 0, 0
            for j in range(1, K):
                if a[i, j] > a[i, best]:
                    best = j
                if values[i, j] > values[i, wanted]:
                    wanted = j
            hits += int(best == wanted)
        elif pair == SIGMOID_CROSS_ENTROPY:
            right = True
            for j in range(K):
                right = right and (a[i, j] >= half) == (values[i, j] >= half)
            hits += int(right)
    return hits


hits_of_rows = compiled(_hits_of_rows)


def _sum_columns(delta, first, last, total, partial):
    """Accumulates: total[first:last] += sums of those columns of delta (m, n). partial (>= last - first,) is scratch.

    Rows are summed in groups of 128 and the groups after them: a running float32 sum over
    millions of rows would drift by percents.
    """
    m, n = delta.shape[0], last - first
    target = total[first:last]
    for start in range(0, m, 128):
        # A loop, because an assignment of one slice to another takes two seconds longer to compile.
        for j in range(n):
            partial[j] = 0
        for i in range(start, min(start + 128, m)):
            row = delta[i][first:last]
            for j in range(n):
                partial[j] += row[j]
        for j in range(n):
            target[j] += partial[j]


sum_columns = compiled(_sum_columns)


def _add(x, total):
    """Accumulates: total (n,) += x (n,)."""
    for i in range(x.size):
        total[i] += x[i]


add = inner(_add)


def _sum_of_squares(x):
    """Sum of x^2 over a flat array, in float64."""
    total = 0.0
    for i in range(x.size):
        v = np.float64(x[i])
        total += v * v
    return total


sum_of_squares = inner(_sum_of_squares)


def _update(rule, hyper, t, theta, grad, state1, state2, share, l2, weights):
    """One optimizer step on theta (n,), in place, from D = share * grad + l2 * theta; state likewise.

    rule: SGD, MOMENTUM or ADAM, formulas in fastnn.optimizers, or GRADIENT: theta becomes D. share is 1/m where grad is
    Delta; l2 is lambda/n on weights and 0 on biases; weights: these are some, which Adam's own decay is for. hyper
    (float64) as Optimizer.hyper(); t >= 1. Callers pass slices: a loop from a start that is not plainly 0 would not be
    vectorised, because Numba must then allow for negative indices.
    """
    kind = theta.dtype.type
    share, l2 = kind(share), kind(l2)
    rate = kind(hyper[0])
    if rule == GRADIENT:
        for i in range(theta.size):
            theta[i] = share * grad[i] + l2 * theta[i]
    elif rule == SGD:
        for i in range(theta.size):
            theta[i] -= rate * (share * grad[i] + l2 * theta[i])
    elif rule == MOMENTUM:
        mu = kind(hyper[1])
        for i in range(theta.size):
            v = mu * state1[i] + (share * grad[i] + l2 * theta[i])
            state1[i] = v
            theta[i] -= rate * v
    else:
        # 1 - b^t in float64 first: in float32 it would lose its digits at small t.
        fresh1, fresh2 = kind(1 - hyper[1]), kind(1 - hyper[2])
        rate = kind(hyper[0] / (1 - hyper[1] ** t))
        correction = kind(1 / (1 - hyper[2] ** t))
        eps = kind(hyper[3])
        kept = kind(1 - hyper[0] * hyper[4]) if weights else kind(1)
        for i in range(theta.size):
            D = share * grad[i] + l2 * theta[i]
            m = state1[i] + fresh1 * (D - state1[i])
            v = state2[i] + fresh2 * (D * D - state2[i])
            state1[i] = m
            state2[i] = v
            theta[i] = kept * theta[i] - rate * (m / (np.sqrt(v * correction) + eps))


update = compiled(_update)
