"""Costs of one's own: `Network.backward` and `Network.input_gradient`, from a cost's derivatives by the outputs."""

from __future__ import annotations

import functools

import cases
import numpy as np
import pytest
import reference
import tolerances
from amx_tools import needs_unit
from hypothesis import given, settings
from hypothesis import strategies as st

import fastnn

ROWS = 7
OUTPUTS = ("softmax", "sigmoid", "tanh", "relu", "leaky_relu", "identity", "exp")
PLANS = [
    {},
    {"threads": 2, "sliced": True},
    {"threads": 2, "sliced": False},
    {"chunk": 3},
    {"panels": False, "threads": 1},
    {"panels": False, "threads": 2},
]


def cost_of(output):
    return "cross_entropy" if output in ("softmax", "sigmoid") else "squared_error"


def network(backend, sizes, hidden, output, theta, dtype, **named):
    return fastnn.Network(
        sizes, hidden=hidden, output=output, cost=cost_of(output), init=np.asarray(theta, np.float64), backend=backend,
        dtype=dtype, **named,
    )  # fmt: skip


def own_cost(v):
    """J of the outputs v (m, K), which no network here has as its cost, and its derivatives."""
    m, K = v.shape
    factor = np.arange(1, K + 1) / m
    beside = np.roll(v, 1, axis=0)  # of another row: J is no sum over rows
    return (factor * np.sin(v) * beside).sum(), factor * np.cos(v) * beside + np.roll(factor * np.sin(v), -1, axis=0)


@functools.cache
def problem(sizes, names, of):
    """theta and X in float32 numbers, dJ/dv, and by central differences dJ/dTheta and dJ/dX of the wide oracle."""
    for seed in range(100):
        theta, X = cases.parameters(sizes, np.float32, seed), cases.normal((ROWS, sizes[0]), np.float32, seed)
        z, a = reference.forward(theta, sizes, names, X)
        if all(np.abs(v).min() > 1e-3 for v, name in zip(z, names, strict=True) if name.endswith("relu")):
            break
    else:
        raise AssertionError("no seed keeps clear of the kinks")

    def J(theta, X):
        z, a = reference.forward(theta, sizes, names, X)
        return own_cost(a[-1] if of == "outputs" else z[-1])[0]

    D = reference.central_differences(lambda v: J(v, X), theta)
    dX = reference.central_differences(lambda v: J(theta, v.reshape(X.shape)), X.ravel()).reshape(X.shape)
    derivatives = own_cost(a[-1] if of == "outputs" else z[-1])[1].astype(np.float64)
    return theta, X, derivatives, D, dX


def check(net, sizes, names, of):
    backend, dtype = net.backend, net.dtype
    theta, X, derivatives, D, dX = problem(sizes, names, of)
    got = net.backward(X, derivatives, of=of)
    assert backend.is_array(got)
    by_inputs = net.input_gradient(X, derivatives, of=of)
    assert type(by_inputs) is np.ndarray
    np.testing.assert_array_equal(backend.to_numpy(net.theta), theta.astype(dtype))
    bound = tolerances.network_gradient(dtype, sizes, ROWS)
    for found, differences, what in ((backend.to_numpy(got), D, "dJ/dTheta"), (by_inputs, dX, "dJ/dX")):
        size = float(np.abs(differences).max())
        tolerances.assert_close(
            found, differences, (bound + tolerances.ORACLE_DIFFERENCES) * max(size, 0.1), dtype=dtype, what=what
        )


@pytest.mark.parametrize("of", ["outputs", "logits"])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden", ["tanh", "relu", "gelu"])
def test_against_central_differences(backend, dtype, hidden, output, of):
    sizes, names = (4, 6, 5, 3), (hidden, hidden, output)
    check(network(backend, sizes, hidden, output, problem(sizes, names, of)[0], dtype), sizes, names, of)


