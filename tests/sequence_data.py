"""What tests/test_sequences.py draws from: data in every form that users have them in, rates, rules, and calls that are
to be refused.
"""

from __future__ import annotations

import os
import tempfile

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from fastnn import optimizers, schedules

ROWS = (1, 2, 3, 5, 8, 17, 40, 130)
# (sizes, hidden, output, cost)
NETWORKS = (
    ((4, 6, 3), "tanh", "softmax", "cross_entropy"),
    ((4, 17, 9, 3), "gelu", "softmax", "cross_entropy"),
    ((3, 5, 2), "sigmoid", "sigmoid", "cross_entropy"),
    ((3, 4, 1), "silu", "sigmoid", "cross_entropy"),
    ((5, 7, 2), "tanh", "identity", "squared_error"),
    ((2, 1), "tanh", "identity", "squared_error"),
    ((1, 33, 1), ["relu"], "identity", "huber:0.4"),
    ((4, 8, 5, 2), ["leaky_relu", "tanh"], "exp", "poisson"),
    ((3, 6, 4), "silu", "softmax", "squared_error"),
    ((70, 66, 5), "tanh", "softmax", "cross_entropy"),
    ((64, 128, 96, 10), "tanh", "softmax", "cross_entropy"),
    ((6, 40, 40, 3), ["tanh", "relu"], "tanh", "squared_error"),
)
FORMS = (
    "float64", "float64", "float32", "fortran", "strided", "reversed", "readonly", "memmap", "list", "frame",
    "float16", "swapped", "bool", "uint8", "int16", "int64", "uint8 fortran", "unaligned",
)  # fmt: skip


def numbers(seed, shape):
    """Normal numbers that float16 holds too, so that every dtype and form has the same ones."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float16).astype(np.float64)


def pixels(form):
    return form.split()[0] in ("uint8", "int16", "int64")


def inputs(form, seed, m, n, top):
    """X (m, n) in this form; integers are 0..top."""
    X = numbers(seed, (m, n))
    if pixels(form):
        whole = np.random.default_rng([seed, m, n, 1]).integers(0, top + 1, (m, n)).astype(form.split()[0])
        return np.asfortranarray(whole) if form.endswith("fortran") else whole
    if form == "strided":
        roomy = np.full((2 * m, 2 * n + 1), np.nan)
        roomy[::2, 1::2] = X
        return roomy[::2, 1::2]
    if form == "readonly":
        X.flags.writeable = False
    if form == "memmap":
        handle, path = tempfile.mkstemp(suffix=".npy")
        os.close(handle)
        np.save(path, X)
        X = np.load(path, mmap_mode="r")
        os.unlink(path)
    if form == "unaligned":
        raw = np.zeros(X.nbytes + 1, np.uint8)
        raw[1:] = np.frombuffer(X.tobytes(), np.uint8)
        X = raw[1:].view(np.float64).reshape(m, n)
    make = {
        "float32": lambda: X.astype(np.float32),
        "float16": lambda: X.astype(np.float16),
        "fortran": lambda: np.asfortranarray(X),
        "reversed": lambda: X[::-1].copy()[::-1],
        "list": X.tolist,
        "frame": lambda: pd.DataFrame(X),
        "swapped": lambda: X.astype(X.dtype.newbyteorder()),
        "bool": lambda: X > 0,
    }
    return make.get(form, lambda: X)()


def targets(kind, form, seed, m, K):
    """y of m rows; form 0..3 chooses one of the ways to write them."""
    rng = np.random.default_rng([seed, m, K, 2])
    classes, share = rng.integers(0, K, m), rng.random((m, K)) + 0.1
    share /= share.sum(axis=1, keepdims=True)
    if kind == "classes":
        return (classes, classes.tolist(), np.eye(K)[classes], share)[form]
    if kind == "probabilities":
        ones = rng.integers(0, 2, (m, K))
        y = (ones, ones.astype(bool), ones.astype(np.float32), rng.random((m, K)).astype(np.float32))[form]
        return y[:, 0] if K == 1 and seed % 2 else y
    if kind == "counts":
        y = rng.poisson(1.0, (m, K)) + (np.arange(m) == 0)[:, None]
        return (y, y * 0.75, np.asfortranarray(y.astype(np.float32)), y.astype(np.uint8))[form]
    y = numbers(seed + 7, (m, K))
    if kind == "values" and K > 1 and form == 0:
        return classes
    y = (y, y.astype(np.float32), np.asfortranarray(y), y[::-1].copy()[::-1])[form]
    return y[:, 0] if K == 1 and seed % 2 else y


def row_weights(kind, seed, m, y):
    """None, "balanced" where y has classes, or one number a row, of which one may be 0."""
    if kind == "balanced":
        return "balanced" if np.ndim(y) == 1 and np.asarray(y).dtype.kind == "i" else None
    if kind is None:
        return None
    weights = np.random.default_rng([seed, m, 3]).integers(1, 9, m) / 4
    if m > 2:
        weights[m // 2] = 0
    return {"array": weights, "list": weights.tolist(), "float32": weights.astype(np.float32)}[kind]


def falling(epoch):
    return 0.02 / (1 + epoch)


class Wave(schedules.Schedule):
    """A schedule of one's own."""

    def at(self, positions):
        return 0.01 + 0.005 * np.sin(np.asarray(positions))

    def __repr__(self):
        return "Wave()"


