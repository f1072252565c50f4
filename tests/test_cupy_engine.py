"""The CuPy engine over the stand-in of the device: its programs against the NumPy engine, what it costs, what it
refuses.
"""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice, make_backend
from tolerances import assert_close, training

import fastnn
from fastnn import optimizers
from fastnn.activations import LeakyReLU
from fastnn.backends.cupy_backend import CupyBackend
from fastnn.backends.cupy_update import update_constants
from fastnn.backends.numpy_backend import NumpyBackend

HIDDEN = ["sigmoid", "tanh", "relu", "leaky_relu", LeakyReLU(0.0), "identity", "silu", "gelu"]
PAIRS = [
    ("softmax", "cross_entropy"),
    ("sigmoid", "cross_entropy"),
    ("softmax", "squared_error"),
    ("softmax", "squared_error classes"),
]
PAIRS += [(output, "squared_error") for output in ("sigmoid", "tanh", "identity", "relu")] + [
    ("identity", "squared_error classes"),
    ("exp", "squared_error"),
    ("exp", "poisson"),
]
RULES = {
    "sgd": lambda: optimizers.SGD(0.05),
    "momentum": lambda: optimizers.Momentum(0.02, 0.8),
    "adam": lambda: optimizers.Adam(0.01, weight_decay=0.3),
    "lars": lambda: optimizers.LARS(0.5, trust=0.02, weight_decay=0.1),
    "lamb": lambda: optimizers.LAMB(0.01, weight_decay=0.1),
}
ROWS, BATCH, SIZES = 23, 8, (5, 7, 6, 4)


def problem(dtype, cost, output, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((ROWS, SIZES[0])).astype(dtype)
    if output == "sigmoid" and cost == "cross_entropy":
        y = rng.random((ROWS, SIZES[-1])).astype(dtype)
    elif "classes" in cost or cost == "cross_entropy":
        y = rng.integers(0, SIZES[-1], ROWS)
    elif output == "exp":
        y = rng.poisson(1.5, (ROWS, SIZES[-1])).astype(dtype)
    else:
        y = rng.standard_normal((ROWS, SIZES[-1])).astype(dtype)
    return X, y


def trained(backend, hidden, output, cost, rule, dtype, l2, epochs=2):
    net = fastnn.Network(
        SIZES, hidden=hidden, output=output, cost=cost.split()[0], l2=l2, dtype=dtype, backend=backend, seed=3
    )
    X, y = problem(dtype, cost, output)
    optimizer = RULES[rule]()
    program = net.backend.compile(net, optimizer, BATCH)
    costs, hits = [], []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(ROWS)
        for start, stop in ((0, 1), (1, 3)):  # the last batch has 7 rows
            costs.append(program.run(X, y, order, start, stop))
            hits.append(program.hits)
    return net, optimizer, costs, hits


# Every activation with every pair, and with every rule, and every pair with every rule: kernels of their own know only
# one of the three.
COMBINED = [
    pytest.param(hidden, output_cost, rule, id=f"{hidden}-{' '.join(output_cost)}-{rule}")
    for i, hidden in enumerate(HIDDEN)
    for j, output_cost in enumerate(PAIRS)
    for rule in [list(RULES)[(i + j) % len(RULES)]]
]


def test_every_two_meet():
    found = [{tuple(map(str, two)) for two in itertools.combinations(case.values, 2)} for case in COMBINED]
    assert len(set().union(*found)) == 8 * 11 + 8 * 5 + 11 * 5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("hidden", "output_cost", "rule"), COMBINED)