@pytest.mark.parametrize("sizes", [(4, 3), (1, 5, 1), (3, 1, 2)])
def test_other_depths(backend, dtype, sizes):
    names = (*["sigmoid"] * (len(sizes) - 2), "tanh")
    check(
        network(backend, sizes, "sigmoid", "tanh", problem(sizes, names, "outputs")[0], dtype), sizes, names, "outputs"
    )


@pytest.mark.parametrize("options", PLANS)
def test_however_the_engine_runs_it(options, dtype):
    sizes, names = (4, 9, 5, 3), ("tanh", "tanh", "identity")
    engine = fastnn.get_backend("numba", **options)
    check(
        network(engine, sizes, "tanh", "identity", problem(sizes, names, "outputs")[0], dtype), sizes, names, "outputs"
    )


@needs_unit
def test_on_the_matrix_unit():
    sizes, names = (4, 9, 5, 3), ("tanh", "tanh", "identity")
    engine = fastnn.get_backend("numba", amx=True)
    net = network(engine, sizes, "tanh", "identity", problem(sizes, names, "outputs")[0], "float32")
    check(net, sizes, names, "outputs")
    (program,) = engine._gradients[net]._kept.values()
    assert program.plan.amx


@pytest.mark.parametrize(("output", "cost"), cases.PAIRS)
def test_a_cost_that_the_network_has(backend, output, cost):
    """dJ/dz is then the delta of the output layer over m."""
    K, m = 3, 33
    net = fastnn.Network([5, 8, K], hidden="tanh", output=output, cost=cost, dtype="float64", backend=backend, seed=4)
    X, y = cases.normal((m, 5), np.float64), cases.targets_for(output, cost, m, K, np.float64)
    z = net.logits(X)
    delta = reference.output_delta(output, cost, z, y).astype(np.float64) / m
    D = backend.to_numpy(net.backward(X, delta, of="logits"))
    expected = backend.to_numpy(net.cost_and_gradient(X, y)[1])
    np.testing.assert_allclose(D, expected, rtol=1e-9, atol=1e-12)


def test_without_l2_and_with_no_unit_left_out(backend):
    X, d = cases.normal((20, 4), np.float64), cases.normal((20, 2), np.float64, 1)
    plain, other = (
        fastnn.Network([4, 8, 2], output="identity", cost="squared_error", dtype="float64", backend=backend, **named)
        for named in ({}, {"l2": 5.0, "dropout": 0.5})
    )
    np.testing.assert_array_equal(*(backend.to_numpy(net.backward(X, d)) for net in (plain, other)))
    np.testing.assert_array_equal(*(net.input_gradient(X, d) for net in (plain, other)))


def test_derivatives_and_gradients_of_costs_in_turn():
    """The programs that are kept for the two are not taken for each other."""
    net = fastnn.Network([4, 8, 2], output="identity", cost="squared_error", dtype="float64", backend="numba")
    X, y = cases.normal((20, 4), np.float64), cases.normal((20, 2), np.float64, 1)
    for _ in range(2):
        D = net.backward(X, (net.predict(X) - y) / 20)
        np.testing.assert_allclose(D, net.cost_and_gradient(X, y)[1], rtol=1e-10, atol=1e-13)


def test_integers_that_are_scaled(backend):
    net = fastnn.Network([3, 5, 2], output="identity", cost="squared_error", dtype="float64", backend=backend)
    X, d = np.random.default_rng(0).integers(0, 256, (9, 3)).astype(np.uint8), cases.normal((9, 2), np.float64)
    as_floats = net.input_gradient(X / 255, d)
    of_scaled = backend.to_numpy(net.backward(X / 255, d))
    net.fit(X, d, epochs=1, learning_rate=1e-300, optimizer="sgd", scale=1 / 255)
    np.testing.assert_allclose(net.input_gradient(X, d), as_floats / 255, rtol=1e-12)
    np.testing.assert_allclose(backend.to_numpy(net.backward(X, d)), of_scaled, rtol=1e-12, atol=1e-15)


