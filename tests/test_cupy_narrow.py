"""Programs that train narrow nets by the fused kernel, over the stand-in: against the NumPy engine, when it is
chosen, what is refused.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice
from test_cupy_engine import HIDDEN, PAIRS, RULES, trained
from tolerances import assert_close, training

import fastnn
from fastnn import optimizers
from fastnn.backends import cupy_narrow, cupy_program, cupy_trials
from fastnn.backends.cupy_arena import Arena
from fastnn.backends.cupy_backend import CupyBackend
from fastnn.backends.cupy_stream import HostRows
from fastnn.backends.numpy_backend import NumpyBackend
from fastnn.kernels.cuda.narrow import layout

SHARED = 100 << 10
WAYS = (96, 32, 64)
SIZES, ROWS, BATCH = (6, 12, 9, 4), 70, 16


@pytest.fixture(autouse=True)
def fewer_threads(monkeypatch):
    """Each is a fiber here."""
    for module in (cupy_narrow, cupy_trials):
        monkeypatch.setattr(module, "WAYS", WAYS)


class Device(ShimDevice):
    """With shared memory. `times`: seconds for pieces of work by words in their names; nothing is run but what a
    test asks for.
    """

    def __init__(self, seconds=lambda work: 1.0, **kw):
        super().__init__(**{"shared_bytes": SHARED, **kw})
        self.seconds_of, self.timed = seconds, 0

    def seconds(self, work, *, recorded=True):
        self.timed += 1
        return self.seconds_of(work)


def backend(fused=None, **kw):
    return CupyBackend(Device(**kw), fused)


def problem(rows=ROWS, sizes=SIZES):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, sizes[0])).astype("float32"), rng.integers(0, sizes[-1], rows)


def network(engine, sizes=SIZES, **kw):
    return fastnn.Network(sizes, backend=engine, **{"hidden": "relu", "l2": 0.1, "seed": 3, **kw})


# ---- what it computes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("output_cost", [pair for pair in PAIRS if pair[1] != "poisson"], ids=" ".join)
@pytest.mark.parametrize("hidden", [name for name in HIDDEN if name not in ("silu", "gelu")], ids=str)
def test_program_equals_the_numpy_engine(hidden, output_cost, dtype):
    """Every activation with every pair, the rules in turn; the last batch is short; two slices an epoch."""
    rule = ("sgd", "momentum", "adam")[(HIDDEN.index(hidden) + PAIRS.index(output_cost)) % 3]
    net, optimizer, costs, hits = trained(backend(True), hidden, *output_cost, rule, dtype, 0.5)
    assert set(net.backend.device.launches) == {"narrow_steps"}
    reference, its_optimizer, its_costs, its_hits = trained(NumpyBackend(), hidden, *output_cost, rule, dtype, 0.5)
    bound = training(net.dtype, optimizer.t) * (np.abs(reference.theta).max() + 1) * (10 if rule == "adam" else 1)
    assert optimizer.t == its_optimizer.t == 6
    assert_close(net.theta, reference.theta, bound, dtype=dtype)
    for mine, its in zip(optimizer.state, its_optimizer.state, strict=True):
        assert_close(mine, its, bound * (1 + np.abs(its).max()), dtype=dtype)
    assert [rows for _, rows in costs] == [8, 15, 8, 15]
    np.testing.assert_allclose([c for c, _ in costs], [c for c, _ in its_costs], rtol=100 * np.finfo(dtype).eps)
    assert hits == its_hits


@pytest.mark.parametrize(("m", "batch"), [(1, 1), (9, 4), (9, 9), (3, 8), (300, 300)])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (1, 40, 1), (33, 1, 65, 2), (8, 128, 3)], ids=str)
def test_any_size_and_way(sizes, m, batch):
    """Also more rows than fit into shared memory at a time, and beside the captured steps of the same program."""
    X, y = problem(m, sizes)[0], np.random.default_rng(1).standard_normal((m, sizes[-1])).astype("float32")
    thetas = []
    for way in (None, *WAYS[:2]):
        net = network(backend(True), sizes, hidden="tanh", output="identity", cost="squared_error")
        program = net.backend.compile(net, optimizers.SGD(0.01), batch)
        if way is None:
            program.mode = "captured"
        else:
            program._fused.way = way
        program.run(X, y, np.arange(m), 0, program.steps(m))
        thetas.append(net.theta)
    for theta in thetas[1:]:
        assert_close(theta, thetas[0], training(np.dtype(np.float32), -(-m // batch)) * (m + 1))


def test_bytes_and_other_data_and_rates():
    """Bytes as they are, with a scale; new arrays, another rate and theta changed from outside are seen."""
    thetas = []
    for engine in (backend(True), NumpyBackend()):
        net = network(engine)
        (X, y), program = problem(), net.backend.compile(net, optimizers.Adam(0.01), BATCH)
        program.run(X, y, np.arange(ROWS), 0, 5, np.linspace(0.01, 0.05, 5))
        program.run(X + 1, y[::-1].copy(), np.arange(ROWS)[::-1].copy(), 1, 4)
        program.optimizer.learning_rate = 0.02
        net.theta[:] = net.theta / 2
        program.training_rows = 10
        program.run(X[:50].copy(), y[:50].copy(), np.arange(50), 0, 4)
        thetas.append(net.theta)
    assert_close(*thetas, 10 * training(np.dtype(np.float32), 12))
    thetas = []
    for engine in (backend(True), NumpyBackend()):
        net, (X, y) = network(engine), problem()
        net.fit(np.abs(100 * X).astype(np.uint8), y, optimizer="sgd", epochs=2, batch_size=BATCH, scale=0.01)
        thetas.append(net.theta)
    assert_close(*thetas, 10 * training(np.dtype(np.float32), 10))


def test_row_numbers_go_up_in_pieces_and_steps_in_launches(monkeypatch):
    net, (X, y) = network(backend(True)), problem(200)
    program = net.backend.compile(net, optimizers.SGD(0.01), 4)
    program.run(X, y, np.arange(199), 0, 50)
    assert net.backend.device.launches == ["narrow_steps"] * 2  # the full steps, the short one
    monkeypatch.setattr(cupy_narrow, "STEPS_PER_LAUNCH", 20)
    other = network(backend(True))
    program = other.backend.compile(other, optimizers.SGD(0.01), 4)
    program.run(X, y, np.arange(199), 0, 50)
    assert other.backend.device.launches == ["narrow_steps"] * 4  # 20, 20, 9, and the short one
    monkeypatch.setattr("fastnn.backends.cupy_arena.ORDER_ROWS", 3 * 4)
    pieces = network(backend(True))
    program = pieces.backend.compile(pieces, optimizers.SGD(0.01), 4)
    program.run(X, y, np.arange(199), 0, 50)
    np.testing.assert_array_equal(net.theta, other.theta)
    np.testing.assert_array_equal(net.theta, pieces.theta)


def test_a_run_waits_once_and_allocates_nothing():
    net, (X, y) = network(backend(True)), problem()
    sizes, empty = [], net.backend.device._empty
    optimizer = optimizers.Adam()
    optimizer.bind(net, lambda: net.backend.zeros(net.theta.shape, net.dtype))
    net.backend.device._empty = lambda shape, dtype: (
        sizes.append(int(np.prod(shape)) * np.dtype(dtype).itemsize) or empty(shape, dtype)
    )
    program = net.backend.compile(net, optimizer, BATCH)
    predicted = Arena.size(cupy_program.footprint(net, net.backend.device, BATCH, BATCH, optimizer))
    assert sizes == [predicted] == [program.arena_bytes]
    net.backend.device.reset_counters()
    program.run(X, y, np.arange(ROWS), 0, 5)
    assert (net.backend.device.synchronizations, net.backend.device.allocations) == (1, 0)


def test_rows_streamed_from_the_host_take_captured_steps():
    thetas = []
    for engine in (backend(True), backend(False)):
        net, (X, y) = network(engine), problem()
        program = engine.compile(net, optimizers.SGD(0.1), BATCH)
        program.run(X.view(HostRows), y, np.arange(ROWS), 0, 5)
        assert "narrow_steps" not in engine.device.launches
        thetas.append(net.theta)
    np.testing.assert_array_equal(*thetas)


def test_micro_batches():
    net, (X, y) = network(backend(True)), problem()
    program = net.backend.compile(net, optimizers.Adam(0.01), BATCH, 5)
    assert program._fused.part == 4
    program.run(X, y, np.arange(ROWS), 0, 5)
    whole = network(backend(True))
    whole.backend.compile(whole, optimizers.Adam(0.01), BATCH).run(X, y, np.arange(ROWS), 0, 5)
    assert_close(net.theta, whole.theta, 10 * training(np.dtype(np.float32), 5))


def test_steps_that_are_tried_have_the_l2_of_the_fit(monkeypatch):
    """lambda over the number of rows: by lambda itself the weights would shrink to nothing while they are timed."""
    seen, constants = [], cupy_trials.update_constants
    monkeypatch.setattr(
        cupy_trials, "update_constants", lambda *arguments: seen.append(arguments[3]) or constants(*arguments)
    )
    net = network(backend(), l2=3.0)
    net.backend.compile(net, optimizers.SGD(0.1), BATCH, training_rows=300)
    assert seen == [0.01]


# ---- when it is chosen ----------------------------------------------------------------------------------------------


def timed(fastest):
    """Seconds by which captured steps, or the fused way of this number, are the fastest; every candidate is really
    run.
    """

    def seconds(work):
        way = work.args[0] if hasattr(work, "args") else None
        is_fused = way in WAYS
        if is_fused or getattr(work, "__name__", "") == "captured":
            work()
        return 0.5 if (way == fastest if is_fused else fastest is None) else 1.0

    return seconds


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("fastest", [None, *WAYS], ids=str)
def test_the_fastest_way_is_taken_and_trials_leave_no_trace(fastest, rule):
    net, optimizer = network(backend(seconds=timed(fastest))), RULES[rule]()
    optimizer.bind(net, lambda: net.backend.zeros(net.theta.shape, net.dtype))
    for state in optimizer.state:
        state += 0.25
    before = [x.copy() for x in (net.theta, *optimizer.state)]
    program = net.backend.compile(net, optimizer, BATCH)
    for x, old in zip((net.theta, *optimizer.state), before, strict=True):
        np.testing.assert_array_equal(x, old)
    assert optimizer.t == 0
    X, order = program._arena["trial_X"], program._arena["order"]
    assert len({X[row].tobytes() for row in order[:512]}) == 512  # rows of their own, as in training
    # each trial begins at the first: beyond the last are no row numbers
    assert program._arena["step"][0] == cupy_narrow.TRIAL_STEPS
    assert {"narrow_steps", f"update_{rule}"} <= set(net.backend.device.launches)  # tried
    net.backend.device.reset_counters()
    X, y = problem()
    program.run(X, y, np.arange(ROWS), 0, 5)
    alone = network(backend(fastest is not None))
    other = alone.backend.compile(alone, RULES[rule](), BATCH)
    for state in other.optimizer.state:
        state += 0.25
    if fastest is None:
        assert (program.mode, program.why_not_fused) == (
            "captured",
            "captured steps were timed to be faster than fused ones",
        )
        assert "captured steps were timed to be faster than fused ones" in net.plan(BATCH, optimizer=rule)
    else:
        assert (program.mode, program._fused.way) == ("fused", fastest)
        assert net.plan(BATCH, optimizer=rule).startswith(
            f"fused: many whole steps in one launch, by one block in shared memory, 16 rows at a time, {fastest} "
            "threads; "
        )
        assert set(net.backend.device.launches) == {"narrow_steps"}
        other._fused.way = fastest
    other.run(X, y, np.arange(ROWS), 0, 5)
    np.testing.assert_array_equal(net.theta, alone.theta)


def test_the_choice_is_remembered_on_disk_and_for_each_shape_and_rule(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ShimDevice, "identity", "a card")

    def compiled(fused=None, sizes=SIZES, rule=optimizers.SGD, batch=BATCH, fastest=64, **kw):
        net = network(backend(fused, seconds=timed(fastest)), sizes, **kw)
        program = net.backend.compile(net, rule(), batch)
        return program, {"narrow_steps"} <= set(net.backend.device.launches)

    program, tried = compiled()
    assert (program.mode, program._fused.way, tried) == ("fused", 64, True)
    program, tried = compiled()
    assert (program.mode, program._fused.way, tried) == ("fused", 64, False)
    for other in (
        {"batch": 15},
        {"rule": optimizers.Adam},
        {"sizes": (6, 12, 4)},
        {"hidden": "tanh"},
        {"dtype": "float64"},
        {"output": "identity", "cost": "squared_error"},
    ):
        assert compiled(**other)[1], other
    (known,) = json.loads((tmp_path / "fastnn" / "cuda-choices.json").read_text())["devices"].values()
    assert sum(name.startswith("steps of") for name in known) == 7
    assert compiled(True)[0]._fused.way == 64  # forced: among fused ways alone, which is kept apart
    assert compiled()[1] is False
    assert compiled(batch=14, fastest=None)[0].mode == "captured"
    assert compiled(True, batch=14)[0].mode == "fused"
    assert compiled(batch=14)[0].mode == "captured"  # still


def test_the_plan_is_that_of_the_rule():
    """Fused for one rule says nothing of another; what is chosen for each layer holds for all."""
    net = network(backend(seconds=timed(WAYS[0])))
    net.backend.compile(net, optimizers.SGD(), BATCH)
    assert net.plan(BATCH, optimizer="sgd").startswith("fused: ")
    for rule in ("adam", "lars"):
        text = net.plan(BATCH, optimizer=rule)
        assert text.startswith("each step as one CUDA graph")
        assert "layer 2: " in text
        assert (("or many steps in one launch of a fused kernel, if that is timed to be faster then") in text) == (
            rule == "adam"
        )
    other = network(backend(seconds=timed(None)))
    other.backend.compile(other, optimizers.Adam(), BATCH)
    assert "captured steps were timed to be faster" in other.plan(BATCH)
    assert "captured steps were timed to be faster" not in other.plan(BATCH, optimizer="sgd")


def test_it_can_be_forbidden_and_asked_for():
    assert network(backend(False, seconds=timed(96))).backend.fused is False
    net = network(backend(False, seconds=timed(96)))
    program = net.backend.compile(net, optimizers.SGD(), BATCH)
    assert (program.mode, program.why_not_fused) == ("captured", "fused=False was given")
    assert program.fused_timings() == {}
    assert "fused" not in net.plan(8)
    with pytest.raises(ValueError, match="mode='fused' cannot be used here: fused=False was given"):
        program.mode = "fused"
    net = network(backend(True, seconds=timed(None)))
    assert "or many steps in one launch of a fused kernel, if that is timed to be faster then" in net.plan(BATCH)
    assert net.backend.compile(net, optimizers.SGD(), BATCH).mode == "fused"
    with pytest.raises(TypeError, match="fused must be True, False or None, got 'yes'"):
        CupyBackend(Device(), "yes")
    assert CupyBackend.options == ("fused",)
    for bad in (0, 2.5, "8"):
        with pytest.raises((TypeError, ValueError), match="batch_size"):
            net.backend.compile(net, optimizers.SGD(), bad)


REFUSED = [
    ({"sizes": (6, 129, 4)}, "a hidden layer has 129 units, more than 128"),
    ({"precision": "bf16"}, "it computes in float32 or float64, not with precision='bf16'"),
    ({"rule": optimizers.LARS}, "it knows sgd, momentum, adam, not lars"),
    (
        {"sizes": (2000, 128, 4), "batch": 64},
        r"a step has 32,866,304 multiply-adds, more than the 8,000,000 that one multiprocessor is given",
    ),
    ({"sizes": (500, 60, 4)}, r"do not fit into the 102,400 bytes of shared memory that a block can have"),
]


@pytest.mark.parametrize(("given", "reason"), REFUSED, ids=[str(given) for given, _ in REFUSED])
def test_what_it_cannot_train(given, reason):
    rule, batch = given.get("rule", optimizers.SGD), given.get("batch", 2)
    kw = {key: value for key, value in given.items() if key not in ("rule", "batch")}
    net = network(backend(True), **kw)
    with pytest.raises(ValueError, match=f"fused=True, but the fused kernel cannot train this network: .*{reason}"):
        net.backend.compile(net, rule(), batch)
    net = network(backend(), **kw)
    program = net.backend.compile(net, rule(), batch)
    assert program.mode == "captured"
    with pytest.raises(ValueError, match=reason):
        program.mode = "fused"


def test_without_captured_products_there_is_no_warning_where_it_is_fused():
    for fastest in (96, None):
        net, (X, y) = network(CupyBackend(Device(seconds=timed(fastest), offers=()))), problem()
        if fastest is None:
            with pytest.warns(RuntimeWarning, match="launched one by one: there is no cuBLASLt here"):
                program = net.backend.compile(net, optimizers.SGD(), BATCH)
        else:
            program = net.backend.compile(net, optimizers.SGD(), BATCH)
        assert program.mode == ("eager" if fastest is None else "fused")
        program.run(X, y, np.arange(ROWS), 0, 5)
        if fastest is not None:
            with pytest.warns(RuntimeWarning, match="launched one by one: there is no cuBLASLt here"):
                program.run(X.view(HostRows), y, np.arange(ROWS), 0, 5)


def test_each_way_shares_out_for_its_own_threads(monkeypatch):
    ways = (512, 96)
    for module in (cupy_narrow, cupy_trials):
        monkeypatch.setattr(module, "WAYS", ways)
    net = network(backend(True, seconds=timed(None)), (20, 64, 64, 4), l2=0)
    fused, tables = net.backend.compile(net, optimizers.SGD(), 64)._fused, []
    for threads in ways:
        tables.append(
            layout(net.sizes, fused.part, net.layout.spans(), [g.code for g in (*net.hidden, net.output)], threads)[0]
        )
        np.testing.assert_array_equal(fused._nets[threads].table, tables[-1])
    assert (tables[0] != tables[1]).any()


def test_every_way_is_timed():
    net = network(backend(True, seconds=timed(None)))
    program = net.backend.compile(net, optimizers.Adam(), BATCH)
    way = program._fused.way
    found = program.fused_timings()
    assert len(found) == 1 + len(WAYS)
    assert found[cupy_trials.CAPTURED] == 0.5 / cupy_narrow.TRIAL_STEPS == min(found.values())
    assert program._fused.way == way


def test_silu_and_gelu_are_declined():
    """Whose derivatives would have to be kept beside activations."""
    made = network(backend(True), hidden="gelu")
    with pytest.raises(ValueError, match=r"it keeps no g'\(z\) beside activations, which gelu wants"):
        made.backend.compile(made, optimizers.SGD(0.1), 8)
