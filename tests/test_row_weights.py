"""Rows that count more than others: every program against the wide oracle, `fit` against repeated rows, and what is
refused."""

from __future__ import annotations

import cases
import numpy as np
import pytest
import reference
from amx_tools import needs_unit
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight
from test_cupy_narrow import backend as cupy_backend
from test_programs import PAIRS, RULES, Problem, agree, count_hits, orders

import fastnn
from fastnn import row_weights
from fastnn.backends.cupy_stream import HostRows
from fastnn.kernels.cpu import JIT

ROWS = 23
WEIGHTS = np.random.default_rng(8).random(ROWS) * 3
WEIGHTS[[3, 11]] = 0
SHARES, TOTAL = WEIGHTS / WEIGHTS.mean(), WEIGHTS.sum()


class Weighted(Problem):
    """A problem whose rows have weights."""

    def train(self, backend, dtype, rule, epochs, batch=5, mode=None, streamed=False):
        net = self.network(backend, dtype)
        X, y = self.on_engine(backend, dtype)
        program, results = backend.compile(net, rule, batch), []
        program.weights, program.total_weight = backend.asarray(SHARES.astype(dtype)), TOTAL
        if mode:
            program.mode = mode
        for order in epochs:
            rows = X.view(HostRows) if streamed else X
            cost_sum, count = program.run(
                rows, y, backend.asarray(order.astype(np.int64)), 0, program.steps(len(order))
            )
            results.append((cost_sum, count, program.hits))
        return np.array(backend.to_numpy(net.theta)), results

    def right(self, h, y):
        return count_hits(h, y)

    def oracle(self, rule, epochs, batch=5):
        names, theta, t, results = [*self.hidden, self.output], self.theta, 0, []
        state = [np.zeros_like(theta) for _ in rule.slots]
        for order in epochs:
            cost_sum = hits = 0
            for start in range(0, len(order), batch):
                chosen, t = order[start : start + batch], t + 1
                x, y, m = self.X[chosen], self.y[chosen], len(chosen)
                z, a = reference.forward(theta, self.sizes, names, x)
                hits += self.right(a[-1], y)
                decay = reference.gradient(theta, self.sizes, names, self.cost, x, y, self.l2 * m / TOTAL)
                decay = decay - reference.gradient(theta, self.sizes, names, self.cost, x, y)
                of_rows = [
                    SHARES[i] * reference.gradient(theta, self.sizes, names, self.cost, self.X[[i]], self.y[[i]])
                    for i in chosen
                ]
                squares = sum((np.longdouble(W) ** 2).sum() for W, _ in reference.split(theta, self.sizes))
                cost_sum += (SHARES[chosen] * reference.cost_rows(self.output, self.cost, z[-1], y)).sum()
                cost_sum += m * self.l2 / (2 * TOTAL) * squares
                D = sum(of_rows) / m + decay
                theta, state = reference.update(rule.name, self.sizes, theta, D, state, t, *rule.hyper())
            results.append((cost_sum, len(order), hits))
        return theta, results


