"""Softmax with cross-entropy against probabilities of the classes, (m, K): smoothed labels, the answers of another network.
Every engine and program against the wide oracle; one-hot rows are classes; and what is refused.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference
from amx_tools import needs_unit
from hypothesis import given
from hypothesis import strategies as st
from test_cupy_narrow import backend as cupy_backend
from test_programs import RULES
from test_row_weights import ROWS, VARIANTS, Weighted, check

import fastnn
from fastnn.kernels.cpu import JIT


class Soft(Weighted):
    """A problem whose targets say how probable each class is; some rows of it are certain."""

    def __init__(self, **options):
        super().__init__(output="softmax", cost="cross_entropy", **options)
        y = np.random.default_rng(5).dirichlet(np.ones(self.sizes[-1]), ROWS)
        y[::4] = np.eye(self.sizes[-1])[self.y[::4]]
        self.y = y

    def right(self, h, y):
        return int((np.asarray(h, float).argmax(axis=1) == y.argmax(axis=1)).sum())


def test_the_oracles_gradient_is_that_of_its_cost():
    problem = Soft()
    names = [*problem.hidden, problem.output]
    D = reference.gradient(problem.theta, problem.sizes, names, "cross_entropy", problem.X, problem.y, 0.5)
    differences = reference.central_differences(
        lambda theta: reference.cost(theta, problem.sizes, names, "cross_entropy", problem.X, problem.y, 0.5),
        problem.theta,
    )
    np.testing.assert_allclose(D.astype(float), differences.astype(float), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_engine_and_rule(backend, dtype, rule):
    check(Soft(), backend, dtype, rule)


@pytest.mark.skipif(not JIT, reason="several threads need compiled code")
@pytest.mark.parametrize("batch", [1, 10, ROWS])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_program_of_the_cpu(options, batch):
    for dtype in ("float32", "float64"):
        check(Soft(), fastnn.get_backend("numba", **options), dtype, "sgd", batch)


@needs_unit
@pytest.mark.parametrize("threads", [1, 2])
def test_the_matrix_unit(threads):
    check(Soft(sizes=(6, 40, 33, 4)), fastnn.get_backend("numba", amx=True, threads=threads), "float32", "sgd", 16)


@pytest.mark.parametrize("how", ["eager", "fused", "streamed"])
def test_every_program_of_the_gpu(how):
    engine = cupy_backend(fused=how == "fused" or None)
    check(Soft(), engine, "float32", "adam", streamed=how == "streamed", mode=how if how == "eager" else None)


def rows(m=60, K=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, 4)), rng.integers(0, K, m), rng.dirichlet(np.ones(K), m)


def net_of(backend, dtype="float64"):
    return fastnn.Network([4, 6, 3], hidden="tanh", seed=2, backend=backend, dtype=dtype, l2=0.1)


def test_one_hot_rows_are_classes(backend):
    X, y, _ = rows()
    found = []
    for targets in (y, np.eye(3)[y], np.eye(3, dtype=int)[y]):
        net = net_of(backend)
        history = net.fit(X, targets, epochs=3, batch_size=16, validation=(X, targets))
        found.append((backend.to_numpy(net.theta), history.cost, history.val_cost, history.accuracy))
        assert net.score(X, targets) == (backend.to_numpy(net.predict(X)) == y).mean() == history.val_accuracy[-1]
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)


def test_the_gradient_against_finite_differences(backend):
    X, _, y = rows(12)
    assert fastnn.gradcheck(net_of(backend), X, y).ok


def test_a_network_learns_what_another_says():
    """Distillation: the same architecture, trained on the other's probabilities, comes to say the same."""
    X, _, _ = rows(400)
    teacher = fastnn.Network([4, 16, 3], seed=1)
    teacher.fit(X, (np.abs(X[:, 0]) + (X[:, 1] > 0)).astype(int) % 3, epochs=60)
    h = teacher.predict_proba(X)
    pupil = fastnn.Network([4, 16, 3], seed=9)
    history = pupil.fit(X, h, epochs=300, batch_size=32, learning_rate=0.01)
    entropy = -(h * np.log(h)).sum(axis=1).mean()  # the lowest cost there is
    assert entropy < history.cost[-1] < entropy + 0.02
    assert np.abs(pupil.predict_proba(X) - h).mean() < 0.05
    assert pupil.score(X, h) == pytest.approx((pupil.predict(X) == teacher.predict(X)).mean())


@given(st.integers(2, 6), st.integers(1, 8), st.integers(0, 10))
def test_the_operations_against_the_oracle(K, m, seed):
    rng = np.random.default_rng(seed)
    z, y = rng.standard_normal((m, K)) * 3, rng.dirichlet(np.ones(K), m)
    a = reference.activation("softmax", z).astype(float)
    for name in ("numpy", "numba"):
        backend = fastnn.get_backend(name)
        cost = backend.cost_sum("softmax", "cross_entropy", z, a, y)
        assert cost == pytest.approx(float(reference.cost_rows("softmax", "cross_entropy", z, y).sum()), rel=1e-12)
        np.testing.assert_allclose(backend.output_delta("softmax", "cross_entropy", z, a, y), a - y, atol=1e-15)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y * 1.01, r"each row of y must sum to 1, as probabilities of the 3 classes do, got 1\.01 at row 0"),
        (lambda y: y - [0.5, 0, -0.5], r"y must lie in \[0, 1\] for softmax with cross_entropy, got -"),
        (
            lambda y: y[:, :2],
            r"y must be integer classes 0\.\.2 of shape \(60,\), or the probability of each, \(60, 3\)",
        ),
        (lambda y: np.where(y == y[5, 1], np.nan, y), "y must be finite, got nan at row 5, column 1"),
    ],
)
def test_what_is_refused(backend, change, words):
    X, _, y = rows()
    net = net_of(backend)
    before = backend.to_numpy(net.theta).copy()
    with pytest.raises((ValueError, TypeError), match=words):
        net.fit(X, change(y), epochs=1)
    np.testing.assert_array_equal(backend.to_numpy(net.theta), before)
    with pytest.raises(ValueError, match="balanced"):
        net.fit(X, y, epochs=1, sample_weight="balanced")


def test_sums_that_are_1_to_rounding_are_taken():
    X, _, _ = rows(40)
    y = np.random.default_rng(0).random((40, 3)).astype(np.float32)
    y /= y.sum(axis=1, keepdims=True)
    net = net_of("numpy", "float32")
    h = net.predict_proba(X).astype(np.float64)
    assert net.mean_cost(X, y, l2=False) == pytest.approx(-(y * np.log(h)).sum() / 40, rel=1e-5)
    assert net.fit(X, y, epochs=1).cost[0] > 0
    net_of("numpy").fit(X, np.full((40, 3), 1 / 3), epochs=1)