RATES = {
    "number": lambda: 0.02,
    "step": lambda: schedules.Step(0.03, every=2, factor=0.5),
    "piecewise": lambda: schedules.Piecewise((1, 2.5), (0.01, 0.02, 0.005)),
    "cosine": lambda: schedules.Cosine(0.03, epochs=6, final=0.001),
    "open cosine": lambda: schedules.Cosine(0.03, final=0.001),
    "open polynomial": lambda: schedules.Polynomial(0.03, power=1.0, final=0.002),
    "spent": lambda: schedules.Polynomial(0.03, epochs=4),
    "warm-up": lambda: schedules.WarmUp(schedules.Cosine(0.03, final=0.001), epochs=1.5),
    "function": lambda: falling,
    "own": Wave,
}

OPEN = ("open cosine", "open polynomial", "warm-up")  # whose length is that of the fit
# eps far above the rounding of a gradient: else where a gradient is nothing but rounding, Adam's step is as long as any
RULES = {
    "sgd": lambda rate, clip: optimizers.SGD(rate, clip_norm=clip),
    "momentum": lambda rate, clip: optimizers.Momentum(rate, 0.8, clip_norm=clip),
    "adam": lambda rate, clip: optimizers.Adam(rate, beta2=0.99, eps=1e-3, clip_norm=clip),
    "adamw": lambda rate, clip: optimizers.Adam(rate, eps=1e-3, weight_decay=0.1, clip_norm=clip),
    "lars": lambda rate, clip: optimizers.LARS(rate, trust=0.05, weight_decay=0.01, clip_norm=clip),
    "lamb": lambda rate, clip: optimizers.LAMB(rate, eps=1e-3, weight_decay=0.01, clip_norm=clip),
}


def y_of(y, K):
    """The same targets as the oracle takes them."""
    y = np.asarray(y)
    return y.astype(np.int64) if y.ndim == 1 and K > 1 else y.reshape(len(y), K).astype(np.float64)


data = st.fixed_dictionaries(
    {
        "form": st.sampled_from(FORMS),
        "seed": st.integers(0, 5),
        "m": st.sampled_from(ROWS),
        "of_y": st.integers(0, 3),
        "weights": st.sampled_from((None, None, "array", "list", "float32", "balanced")),
    }
)
fits = st.fixed_dictionaries(
    {
        "data": data,
        "by": st.sampled_from(("rule",) * 6 + ("sgd", "momentum", "lamb", "lbfgs")),
        "rate": st.sampled_from((None, *RATES)),
        "epochs": st.integers(1, 4),
        "batch": st.sampled_from((None, 1, 3, 3, 3, 16, 64)),
        "micro": st.sampled_from((None, None, None, 2)),
        "shuffle": st.booleans(),
        "order": st.sampled_from((None, None, None, "drawn")),
        "seed": st.integers(0, 2),
        "validation": st.sampled_from((None, 0.3, "pair", "weighted", "balanced")),
        "patience": st.sampled_from((None, None, 1, 2)),
        "monitor": st.sampled_from(("val_cost", "val_accuracy", "function")),
        "callback": st.sampled_from((None, None, "stop", "rate", "plateau", "reads")),
        "scale": st.sampled_from((False, False, True)),
    }
)
rules = st.tuples(st.sampled_from(tuple(RULES)), st.sampled_from(tuple(RATES)), st.sampled_from((None, 0.7)))
changes = st.one_of(
    st.tuples(st.just("l2"), st.sampled_from((0.0, 0.5))),
    st.tuples(st.just("dropout"), st.sampled_from((0.0, 0.5))),
    st.tuples(st.just("epochs_trained"), st.integers(0, 5)),
    st.tuples(st.just("reset"), st.none()),
    st.tuples(st.just("rate"), st.sampled_from(tuple(RATES))),
    st.tuples(st.just("own rate"), st.sampled_from((0.01, 0.003))),
    st.tuples(st.just("clip_norm"), st.sampled_from((None, 0.7))),
    st.tuples(st.just("rule"), rules),
)
