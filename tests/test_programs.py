"""Training programs against the composition of operations, against the wide oracle, and against each other."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import textwrap

import cases
import numpy as np
import pytest
import reference
import tolerances
from cases import PAIRS

import fastnn
from fastnn import optimizers
from fastnn.backends.cpu_plan import Plan

SIZES = (6, 9, 7, 4)
ROWS, BATCH, EPOCHS = 23, 5, 3  # the last batch has 3 rows
L2 = 0.4
JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"  # without asking Numba, which a GPU's machine may not have
RULES = {
    "sgd": lambda: optimizers.SGD(0.2),
    "momentum": lambda: optimizers.Momentum(0.05, 0.8),
    "adam": lambda: optimizers.Adam(0.01, 0.8, 0.95, 1e-6, 0.4),
    "lars": lambda: optimizers.LARS(0.5, 0.8, 0.05, 0.1),
    "lamb": lambda: optimizers.LAMB(0.02, 0.8, 0.95, 1e-6, 0.1),
}


# Rules that move each number by itself, and those that take norms of layers, for which engines have another program:
# what is not about rules meets one of both kinds, and each of them in turn.
ALONE, LAYERED = ("sgd", "momentum", "adam"), ("lars", "lamb")


def with_rules(things):
    """(thing, rule) of each thing with one rule of both kinds."""
    return [(thing, kind[i % len(kind)]) for i, thing in enumerate(things) for kind in (ALONE, LAYERED)]


def orders(n=ROWS, epochs=EPOCHS, seed=5):
    return [np.random.default_rng([seed, epoch]).permutation(n) for epoch in range(epochs)]


class Problem:
    """A network's description with data whose numbers are exact in float32."""

    def __init__(self, hidden="tanh", output="softmax", cost="cross_entropy", sizes=SIZES, rows=ROWS, l2=L2):
        self.sizes, self.cost, self.l2, self.rows = sizes, cost, l2, rows
        self.hidden = [hidden] * (len(sizes) - 2) if isinstance(hidden, str) else list(hidden)
        self.output = output
        self.theta = cases.parameters(sizes, np.float32, 3)
        self.X = cases.normal((rows, sizes[0]), np.float32)
        self.y = cases.targets_for(output, cost, rows, sizes[-1], np.float32)

    def data(self, dtype):
        return self.X.astype(dtype), self.y if self.y.ndim == 1 else self.y.astype(dtype)

    def network(self, backend, dtype):
        return fastnn.Network(
            self.sizes,
            hidden=self.hidden,
            output=self.output,
            cost=self.cost,
            init=self.theta,
            l2=self.l2,
            backend=backend,
            dtype=dtype,
        )

    def on_engine(self, backend, dtype):
        X, y = self.data(dtype)
        return backend.asarray(X), cases.engine_targets(backend, y)

    def train(self, backend, dtype, rule, epochs, batch=BATCH):
        """(theta, [(cost_sum, rows, hits)]) of the engine's program, an epoch per call."""
        net = self.network(backend, dtype)
        X, y = self.on_engine(backend, dtype)
        program, results = backend.compile(net, rule, batch), []
        for order in epochs:
            cost_sum, rows = program.run(X, y, backend.asarray(order.astype(np.int64)), 0, program.steps(len(order)))
            results.append((cost_sum, rows, program.hits))
        return np.array(backend.to_numpy(net.theta)), results

    def compose(self, backend, dtype, rule, epochs, batch=BATCH):
        """The same from the engine's operations, written out: forward, back, D = Delta/m + (l2/n) Theta, update."""
        net = self.network(backend, dtype)  # for its theta and its views only
        rule.bind(net, lambda: backend.zeros(net.theta.shape, dtype))
        X, y = self.data(dtype)
        results = []
        for order in epochs:
            cost_sum = hits = 0
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                x, t, m = backend.asarray(X[chosen]), cases.engine_targets(backend, y[chosen]), len(chosen)
                z, a = [], [x]
                for W, b, g in zip(net.weights, net.biases, [*self.hidden, self.output], strict=True):
                    z.append(backend.dense_forward(a[-1], W, b))
                    a.append(backend.activate(g, z[-1]))
                squares = sum(float((backend.to_numpy(W).astype(np.float64) ** 2).sum()) for W in net.weights)
                cost_sum += (
                    backend.cost_sum(self.output, self.cost, z[-1], a[-1], t) + m * self.l2 / (2 * self.rows) * squares
                )
                hits += count_hits(backend.to_numpy(a[-1]), y[chosen])
                Delta = backend.zeros(net.theta.shape, dtype)
                Delta_W, Delta_b = net.split(Delta)
                delta = backend.output_delta(self.output, self.cost, z[-1], a[-1], t)
                for layer in reversed(range(len(net.weights))):
                    backend.accumulate(Delta_W[layer], Delta_b[layer], delta, a[layer])
                    if layer:
                        delta = backend.propagate_delta(
                            delta, net.weights[layer], self.hidden[layer - 1], z[layer - 1], a[layer]
                        )
                D = np.array(backend.to_numpy(Delta)) / dtype.type(m)
                for D_W, W in zip(net.split(D)[0], net.weights, strict=True):
                    D_W += dtype.type(self.l2 / self.rows) * backend.to_numpy(W)
                backend.update(rule, net.theta, backend.asarray(D))
            results.append((cost_sum, len(order), hits))
        return np.array(backend.to_numpy(net.theta)), results

    def oracle(self, rule, epochs, batch=BATCH):
        """The same in wide arithmetic from the start: shares no code with fastnn and rounds almost nothing."""
        names = [*self.hidden, self.output]
        theta, t = self.theta, 0
        state = [np.zeros_like(theta) for _ in rule.slots]
        results = []
        for order in epochs:
            cost_sum = hits = 0
            for start in range(0, len(order), batch):
                chosen, t = order[start : start + batch], t + 1
                x, targets, m = self.X[chosen], self.y[chosen], len(chosen)
                l2 = self.l2 * m / self.rows  # reference divides by the rows of the call; n is the training set
                cost_sum += m * reference.cost(theta, self.sizes, names, self.cost, x, targets, l2)
                hits += count_hits(reference.forward(theta, self.sizes, names, x)[1][-1], targets)
                D = reference.gradient(theta, self.sizes, names, self.cost, x, targets, l2)
                theta, state = reference.update(rule.name, self.sizes, theta, D, state, t, *rule.hyper())
            results.append((cost_sum, len(order), hits))
        return theta, results


