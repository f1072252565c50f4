"""Costs and gradients by one call of compiled code: the same as by operations one by one, and nothing else changes.

Against the oracle and central differences they are checked with those of every engine in test_network_gradients.py.
"""

from __future__ import annotations

import copy
import threading
import weakref

import cases
import numpy as np
import pytest
from amx_tools import needs_unit

import fastnn
from fastnn.backends.numba_gradient import KEPT
from fastnn.kernels.cpu import JIT

pytestmark = pytest.mark.skipif(not JIT, reason="without compilation there is no such program")

RNG = np.random.default_rng(0)
X, CLASSES = RNG.standard_normal((40, 6)), RNG.integers(0, 3, 40)


def network(dtype="float64", **kw):
    given = {"hidden": "tanh", "l2": 0.7, "seed": 1, "backend": "numba", **kw}
    return fastnn.Network([6, 9, 7, 3], dtype=dtype, **given)


def by_operations(net, x, y, **kw):
    """The same on the NumPy engine, whose gradients are operations one by one."""
    twin = fastnn.Network(
        net.sizes, hidden=list(net.hidden), output=net.output, cost=net.cost, l2=net.l2, backend="numpy",
        dtype=net.dtype, init=np.asarray(net.theta, np.float64),
    )  # fmt: skip
    twin.scale = net.scale
    return twin.cost_and_gradient(x, y, **kw)


def check(net, x, y, **kw):
    before = net.theta.copy()
    got, expected = net.cost_and_gradient(x, y, **kw), by_operations(net, x, y, **kw)
    np.testing.assert_array_equal(net.theta, before)
    rtol = 1e-11 if net.dtype == np.float64 else 1e-4
    assert got[0] == pytest.approx(expected[0], rel=rtol)
    np.testing.assert_allclose(got[1], expected[1], rtol=rtol, atol=rtol * np.abs(expected[1]).max())


PLANS = [
    {},
    {"threads": 2, "sliced": True},
    {"threads": 2, "sliced": False},
    {"chunk": 5},
    {"panels": True, "threads": 1},
    {"panels": False, "threads": 1},
    {"panels": False, "threads": 2},
]


@pytest.mark.parametrize("options", PLANS)
@pytest.mark.parametrize(
    "given", [{}, {"micro_batch": 7}, {"training_rows": 900}, {"sample_weight": 0.5 + X[:, 0] ** 2}]
)
def test_the_same_as_by_operations(options, given, dtype):
    check(network(dtype, backend=fastnn.get_backend("numba", **options)), X, CLASSES, **given)


@pytest.mark.parametrize(("output", "cost"), cases.PAIRS)
@pytest.mark.parametrize("hidden", cases.HIDDEN)
def test_every_cost_and_activation(hidden, output, cost):
    sizes = 3 if output == "softmax" else 2
    net = fastnn.Network([6, 5, sizes], hidden=hidden, output=output, cost=cost, l2=0.1, seed=2, dtype="float64")
    y = cases.targets_for(output, cost, 40, sizes, np.float64)
    if "relu" in hidden or cost in ("absolute_error",):  # the sides of kinks are the same, whoever computes
        net.theta[:] += 1e-3
    check(fastnn.Network(
        net.sizes, hidden=hidden, output=output, cost=cost, l2=0.1, backend="numba", dtype="float64", init=net.theta,
    ), X, y)  # fmt: skip


@pytest.mark.parametrize("panels", [True, False])
def test_units_are_left_out_in_training_alone(panels):
    check(network(dropout=0.5, backend=fastnn.get_backend("numba", panels=panels)), X, CLASSES)


@needs_unit
@pytest.mark.parametrize("given", [{}, {"micro_batch": 7}, {"sample_weight": 0.5 + X[:, 0] ** 2}])
def test_on_the_matrix_unit(given):
    net = network("float32", backend=fastnn.get_backend("numba", amx=True), dropout=0.3)
    check(net, X, CLASSES, **given)
    (program,) = net.backend._gradients[net]._kept.values()
    assert program.plan.amx


def test_bytes_with_a_scale():
    net = network("float32")
    net.scale = 1 / 255
    check(net, RNG.integers(0, 256, (40, 6)).astype(np.uint8), CLASSES)


def test_each_gradient_is_a_vector_of_its_own():
    net = network()
    first = net.cost_and_gradient(X, CLASSES)[1]
    kept = first.copy()
    net.theta[:] *= 2
    second = net.cost_and_gradient(X, CLASSES)[1]
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_other_numbers_of_rows_in_turn_and_the_same_bits_each_time():
    net, seen = network("float32"), {}
    for _ in range(3):
        for rows in range(1, 40, 6):  # more than are kept
            got = net.cost_and_gradient(X[:rows], CLASSES[:rows])[1].tobytes()
            assert seen.setdefault(rows, got) == got
    gradients = net.backend._gradients[net]
    assert len(gradients._kept) == KEPT


def test_threads_at_once_do_not_meet():
    net = network("float32")
    expected = [net.cost_and_gradient(X[:rows], CLASSES[:rows])[1].tobytes() for rows in (10, 20, 40)]
    wrong = []

    def work(i):
        rows = (10, 20, 40)[i % 3]
        found = [net.cost_and_gradient(X[:rows], CLASSES[:rows])[1].tobytes() for _ in range(100)]
        wrong.extend(bits for bits in found if bits != expected[i % 3])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_not_finite_is_handed_out_and_nothing_is_spoilt():
    net = network()
    check(net, X, CLASSES)
    before = net.theta.copy()
    net.theta[:] = 1e200
    cost, gradient = net.cost_and_gradient(X, CLASSES)
    assert not (np.isfinite(cost) and np.isfinite(gradient).all())
    assert not net.backend._gradients[net]._kept, "NaN may be left in its padding"
    net.theta[:] = before
    check(net, X, CLASSES)  # nothing of it is left in the workspace


def test_a_gradient_beyond_the_dtype_beside_a_finite_cost():
    net = fastnn.Network([1, 1], output="identity", cost="squared_error", backend="numba", init=[2e-38, 0.0])
    cost, gradient = net.cost_and_gradient(np.full((3, 1), 3e38), np.zeros(3))
    assert cost == pytest.approx(18)
    assert np.isinf(gradient[0])
    assert not net.backend._gradients[net]._kept


def test_the_network_and_its_workspace_end_with_its_last_user():
    net = network()
    net.cost_and_gradient(X, CLASSES)
    engine, count, gone = net.backend, len(net.backend._gradients), weakref.ref(net)
    copy.deepcopy(net).cost_and_gradient(X, CLASSES)
    del net
    assert gone() is None
    assert len(engine._gradients) == count - 1


def test_an_error_of_the_data_is_the_one_of_every_engine():
    with pytest.raises(ValueError, match=r"y must hold"):
        network().cost_and_gradient(X, CLASSES + 1)


def test_the_kernel_itself_is_called_where_its_arguments_are_known():
    net, calls = network("float32"), []
    net.cost_and_gradient(X, CLASSES)
    (program,) = net.backend._gradients[net]._kept.values()
    found, program._again = program._again, lambda *arguments: (calls.append(1), found(*arguments))
    check(net, X, CLASSES)
    check(net, X, CLASSES, sample_weight=0.5 + X[:, 0] ** 2)
    assert len(calls) == 2 * program.plan.threads
    with pytest.raises(ValueError, match=r"y must hold"):
        net.cost_and_gradient(X, CLASSES - 1)
    assert len(calls) == 2 * program.plan.threads