def check(problem, backend, dtype, rule, batch=5, **options):
    dtype, epochs = np.dtype(dtype), orders(ROWS, 2)
    got = problem.train(backend, dtype, RULES[rule](), epochs, batch, **options)
    expected = problem.oracle(RULES[rule](), epochs, batch)
    agree(got, expected, dtype, 2 * -(-ROWS // batch), "program against the oracle")
    told = problem.y.ndim == 1 or (problem.output, problem.cost) == ("softmax", "cross_entropy")
    right = [hits for *_, hits in expected[1]] if told else None
    if right is not None and (dtype == np.float64 or problem.y.ndim == 2):
        assert [hits for *_, hits in got[1]] == right, "a row is right or not, whatever it counts"


PAIRS_AND_RULES = [(*pair, rule) for pair in PAIRS for rule in ("sgd", "adam")]
PAIRS_AND_RULES += [(*PAIRS[0], rule) for rule in ("momentum", "lars", "lamb")]


@pytest.mark.parametrize(("output", "cost", "rule"), PAIRS_AND_RULES)
def test_every_pair_and_rule(backend, dtype, output, cost, rule):
    check(Weighted(output=output, cost=cost), backend, dtype, rule)


VARIANTS = [
    {"threads": 1, "panels": True},
    {"threads": 2, "panels": True, "sliced": True},
    {"threads": 2, "panels": True, "sliced": False},
    {"threads": 2, "panels": False, "sliced": True},
    {"threads": 2, "panels": False, "sliced": False, "chunk": 3},
]


@pytest.mark.skipif(not JIT, reason="several threads need compiled code")
@pytest.mark.parametrize("batch", [1, 10, ROWS])
@pytest.mark.parametrize(("output", "cost"), [PAIRS[0], ("sigmoid", "cross_entropy"), ("identity", "squared_error")])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_program_of_the_cpu(options, output, cost, batch):
    for dtype in ("float32", "float64"):
        engine = fastnn.get_backend("numba", **options)
        check(Weighted(output=output, cost=cost), engine, dtype, "sgd", batch)


@needs_unit
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_the_matrix_unit(threads, rule):
    engine = fastnn.get_backend("numba", amx=True, threads=threads)
    check(Weighted(sizes=(6, 40, 33, 4)), engine, "float32", rule, 16)


@pytest.mark.parametrize(("output", "cost"), PAIRS)
@pytest.mark.parametrize("how", ["eager", "fused", "streamed", "in parts"])
def test_every_program_of_the_gpu(how, output, cost):
    if how == "fused" and (":" in cost or cost == "poisson"):
        return  # which it declines (tests/test_costs_of_errors.py, tests/test_poisson.py)
    engine = cupy_backend(fused=how == "fused" or None)
    problem = Weighted(output=output, cost=cost)
    if how == "in parts":
        net = problem.network(engine, "float32")
        X, y = problem.on_engine(engine, np.dtype("float32"))
        whole, parts = (engine.compile(net, RULES["adam"](), 10, micro) for micro in (None, 4))
        found = []
        for program in (whole, parts):
            program.weights = engine.asarray(SHARES.astype("float32"))
            net.theta[...] = problem.theta
            program.run(X, y, np.arange(ROWS), 0, 3)
            found.append(net.theta.copy())
        np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)
        return
    check(problem, engine, "float32", "adam", streamed=how == "streamed", mode=how if how == "eager" else None)


# ---- fit ----------------------------------------------------------------------------------------------------------


def data(rows=40):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 4)), rng.integers(0, 3, rows), rng.integers(0, 4, rows)


def net_of(backend, **options):
    options = {"hidden": "tanh", "dtype": "float64", "l2": 0.7, "init": cases.parameters((4, 8, 3)), **options}
    return fastnn.Network([4, 8, 3], backend=backend, **options)


def theta_of(net):
    return np.array(net.backend.to_numpy(net.theta))


def test_a_row_that_counts_twice_is_as_good_as_two_rows(backend):
    X, y, w = data()
    rows = np.repeat(np.arange(len(X)), w)
    weighted, repeated = net_of(backend), net_of(backend)
    options = {"epochs": 10, "optimizer": "sgd"}
    first = weighted.fit(X, y, sample_weight=w, batch_size=len(X), **options)
    second = repeated.fit(X[rows], y[rows], batch_size=len(rows), **options)
    np.testing.assert_allclose(theta_of(weighted), theta_of(repeated), rtol=1e-12, atol=1e-13)
    assert first.cost == pytest.approx(second.cost, rel=1e-12)
    found = weighted.cost_and_gradient(X, y, sample_weight=w)
    expected = weighted.cost_and_gradient(X[rows], y[rows])
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(backend.to_numpy(found[1]), backend.to_numpy(expected[1]), rtol=1e-11, atol=1e-14)
    for l2 in (True, False):
        expected = weighted.mean_cost(X[rows], y[rows], l2=l2)
        assert weighted.mean_cost(X, y, sample_weight=w, l2=l2) == pytest.approx(expected, rel=1e-12)


