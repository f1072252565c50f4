"""The comparison: medians, ratios and verdicts, the table of targets, the common problem, the oracle, the drivers.
No time is asserted.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from amx_tools import needs_unit

from fastnn.backends import cpu_unit
from fastnn.bench import cases, load, oracle, problem, statistics
from fastnn.bench.cases import NETS, Case, Net, PredictCase, Target
from fastnn.bench.client import Absent, Client
from fastnn.bench.peers.fastnn_peer import Vectors
from fastnn.bench.worker import Worker

TINY = Case(NETS["1-64-64-1"], 8)


@pytest.fixture(autouse=True)
def _workers_find_the_fakes(monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    )


@pytest.fixture
def _blas_as_it_was():
    """Drivers limit BLAS for their whole process, which in some tests is this one."""
    libraries = threadpoolctl.ThreadpoolController().lib_controllers
    before = [library.get_num_threads() for library in libraries]
    yield
    for library, count in zip(libraries, before, strict=True):
        library.set_num_threads(count)


# ---- medians, ratios, verdicts --------------------------------------------------------------------


def test_spread():
    assert statistics.spread([4.0]) == {"median": 4.0, "q1": 4.0, "q3": 4.0, "least": 4.0}
    assert statistics.spread([5.0, 1.0, 4.0, 2.0, 3.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0, "least": 1.0}


def test_ratios_are_taken_within_rounds():
    """The second round was ten times slower for both; the ratio does not notice."""
    ratio = statistics.paired_ratio({"0": 1.0, "1": 10.0, "2": 1.0}, {"0": 2.0, "1": 30.0, "2": 4.0, "3": 9.0})
    assert ratio["median"] == 3.0
    assert ratio["least"] == 2.0
    assert statistics.paired_ratio({"0": 1.0}, {"1": 1.0}) is None


def entry(*seconds, status="ok"):
    return {"status": status, "rounds": {str(i): s for i, s in enumerate(seconds)}, **statistics.spread(seconds)}


def judged(target=None, ceiling_=None, rivals=None, **entrants):
    result = {"entrants": entrants, "flops": 10**9}
    statistics.judge(result, ["numba", "vectors", "unit", "numpy"], target, ceiling_, rivals)
    return result


def test_the_ratio_is_to_the_best_peer_and_not_to_our_other_engine():
    result = judged(
        Target("row", 1.5), numba=entry(1.0, 1.0), numpy=entry(0.5, 0.5), jax=entry(2.0, 2.0), torch=entry(3.0, 3.0)
    )
    assert (result["ours"], result["best_peer"], result["ratio"]["median"], result["verdict"]) == (
        "numba",
        "jax",
        2.0,
        "PASS",
    )
    assert result["entrants"]["jax"]["gflops"] == 0.5


def test_the_engine_without_the_matrix_unit_is_shown_beside_and_never_stands_for_it():
    result = judged(
        Target("row", 1.5), numba=entry(1.0), vectors=entry(4.0), unit=entry(0.5), numpy=entry(9.0), jax=entry(2.0)
    )
    assert (result["ours"], result["best_peer"], result["ratio"]["median"]) == ("numba", "jax", 2.0)
    assert (result["vectors"]["median"], result["unit"]["median"]) == (0.5, 4.0)
    failed = judged(Target("row", 1.5), numba=entry(0.1, status="crashed"), vectors=entry(0.2), jax=entry(2.0))
    assert (failed["ours"], failed["verdict"], failed["vectors"]["median"]) == (None, "MISS", 10.0)
    assert judged(numba=entry(1.0), jax=entry(2.0))["vectors"] is None
    assert judged(vectors=entry(1.0, status="disagrees"), jax=entry(2.0))["vectors"] is None


def test_a_disagreeing_time_is_never_used():
    result = judged(Target("row", 1.5), numba=entry(1.0), jax=entry(0.1, status="disagrees"), torch=entry(1.2))
    assert (result["best_peer"], result["verdict"]) == ("torch", "MISS")
    assert "gflops" not in result["entrants"]["jax"]
    ours = judged(Target("row", 1.5), numba=entry(0.01, status="disagrees"), jax=entry(1.0))
    assert (ours["ours"], ours["ratio"], ours["verdict"]) == (None, None, "MISS")


def test_the_numpy_engine_stands_for_fastnn_where_numba_is_absent():
    assert judged(numpy=entry(1.0), jax=entry(2.0))["ours"] == "numpy"


def test_share_of_the_ceiling_is_part_of_the_verdict():
    target = Target("row", 1.1, 0.9)
    assert judged(target, 1.05, numba=entry(1.0), jax=entry(2.0))["verdict"] == "PASS"
    assert judged(target, 2.0, numba=entry(1.0), jax=entry(2.0))["verdict"] == "MISS"
    assert judged(target, None, numba=entry(1.0), jax=entry(2.0))["verdict"] == "MISS"


def test_no_verdict_without_target_or_peer():
    assert judged(numba=entry(1.0), jax=entry(2.0))["verdict"] is None
    assert judged(Target("row", 1.5), numba=entry(1.0))["verdict"] is None
    assert (
        judged(Target("row", 3.0), rivals=("onnx",), numba=entry(1.0), jax=entry(0.1), onnx=entry(4.0))["verdict"]
        == "PASS"
    )


def test_targets_are_those_of_the_table():
    def asked(name, batch):
        found = cases.target(Case(NETS[name], batch))
        return found and (found.ratio, found.ceiling)

    assert [asked("784-16-16-10", b) for b in (1, 32, 128, 8192)] == [
        (3.0, None),
        (3.0, None),
        (1.5, None),
        (1.5, None),
    ]
    assert [asked("784-300-100-10", b) for b in (128, 512)] == [(1.3, None), (1.15, 0.88)]
    assert [asked("784-1024-1024-10", b) for b in (32, 512, 2048)] == [None, (1.05, None), (1.05, 0.90)]
    assert [asked("28-300-300-300-300-1", b) for b in (8, 32)] == [None, (1.2, None)]
    assert asked("1-64-64-1", 1) == (2.0, None)
    assert cases.target(Case(Net((5, 50, 2)), 8)) is None
    assert cases.predict_target(PredictCase(NETS["784-30-10"], 1)).ratio == 3.0
    assert cases.predict_target(PredictCase(NETS["784-30-10"], 2)) is None


def test_the_modes():
    assert len(cases.training_cases("all")) == 7 * 7 * 2
    assert [bool(cases.target(case)) for case in cases.training_cases("default")] == [
        not case.net.pixels for case in cases.training_cases("default")
    ]
    assert len(cases.training_cases("quick")) < 6
    assert {case.rows for case in cases.predict_cases("all")} > {1}


def test_flops_and_bytes_of_a_step():
    case = Case(Net((3, 4, 2)), 5)
    assert case.flops == 5 * (2 * 20 + 2 * 20 + 2 * 8)  # forward, gradient, delta of the second layer
    assert case.bytes == 4 * (5 * 4 + 2 * (20 + 6))
    assert Net((3, 4, 2)).parameters == 26
    assert Case(Net((3, 4, 2), pixels=True), 5).bytes == case.bytes - 3 * 5 * 3


def test_select():
    table = cases.training_cases("default")
    assert [case.key for case in cases.select(table, ["784-30-10@128"])] == ["train/784-30-10@128@sgd"]
    assert [case.key for case in cases.select(table, ["784-30-10@3@adam"])] == ["train/784-30-10@3@adam"]
    assert len(cases.select(table, ["784-30-10"])) == 7
    assert len(cases.select(cases.training_cases("quick"), ["784-100-100-10"])) == 2
    for name, hidden, classes in (
        ("784-31-10", "relu", True),
        ("2-128-128-1", "relu", False),
        ("28-300-300-300-300-1", "tanh", False),
    ):
        # anybody's net, and one of the table
        (case,) = cases.select(table, [f"{name}@64"])
        assert (case.key, case.net.hidden, case.net.classes) == (f"train/{name}@64@sgd", hidden, classes)
    # that of the list
    assert [case.key for case in cases.select(table, ["784-30-10:uint8"])] == ["train/784-30-10:uint8@512@sgd"]
    (pixels,) = cases.select(table, ["40-30-1:uint8@3@adam"])
    assert (pixels.key, pixels.net) == ("train/40-30-1:uint8@3@adam", Net((40, 30, 1), classes=False, pixels=True))
    for text, message in (
        ("784-30-10:int8", "784-300-100-10:uint8 for data of pixels"),
        ("784", "sizes of its layers"),
        ("784-0-10", "sizes of its layers"),
        ("784-a-10", "sizes of its layers"),
        ("784-30-10-", "sizes of its layers"),
        ("784-30-10@x", "integer >= 1"),
        ("784-30-10@8@adm", "adam"),
    ):
        with pytest.raises(ValueError, match=message):
            cases.select(table, [text])


# ---- the problem and the oracle -------------------------------------------------------------------


def test_the_problem_is_the_same_in_another_process():
    made = problem.make(TINY, 64, 9)
    with Client("fake_peers:Good", 1) as client:
        assert (
            client.ask("prepare", 60, net="1-64-64-1", batch=8, optimizer="sgd", rows=64, steps=9, seed=0)["digest"]
            == made.digest()
        )
    assert problem.make(TINY, 64, 9, seed=1).digest() != made.digest()


def test_every_epoch_is_a_permutation():
    order = problem.orders(10, 25)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert len(order) == 25
    assert list(order[:10]) != list(order[10:20])


def test_long_runs_go_as_far_as_short_ones():
    assert problem.learning_rate(TINY, 100) == TINY.learning_rate
    assert problem.learning_rate(TINY, 20_000) * 20_000 == pytest.approx(TINY.learning_rate * 200)
    assert Case(NETS["784-30-10"], 1).learning_rate < Case(NETS["784-30-10"], 8).learning_rate


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["1-64-64-1", "784-16-16-10", "28-300-300-300-300-1", "784-16-16-10:uint8"])
@pytest.mark.usefixtures("_blas_as_it_was")
@pytest.mark.parametrize("driver", ["fastnn_peer:Numpy", "fastnn_peer:Numba", "sklearn_peer:Sklearn"])
def test_drivers_agree_with_the_oracle(driver, name, optimizer):
    check_driver(driver, name, optimizer)


@needs_unit
@pytest.mark.usefixtures("_blas_as_it_was")
def test_the_engine_without_the_matrix_unit_or_with_it_agrees_too(monkeypatch):
    """Of the two the one that the plan does not take by itself; the other is absent."""
    monkeypatch.setattr("fastnn.backends.cpu_unit._one_thread_of_a_core", cpu_unit.really_shared)
    monkeypatch.setenv("FASTNN_AMX", "")
    used, absent = ("Unit", "Vectors") if cpu_unit.really_shared() else ("Vectors", "Unit")
    check_driver(f"fastnn_peer:{used}", "1-64-64-1", "adam")
    monkeypatch.setenv("FASTNN_AMX", "")  # which a peer sets, in its own process otherwise
    with Client(f"fastnn.bench.peers.fastnn_peer:{used}", 2) as client:
        described = {"net": "784-100-100-10", "batch": 512, "optimizer": "sgd", "rows": 1024, "steps": 4, "seed": 0}
        assert ("matrix unit" in client.ask("prepare", 300, **described)["choice"]) is (used == "Unit")
    with (
        Client(f"fastnn.bench.peers.fastnn_peer:{absent}", 2) as client,
        pytest.raises(Absent, match=r"the same as fastnn \(Numba\) here"),
    ):
        client.ask("hello", 300)


def test_it_is_absent_where_there_is_no_unit(monkeypatch):
    monkeypatch.setattr("fastnn.kernels.cpu.amx.missing", lambda: "this processor has none")
    with pytest.raises(ImportError, match=r"^the same as fastnn \(Numba\) here: this processor has none$"):
        Vectors(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("driver", "needs"),
    [
        ("torch_peer:Eager", "torch"),
        ("torch_peer:Compiled", "torch"),
        ("jax_peer:Jax", "jax"),
        ("onnx_peer:Onnx", "onnxruntime"),
    ],
)
def test_other_drivers_agree_with_the_oracle_where_they_are_installed(tmp_path, driver, needs):
    pytest.importorskip(needs, reason=f"{needs} is not installed here; `make bench` installs it")
    with Client(f"fastnn.bench.peers.{driver}", 1) as client:
        for name in ("1-64-64-1", "784-16-16-10"):
            assert client.ask("predict", 300, net=name, rows=3, seconds=0.001)["error"] < 1e-5
            if needs != "onnxruntime":
                for optimizer in ("sgd", "adam"):
                    check_answers(
                        client,
                        tmp_path / "oracle.npz",
                        {"net": name, "batch": 8, "optimizer": optimizer, "rows": 64, "steps": 9, "seed": 0},
                    )


def check_answers(client, path, described):
    """Training and its comparison through a worker process."""
    made = problem.make(problem.case_from(described), described["rows"], described["steps"])
    run = oracle.train(made)
    np.savez(path, theta=run.theta, mean_cost=run.mean_cost)
    assert client.ask("prepare", 300, **described)["digest"] == made.digest()
    reply = client.ask("time", 300, path=str(path))
    assert oracle.disagreement(described["optimizer"], reply["theta_error"], reply["cost_error"]) is None


def check_driver(driver, name, optimizer):
    """In this process: training and inference of one library against float64, and again after a reset."""
    worker = Worker(f"fastnn.bench.peers.{driver}", load.cores())
    made = problem.make(Case(cases.net_named(name), 8, optimizer), 64, 12)
    run = oracle.train(made)
    peer = worker.peer
    peer.load(made)
    for _ in range(2):
        peer.reset(made.theta)
        first = peer.run(0, 5)
        mean_cost = (5 * first + 7 * peer.run(5, 12)) / 12
        differences = oracle.differences(made, run, peer.theta(), mean_cost)
        assert oracle.disagreement(optimizer, *differences) is None, differences
    # nothing was written into the inputs
    assert made.digest() == problem.make(Case(cases.net_named(name), 8, optimizer), 64, 12).digest()
    assert worker.predict(name, 3, 0.001)["error"] < 1e-5
    assert peer.versions()["numpy"] == np.__version__
    assert isinstance(peer.describe(), str)


@pytest.mark.usefixtures("_blas_as_it_was")
def test_pixels_are_given_as_they_are_to_who_reads_them():
    made = problem.make(Case(cases.net_named("40-30-5:uint8"), 8), 64, 12)
    np.testing.assert_array_equal(made.X, made.pixels.astype(np.float32) * np.float32(1 / 255))
    assert len(np.unique(made.y)) == 5
    given = []
    for driver in ("Numba", "Numpy"):
        peer = Worker(f"fastnn.bench.peers.fastnn_peer:{driver}", 2).peer
        peer.load(made)
        given.append(peer.X.dtype.name)
    assert given == ["uint8", "float32"]
    assert problem.make(Case(cases.net_named("40-30-5"), 8), 64, 12).pixels is None


def test_the_oracle_descends_and_its_gradient_is_right():
    for optimizer in ("sgd", "adam"):
        made = problem.make(Case(NETS["784-16-16-10"], 32, optimizer), 128, 40)
        run = oracle.train(made)
        assert oracle.cost(made.net, run.theta, made.X, made.y) < oracle.cost(made.net, made.theta, made.X, made.y)
    made = problem.make(Case(NETS["1-64-64-1"], 16), 16, 1)
    one = oracle.train(made)
    rng, step = np.random.default_rng(0), 1e-6
    direction = rng.normal(size=made.theta.shape)
    theta = made.theta.astype(float)
    numerical = (
        oracle.cost(made.net, theta + step * direction, made.X, made.y)
        - oracle.cost(made.net, theta - step * direction, made.X, made.y)
    ) / (2 * step)
    assert (theta - one.theta) / made.learning_rate @ direction == pytest.approx(numerical, rel=1e-4)


def test_disagreement():
    assert oracle.disagreement("sgd", 1e-4, 1e-7) is None
    assert "parameters are off by 5.0e-01" in oracle.disagreement("sgd", 0.5, 0.0)
    assert "the cost is off" in oracle.disagreement("adam", 0.0, 0.5)
    assert oracle.disagreement("sgd", float("nan"), 0.0)
    assert oracle.disagreement("sgd", 0.0, float("nan"))
    made = problem.make(TINY, 64, 3)
    run = oracle.train(made)
    assert oracle.differences(made, run, run.theta, run.mean_cost) == (0.0, 0.0)
    assert oracle.differences(made, run, made.theta.astype(float), run.mean_cost)[0] == pytest.approx(1.0)
    assert oracle.differences(made, run, run.theta[:-1], run.mean_cost)[0] == float("inf")


@pytest.mark.parametrize(("works_until", "waited"), [(0.0, 0.02), (0.115, 0.14), (60.0, 0.5)])
def test_the_machine_is_given_time_to_become_quiet(monkeypatch, works_until, waited):
    """Spinning threads of the entrant before are waited for, but not for ever."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(load, "time", clock)
    monkeypatch.setattr(load, "_machine_busy", lambda: min(clock.now, works_until))  # one core at work, until then
    load.settle(0.02, 0.5)
    assert clock.now == pytest.approx(waited)


def test_a_busy_machine_is_flagged():
    quiet, busy = load.Sample(1.0, 1.0, 0.01), load.Sample(1.0, 0.5, 1.2 * (os.cpu_count() or 1))
    assert load.is_busy([quiet, quiet]) is False
    assert load.is_busy([quiet, busy]) is True
    assert load.is_busy([load.Sample(1.0, 1.0, None)]) is None
    with load.Stopwatch() as watch:
        pass
    assert watch.sample.seconds >= 0
