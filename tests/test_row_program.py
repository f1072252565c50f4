"""Plain gradient descent on one row per step (kernels/cpu/row_program.py): its two products, and the program,
against NumPy in wider arithmetic.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from together import together
from tolerances import assert_close

import fastnn
from fastnn import optimizers
from fastnn.backends.host import aligned
from fastnn.kernels.cpu import JIT, panels, row_program

EXAMPLES = 60 if JIT else 20
SIZES = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 100, 128, 129, 200]))
UNTOUCHED = 12345.0


class Layer:
    """Numbers of a layer, its parameters in panels with some memory behind them, and what its step needs."""

    def __init__(self, depth, n, dtype, seed):
        rng = np.random.default_rng(seed)
        self.depth, self.n, self.dtype, self.zero = depth, n, dtype, np.dtype(dtype).type(0)
        self.width, count = panels.padded(n, dtype), panels.lanes(dtype)
        whole = np.zeros((depth + 1, self.width), dtype)
        whole[:, :n] = rng.standard_normal((depth + 1, n))
        self.before = whole[:, :n].astype(np.longdouble)
        self.memory = aligned(((depth + 1) * self.width + count,), dtype)
        self.memory[...] = UNTOUCHED
        self.memory[:-count] = np.concatenate([whole[:, cut].ravel() for cut in panels.panels_of(self.width, dtype)])
        self.x, self.next_x = rng.standard_normal((2, panels.padded(depth, dtype))).astype(dtype)
        self.d = np.zeros(self.width, dtype)
        self.d[:n] = rng.standard_normal(n)
        self.share, self.keep = (
            self.zero + rng.standard_normal(),
            self.zero + 1 if seed % 2 else self.zero + rng.random(),
        )

    def out(self, size):
        memory = aligned((panels.padded(size, self.dtype) + panels.lanes(self.dtype),), self.dtype)
        memory[...] = UNTOUCHED
        return memory

    @property
    def after(self):
        """(depth + 1, n); what is beside it must not have moved."""
        count = panels.lanes(self.dtype)
        np.testing.assert_array_equal(self.memory[-count:], UNTOUCHED)
        parts, first = [], 0
        for cut in panels.panels_of(self.width, self.dtype):
            across = cut.stop - cut.start
            parts.append(self.memory[first : first + (self.depth + 1) * across].reshape(-1, across))
            first += (self.depth + 1) * across
        whole = np.concatenate(parts, axis=1)
        np.testing.assert_array_equal(whole[:, self.n :], 0)
        return whole[:, : self.n]

    def expected(self, share):
        """(what the parameters should become, the bound of their rounding)."""
        change = np.longdouble(share) * np.outer(np.append(self.x[: self.depth], 1), self.d[: self.n]).astype(
            np.longdouble
        )
        kept = self.before * np.append(np.full(self.depth, np.longdouble(self.keep)), 1)[:, None]
        return kept + change, 3 * np.finfo(self.dtype).eps * (np.abs(kept) + np.abs(change))


def at(x):
    return int(x.ctypes.data)


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    depth=SIZES,
    n=SIZES,
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
    rectified=st.booleans(),
)
def test_numba_onward_changes_the_panel_and_multiplies_the_next_row(depth, n, dtype, seed, rectified):
    """The sum is of the numbers as they were stored, bit for bit as with a change by nothing afterwards."""
    layer = Layer(depth, n, dtype, seed)
    out, again, nothing = layer.out(n), layer.out(n), np.zeros_like(layer.d)
    coming = at(layer.x) if seed % 3 else 0

    def call(d, target, share, keep):
        row_program._onward(
            layer.zero, at(layer.x), at(d), at(layer.next_x), coming, at(layer.memory), layer.width, depth, at(target),
            share, keep, int(rectified),
        )  # fmt: skip

    call(layer.d, out, layer.share, layer.keep)
    whole, bound = layer.expected(layer.share)
    after = layer.after.copy()
    assert_close(after, whole, bound, what="parameters")
    terms = after.astype(np.longdouble) * np.append(layer.next_x[:depth], 1)[:, None]
    z = terms.sum(axis=0)
    assert_close(
        out[:n],
        np.maximum(z, 0) if rectified else z,
        (depth + 2) * np.finfo(dtype).eps * np.abs(terms).sum(axis=0),
        what="z",
    )
    np.testing.assert_array_equal(out[n : layer.width], 0)
    np.testing.assert_array_equal(out[layer.width :], UNTOUCHED)
    call(nothing, again, layer.zero, layer.zero + 1)
    np.testing.assert_array_equal(again, out)
    np.testing.assert_array_equal(layer.after, after)


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    depth=SIZES,
    n=SIZES,
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
    rectified=st.booleans(),
)
def test_numba_back_propagates_before_it_changes(depth, n, dtype, seed, rectified):
    layer = Layer(depth, n, dtype, seed)
    if rectified:
        layer.x[:] = np.maximum(layer.x, 0)
    spare, out = aligned((panels.PANEL // np.dtype(dtype).itemsize,), dtype), layer.out(depth)
    row_program._back(
        layer.zero, at(layer.x), at(layer.d), at(layer.memory), layer.width, depth, at(out), at(spare), layer.share,
        layer.keep, int(rectified),
    )  # fmt: skip
    whole, bound = layer.expected(layer.share)
    assert_close(layer.after, whole, bound, what="parameters")
    terms = layer.before[:depth] * layer.d[:n]
    slope = (layer.x[:depth] > 0) if rectified else 1
    assert_close(
        out[:depth], terms.sum(axis=1) * slope, (n + 1) * np.finfo(dtype).eps * np.abs(terms).sum(axis=1), what="delta"
    )
    end = panels.padded(depth, dtype)
    np.testing.assert_array_equal(out[depth:end], 0)
    np.testing.assert_array_equal(out[end:], UNTOUCHED)


@pytest.mark.parametrize("rectified", [0, 1])
def test_numba_nan_stays(dtype, rectified):
    """In z, in the delta below, and where the ReLU of a row below was NaN already."""
    layer = Layer(20, 7, dtype, 1)
    layer.next_x[3] = np.nan
    out = layer.out(7)
    arguments = at(layer.memory), layer.width, 20, at(out), layer.share, layer.keep, rectified
    row_program._onward(layer.zero, at(layer.x), at(layer.d), at(layer.next_x), 0, *arguments)
    assert np.isnan(out[:7]).all()
    spare, lower = aligned((panels.PANEL // np.dtype(dtype).itemsize,), dtype), layer.out(20)
    layer.x[5] = np.nan
    row_program._back(
        layer.zero, at(layer.x), at(layer.d), at(layer.memory), layer.width, 20, at(lower), at(spare), layer.share,
        layer.keep, 1,
    )  # fmt: skip
    assert np.isnan(lower[5])
    assert np.isfinite(lower[:5]).all()


PAIRS = [
    ("softmax", "cross_entropy"),
    ("softmax", "squared_error"),
    ("sigmoid", "cross_entropy"),
    ("identity", "squared_error"),
]
NETS = [(23, 4), (9, 70, 4), (5, 130, 17, 4), (1, 16, 1)]


def made(sizes, hidden, output, cost, l2, dtype, rows=40, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 255, (rows, sizes[0])).astype(np.uint8)
    y = rng.integers(0, sizes[-1], rows) if output == "softmax" else rng.random((rows, sizes[-1]))
    how = {"hidden": hidden, "output": output, "cost": cost, "l2": l2, "seed": 3}
    return (
        X,
        y,
        fastnn.Network(sizes, backend=fastnn.get_backend("numba", threads=1, panels=True), dtype=dtype, **how),
        fastnn.Network(sizes, backend="numpy", dtype="float64", **how),
    )


@pytest.mark.parametrize("hidden", ["relu", "sigmoid", "tanh", "leaky_relu", "identity", "silu"])
@pytest.mark.parametrize(("output", "cost"), PAIRS)
@together("sizes", NETS if JIT else NETS[-1:])
@together("l2", [0.0, 0.5])
def test_numba_steps_of_one_row_as_numpy_takes_them(dtype, sizes, hidden, output, cost, l2):
    """Bytes, which are converted on their way, and numbers that are read where they lie, every other row or
    mirrored.
    """
    if output == "softmax" and sizes[-1] == 1:
        sizes = (*sizes[:-1], 2)
    X, y, net, wide = made(sizes, hidden, output, cost, l2, dtype)
    start, order = wide.theta.copy(), np.random.default_rng(1).permutation(40)
    floats = (X / 255).astype(dtype)
    results = []
    for one, data, scale in (
        (wide, X / 255, 1),
        (net, X, 1 / 255),
        (net, floats, 1),
        (net, np.asfortranarray(floats), 1),
        (net, np.repeat(floats, 2, axis=0)[::2], 1),
    ):
        one.theta[:] = start
        program = one.backend.compile(one, optimizers.SGD(0.02), 1)
        program.scale = scale
        J, rows = program.run(data, y.astype(one.dtype) if y.ndim > 1 else y, order, 0, 40)
        results.append((one.theta.copy(), J, rows, program.hits))
    bound = 1000 * np.finfo(dtype).eps  # 40 steps, each rounded a few times
    for theta, J, rows, hits in results[1:]:
        np.testing.assert_allclose(theta, results[0][0], rtol=0, atol=bound)
        np.testing.assert_allclose(J, results[0][1], rtol=bound)
        assert (rows, hits) == (40, results[0][3])


@pytest.mark.parametrize("kind", [np.uint8, None])
def test_numba_where_a_slice_begins_changes_no_bit(dtype, kind):
    """The first row's z is summed as all others are."""
    X, y, net, _ = made((23, 33, 70, 5), "relu", "softmax", "cross_entropy", 0.3, dtype)
    data = X if kind else (X / 255).astype(dtype)
    order, start, results = np.random.default_rng(2).permutation(40), net.theta.copy(), []
    costs = []
    for cuts in ([0, 40], [0, 1, 2, 17, 17, 39, 40], range(41)):
        net.theta[:] = start
        program = net.backend.compile(net, optimizers.SGD(0.02), 1)
        program.scale = 1 / 255
        assert program._by_row
        parts = [(*program.run(data, y, order, first, stop), program.hits) for first, stop in itertools.pairwise(cuts)]
        results.append((net.theta.tobytes(), sum(part[1] for part in parts), sum(part[2] for part in parts)))
        assert program.optimizer.t == 40
        costs.append(sum(part[0] for part in parts))
    assert results[0] == results[1] == results[2]
    np.testing.assert_allclose(costs, costs[0], rtol=1e-12)