def test_the_gradient_is_that_of_the_weighted_cost():
    X, y, w = data(12)
    net = net_of("numpy")
    kept, D = net.theta.copy(), net.cost_and_gradient(X, y, sample_weight=w)[1]

    def J(theta):
        net.theta[...] = theta
        return net.mean_cost(X, y, sample_weight=w)

    N = np.array([(J(kept + 1e-6 * e) - J(kept - 1e-6 * e)) / 2e-6 for e in np.eye(len(kept))])
    np.testing.assert_allclose(D, N, atol=1e-8)


def test_without_hidden_layers_it_is_logistic_regression_with_weights():
    X, y, w = data(60)
    net = fastnn.Network([4, 3], backend="numba", dtype="float64", l2=2.0)
    net.fit(X, y, sample_weight=w, optimizer="sgd", learning_rate=0.5, batch_size=60, epochs=2000)
    expected = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit(X, y, sample_weight=w)
    np.testing.assert_allclose(net.predict_proba(X), expected.predict_proba(X), atol=1e-4)


def test_balanced_gives_every_class_the_same_in_all(backend):
    X, _, _ = data(40)
    y = np.repeat([0, 2, 1], [30, 8, 2])
    given, named = net_of(backend), net_of(backend)
    options = {"epochs": 3, "batch_size": 8}
    given.fit(X, y, sample_weight=compute_sample_weight("balanced", y), **options)
    named.fit(X, y, sample_weight="balanced", **options)
    np.testing.assert_array_equal(theta_of(given), theta_of(named))
    plain = net_of(backend)
    plain.fit(X, y, **options)
    assert not np.array_equal(theta_of(plain), theta_of(named))
    two = fastnn.Network([4, 1], output="sigmoid", backend=backend)
    two.fit(X, y > 0, sample_weight="balanced", epochs=1)  # one unit tells two classes apart


def test_validation_rows_have_weights_too(backend):
    X, y, w = data()
    net = net_of(backend)
    history = net.fit(X, y, sample_weight=w, validation=(X[:9], y[:9], w[:9]), epochs=1)
    costs = [net.mean_cost(X[[i]], y[[i]], l2=False) for i in range(9)]
    assert history.val_cost[-1] == pytest.approx(np.average(costs, weights=w[:9]), rel=1e-12)
    alike = net.fit(X, y, sample_weight=w, validation=(X[:9], y[:9]), epochs=1)
    costs = [net.mean_cost(X[[i]], y[[i]], l2=False) for i in range(9)]
    assert alike.val_cost[-1] == pytest.approx(np.mean(costs), rel=1e-12)
    # of rows that are set apart: the weights of the others have a mean of 1, and n of L2 is their sum
    w[:] = 1
    apart, other = net_of(backend), net_of(backend)
    first = apart.fit(X, y, sample_weight=w, validation=0.25, epochs=2, batch_size=10)
    second = other.fit(X, y, validation=0.25, epochs=2, batch_size=10)
    np.testing.assert_allclose(theta_of(apart), theta_of(other), rtol=1e-12)
    assert (first.cost, first.val_cost) == (pytest.approx(second.cost), pytest.approx(second.val_cost))