def test_program_equals_the_numpy_engine(hidden, output_cost, rule, dtype):
    l2 = 0.5 if rule != "sgd" or dtype == "float64" else 0.0
    net, optimizer, costs, hits = trained(make_backend(), hidden, *output_cost, rule, dtype, l2)
    reference, its_optimizer, its_costs, its_hits = trained(NumpyBackend(), hidden, *output_cost, rule, dtype, l2)
    scale = np.abs(reference.theta).max() + 1
    # Where a gradient is near rounding, Adam divides one rounding error by another: compare within its step size.
    bound = training(net.dtype, optimizer.t) * scale * (10 if rule in ("adam", "lamb") else 1)
    assert optimizer.t == its_optimizer.t == 6
    assert_close(net.theta, reference.theta, bound, dtype=dtype)
    for mine, its in zip(optimizer.state, its_optimizer.state, strict=True):
        assert_close(mine, its, bound * (1 + np.abs(its).max()), dtype=dtype)
    assert [rows for _, rows in costs] == [8, 15, 8, 15]
    np.testing.assert_allclose([c for c, _ in costs], [c for c, _ in its_costs], rtol=100 * np.finfo(dtype).eps)
    assert hits == its_hits


@pytest.mark.parametrize(("m", "batch"), [(1, 1), (9, 4), (9, 9), (3, 8), (300, 300)])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (1, 40, 1), (33, 1, 65, 2)], ids=str)
def test_any_size(sizes, m, batch):
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((m, sizes[0])), rng.standard_normal((m, sizes[-1]))
    thetas = []
    for backend in (make_backend(), NumpyBackend()):
        net = fastnn.Network(
            sizes, hidden="tanh", output="identity", cost="squared_error", l2=0.1, dtype="float64", backend=backend
        )
        program = net.backend.compile(net, optimizers.SGD(0.01), batch)
        program.run(X, y, np.arange(m), 0, program.steps(m))
        thetas.append(net.theta)
    assert_close(*thetas, training(np.dtype(np.float64), -(-m // batch)) * (m + 1))


def test_the_same_run_gives_the_same_bits():
    first, *_ = trained(CupyBackend(ShimDevice(seed=1)), "tanh", "softmax", "cross_entropy", "adam", "float32", 0.1)
    second, *_ = trained(CupyBackend(ShimDevice(seed=99)), "tanh", "softmax", "cross_entropy", "adam", "float32", 0.1)
    np.testing.assert_array_equal(first.theta, second.theta)


def test_order_may_lie_on_the_host_and_repeat_rows():
    X, y = problem("float32", "cross_entropy", "softmax")
    net = fastnn.Network(SIZES, backend=CupyBackend(ShimDevice()))
    assert net.backend.compile(net, RULES["sgd"](), 4).run(X, y, np.zeros(6, np.int64), 0, 2)[1] == 6
    assert np.isfinite(net.theta).all()


# ---- what a run costs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_one_synchronisation_and_no_allocation_in_a_run(l2):
    backend = CupyBackend(ShimDevice())
    sizes = (5, 8, 4, 4)  # biases begin at multiples of 16 bytes; elsewhere an own kernel adds them
    net = fastnn.Network(sizes, backend=backend, l2=l2)
    X, y = problem("float32", "cross_entropy", "softmax")
    program = backend.compile(net, optimizers.Adam(), BATCH)
    program.run(X, y, np.arange(ROWS), 0, 3)
    for steps in (1, 2, 3):
        backend.device.reset_counters()
        program.run(X, y, np.arange(ROWS), 0, steps)
        assert backend.device.synchronizations == 1
        assert backend.device.allocations == 0
        layers = len(sizes) - 1
        assert len(backend.device.calls) == steps * (3 * layers - 1)  # three products a layer, but no delta^(1)
        # the rest is in epilogues
        assert backend.device.launches == steps * [
            "gather_rows",
            "output_softmax_cross_entropy",
            "update_adam",
            "finish_step",
        ]


def test_an_empty_run_does_nothing():
    backend = CupyBackend(ShimDevice())
    net = fastnn.Network(SIZES, backend=backend)
    X, y = problem("float32", "cross_entropy", "softmax")
    program = backend.compile(net, optimizers.SGD(), BATCH)
    before = net.theta.copy()
    backend.device.reset_counters()
    assert program.run(X, y, np.arange(ROWS), 2, 2) == (0.0, 0)
    assert program.hits == 0
    assert (backend.device.launches, backend.device.calls) == ([], [])
    np.testing.assert_array_equal(net.theta, before)


def test_a_row_that_is_not_there_makes_the_cost_nan():
    backend = CupyBackend(ShimDevice())
    net = fastnn.Network(SIZES, backend=backend)
    X, y = problem("float32", "cross_entropy", "softmax")
    assert np.isnan(backend.compile(net, optimizers.SGD(), 4).run(X, y, np.array([0, ROWS]), 0, 1)[0])


# ---- operations: strides, integer types, what is refused ---------------------------------------------------------


def test_operations_take_strides():
    backend, reference = make_backend(), NumpyBackend()
    rng = np.random.default_rng(2)
    a, W, b = rng.standard_normal((6, 8))[:, ::2], rng.standard_normal((4, 3)).T, rng.standard_normal(6)[::2]
    assert_close(backend.dense_forward(a, W, b), reference.dense_forward(a, W, b), 1e-14)
    z = rng.standard_normal((8, 6)).T
    np.testing.assert_allclose(backend.activate("tanh", z), np.tanh(z), rtol=1e-14)
    copy = z.copy(order="K")
    assert not copy.flags.c_contiguous
    assert backend.activate("tanh", copy, out=copy) is copy
    np.testing.assert_allclose(copy, np.tanh(z), rtol=1e-14)
    y = np.arange(12, dtype=np.int32)[::2] % 8
    h = backend.activate("softmax", z)
    np.testing.assert_allclose(
        backend.output_delta("softmax", "cross_entropy", z, h, y),
        reference.output_delta("softmax", "cross_entropy", z, h, y),
        rtol=1e-12,
        atol=1e-14,
    )
    np.testing.assert_allclose(
        backend.cost_sum("softmax", "cross_entropy", z, h, y),
        reference.cost_sum("softmax", "cross_entropy", z, h, y),
        rtol=1e-13,
    )


def test_scans_of_other_types_and_strides():
    backend = make_backend()
    x = np.arange(12.0).reshape(3, 4)
    assert backend.sum_of_squares(x.T[::2]) == (x.T[::2] ** 2).sum()
    assert backend.sum_of_squares(np.arange(4, dtype=np.int32)) == 14
    assert backend.all_finite(np.arange(4))
    assert backend.all_finite(x)
    assert not backend.all_finite(np.where(x == 7, np.nan, x).T)
    assert not backend.all_finite(np.array([1, -np.inf], np.float32))
    assert not backend.all_finite(np.array([1, np.inf], np.float16))


def test_concatenate():
    parts = [np.full((m, 3), m, np.float32) for m in (2, 1, 4)]
    np.testing.assert_array_equal(make_backend().concatenate(parts), np.concatenate(parts))


def test_a_rule_without_a_kernel_is_refused():
    class Strange(optimizers.SGD):
        name = "strange"

    with pytest.raises(TypeError, match=r"optimizer=Strange\(0.1\) has no kernel in the cupy engine"):
        update_constants(Strange(), 1, 1, 0.0, np.dtype("float32"))


def test_a_program_refuses_what_its_kernels_would_misread():
    X, y = problem("float32", "cross_entropy", "softmax")
    net = fastnn.Network(SIZES, backend=CupyBackend(ShimDevice()))
    program = net.backend.compile(net, RULES["sgd"](), 4)
    with pytest.raises(TypeError, match="int64 where it holds classes"):
        program.run(X, y.astype(np.int32), np.arange(ROWS), 0, 1)
    with pytest.raises(TypeError, match="y must be C-contiguous"):
        program.run(X, np.repeat(y, 2)[::2], np.arange(ROWS), 0, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_use_after_fork_is_refused():
    backend = CupyBackend(ShimDevice())
    net = fastnn.Network(SIZES, backend=backend)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest may run here
        try:
            net.forward(np.zeros((2, SIZES[0]), np.float32))
            said = "nothing"
        except RuntimeError as error:
            said = str(error)
        except BaseException as error:
            said = repr(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        assert "CUDA cannot be used after a fork" in pipe.read()
    net.forward(np.zeros((2, SIZES[0]), np.float32))  # the parent goes on
