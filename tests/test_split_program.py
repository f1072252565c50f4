"""The program whose threads share the weights of the lower layers (kernels/cpu/split_program.py), beside the NumPy
engine in float64.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panel_tools import (
    EXAMPLES,
    EXTRA,
    SIZES,
    UNTOUCHED,
    bound,
    call,
    packed,
    rows_anywhere,
    rows_of,
    step_of,
    unpacked,
)
from tolerances import assert_close

import fastnn
from fastnn.backends.base import Job
from fastnn.backends.cpu_plan import Plan
from fastnn.backends.numba_panels import PanelProgram
from fastnn.kernels.cpu import JIT, panels

MOST = 5 if JIT else 1  # threads: without JIT a team has one
needs_threads = pytest.mark.skipif(not JIT, reason="without JIT a team has one thread")


def problem(sizes, rows, dtype, seed=0):
    """X, y and an order of the rows."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, sizes[-1], rows) if sizes[-1] > 1 else rng.random((rows, 1)).astype(dtype)
    return rng.standard_normal((rows, sizes[0])).astype(dtype), y, rng.permutation(rows)


def network(sizes, hidden, dtype, backend, l2=0.0):
    output, cost = ("softmax", "cross_entropy") if sizes[-1] > 1 else ("identity", "squared_error")
    net = fastnn.Network(sizes, hidden=hidden, output=output, cost=cost, backend=backend, dtype=dtype, l2=l2, seed=2)
    # biases too: with equal ones, rows without any activity have several largest outputs
    net.theta[:] += np.random.default_rng(4).normal(0, 0.1, net.theta.shape)
    return net


def trained(program, net, X, y, order):
    """(theta, cost) after all steps of one epoch."""
    cost, _ = program.run(X, y, order, 0, program.steps(len(order)))
    return net.theta.copy(), cost, program.hits