def test_the_next_fit_counts_all_rows_alike_again(backend):
    """Its program, kept for an instance of a rule, does not keep the weights."""
    X, y, w = data()
    nets = net_of(backend), net_of(backend)
    for net, first in zip(nets, (w, np.ones(len(X))), strict=True):
        rule = fastnn.optimizers.SGD(0.1)
        net.fit(X, y, sample_weight=first, optimizer=rule, epochs=1, batch_size=10)
        net.theta[...] = backend.asarray(cases.parameters((4, 8, 3)))
        net.fit(X, y, optimizer=rule, epochs=1, batch_size=10)
    np.testing.assert_array_equal(theta_of(nets[0]), theta_of(nets[1]))


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (np.ones(39), ValueError, r"sample_weight must have one number per row of X, shape \(40,\), got \(39,\)"),
        (np.ones((40, 1)), ValueError, r"one number per row of X, shape \(40,\), got \(40, 1\)"),
        (np.r_[np.ones(39), -1], ValueError, "sample_weight must be finite and >= 0, got -1 at row 39"),
        (np.r_[np.nan, np.ones(39)], ValueError, "sample_weight must be finite and >= 0, got nan at row 0"),
        (np.zeros(40), ValueError, "sample_weight must be > 0 for some row, got 0 for all 40"),
        (["a"] * 40, TypeError, "sample_weight must hold real numbers"),
        ("balance", ValueError, "sample_weight='balance' is not known; did you mean 'balanced'"),
        (0.5, ValueError, r"one number per row of X, shape \(40,\), got \(\)"),
    ],
)
def test_weights_that_are_refused_change_nothing(weights, error, words):
    X, y, _ = data()
    net = net_of("numpy")
    before = net.theta.copy()
    for use in (net.fit, net.cost_and_gradient, net.mean_cost):
        with pytest.raises(error, match=words):
            use(X, y, sample_weight=weights)
    np.testing.assert_array_equal(net.theta, before)
    assert net.epochs_trained == 0


def test_balanced_is_for_classes_and_a_program_wants_its_own_arrays():
    X, y, _ = data()
    net = fastnn.Network([4, 2], output="identity", cost="squared_error", backend="numpy")
    with pytest.raises(ValueError, match=r"sample_weight='balanced' is for classes, y holds values of shape \(40, 2\)"):
        net.fit(X, X[:, :2], sample_weight="balanced")
    with pytest.raises(ValueError, match="validation weights must be > 0 for some row, got 0 for all 40"):
        net.fit(X, X[:, :2], validation=(X, X[:, :2], np.zeros(40)))
    net = net_of("numpy")
    program = net.backend.compile(net, RULES["sgd"](), 4)
    for wrong in (np.ones(39), np.ones(40, np.float32), np.ones(80)[::2], [1.0] * 40):
        program.weights = wrong
        with pytest.raises(ValueError, match=r"weights must be a contiguous \(40,\) array of float64 of the engine"):
            program.run(X, y, np.arange(40), 0, 1)


@given(st.lists(st.floats(0, 1e308), min_size=1, max_size=20).filter(lambda w: max(w) > 0))
def test_a_mean_of_one_whatever_their_size(weights):
    w = np.array(weights)
    shares, total = row_weights.mean_of_one(w)
    assert shares.mean() == pytest.approx(1)
    assert total == pytest.approx(float(np.sum(w / max(weights))) * max(weights))
    assert np.argmax(shares) == np.argmax(w)


def test_a_program_sees_that_its_weights_are_others(backend):
    """Steps that were recorded hold the addresses of what they read."""
    X, y, _ = data()
    net, moved = net_of(backend), []
    X, y = backend.asarray(X), backend.asarray(y)
    program = backend.compile(net, RULES["sgd"](), 10)
    for weights in (None, np.linspace(0, 2, 40), np.linspace(2, 0, 40), None):
        program.weights = None if weights is None else backend.asarray(weights)
        net.theta[...] = backend.asarray(cases.parameters((4, 8, 3)))
        program.run(X, y, backend.asarray(np.arange(40)), 0, 4)
        moved.append(theta_of(net))
    np.testing.assert_array_equal(moved[0], moved[3])
    assert not np.allclose(moved[0], moved[1])
    assert not np.allclose(moved[1], moved[2])
