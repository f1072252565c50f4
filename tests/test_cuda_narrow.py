"""The kernel that trains narrow nets in shared memory, compiled for the CPU, against the oracle (reference.py):
several steps at once.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cuda_cases import Memory
from cuda_on_cpu import KernelFault, ShimDevice
from tolerances import assert_close, training

from fastnn import activations, optimizers
from fastnn.backends.cupy_update import update_constants
from fastnn.kernels.cuda import narrow
from fastnn.kernels.cuda.narrow import SHARINGS, NarrowKernels, NarrowNet, Sharing, layout, part_of_batch
from fastnn.kernels.cuda.step import Rows
from fastnn.layout import Layout

# an eps that shows
RULES = {
    "sgd": optimizers.SGD(0.3),
    "momentum": optimizers.Momentum(0.2, 0.8),
    "adam": optimizers.Adam(0.03, eps=0.05, weight_decay=0.4),
}
OUTPUTS = [("softmax", "cross_entropy", "classes"), ("sigmoid", "cross_entropy", "values")]
OUTPUTS += [(g, "squared_error", y) for g in ("softmax", "identity", "tanh") for y in ("classes", "values")] + [
    ("leaky_relu", "squared_error", "values")
]
STEP, STEPS, BATCH, DECAY = 1, 2, 7, 0.05  # the second and third step of a run
SIZES = [(5, 4), (33, 1, 2), (3, 9, 6, 4), (2, 3, 40)]


@pytest.fixture
def memory():
    made = Memory()
    yield made
    made.check()


class Case:
    """A net, its data and its rule on the stand-in; `run` takes the steps, `expected` is what the oracle makes of them.

    sharing: of every product, instead of what would be chosen for 64 threads.
    """

    def __init__(
        self,
        memory,
        sizes=(3, 9, 6, 4),
        hidden="tanh",
        output=OUTPUTS[0],
        rule="adam",
        kind="float32",
        *,
        batch=BATCH,
        rows=None,
        part=None,
        source="same",
        l2=True,
        sharing=None,
        weighted=False,
    ):
        self.sizes, self.kind, self.rule, self.batch, self.rows, self.source = (
            sizes,
            kind,
            rule,
            batch,
            rows or batch,
            source,
        )
        self.part = part or batch
        rng, many, dtype = np.random.default_rng([batch, *sizes]), 3 * batch + 1, np.dtype(kind)
        g, self.cost, targets = output
        self.names, layers = [hidden] * (len(sizes) - 2) + [g], Layout(sizes)
        self.X = (
            rng.integers(0, 256, (many, sizes[0])).astype(np.uint8)
            if source == "uint8"
            else rng.standard_normal((many, sizes[0])).astype(dtype)
        )
        self.scale = np.float32(1 / 255).item() if source == "uint8" else 1.0
        self.y = (
            rng.integers(0, sizes[-1], many) if targets == "classes" else rng.random((many, sizes[-1])).astype(dtype)
        )
        self.order = rng.permutation(many)[: 3 * batch]
        self.theta, self.optimizer = (rng.standard_normal(layers.size) * 0.7).astype(dtype), RULES[rule]
        self.state = [np.abs(rng.standard_normal(layers.size) * 0.1).astype(dtype) for _ in self.optimizer.slots]
        self.constants = update_constants(self.optimizer, 4, 3, DECAY if l2 else 0.0, dtype)
        gs = [activations.get(name, "output") for name in self.names]
        table, self.elements = layout(sizes, self.part, layers.spans(), [g.code for g in gs], 64)
        if sharing is not None:
            table[:, 9:] = (sharing.down * sharing.across, sharing.lanes) * 3
        self.step, self.totals = memory(np.array([STEP])), memory(np.array([0.5, 2.0]))
        self.moved, self.states = memory(self.theta), [memory(x) for x in self.state]
        cross_entropy = self.cost == "cross_entropy"
        slopes = np.array([g.parameter for g in gs], dtype)
        self.net = NarrowNet(
            rule, self.moved, memory.blank(layers.size, dtype), self.states, memory(table), self.elements,
            memory(slopes), sizes[-1], gs[-1], cross_entropy,
        )  # fmt: skip
        self.on_device = [memory(x) for x in (self.X, self.y)]
        self.weights = rng.random(many).astype(dtype) if weighted else None
        self.weights_there = memory(self.weights) if weighted else None
        self.constants_there, self.order_there = memory(self.constants), memory(self.order)

    def run(self, threads=64, steps=STEPS, seed=1, device=None):
        self.device = device = device or ShimDevice(seed, shared_bytes=1 << 20)
        rows = Rows(self.order_there, self.step, self.batch, 0, self.rows)
        NarrowKernels(device, self.kind).steps(
            self.net,
            *self.on_device,
            self.scale,
            rows,
            self.constants_there,
            self.totals,
            steps=steps,
            part=self.part,
            threads=threads,
            no_bytes=np.zeros(1, np.uint8),
            weights=self.weights_there,
        )
        return self

    def expected(self, steps=STEPS):
        theta, state, cost, hits = self.theta.astype(np.longdouble), self.state, 0.0, 0
        decay = np.longdouble(self.constants[0, 0])
        for s in range(STEP, STEP + steps):
            rows = self.order[s * self.batch :][: self.rows]
            X, y = self.X[rows] * np.longdouble(np.dtype(self.kind).type(self.scale)), self.y[rows]
            l2 = decay * len(rows)
            parts = [(1.0, slice(None))]  # all rows, or each by itself and times its weight
            if self.weights is not None:
                parts = [(np.longdouble(self.weights[row]), [i]) for i, row in enumerate(rows)]
            decay_of_all = reference.gradient(theta, self.sizes, self.names, self.cost, X, y, l2) - reference.gradient(
                theta, self.sizes, self.names, self.cost, X, y
            )
            gradient = decay_of_all
            for weight, part in parts:
                x, t = X[part], y[part]
                of_part = reference.gradient(theta, self.sizes, self.names, self.cost, x, t)
                gradient = gradient + weight * len(x) / len(rows) * of_part
                cost += weight * len(x) * reference.cost(theta, self.sizes, self.names, self.cost, x, t)
            cost += len(rows) * (
                reference.cost(theta, self.sizes, self.names, self.cost, X, y, l2)
                - reference.cost(theta, self.sizes, self.names, self.cost, X, y)
            )
            h = reference.forward(theta, self.sizes, self.names, X)[1][-1]
            if y.ndim == 1:
                hits += (h.argmax(axis=1) == y).sum()
            elif self.cost == "cross_entropy":
                hits += ((h >= 0.5) == (y >= 0.5)).all(axis=1).sum()
            theta, state = reference.update(
                self.rule, self.sizes, theta, gradient, state, 4 + s, *self.optimizer.hyper()
            )
        return theta, state, cost, hits

    def check(self, steps=STEPS):
        theta, state, cost, hits = self.expected(steps)
        bound = 4 * training(np.dtype(self.kind), steps) * (1 + np.abs(theta).max())
        assert_close(self.moved, theta, bound, dtype=self.kind)
        for got, want in zip(self.states, state, strict=True):
            assert_close(got, want, bound, dtype=self.kind)
        np.testing.assert_allclose(self.totals[0] - 0.5, float(cost), rtol=100 * np.finfo(self.kind).eps)
        assert self.totals[1] == 2 + hits
        assert self.step[0] == STEP + steps
        later = np.concatenate([self.order[s * self.batch :][: self.rows] for s in range(STEP, STEP + steps)])[
            min(self.part, self.rows) :
        ]
        X = self.on_device[0]
        assert sorted(self.device.prefetched) == sorted((X[row].ctypes.data, X[row].nbytes) for row in later)


kinds = pytest.mark.parametrize("kind", ["float32", "float64"])


@kinds
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("output", OUTPUTS, ids=" ".join)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_output(weighted, output, sizes, kind, memory):
    Case(memory, sizes, "sigmoid", output, "momentum", kind, weighted=weighted).run().check()


sharings = pytest.mark.parametrize("sharing", SHARINGS, ids=str)


@kinds
@sharings
@pytest.mark.parametrize("hidden", ["sigmoid", "tanh", "relu", "leaky_relu", "identity"])
def test_every_activation_and_sharing(hidden, sharing, kind, memory):
    Case(memory, (3, 9, 6, 4), hidden, OUTPUTS[2], "sgd", kind, sharing=sharing).run().check()


LARGE = [((140, 9, 6), 7), ((3, 9, 6, 4), 131), ((35, 33, 33, 3), 40), ((1, 1), 1), ((300, 2, 1), 2)]


@kinds
@sharings
@pytest.mark.parametrize(("sizes", "batch"), LARGE, ids=str)
def test_every_sharing_of_whole_tiles_and_what_is_left(sizes, batch, sharing, kind, memory):
    """4 x 4 sums of each thread are 4 rows and 128 columns: inputs in the gradient, rows of the batch elsewhere.
    More terms than lanes, and fewer.
    """
    Case(memory, sizes, "tanh", rule="adam", kind=kind, batch=batch, sharing=sharing).run(96, steps=1).check(1)


@kinds
@pytest.mark.parametrize("l2", [True, False])
@pytest.mark.parametrize("threads", [32, 160])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, threads, l2, kind, memory):
    Case(memory, rule=rule, kind=kind, l2=l2).run(threads).check()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("rows", "part"), [(7, 3), (7, 1), (5, 7), (5, 2), (1, 7), (70, 33)])
def test_parts_of_a_batch_and_a_short_one(rows, part, rule, memory):
    """Delta of the parts adds up; more rows than there are warps; a short batch begins where a full one would."""
    Case(memory, rule=rule, batch=max(BATCH, rows), rows=rows, part=part).run().check()


@kinds
def test_bytes(kind, memory):
    Case(memory, source="uint8", kind=kind).run().check()


def test_one_step_and_many(memory):
    Case(memory).run(steps=1).check(1)


@sharings
def test_the_schedule_of_threads_does_not_matter(sharing, memory):
    first, *others = (Case(memory, part=3, sharing=sharing).run(seed=seed) for seed in (1, 22, 333))
    for other in others:
        for x, y in zip(
            [first.moved, first.totals, *first.states], [other.moved, other.totals, *other.states], strict=True
        ):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("bad", ["row", "row before the first", "class"])
def test_a_row_or_a_class_out_of_range_makes_the_cost_nan(bad, memory):
    case = Case(memory, source="uint8" if bad == "row" else "same")
    if bad == "class":
        case.on_device[1][case.order[BATCH]] = 4
    else:
        case.order_there[BATCH] = len(case.X) if bad == "row" else -1
    assert np.isnan(case.run(steps=1).totals[0])


def test_a_row_out_of_range_is_not_asked_for_ahead(memory):
    case = Case(memory)
    case.order_there[2 * BATCH : 2 * BATCH + 2] = len(case.X), -1
    assert np.isnan(case.run().totals[0])
    assert len(case.device.prefetched) == BATCH - 2


def test_a_kernel_that_has_too_little_shared_memory_is_seen(memory):
    """The stand-in guards what lies behind it; a device refuses what a block cannot have. The last element lies
    behind a row of 4 and is not written.
    """
    case = Case(memory)
    case.net = NarrowNet(**{**vars(case.net), "elements": case.elements - 2})
    with pytest.raises(KernelFault, match="beyond its dynamic shared memory"):
        case.run()
    with pytest.raises(
        ValueError,
        match=rf"narrow_steps is to have {4 * case.elements - 8} bytes of shared memory, a block here has at most 100",
    ):
        case.run(device=ShimDevice(shared_bytes=100))


def test_rows_that_fit():
    """Shared memory in elements: weights with odd rows and biases, then for each row a with its one and delta, odd
    as well.
    """
    fixed, row, static = 9 * 3 + 9 + 4 * 9 + 4, (5 + 9) + (11 + 5), 1024
    for rows in (1, 5, 7):
        assert part_of_batch((3, 9, 4), 1000, 1000, 4, static + 4 * (fixed + rows * row)) == rows
        assert (
            part_of_batch((3, 9, 4), 1000, 1000, 4, static + 4 * (fixed + rows * row) - 4) == {1: 0, 5: 4, 7: 6}[rows]
        )
        assert layout((3, 9, 4), rows, Layout((3, 9, 4)).spans(), [0, 0], 64)[1] == fixed + rows * row
    assert part_of_batch((3, 9, 4), 10, 10, 4, 1 << 20) == 10
    assert part_of_batch((3, 9, 4), 10, 6, 4, 1 << 20) == 5  # two equal parts
    assert part_of_batch((3, 9, 4), 10, 6, 8, 0) == 0


def test_neighbouring_lanes_meet_different_banks():
    """Along a row and down a column of everything that the products read."""
    table, end = layout((784, 16, 10, 7), 5, Layout((784, 16, 10, 7)).spans(), [0, 0, 0], 512)
    for n_in, n_out, *_, weights, biases, a, delta, after in np.c_[table[:, :8], [*table[1:, 4], end]]:
        for begin, stop, rows, cols in (
            (weights, biases, n_out, n_in),
            (a, delta, 5, n_in + 1),
            (delta, after, 5, n_out),
        ):
            ld, rest = divmod(stop - begin, rows)
            assert (rest, ld >= cols) == (0, True)
            assert len({lane * ld % 32 for lane in range(32)}) == 32


@pytest.mark.parametrize("by", SHARINGS, ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(16, 785), (10, 17), (1, 1), (9, 131), (3, 500), (128, 128)])
def test_tiles_hold_every_sum_once(by, rows, columns):
    tiles, lanes = narrow.tiles(by, rows, columns), 32 // by.lanes
    assert sum(count * tile.down * tile.across * lanes for count, tile in tiles) >= rows * columns
    (whole, first), *rest = tiles
    if rest:
        assert whole * first.down * first.across * lanes <= rows * columns
        assert whole == 0 or rest[0][0] * 32 < (rows % by.down) * columns + rows * (columns % (32 * by.across) + 32)


@pytest.mark.parametrize("threads", [128, 256, 512])
def test_how_products_are_shared_out(threads):
    """Few long sums by whole warps, many short ones by threads in large tiles, few short ones one by each thread."""
    assert narrow.sharing(16, 32, 784, threads, narrow.FORWARD) == Sharing(4, 8, 32)
    assert narrow.sharing(100, 32, 784, threads, narrow.FORWARD) == Sharing(4, 8, 32)
    assert narrow.sharing(16, 785, 32, threads, narrow.GRADIENT) == Sharing(4, 4, 1)
    assert narrow.sharing(16, 512, 16, threads, narrow.BACK) == Sharing(4, 4, 1)
    assert narrow.sharing(10, 32, 16, threads, narrow.FORWARD) == Sharing(1, 1, 1)
    table, _ = layout((784, 16, 10), 32, Layout((784, 16, 10)).spans(), [0, 0], threads)
    assert table[0, 9:].tolist() == [32, 32, 1, 1, 16, 1]


def test_launch_checks(memory):
    case = Case(memory)
    for threads in (48, 544, 0):
        with pytest.raises(ValueError, match=f"threads={threads} must be whole warps and at most 512, part=7"):
            case.run(threads)
    case.net = NarrowNet(**{**vars(case.net), "slopes": case.net.slopes[1:]})
    with pytest.raises(ValueError, match=r"slopes must have shape \(3,\), got \(2,\)"):
        case.run()
