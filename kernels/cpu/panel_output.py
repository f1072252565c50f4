"""Cost and delta of the output layer, for the programs on panels: the pairs that matter most in place, the others
by address.
"""

from __future__ import annotations

import numpy as np

from . import inner, part
from .codes import GIVEN, IDENTITY, SOFTMAX_CROSS_ENTROPY, SQUARED_ERROR
from .elementary import exp
from .on_demand import outputs_at
from .operations import within
from .panels import rows_at, vector_at

__all__ = ["cost_and_delta"]


def _softmax_cross_entropy(z, K, labels, delta):
    """Overwrites delta (m, P) with softmax(z) - y, zero in the padding, and z with scratch. Returns (cost sum, rows
    that are right).
    """
    m, P = z.shape
    zero, one = z.dtype.type(0), z.dtype.type(1)
    nothing = z.dtype.type(-np.inf)
    cost, product, right = 0.0, 1.0, 0
    for i in range(m):
        row = z[i]
        label = labels[i]
        top = row[0]
        for j in range(1, K):
            top = row[j] if row[j] > top else top
        if row[label] == top:
            first = True
            for j in range(label):
                first = first and row[j] != top
            right += int(first)
        cost += np.float64(top) - np.float64(row[label])
        for j in range(K):
            row[j] -= top
        for j in range(K, P):
            row[j] = nothing
    flat, e = z.ravel(), delta.ravel()
    for p in range(m * P):
        e[p] = exp(flat[p])
    for i in range(m):
        row = delta[i]
        total = zero
        for j in range(P):
            total += row[j]
        share = one / total
        for j in range(P):
            row[j] *= share
        row[labels[i]] -= one
        # log of a product is one logarithm for many rows; each factor lies in 1..K, or is NaN
        product *= np.float64(total)
        if product > 1e200:
            cost += np.log(product)
            product = 1.0
    return cost + np.log(product), right


_softmax_cross_entropy = inner(_softmax_cross_entropy)


def cost_and_delta(panels, mine, by_class, shape, own, z, delta):
    """Overwrites delta (m, P) with the output layer's from z (m, at least K), of the rows `mine`. Returns (cost sum,
    rows that are right), cost and delta of each row times its weight where there are weights.

    With GIVEN there are neither costs nor weights.

    The padding of delta must be zero before and is then: rows of a vector's length are multiplied whole.
    """
    m, last = z.shape[0], shape.codes.size - 1
    pair, code, slope, K = shape.pair, shape.codes[last], shape.slopes[last], shape.sizes[last + 1]
    zero, integer = z.dtype.type(0), np.int64(0)
    classes, labels = vector_at(own.classes, integer, own.rows), vector_at(own.labels, integer, m)
    values = rows_at(own.values, zero, own.rows, K)
    wanted = rows_at(own.wanted, zero, m, K)
    h = rows_at(own.h, zero, m, K)
    e = rows_at(own.e, zero, m, K)
    weighted, cost, right = own.weights != 0, 0.0, 0
    if by_class:
        for i in range(m):
            labels[i] = within(classes[mine[i]], K)
    if pair == SOFTMAX_CROSS_ENTROPY and by_class and not weighted:
        cost, right = _softmax_cross_entropy(z, K, labels, delta)
    elif pair == SQUARED_ERROR and code == IDENTITY and not by_class and not weighted:  # squared error of z itself
        for i in range(m):
            for j in range(K):
                y = values[mine[i], j]
                delta[i, j] = z[i, j] - y
                error = np.float64(z[i, j]) - np.float64(y)
                cost += error * error / 2
    elif pair == GIVEN:
        for i in range(m):
            for j in range(K):
                delta[i, j] = values[mine[i], j]
    else:
        shares_at = own.shares if weighted else 0
        if not by_class:
            for i in range(m):
                for j in range(K):
                    wanted[i, j] = values[mine[i], j]
        if weighted:
            weights, shares = vector_at(own.weights, zero, own.rows), vector_at(own.shares, zero, m)
            for i in range(m):
                shares[i] = weights[mine[i]]
        for i in range(m):
            for j in range(K):
                h[i, j] = z[i, j]
                e[i, j] = z[i, j]
        outputs_at(
            panels, slope, pair, code, slope, m, K, own.labels, own.wanted, by_class, shares_at,
            own.h, own.e, own.nothing, own.sums,
        )  # fmt: skip
        sums = vector_at(own.sums, np.float64(0), 2)
        cost, right = sums[0], int(sums[1])
        for i in range(m):
            for j in range(K):
                delta[i, j] = e[i, j]
    return cost, right


cost_and_delta = part(cost_and_delta)