def count_hits(h, y):
    return int((h.argmax(axis=1) == y).sum()) if y.ndim == 1 else int(((h >= 0.5) == (y >= 0.5)).all(axis=1).sum())


def agree(got, expected, dtype, steps, what):
    bound = tolerances.training(dtype, steps)
    tolerances.assert_close(got[0], expected[0], bound * float(abs(expected[0]).max()), what=f"theta, {what}")
    for epoch, ((J, rows, _), (expected_J, expected_rows, _)) in enumerate(zip(got[1], expected[1], strict=True)):
        assert rows == expected_rows
        tolerances.assert_close(J, expected_J, bound * max(1, float(expected_J)), what=f"cost of epoch {epoch}, {what}")


def check(problem, backend, dtype, rule, epochs, batch=BATCH):
    steps = sum(-(-len(order) // batch) for order in epochs)
    first, second = rule(), rule()
    got = problem.train(backend, dtype, first, epochs, batch)
    composed = problem.compose(backend, dtype, second, epochs, batch)
    exact = problem.oracle(rule(), epochs, batch)
    assert got[0].dtype == dtype
    agree(got, composed, dtype, steps, "program against operations")
    agree(got, exact, dtype, steps, "program against the oracle")
    assert first.t == second.t == steps
    scale = tolerances.training(dtype, steps)
    for slot, mine, theirs in zip(first.slots, first.state, second.state, strict=True):
        theirs = np.array(backend.to_numpy(theirs))
        tolerances.assert_close(
            backend.to_numpy(mine), theirs, scale * float(abs(theirs).max()), dtype=dtype, what=slot
        )
    counted = problem.y.ndim == 1 or (problem.output, problem.cost) == ("sigmoid", "cross_entropy")
    for (_, _, hits), (_, _, expected) in zip(got[1], exact[1], strict=True):
        assert hits == (expected if counted else None)
    assert np.abs(got[0] - problem.theta).max() > 0.01, "nothing moved"
    return got


# ---- against the composition and the oracle ---------------------------------------------------------------------


def test_every_rule_is_among_those_in_turn():
    assert {*ALONE, *LAYERED} == {*RULES} == {*optimizers.OPTIMIZERS}
    assert {rule for _, rule in with_rules(PAIRS)} == {rule for _, rule in with_rules(cases.HIDDEN)} == {*RULES}


@pytest.mark.parametrize(("pair", "rule"), with_rules(PAIRS), ids=str)
def test_every_pair_and_optimizer(backend, dtype, pair, rule):
    check(Problem("tanh", *pair), backend, dtype, RULES[rule], orders())


@pytest.mark.parametrize(
    ("hidden", "rule"), with_rules([*cases.HIDDEN, ("relu", "sigmoid"), ("identity", "leaky_relu")]), ids=str
)
def test_every_hidden_activation(backend, dtype, hidden, rule):
    check(Problem(hidden), backend, dtype, RULES[rule], orders())


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_slopes_reach_the_program(backend, dtype, slope):
    """leaky_relu with its own slope equals relu for 0, and differs from the default for 0.3."""
    results = {}
    for key, g in (("own", fastnn.activations.LeakyReLU(slope)), ("relu", "relu"), ("default", "leaky_relu")):
        problem = Problem()
        problem.hidden = [g, g]
        results[key] = problem.train(backend, dtype, RULES["sgd"](), orders())[0]
        composed = problem.compose(backend, dtype, RULES["sgd"](), orders())[0]
        tolerances.assert_close(results[key], composed, tolerances.training(dtype, 15) * np.abs(composed).max())
    assert np.array_equal(results["own"], results["relu"]) == (slope == 0)
    assert np.abs(results["own"] - results["default"]).max() > 1e-4


@pytest.mark.parametrize("sizes", [(3, 2), (1, 1, 2), (17, 33, 5), (5, 4, 3, 4, 3, 2)], ids=str)
@pytest.mark.parametrize("batch", [1, 4, ROWS])
def test_depths_widths_and_batches(backend, dtype, sizes, batch):
    check(Problem("sigmoid", sizes=sizes), backend, dtype, RULES["momentum"], orders(epochs=2), batch)


@pytest.mark.parametrize("l2", [0.0, 5.0])
def test_l2(backend, dtype, l2):
    check(Problem(l2=l2), backend, dtype, RULES["sgd"], orders())


def test_one_output_with_sigmoid(backend, dtype):
    check(Problem("tanh", "sigmoid", "cross_entropy", sizes=(4, 5, 1)), backend, dtype, RULES["adam"], orders())


@pytest.mark.parametrize("output", ["softmax", "identity"])
def test_integer_classes_with_squared_error(backend, dtype, output):
    problem = Problem("tanh", output, "squared_error")
    problem.y = np.arange(ROWS) % SIZES[-1]
    check(problem, backend, dtype, RULES["sgd"], orders())


def test_wide_batches(backend, dtype):
    """Large enough for engines that treat large batches or layers in another way."""
    check(Problem("relu", sizes=(40, 70, 33, 5), rows=300), backend, dtype, RULES["sgd"], orders(300, 2), 128)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "plan",
    # without compilation a team has one thread, and the chunk alone is left of a plan
    [
        Plan(1, 2),
        Plan(2, 5),
        *([Plan(2, 2), Plan(3, 4), Plan(1, 2, True), Plan(2, 4, True), Plan(3, 6, True)] if JIT else []),
    ],
    ids=str,
)
@pytest.mark.parametrize("panels", [False, True], ids=["BLAS", "panels"])
def test_plans_of_the_numba_program_against_the_oracle(monkeypatch, dtype, plan, panels, rule):
    """Batches of 5 in chunks that do not divide them, by more threads than the last chunk has rows."""
    if JIT:  # without compilation a team has one thread
        monkeypatch.setattr(
            "fastnn.backends.numba_backend.choose_plan", lambda *_: dataclasses.replace(plan, panels=panels)
        )
    elif panels:
        monkeypatch.setattr("fastnn.backends.numba_backend.choose_plan", lambda *_: Plan(1, plan.chunk, True, True))
    check(Problem("relu", l2=2.0), fastnn.get_backend("numba"), dtype, RULES[rule], orders())


# ---- orders and slices --------------------------------------------------------------------------------------------


def test_orders_with_repeats_and_omissions(backend, dtype):
    """An order is any sequence of row numbers: a row twice in one batch, rows left out, more entries than rows."""
    rng = np.random.default_rng(0)
    check(
        Problem(),
        backend,
        dtype,
        RULES["adam"],
        [rng.integers(0, ROWS, 31), np.full(7, 4), np.array([22]), rng.integers(0, 3, 12)],
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cuts", [(0, 1, 2, 3, 4, 5), (0, 2, 2, 5), (0, 4, 5)], ids=str)
def test_slices_of_an_epoch_are_the_epoch(backend, dtype, rule, cuts):
    problem, order = Problem(), orders(epochs=1)[0]
    whole, [(J, rows, hits)] = problem.train(backend, dtype, RULES[rule](), [order])
    net, (X, y) = problem.network(backend, dtype), problem.on_engine(backend, dtype)
    program, parts = backend.compile(net, RULES[rule](), BATCH), []
    for start, stop in itertools.pairwise(cuts):
        parts.append((*program.run(X, y, backend.asarray(order), start, stop), program.hits))
        assert parts[-1][1] == min(stop * BATCH, ROWS) - start * BATCH
    np.testing.assert_array_equal(backend.to_numpy(net.theta), whole)
    tolerances.assert_close(sum(part[0] for part in parts), J, tolerances.training(dtype, 5) * J)
    assert (sum(part[1] for part in parts), sum(part[2] for part in parts)) == (rows, hits)
    assert program.optimizer.t == 5


def test_training_rows_is_the_n_of_l2(backend, dtype):
    """`fit` sets it where X holds validation rows as well: lambda/n then means n training rows."""
    results = []
    for training_rows in (None, ROWS, 10):
        problem = Problem(l2=3.0)
        net, (X, y) = problem.network(backend, dtype), problem.on_engine(backend, dtype)
        program = backend.compile(net, RULES["sgd"](), BATCH)
        program.training_rows = training_rows
        J, _ = program.run(X, y, backend.asarray(np.arange(10)), 0, 2)
        results.append((np.array(backend.to_numpy(net.theta)), J))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    problem = Problem(l2=3.0)
    problem.rows = 10
    exact = problem.oracle(RULES["sgd"](), [np.arange(10)])
    agree((results[2][0], [(results[2][1], 10, None)]), exact, dtype, 2, "n = 10")


def test_hits_are_counted_before_each_update(backend, dtype):
    """A network that is wrong on every row until its first update sees no hit in the first batch."""
    theta = np.array([0, 0, 0, -1], np.float64)  # W = 0, biases favour class 0
    net = fastnn.Network([1, 2], init=theta, backend=backend, dtype=dtype)
    program = backend.compile(net, optimizers.SGD(10.0), 2)
    X, y = backend.asarray(np.zeros((4, 1), dtype)), backend.asarray(np.ones(4, np.int64))
    program.run(X, y, backend.asarray(np.arange(4)), 0, 1)
    assert program.hits == 0
    program.run(X, y, backend.asarray(np.arange(4)), 1, 2)
    assert program.hits == 2


@pytest.mark.parametrize(("label", "hits"), [(0, 3), (1, 0), (2, 0)])
def test_of_equal_outputs_the_first_counts(backend, dtype, label, hits):
    """As argmax has it, so that accuracy and score agree: a network of zeros says class 0."""
    net = fastnn.Network([1, 3], init="zeros", backend=backend, dtype=dtype)
    program = backend.compile(net, optimizers.SGD(1.0), 3)
    program.run(
        backend.asarray(np.zeros((3, 1), dtype)),
        backend.asarray(np.full(3, label)),
        backend.asarray(np.arange(3)),
        0,
        1,
    )
    assert program.hits == hits


# ---- reproducibility, and engines against each other
# ------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_the_same_run_twice_gives_the_same_bits(backend, dtype, rule):
    runs = [
        Problem("relu", sizes=(40, 70, 33, 5), rows=150).train(backend, dtype, RULES[rule](), orders(150, 2), 64)
        for _ in range(2)
    ]
    assert runs[0][0].tobytes() == runs[1][0].tobytes()
    assert runs[0][1] == runs[1][1]


@pytest.mark.parametrize(("hidden", "rule"), [(("relu", "tanh")[i % 2], rule) for i, rule in enumerate(RULES)])
def test_engines_agree_after_training(backend, dtype, hidden, rule):
    """Twenty epochs from one seed's own initial Theta; NumPy is what each engine is compared with."""
    result = []
    for engine in (backend, fastnn.get_backend("numpy")):
        net = fastnn.Network(SIZES, hidden=hidden, l2=0.1, backend=engine, dtype=dtype, seed=11)
        problem = Problem()
        X, y = problem.on_engine(engine, dtype)
        program = engine.compile(net, RULES[rule](), BATCH)
        for order in orders(epochs=20):
            program.run(X, y, engine.asarray(order), 0, program.steps(ROWS))
        result.append(np.array(engine.to_numpy(net.theta)))
    tolerances.assert_close(result[0], result[1], tolerances.training(dtype, 100) * np.abs(result[1]).max())


def test_without_compilation_the_numba_program_gives_the_same_values():
    """The coverage run switches the compiler off; plain Python must then compute, not skip, the products and their
    scaling.
    """
    script = """
        import numpy as np, fastnn
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((23, 6)), rng.integers(0, 4, 23)
        theta = []
        for engine in ("numba", "numpy"):
            net = fastnn.Network([6, 9, 7, 4], l2=0.4, backend=engine, dtype="float64")
            for rule in ("sgd", "adam"):
                net.fit(X, y, optimizer=rule, learning_rate=0.05, batch_size=5, epochs=2)
            theta.append(net.theta)
        print(np.abs(theta[0] - theta[1]).max() / np.abs(theta[1]).max())
        """
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) <= tolerances.training(np.float64, 20)


# ---- refusals
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"X": lambda X: X[:, :5]}, ValueError),
        ({"X": lambda X: X.T}, ValueError),
        ({"X": lambda X: X.astype(np.float16)}, ValueError),
        ({"y": lambda y: y[:-1]}, ValueError),
        ({"y": lambda y: y.astype(np.float64)}, TypeError),
        ({"order": lambda o: o.astype(np.int32)}, TypeError),
        ({"order": lambda o: o[None]}, TypeError),
        ({"order": lambda o: o[::2]}, TypeError),
        ({"start": lambda _: -1}, ValueError),
        ({"start": lambda _: 4, "stop": lambda _: 3}, ValueError),
        ({"stop": lambda _: 6}, ValueError),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else x.__name__,
)
def test_what_a_program_refuses_changes_nothing(backend, dtype, change, error):
    problem = Problem()
    net, rule, (X, y) = problem.network(backend, dtype), RULES["adam"](), problem.on_engine(backend, dtype)
    program = backend.compile(net, rule, BATCH)
    arguments = {"X": X, "y": y, "order": backend.asarray(np.arange(ROWS)), "start": 0, "stop": 5}
    arguments |= {name: make(arguments[name]) for name, make in change.items()}
    with pytest.raises(error):
        program.run(**arguments)
    assert backend.to_numpy(net.theta).tobytes() == problem.theta.astype(dtype).tobytes()
    assert rule.t == 0
    assert not any(np.any(backend.to_numpy(state)) for state in rule.state)


@pytest.mark.parametrize(
    ("batch_size", "error"), [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError), ("8", TypeError)]
)
def test_compile_refuses_batch_sizes(backend, batch_size, error):
    with pytest.raises(error, match="batch_size must be a positive integer"):
        backend.compile(fastnn.Network([2, 2], backend=backend), optimizers.SGD(), batch_size)


def test_an_optimizer_with_the_state_of_another_network_is_refused(backend):
    rule = optimizers.Momentum()
    first, second = (fastnn.Network([2, 2], backend=backend) for _ in range(2))
    backend.compile(first, rule, 1)
    program = backend.compile(first, rule, 2)  # the same network again: goes on
    backend.compile(second, rule, 1)  # there is nothing to lose yet
    X, y = backend.asarray(np.ones((2, 2), np.float32)), backend.asarray(np.array([0, 1]))
    with pytest.raises(ValueError, match="serves another network, since this program was compiled"):
        program.run(X, y, backend.asarray(np.arange(2)), 0, 1)
    backend.compile(first, rule, 2).run(X, y, backend.asarray(np.arange(2)), 0, 1)
    with pytest.raises(ValueError, match="carries the state of another network"):
        backend.compile(second, rule, 1)
    rule.reset()
    backend.compile(second, rule, 1)
