"""A run of the comparison: competitors that crash, hang, lie or are absent, the results file, resuming, the
command. No time is asserted.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import unittest.mock
import xml.etree.ElementTree as ET
from pathlib import Path

import fake_peers
import numpy as np
import pytest
import threadpoolctl
from typer.testing import CliRunner

from fastnn.bench import accuracy, ceiling, cell, environment, extras, load, results_file, runner, summary
from fastnn.bench.cases import NETS, Case, PredictCase, Target
from fastnn.bench.client import Absent, Client, PeerError
from fastnn.bench.page import page
from fastnn.bench.peers import PEERS, Spec
from fastnn.bench.worker import Worker, serve
from fastnn.cli import bench as command
from fastnn.cli.app import app

TINY = Case(NETS["1-64-64-1"], 8)
SMALL = cell.Settings(rows=64, seconds=0.002, rounds=3, timeout=60)


def fake(name, **more):
    return Spec(name.lower(), name, f"fake_peers:{name}", ("numpy",), "import json", sweep=False, **more)


@pytest.fixture(autouse=True)
def _workers_find_the_fakes(monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    )


@pytest.fixture(autouse=True)
def _nobody_waits_for_a_quiet_machine(monkeypatch):
    """Another process of the suite is always busy, and no time is asserted."""
    monkeypatch.setattr(cell, "settle", lambda: None)


@pytest.fixture
def _blas_as_it_was():
    """Drivers limit BLAS for their whole process, which in some tests is this one."""
    libraries = threadpoolctl.ThreadpoolController().lib_controllers
    before = [library.get_num_threads() for library in libraries]
    yield
    for library, count in zip(libraries, before, strict=True):
        library.set_num_threads(count)


# ---- competitors that misbehave -------------------------------------------------------------------


def test_a_crash_a_hang_and_an_absence_are_told_apart():
    described = {"net": "1-64-64-1", "batch": 8, "optimizer": "sgd", "rows": 64, "steps": 3, "seed": 0}
    with Client("fake_peers:DiesAtOnce", 1) as client, pytest.raises(PeerError, match="exit code 3") as caught:
        client.ask("prepare", 60, **described)
    assert caught.value.kind == "crashed"
    with Client("fake_peers:Hangs", 1) as client:
        client.ask("hello", 60)
        with pytest.raises(PeerError, match="no answer to 'prepare' within 1 s") as caught:
            client.ask("prepare", 1, **described)
        assert caught.value.kind == "hung"
        assert not client.running
        assert client.ask("hello", 60)["versions"]  # a new process
    with Client("fake_peers:Missing", 1) as client, pytest.raises(Absent, match="a_library_that_is_not_installed"):
        client.ask("hello", 60)
    with (
        Client("fake_peers:Raises", 1) as client,
        pytest.raises(PeerError, match="RuntimeError: no such optimizer") as caught,
    ):
        client.ask("prepare", 60, **described)
    assert caught.value.kind == "error"


def test_a_cell_goes_on_without_those_that_fail():
    names = ("Good", "Talkative", "Wrong", "NotANumber", "Raises", "Crashes", "DiesAtOnce", "Missing")
    specs = {name.lower(): fake(name, own=name == "Good") for name in names}
    with cell.Field(specs, 60) as entrants:
        entrants.roll_call()
        assert list(entrants.absent) == ["missing"]
        result = cell.training_cell(TINY, entrants, SMALL, ceiling=100.0)
    status = {name: entry["status"] for name, entry in result["entrants"].items()}
    assert status == {
        "good": "ok",
        "talkative": "ok",
        "wrong": "disagrees",
        "notanumber": "disagrees",
        "raises": "error",
        "crashes": "crashed",
        "diesatonce": "crashed",
    }
    assert "SIGKILL" in result["entrants"]["crashes"]["note"]
    assert "rounds" not in result["entrants"]["crashes"]
    assert result["entrants"]["wrong"]["theta_error"] == pytest.approx(0.5, abs=0.01)
    assert result["entrants"]["wrong"]["cost_error"] < 1e-6
    assert result["entrants"]["good"]["theta_error"] < 1e-3
    assert len(result["entrants"]["good"]["rounds"]) == 3
    assert (result["ours"], result["best_peer"]) == ("good", "talkative")
    assert result["target"]["ratio"] == 2.0
    assert result["verdict"] in ("PASS", "MISS")


HUNG = PeerError("hung", "")


@pytest.mark.parametrize(
    ("asked", "rates", "ceiling_"),
    [(0.5, [300.0, 100.0, 200.0], 200.0), (0.5, [HUNG, 50.0, HUNG], 50.0), (0.5, [HUNG] * 3, 70.0), (None, [], 70.0)],
)
def test_the_ceiling_is_measured_in_every_round_where_a_share_is_asked_for(asked, rates, ceiling_):
    left = unittest.mock.Mock(side_effect=rates)
    with cell.Field({"good": fake("Good", own=True), "talkative": fake("Talkative")}, 60) as entrants:
        result = cell.training_cell(
            TINY, entrants, SMALL, ceiling=70.0, product=left, wanted=lambda case: Target("row", 1.0, asked)
        )
    assert left.call_count == len(rates)
    assert result["products"] == [rate for rate in rates if not isinstance(rate, PeerError)]
    assert result["share"] == pytest.approx(result["entrants"]["good"]["gflops"] / ceiling_)


def test_a_hang_is_reported_and_the_cell_goes_on():
    with cell.Field({"good": fake("Good", own=True), "hangs": fake("Hangs")}, 60) as entrants:
        result = cell.training_cell(TINY, entrants, cell.Settings(rows=64, seconds=0.001, rounds=3, timeout=3))
    assert result["entrants"]["hangs"]["status"] == "hung"
    assert result["entrants"]["good"]["status"] == "ok"


def test_a_much_slower_one_is_timed_in_fewer_rounds():
    with cell.Field({"good": fake("Good", own=True), "slow": fake("Slow")}, 60) as entrants:
        result = cell.training_cell(TINY, entrants, cell.Settings(rows=64, seconds=0.02, rounds=5, timeout=60))
    assert [len(result["entrants"][name]["rounds"]) for name in ("good", "slow")] == [5, 3]


@pytest.mark.parametrize(
    ("slow", "steps", "status", "error"),
    [("Slow", 25, "ok", 0.0), ("SlowAsAWhole", 400, "ok", 0.0), ("SlowAndWrong", 25, "disagrees", 0.5)],
)
def test_a_much_slower_one_runs_the_first_steps_alone(monkeypatch, slow, steps, status, error):
    """Compared with the float64 run after those; whose steps are compiled as a whole runs all."""
    monkeypatch.setattr(cell, "_pace", lambda *arguments: (400, ""))
    seen, took, spread, verify = [], [], cell.spread, cell._verify
    monkeypatch.setattr(cell, "spread", lambda values: (seen.append(values), spread(values))[1])
    monkeypatch.setattr(
        cell, "_verify", lambda entry, case: (took.append((entry["steps"], entry["samples"])), verify(entry, case))
    )
    with cell.Field({"good": fake("Good", own=True), "slow": fake(slow)}, 60) as entrants:
        good, other = cell.training_cell(TINY, entrants, cell.Settings(rows=64, seconds=0.02, rounds=3, timeout=60))[
            "entrants"
        ].values()
    assert (good["steps"], other["steps"], other["status"]) == (400, steps, status)
    assert other["theta_error"] == pytest.approx(error, abs=0.01)
    # seconds per step, of as many as were run
    assert seen == [[sample["seconds"] / count for sample in samples] for count, samples in took]


def test_nobody_works():
    with cell.Field({"raises": fake("Raises")}, 60) as entrants:
        result = cell.training_cell(TINY, entrants, SMALL)
    assert result["entrants"]["raises"]["note"] == "RuntimeError: no such optimizer"
    assert result["ratio"] is None


def test_the_better_number_of_threads_is_kept():
    class Fixed:
        def __init__(self, seconds):
            self.seconds = seconds

        def ask(self):
            if self.seconds is None:
                raise PeerError("crashed", "no")
            return {"probe_seconds": self.seconds}

    clients = {("x", 1): Fixed(2.0), ("x", 2): Fixed(1.0)}
    field = cell.Field({"x": fake("Good")}, 60, _clients=clients)
    found, client = cell._sweep(field, "x", [1, 2], lambda client: client.ask())
    assert (found["threads"], found["swept"], client) == (2, {"1": 2.0, "2": 1.0}, clients["x", 2])
    clients["x", 2].seconds = None
    found, client = cell._sweep(field, "x", [1, 2], lambda client: client.ask())
    assert (found["threads"], client, found["note"]) == (1, clients["x", 1], "with another number of threads: no")


def test_wrong_outputs_are_marked_in_inference():
    specs = {"good": fake("Good", own=True), "wrong": fake("Wrong"), "talkative": fake("Talkative")}
    with cell.Field(specs, 60) as entrants:
        result = cell.predict_cell(PredictCase(NETS["784-30-10"], 2), entrants, SMALL)
    assert {name: entry["status"] for name, entry in result["entrants"].items()} == {
        "good": "ok",
        "wrong": "disagrees",
        "talkative": "ok",
    }
    assert result["best_peer"] == "talkative"


# ---- the worker's other answers -------------------------------------------------------------------


@pytest.mark.usefixtures("_blas_as_it_was")
def test_worker_requests(tmp_path):
    worker = Worker("fake_peers:Good", load.cores())
    described = {"net": "1-64-64-1", "batch": 8, "optimizer": "sgd", "rows": 64, "seed": 0}
    assert worker.hello()["versions"]["numpy"] == np.__version__
    assert worker.pace(least=0.001, **described)["seconds"] > 0
    truth = worker.oracle(path=str(tmp_path / "o.npz"), steps=5, **described)
    assert worker.prepare(steps=5, **described)["digest"] == truth["digest"]
    assert worker.time(str(tmp_path / "o.npz"))["final_cost"] == pytest.approx(truth["final_cost"], rel=1e-4)
    assert worker.memory()["peak"] is None or worker.memory()["peak"] > 1 << 20
    assert ceiling.bandwidth(4, 1) > 0
    for library in ("numpy", "scipy"):
        assert worker.gemm(library, [32], 0.001)["gflops"]["32"] > 0
        assert worker.product(library, 32, 0.001)["gflops"] > 0


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.usefixtures("_blas_as_it_was")
def test_steps_are_run_before_the_timed_ones_but_not_counted(tmp_path, monkeypatch, whole):
    worker, runs = Worker("fake_peers:Good", load.cores()), []
    described = {"net": "1-64-64-1", "batch": 8, "optimizer": "sgd", "rows": 64, "seed": 0}
    truth = worker.oracle(path=str(tmp_path / "o.npz"), steps=40, **described)
    worker.prepare(steps=40, **described)
    run = worker.peer.run
    monkeypatch.setattr(worker.peer, "run", lambda start, stop: (runs.append((start, stop)), run(start, stop))[1])
    monkeypatch.setattr(type(worker.peer), "whole", whole)
    reply = worker.time(str(tmp_path / "o.npz"))
    before, timed = runs[:-1], runs[-1]
    assert timed == (0, 40)
    assert before[0] == ((0, 40) if whole else (0, 2))
    assert [start for start, _ in before[1:]] == [stop for _, stop in before[:-1]]
    assert reply["final_cost"] == pytest.approx(truth["final_cost"], rel=1e-4)
    assert reply["theta_error"] < 1e-4


def test_serving(tmp_path):
    answers = tmp_path / "answers"
    with answers.open("w") as out:
        serve(Worker("fake_peers:Missing", 1), iter(['{"op": "hello"}\n', '{"op": "memory"}\n']), out)
    first, second = [json.loads(line) for line in answers.read_text().splitlines()]
    assert (first["ok"], first["missing"], second["ok"]) == (False, True, True)


def test_time_to_accuracy(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.random((96, 784), np.float32)
    y = (X[:, :10]).argmax(axis=1)
    monkeypatch.setattr(accuracy, "_mnist", lambda folder: (X, y, X, y))
    peer = fake_peers.Good(1)
    done = accuracy.train_to(peer, Case(NETS["784-16-16-10"], 32, "adam"), "", seed=0, epochs=3, goal=2.0)
    assert len(done["curve"]) == 3
    assert done["reached"] is None
    assert accuracy.train_to(peer, Case(NETS["784-16-16-10"], 32, "adam"), "", seed=0, epochs=3, goal=0.0)[
        "reached"
    ] == pytest.approx(0, abs=60)


def test_extras():
    spec = fake("Good")
    assert extras.import_time(spec, 1)["library"]["median"] >= 0
    assert extras.startup(spec, 1, 1)["cold"] > 0
    assert extras.size(PEERS["numpy"])["parts"]["numpy"] > 1e6
    assert extras.memory(spec, 1, 256)["rows"] == 256 * 785 * 4
    with pytest.raises(PeerError, match="exit code 1"):
        extras.startup(fake("Missing"), 1, 1)
    with pytest.raises(PeerError, match="did not finish"):
        extras._run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)


def test_environment():
    found = environment.describe()
    assert found["cores"] >= 1
    assert found["fastnn"]
    assert json.loads(json.dumps(found)) == found
    assert "numpy" in environment.requirements(("fastnn-backends",))
    assert environment.requirements(("no-such-distribution",)) == set()


# ---- the run, its file, resuming ------------------------------------------------------------------


def tiny_plan(mode="quick", **more):
    peers = {"good": fake("Good", own=True), "talkative": fake("Talkative"), "missing": fake("Missing")}
    return runner.Plan(
        mode,
        [TINY],
        [PredictCase(NETS["1-64-64-1"], 1)],
        SMALL,
        peers,
        gemm_sizes=[32],
        gemm_seconds=0.001,
        repeats=1,
        **more,
    )


def test_a_run_writes_what_it_returns(tmp_path):
    path = tmp_path / "results.json"
    said = []
    results = runner.Comparison(tiny_plan(), path, say=said.append).run()
    assert runner.read(path) == json.loads(results_file.dumps(results))
    assert {"train/1-64-64-1@8@sgd", "predict/1-64-64-1@1", "size/good", "import/talkative", "startup/good"} <= set(
        results["units"]
    )
    assert results["peers"]["missing"]["absent"].startswith("ModuleNotFoundError")
    assert results["sessions"][0]["ceiling"]["best"] > 0
    assert results["sessions"][0]["finished"]
    assert any("round 1" in text for text in said)
    assert not list(tmp_path.glob("*.part"))


def test_resuming_measures_only_what_is_missing(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    runner.Comparison(tiny_plan(extras=False), path).run()
    before = runner.read(path)
    del before["units"]["predict/1-64-64-1@1"]
    measured = []
    true = cell.predict_cell
    monkeypatch.setattr(runner, "training_cell", lambda *a: pytest.fail("measured again"))
    monkeypatch.setattr(runner, "predict_cell", lambda case, *a: measured.append(case.key) or true(case, *a))
    after = runner.Comparison(tiny_plan(extras=False), path, before).run()
    assert measured == ["predict/1-64-64-1@1"]
    assert after["units"]["train/1-64-64-1@8@sgd"]["session"] == 0
    assert after["units"]["predict/1-64-64-1@1"]["session"] == 1
    assert len(after["sessions"]) == 2


def test_an_interrupted_run_keeps_what_is_done(tmp_path, monkeypatch):
    def interrupt(*a):
        raise KeyboardInterrupt

    path = tmp_path / "results.json"
    monkeypatch.setattr(runner, "predict_cell", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.Comparison(tiny_plan(), path).run()
    assert "train/1-64-64-1@8@sgd" in runner.read(path)["units"]


def test_out_of_time_is_said(monkeypatch):
    monkeypatch.setitem(runner.BUDGETS, "quick", (0.0, 0.5))
    results = runner.Comparison(tiny_plan()).run()
    assert "out of time" in results["skipped"]["train/1-64-64-1@8@sgd"]
    assert any("not measured (out of time" in line for line in summary.problems(results))


def test_accuracy_without_data_is_skipped_with_a_line(monkeypatch):
    monkeypatch.delenv("FASTNN_MNIST", raising=False)
    results = runner.Comparison(tiny_plan("default", extras=False, seeds=1)).run()
    assert "MNIST needs a folder" in results["skipped"]["accuracy"]


def write_idx(path, array):
    path.write_bytes(
        struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    )


def test_accuracy_with_data(tmp_path):
    """Rows whose class is the place of their bright stripe: anyone reaches the goal."""
    for part, m in (("train", 512), ("t10k", 64)):
        y = np.arange(m) % 10
        X = np.zeros((m, 28, 28))
        X[np.arange(m), 2 * y] = 255
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", X)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", y)
    plan = tiny_plan("default", extras=False, seeds=1, data=str(tmp_path))
    plan.training, plan.predicting = (), ()
    results = runner.Comparison(plan).run()
    good, talkative = (results["units"][f"accuracy/0/{name}"] for name in ("good", "talkative"))
    assert good["steps"] == 4
    assert good["curve"][-1][1] >= accuracy.GOAL
    assert good["reached"] == good["curve"][-1][0] > 0
    assert [value for _, value in good["curve"]] == [value for _, value in talkative["curve"]]
    assert "Time to accuracy" in page(results)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        '{"schema": 99, "units": {}}',
        '{"schema": 1}',
        '{"schema": 1, "units": []}',
        '{"kind": "gpu", "schema": 1, "units": {}}',
        "\0",
    ],
)
def test_a_file_that_is_no_results_file(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"x\.json: not results of `fastnn bench`"):
        runner.read(path)


def test_json_has_no_nan():
    assert json.loads(results_file.dumps({"a": [float("nan"), 1.5, float("inf")], 3: (1,)})) == {
        "a": [None, 1.5, None],
        "3": [1],
    }


# ---- the command ----------------------------------------------------------------------------------


def cli(*words):
    return CliRunner().invoke(app, ["bench", *map(str, words)])


def test_quick_on_a_tiny_list(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "make_plan", lambda mode, **options: tiny_plan(mode))
    result = cli("--quick", "--json", tmp_path / "r.json", "--html", tmp_path / "r.html")
    assert result.exit_code == 0, result.stderr
    assert "1-64-64-1, batch 8" in result.stdout
    assert "page written" in result.stderr
    ET.fromstring((tmp_path / "r.html").read_text().partition("\n")[2])
    again = cli("--quick", "--resume", tmp_path / "r.json")
    assert again.exit_code == 0, again.stderr
    assert len(runner.read(tmp_path / "r.json")["sessions"]) == 2
    monkeypatch.setattr(command, "make_plan", lambda mode, **options: tiny_plan(mode, extras=False))
    printed = cli("--quick", "--json", "-")
    assert json.loads(printed.stdout)["schema"] == runner.SCHEMA


def test_an_engine_of_ours_that_disagrees_is_an_error(monkeypatch):
    plan = tiny_plan(extras=False)
    plan.peers, plan.predicting = {"wrong": fake("Wrong", own=True), "good": fake("Good")}, ()
    monkeypatch.setattr(command, "make_plan", lambda mode, **options: plan)
    result = cli("--quick")
    assert result.exit_code == 1
    assert "failed or disagreed in train/1-64-64-1@8@sgd" in result.stderr


def test_plans_of_the_modes():
    for mode in ("quick", "default", "all"):
        plan = command.make_plan(mode)
        assert list(plan.peers) == list(PEERS)
        assert plan.training
    narrow = command.make_plan("quick", peers=["jax"], cases=["784-30-10@8"], rounds=3, seeds=0)
    assert list(narrow.peers) == ["numba", "vectors", "unit", "jax"]
    assert [case.key for case in narrow.training] == ["train/784-30-10@8@sgd"]
    assert narrow.settings.rounds == 3
    assert not narrow.predicting


def test_bad_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fastnn-bench.json").write_text("{}")
    for words, expected in (
        (["--quick", "--all"], "exclude each other"),
        (["--peer", "tensorflow"], "--peer 'tensorflow' is not known"),
        (["--case", "x"], "sizes of its layers"),
        (["--rounds", "0"], "--rounds"),
        (["--rounds", "x"], "--rounds must be an integer"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--seeds", "-1"], "--seeds"),
        (["--json", "no/such/folder/r.json"], "does not exist"),
        (["--resume", "fastnn-bench.json"], "not results of `fastnn bench` of this version"),
        ([], "earlier run"),
        (["--resume", "none.json"], "none.json: not results of `fastnn bench`: No such file"),
    ):
        result = cli(*words)
        assert result.exit_code == 2, (words, result.stdout)
        assert expected in result.stderr


def test_nothing_else_imports_the_comparison():
    code = "import sys, fastnn, fastnn.cli.app; print([m for m in sys.modules if m.startswith('fastnn.bench')])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
        ).stdout.strip()
        == "[]"
    )