def test_many_outputs_take_no_square_of_them(backend):
    """As of an autoencoder: g'(z) is no product of matrices."""
    net = fastnn.Network([2, 30_000], output="sigmoid", backend=backend)  # a square would be 3.6 GB
    X, d = cases.normal((2, 2), np.float32), cases.normal((2, 30_000), np.float32)
    h = net.predict_proba(X)
    expected = (d * h * (1 - h)).astype(np.float64).T @ X
    got = backend.to_numpy(net.split(net.backward(X, d))[0][0])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_one_output_as_a_column_or_not(backend):
    net = fastnn.Network([3, 5, 1], output="identity", cost="squared_error", backend=backend)
    X, d = cases.normal((6, 3), np.float32), cases.normal((6, 1), np.float32)
    for given_as in (d, d[:, 0], d[:, 0].tolist(), d.astype(np.float64)):
        np.testing.assert_array_equal(*(backend.to_numpy(net.backward(X, v)) for v in (d, given_as)))
        np.testing.assert_array_equal(*(net.input_gradient(X, v) for v in (d, given_as)))


def test_more_rows_than_a_block(backend, monkeypatch):
    monkeypatch.setattr("fastnn.checks.BLOCK", 64)
    net = fastnn.Network([3, 8, 2], output="tanh", cost="squared_error", dtype="float64", backend=backend)
    X, d = cases.normal((50, 3), np.float64), cases.normal((50, 2), np.float64)
    together, dX = backend.to_numpy(net.backward(X, d)), net.input_gradient(X, d)
    apart = [backend.to_numpy(net.backward(X[i : i + 1], d[i : i + 1])) for i in range(50)]
    np.testing.assert_allclose(together, np.sum(apart, axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(dX[17:18], net.input_gradient(X[17:18], d[17:18]), rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 70), sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4), seed=st.integers(0, 99),
    output=st.sampled_from(OUTPUTS), of=st.sampled_from(["outputs", "logits"]),
)  # fmt: skip
def test_one_call_and_operations_one_by_one(m, sizes, seed, output, of):
    if output == "softmax" and sizes[-1] == 1:
        sizes = [*sizes, 2]
    fast = fastnn.Network(
        sizes, hidden="silu", output=output, cost=cost_of(output), dtype="float64", backend="numba", seed=seed
    )
    plain = network("numpy", sizes, "silu", output, fast.theta, "float64")
    X, d = cases.normal((m, sizes[0]), np.float64, seed), cases.normal((m, sizes[-1]), np.float64, seed)
    for name in ("backward", "input_gradient"):
        got, expected = (getattr(net, name)(X, d, of=of) for net in (fast, plain))
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11 * max(1, np.abs(expected).max()))


def test_two_networks_in_a_row(backend):
    """The second's dJ/dX is the first's derivative by its outputs: together they are one network."""
    whole = fastnn.Network(
        [4, 6, 3, 5, 2], hidden="tanh", output="identity", cost="squared_error", dtype="float64", backend=backend
    )
    W, b = (backend.to_numpy(v) for v in (whole.weights[0], whole.biases[0]))
    first = fastnn.Network(
        [4, 6, 3], hidden="tanh", output="tanh", cost="squared_error", dtype="float64", backend=backend,
        init=([W, backend.to_numpy(whole.weights[1])], [b, backend.to_numpy(whole.biases[1])]),
    )  # fmt: skip
    second = fastnn.Network(
        [3, 5, 2], hidden="tanh", output="identity", cost="squared_error", dtype="float64", backend=backend,
        init=([backend.to_numpy(v) for v in whole.weights[2:]], [backend.to_numpy(v) for v in whole.biases[2:]]),
    )  # fmt: skip
    X, d = cases.normal((9, 4), np.float64), cases.normal((9, 2), np.float64)
    between = first.predict(X)
    D = np.concatenate(
        [
            backend.to_numpy(first.backward(X, second.input_gradient(between, d))),
            backend.to_numpy(second.backward(between, d)),
        ]
    )
    np.testing.assert_allclose(D, backend.to_numpy(whole.backward(X, d)), rtol=1e-9, atol=1e-12)


