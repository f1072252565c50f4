"""Inputs shared by the tests: layouts, activations, pairs, small networks and their data."""

from __future__ import annotations

import itertools

import numpy as np

HIDDEN = ("sigmoid", "tanh", "relu", "leaky_relu", "identity", "silu", "gelu")
SMOOTH = ("sigmoid", "tanh", "identity", "silu", "gelu")
# every output/cost pair that makes sense
PAIRS = (
    ("softmax", "cross_entropy"),
    ("sigmoid", "cross_entropy"),
    ("softmax", "squared_error"),
    ("sigmoid", "squared_error"),
    ("tanh", "squared_error"),
    ("relu", "squared_error"),
    ("leaky_relu", "squared_error"),
    ("identity", "squared_error"),
    ("identity", "huber:0.4"),
    ("identity", "quantile:0.75"),
    ("exp", "poisson"),
    ("exp", "squared_error"),
)

# (m, n_in, n_out): single rows, inputs and units, odd sizes, wide, tall, around 16, 32 and 64, which tiles like
SHAPES = (
    (1, 1, 1),
    (1, 5, 3),
    (7, 1, 4),
    (5, 4, 1),
    (3, 17, 9),
    (16, 16, 16),
    (33, 65, 31),
    (63, 33, 17),
    (130, 3, 2),
    (2, 150, 5),
    (2, 5, 150),
)

LAYOUTS = ("contiguous", "transposed", "strided", "reversed")


def laid_out(backend, x, layout):
    """The values of x (NumPy) as an array of the engine with these strides."""
    if layout == "contiguous":
        return backend.asarray(x.copy())
    if layout == "transposed":
        return backend.asarray(np.ascontiguousarray(x.T)).T
    if layout == "reversed":
        return backend.asarray(np.ascontiguousarray(x[::-1]))[::-1]
    roomy = np.full(tuple(2 * n + 1 for n in x.shape), np.nan, x.dtype)  # a read beside the view shows as NaN
    inside = (slice(1, None, 2),) * x.ndim
    roomy[inside] = x
    return backend.asarray(roomy)[inside]


def normal(shape, dtype, seed=0, scale=1.0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(dtype)


def away_from_kinks(z, gap=0.05):
    """z with no element nearer to 0 than gap."""
    return np.where(np.abs(z) < gap, np.where(z < 0, -gap, gap), z).astype(z.dtype)


def targets_for(output, cost, m, K, dtype, seed=0):
    """Random targets of the kind the pair takes."""
    rng = np.random.default_rng([seed, m, K])
    if (output, cost) == ("softmax", "cross_entropy"):
        return rng.integers(0, K, m)
    if output in ("softmax", "sigmoid"):
        return rng.random((m, K)).astype(dtype)
    if output == "exp":
        return rng.poisson(0.8, (m, K)).astype(dtype) * 0.75  # counts, some of them 0, or rates
    return rng.uniform(-0.9, 0.9, (m, K)).astype(dtype)


def parameters(sizes, dtype=np.float64, seed=1, scale=1.0):
    """A flat vector with weights of standard deviation scale/sqrt(n_in) and small biases."""
    rng, parts = np.random.default_rng(seed), []
    for n_in, n_out in itertools.pairwise(sizes):
        parts += [rng.standard_normal(n_out * n_in) * scale / np.sqrt(n_in), rng.standard_normal(n_out) * 0.1]
    return np.concatenate(parts).astype(dtype)


def engine_targets(backend, y):
    """y as the operations and programs take it: int64 classes or floats of the given dtype, on the engine."""
    return backend.asarray(y, np.int64) if y.dtype.kind in "iu" else backend.asarray(y)