@settings(deadline=None, max_examples=60 if JIT else 15)
@given(
    inner=st.lists(st.sampled_from([1, 5, 16, 17, 40, 70, 130]), min_size=1, max_size=4),
    n_in=st.sampled_from([1, 3, 16, 37, 100]),
    n_out=st.sampled_from([1, 3, 20]),
    hidden=st.sampled_from(["relu", "tanh", "leaky_relu", "sigmoid", "silu", "gelu"]),
    rule=st.sampled_from(["sgd", "momentum", "adam"]),
    team=st.integers(1, MOST),
    batch=st.sampled_from([2, 7, 33, 100]),
    chunk=st.sampled_from([1, 10, 100]),
    l2=st.sampled_from([0.0, 0.4]),
    data=st.data(),
)
def test_numba_shared_weights_train_as_numpy_does(inner, n_in, n_out, hidden, rule, team, batch, chunk, l2, data):
    """Any number of lower layers and threads, more than a layer has vectors too; a last batch, and a last tile, of
    fewer rows.
    """
    sizes = (n_in, *inner, n_out)
    split = data.draw(st.integers(1, len(inner)), label="split")
    X, y, order = problem(sizes, 2 * batch + batch // 2, "float64")
    results = []
    for engine in ("numpy", "numba"):
        net = network(sizes, hidden, "float64", engine, l2)
        optimizer = fastnn.optimizers.get(rule)
        optimizer.learning_rate = 0.01
        program = (
            PanelProgram(Job(net, optimizer, batch), Plan(team, min(chunk, batch), False, True, split))
            if engine == "numba"
            else net.backend.compile(net, optimizer, batch)
        )
        results.append(trained(program, net, X, y, order))
    (theta, cost, hits), (theta_split, cost_split, hits_split) = results
    # Parameters near 1 after three steps: sums are cut elsewhere, a few hundred eps at most; Adam divides small
    # gradients, and their rounding, by their size.
    np.testing.assert_allclose(theta_split, theta, rtol=0, atol=1e-9 if rule == "adam" else 1e-11)
    assert cost_split == pytest.approx(cost, rel=1e-11)
    assert hits_split == hits


@pytest.mark.parametrize("layout", ["uint8", "float64", "fortran", "every other column", "reversed rows"])
def test_numba_shared_weights_with_data_as_it_comes(layout):
    """Each thread converts its own inputs only; scaled where that is asked for."""
    sizes = (50, 60, 40, 5)
    rng = np.random.default_rng(3)
    X = rng.integers(0, 256, (150, 100))
    y, order = rng.integers(0, 5, 150), rng.permutation(150)
    X = {
        "uint8": X[:, :50].astype(np.uint8),
        "float64": X[:, :50] / 256.0,
        "fortran": np.asfortranarray(X[:, :50] / 256, np.float32),
        "every other column": (X / 256).astype(np.float32)[:, ::2],
        "reversed rows": (X[:, :50] / 256).astype(np.float32)[::-1],
    }[layout]
    plain = np.ascontiguousarray(X, np.float64) * (1 / 256 if layout == "uint8" else 1)
    net, exact = network(sizes, "relu", "float32", "numba"), network(sizes, "relu", "float64", "numpy")
    program = PanelProgram(Job(net, fastnn.optimizers.SGD(0.1), 40), Plan(min(2, MOST), 40, False, True, 2))
    program.scale = 1 / 256
    theta, cost, _ = trained(program, net, X, y, order)
    expected, exact_cost, _ = trained(
        exact.backend.compile(exact, fastnn.optimizers.SGD(0.1), 40), exact, plain, y, order
    )
    np.testing.assert_allclose(theta, expected, rtol=0, atol=1e-5)
    assert cost == pytest.approx(exact_cost, rel=1e-5)


@needs_threads
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_numba_shared_weights_give_the_same_bits_every_time(rule):
    """However the threads take turns."""
    sizes = (64, 96, 80, 10)
    X, y, order = problem(sizes, 400, "float32")
    results = set()
    for _ in range(10):
        net = network(sizes, "tanh", "float32", "numba")
        theta, cost, _ = trained(
            PanelProgram(Job(net, fastnn.optimizers.get(rule), 20), Plan(3, 20, False, True, 2)), net, X, y, order
        )
        results.add((theta.tobytes(), cost))
    assert len(results) == 1


def test_numba_shared_weights_carry_nan_to_the_cost():
    sizes = (20, 40, 30, 3)
    X, y, order = problem(sizes, 64, "float32")
    X[5, 7] = np.nan
    net = network(sizes, "relu", "float32", "numba")
    theta, cost, _ = trained(
        PanelProgram(Job(net, fastnn.optimizers.SGD(0.1), 32), Plan(min(2, MOST), 32, False, True, 2)), net, X, y, order
    )
    assert np.isnan(cost)
    assert np.isnan(theta).any()


@needs_threads
def test_numba_a_network_without_hidden_layers_takes_slices():
    """There is no layer above whose weights could stay where they are."""
    net = fastnn.Network([40, 3], backend=fastnn.get_backend("numba", threads=2, sliced=False, panels=True))
    assert "each with a slice of the batch" in net.plan(100)
    assert "as asked for" not in net.plan(100, explain=True).splitlines()[1]


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    m=st.integers(1, 20),
    depth=st.integers(2, 130),
    n=SIZES,
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_numba_products_of_some_inputs_into_wider_rows(m, depth, n, dtype, seed, data):
    """Threads that share a layer's weights multiply, transpose and move those of their own inputs; nothing beside
    them is touched.
    """
    rng = np.random.default_rng(seed)
    first = data.draw(st.integers(0, depth - 1), label="first")
    count = data.draw(st.integers(0, depth - first), label="count")
    rows, places, x = rows_anywhere(rng, m, depth, dtype)
    matrix = rng.standard_normal((depth + 1, n)).astype(dtype)
    M, width = packed(matrix, dtype)
    wide = np.full((m + EXTRA, width + 40), UNTOUCHED, dtype)
    nothing = np.zeros(width, dtype)
    call(
        0, dtype, rows.ctypes.data + first * rows.itemsize, places, m, 0, m, M, depth + 1, width, first, count, nothing,
        wide.ctypes.data + 24 * wide.itemsize, step_of(wide), 0,
    )  # fmt: skip
    part, x_part = matrix[first : first + count], x[:, first : first + count]
    assert_close(
        wide[:m, 24 : 24 + n],
        x_part.astype(np.longdouble) @ part.astype(np.longdouble),
        bound(dtype, x_part, part),
        what="apply",
    )
    np.testing.assert_array_equal(wide[:, :24], UNTOUCHED)
    np.testing.assert_array_equal(wide[:, 24 + width :], UNTOUCHED)
    with_biases, _ = rows_of(m + EXTRA, width, dtype)
    call(
        0, dtype, rows.ctypes.data + first * rows.itemsize, places, m, 0, m, M, depth + 1, width, first, count, 0,
        with_biases, step_of(with_biases), 0,
    )  # fmt: skip
    assert_close(
        with_biases[:m, :n],
        wide[:m, 24 : 24 + n].astype(np.longdouble) + matrix[-1],
        bound(dtype, x_part, part) + bound(dtype, x[:, :1] * 0 + 1, matrix[-1:]),
        what="biases",
    )
    T_width = panels.padded(count, dtype)
    T = np.full(width * T_width, np.nan, dtype)
    call(2, dtype, M, depth + 1, width, first, count, np.zeros(64, dtype), T, T_width)
    whole = unpacked(T, width, T_width, dtype) if T_width else np.empty((width, 0))
    np.testing.assert_array_equal(whole[:n, :count], part.T)
    np.testing.assert_array_equal(whole[:, count:], 0)