def test_numba_rates_of_each_step(dtype):
    """A schedule gives every step its own learning rate."""
    X, y, net, wide = made((9, 20, 4), "relu", "softmax", "cross_entropy", 0.5, dtype)
    order, rates = np.arange(40), np.linspace(0.1, 0.001, 40)
    for one, data in ((net, (X / 255).astype(dtype)), (wide, X / 255)):
        one.backend.compile(one, optimizers.SGD(0.5), 1).run(data, y, order, 0, 40, rates)
    np.testing.assert_allclose(net.theta, wide.theta, rtol=0, atol=2000 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("rule", "batch", "by_row"),
    [
        (optimizers.SGD(0.1), 1, True),
        (optimizers.SGD(0.1), 2, False),
        (optimizers.Momentum(0.1), 1, False),
        (optimizers.Adam(), 1, False),
    ],
)
def test_numba_the_program_of_one_row_is_taken_where_it_can_be(rule, batch, by_row):
    _, _, net, _ = made((9, 20, 4), "relu", "softmax", "cross_entropy", 0, "float32")
    assert net.backend.compile(net, rule, batch)._by_row == by_row


def test_numba_what_a_divergence_left_is_not_used(dtype):
    """The first step's change by nothing is one by zeros, not by whatever the deltas were last."""
    X, y, net, wide = made((9, 20, 4), "relu", "softmax", "cross_entropy", 0, dtype)
    program = net.backend.compile(net, optimizers.SGD(0.02), 1)
    program._memory.d[0, :20] = np.nan
    for ready, data in (
        (program, (X / 255).astype(dtype)),
        (wide.backend.compile(wide, optimizers.SGD(0.02), 1), X / 255),
    ):
        ready.run(data, y, np.arange(5), 0, 5)
    np.testing.assert_allclose(net.theta, wide.theta, rtol=0, atol=200 * np.finfo(dtype).eps)