def test_a_loop_with_a_cost_of_ones_own_learns(backend):
    """Of pairs of rows the right order, which no cost here asks for; each step as cost_and_gradient's would be."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 5))
    worth = X[:, 0] - 2 * X[:, 1] * X[:, 2]
    net = fastnn.Network([5, 32, 1], hidden="tanh", output="identity", cost="squared_error", backend=backend, seed=1)
    adam = fastnn.optimizers.Adam(0.01)

    def right():
        h = net.predict(X)
        return float(((h[:200] > h[200:]) == (worth[:200] > worth[200:])).mean())

    before = right()
    for _ in range(150):
        rows = rng.permutation(400)
        h, side = net.predict(X[rows]), np.sign(worth[rows[:200]] - worth[rows[200:]])
        slope = -side / (1 + np.exp(side * (h[:200] - h[200:]))) / 200  # of log(1 + e^-side(h1 - h2)), the mean
        net.step(net.backward(X[rows], np.concatenate([slope, -slope])), adam)
    assert right() > max(0.9, before + 0.2)


def test_arrays_of_the_engine_stay_there(backend):
    net = fastnn.Network([3, 4, 2], output="softmax", backend=backend)
    X, d = cases.normal((5, 3), np.float32), cases.normal((5, 2), np.float32)
    there = net.input_gradient(backend.asarray(X), backend.asarray(d))
    assert backend.is_array(there)
    np.testing.assert_array_equal(backend.to_numpy(there), net.input_gradient(X, d))
    np.testing.assert_array_equal(
        *(backend.to_numpy(net.backward(*rows)) for rows in ((X, d), (backend.asarray(X), backend.asarray(d))))
    )


REFUSED = [
    ((3, 3), "derivatives must have shape (4, 2), one for each row of X and each output, got (3, 3)"),
    ((4,), "derivatives must have shape (4, 2), one for each row of X and each output, got (4,)"),
    ((4, 1), "derivatives must have shape (4, 2), one for each row of X and each output, got (4, 1)"),
]


@pytest.mark.parametrize("name", ["backward", "input_gradient"])
def test_what_is_refused(backend, name):
    net = fastnn.Network([3, 2], output="identity", cost="squared_error", backend=backend)
    X, call = np.ones((4, 3)), getattr(net, name)
    for shape, said in REFUSED:
        with pytest.raises(ValueError, match="derivatives") as error:
            call(X, np.ones(shape))
        assert str(error.value) == said
    bad = np.ones((4, 2))
    bad[2, 1] = np.nan
    with pytest.raises(ValueError, match="derivatives must be finite, got nan at row 2, column 1"):
        call(X, bad)
    with pytest.raises(TypeError, match="derivatives must hold real numbers, got None"):
        call(X, None)
    with pytest.raises(ValueError, match=r"derivatives holds 1e\+300 .* overflows float32"):
        call(X, np.full((4, 2), 1e300))
    with pytest.raises(ValueError, match=r"of='logit' is not known.*logits"):
        call(X, np.ones((4, 2)), of="logit")
    with pytest.raises(ValueError, match="X must have 3 columns"):
        call(np.ones((4, 2)), np.ones((4, 2)))


def test_callers_arrays_stay(backend):
    net = fastnn.Network([3, 4, 2], output="sigmoid", backend=backend, dtype="float64")
    X, d = cases.normal((5, 3), np.float64), cases.normal((5, 2), np.float64)
    kept = X.copy(), d.copy()
    X.flags.writeable = d.flags.writeable = False
    first = backend.to_numpy(net.backward(X, d)).copy()
    net.input_gradient(X, d)
    np.testing.assert_array_equal(backend.to_numpy(net.backward(X, d)), first)
    np.testing.assert_array_equal(X, kept[0])
    np.testing.assert_array_equal(d, kept[1])
