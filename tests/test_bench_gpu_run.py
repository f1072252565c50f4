"""The GPU run's machinery without a GPU: stages that fail, crash, hang or are absent; resuming; the command from a
plain checkout.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gpu_sample
import pytest

from fastnn.bench.gpu import __main__ as command
from fastnn.bench.gpu import runner
from fastnn.bench.gpu import stage as stage_process
from fastnn.bench.gpu.runner import STAGES, Run, Stage, read

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _stages_are_found(monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    )


def stage(name, function=None, seconds=30.0, **more):
    return Stage(name, f"the stage {name}", f"fake_stages:{function or name}", seconds, seconds, seconds, **more)


def test_what_goes_wrong_is_reported_and_the_run_goes_on(tmp_path):
    path, said = tmp_path / "gpu.json", []
    names = ("absent", "raises", "crashes", "good")
    results = Run("quick", path, stages=[stage(name) for name in names], say=said.append, data="somewhere").run()
    found = results["stages"]
    assert {name: found[name]["status"] for name in names} == {
        "absent": "absent",
        "raises": "failed",
        "crashes": "crashed",
        "good": "ok",
    }
    assert found["absent"]["note"] == "the tool is not here"
    assert found["raises"]["note"] == "ValueError: no such shape"
    assert found["crashes"]["note"] == "its process ended with signal SIGSEGV"
    assert found["raises"]["result"] == {"part": 1}
    assert found["crashes"]["result"] == {"part": 2}  # what was done before the crash
    assert found["good"]["result"] == {"mode": "quick", "seen": ["absent", "crashes", "raises"], "data": "somewhere"}
    assert "a long story" in found["raises"]["log"]
    assert "about to fall" in found["crashes"]["log"]
    assert "log" not in found["good"]
    assert {name: entry["status"] for name, entry in json.loads(path.read_text())["stages"].items()} == {
        name: found[name]["status"] for name in names
    }
    log = path.with_suffix(".log").read_text()
    assert log.index("==== absent") < log.index("about to fall") < log.index("the good one says hello")
    assert any(line.startswith("crashes: crashed") for line in said)


def gone(pid):
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_hang_is_ended_with_everything_it_started(tmp_path):
    child = tmp_path / "child"
    results = Run(
        "default", tmp_path / "gpu.json", stages=[stage("hangs", seconds=3.0), stage("good")], data=str(child)
    ).run()
    assert results["stages"]["hangs"]["status"] == "hung"
    assert results["stages"]["hangs"]["note"] == "was not done within 3 s, and was ended"
    assert results["stages"]["hangs"]["result"] == {"part": 3}
    assert results["stages"]["good"]["status"] == "ok"
    assert gone(int(child.read_text()))


def test_what_a_stage_has_so_far_is_in_the_file_while_it_runs(tmp_path, monkeypatch):
    """Nothing measured is lost where the whole run is killed."""
    monkeypatch.setattr(runner, "LOOK", 0.1)
    path, seen, end = tmp_path / "gpu.json", [], runner._end
    monkeypatch.setattr(runner, "_end", lambda process: (seen.append(read(path)["stages"]["hangs"]), end(process)))
    Run("default", path, stages=[stage("hangs", seconds=3.0)], data=str(tmp_path / "child")).run()
    assert (seen[0]["status"], seen[0]["result"]) == ("partial", {"part": 3})
    assert read(path)["stages"]["hangs"]["status"] == "hung"


def test_one_that_will_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "GRACE", 0.5)
    began = time.monotonic()
    results = Run("default", tmp_path / "gpu.json", stages=[stage("stubborn", seconds=3.0)]).run()
    assert results["stages"]["stubborn"]["status"] == "hung"
    assert time.monotonic() - began < 60


def test_resuming_keeps_what_is_good_and_does_the_rest(tmp_path):
    path = tmp_path / "gpu.json"
    stages = [stage("good"), stage("parts", "part_by_part"), stage("broken", "raises")]
    Run("all", path, stages=stages).run()
    first = read(path)
    assert first["stages"]["parts"]["status"] == "incomplete"
    assert first["stages"]["parts"]["note"] == "2 left out for lack of time; --resume goes on"
    stages[2] = stage("broken", "good")  # mended meanwhile
    for expected in ("incomplete", "ok"):
        again = Run("all", path, read(path), stages=stages).run()
        assert again["stages"]["parts"]["status"] == expected
    assert again["stages"]["parts"]["result"]["done"] == [0, 1, 2]
    assert again["stages"]["broken"]["status"] == "ok"
    assert again["stages"]["good"] == first["stages"]["good"]
    assert len(again["sessions"]) == 3


def test_out_of_time_leaves_stages_out(tmp_path):
    results = Run("quick", tmp_path / "gpu.json", stages=[stage("good")], budget=1.0).run()
    assert results["stages"]["good"]["status"] == "left out"


def test_a_longer_budget_stretches_the_limits_and_the_modes_own_does_not(tmp_path):
    def limit(**options):
        return Run(
            "default",
            tmp_path / "gpu.json",
            stages=[stage("good", "limit", 10.0), stage("raises", seconds=40.0)],
            only=["good"],
            **options,
        ).run()["stages"]["good"]["result"]["seconds"]

    assert limit() == 10
    assert limit(budget=25.0) == pytest.approx(25, abs=1)
    assert limit(budget=8.0) == pytest.approx(8, abs=1)


def test_without_what_is_needed_the_rest_is_not_tried(tmp_path):
    results = Run("quick", tmp_path / "gpu.json", stages=[stage("absent", needed=True), stage("good")]).run()
    assert results["stages"]["good"] | {"result": None} == {
        "title": "the stage good",
        "status": "left out",
        "note": "nothing can be done without the stage absent",
        "result": None,
        "seconds": 0.0,
    }


def test_the_stages_fit_into_the_time_that_was_promised():
    assert runner.BUDGETS["default"] + runner.GRACE < 480
    assert runner.BUDGETS["quick"] + runner.GRACE < 125
    for stage_ in STAGES:
        assert importlib.util.find_spec(stage_.target.partition(":")[0]) is not None
    assert STAGES[0].needed
    # Everything before the whole steps leaves them time for the table of targets.
    assert sum(s.default for s in STAGES[:-1]) <= runner.BUDGETS["default"] - 120


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "gpu", "schema": 99}', '{"schema": 1, "units": {}}'])
def test_other_files_are_not_results(tmp_path, text, capsys):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json: not results of the GPU run"):
        read(path)
    assert command.main(["--resume", str(path)]) == 2
    assert "error: " in capsys.readouterr().err


def test_options():
    assert command.arguments([]).stage == []
    with pytest.raises(SystemExit):
        command.arguments(["--quick", "--all"])
    with pytest.raises(SystemExit):
        command.arguments(["--stage", "everything"])
    assert command.arguments(["--budget", "560"]).budget == 560
    for budget in ("0", "-1", "inf", "nan", "long"):
        with pytest.raises(SystemExit):
            command.arguments(["--budget", budget])


def test_results_of_a_resumed_run_go_where_they_are_asked_for(tmp_path, monkeypatch, capsys):
    (tmp_path / "gpu.json").write_text(json.dumps(gpu_sample.sample()))
    made = []
    monkeypatch.setattr(
        command,
        "Run",
        lambda mode, path, *rest, **options: (
            made.append((path, options["budget"]))
            or SimpleNamespace(run=gpu_sample.sample, results=gpu_sample.sample())
        ),
    )
    for more in ([], ["--out", str(tmp_path / "out"), "--budget", "9"]):
        command.main(["--resume", str(tmp_path / "gpu.json"), *more])
    assert made == [(tmp_path / "gpu.json", None), (tmp_path / "out" / "gpu.json", 9)]
    assert (tmp_path / "out" / "gpu.html").exists()
    capsys.readouterr()


# ---- the command, from a plain checkout ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("bench_gpu", ROOT / "bench" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_checkout_is_laid_out_as_an_installation(script, tmp_path):
    script.lay_out(tmp_path)
    code = (
        "import fastnn.kernels.cuda.sources as s, fastnn.bench.gpu.runner, fastnn; print(fastnn.__file__, s.__file__, "
        "len(s.kernels()), sep='\\n')"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    *places, count = result.stdout.split()
    assert all(Path(place).is_relative_to(tmp_path) for place in places)
    assert int(count) > 10


def run_script(tmp_path, *options, path=""):
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, str(ROOT / "bench" / "gpu.py"), "--out", str(tmp_path), *options],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_without_a_device_the_command_says_so_and_writes_its_files(tmp_path):
    import fastnn

    if fastnn.available_backends()["cupy"] is None:
        pytest.skip("there is a device here")
    result = run_script(tmp_path, "--quick")
    assert result.returncode == 2, result.stderr
    assert "no CUDA device answers" in result.stdout
    (path,) = tmp_path.glob("*.json")
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".html", ".txt", ".log"}
    stages = json.loads(path.read_text())["stages"]
    assert {entry["status"] for name, entry in stages.items() if name != "environment"} == {"left out"}
    text = path.read_text() + path.with_suffix(".html").read_text()
    assert str(tmp_path) not in text
    assert str(ROOT) not in text
    again = run_script(tmp_path, "--resume", str(path), "--stage", "environment")
    assert again.returncode == 2
    assert len(json.loads(path.read_text())["sessions"]) == 2


def test_ctrl_c_ends_the_stage_and_keeps_the_results(tmp_path):
    code = (
        "from pathlib import Path; from fastnn.bench.gpu.runner import Run, Stage; import sys\n"
        "stages = [Stage(n, n, 'fake_stages:' + n, 60, 60, 60) for n in ('good', 'hangs')]\n"
        "Run('quick', Path(sys.argv[1]), stages=stages, data=sys.argv[2]).run()\n"
    )
    path, child = tmp_path / "gpu.json", tmp_path / "child"
    process = subprocess.Popen([sys.executable, "-c", code, str(path), str(child)], stderr=subprocess.PIPE)
    for _ in range(400):
        if child.exists() and child.read_text():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors
    assert read(path)["stages"]["good"]["status"] == "ok"
    assert gone(int(child.read_text()))


@pytest.mark.parametrize(
    ("name", "status", "note", "result"),
    [
        ("good", "ok", "", {"mode": "quick", "seen": [], "data": None}),
        (
            "part_by_part",
            "incomplete",
            "2 left out for lack of time; --resume goes on",
            {"done": [0], "left_out": [1, 2]},
        ),
        ("absent", "absent", "the tool is not here", {}),
        ("raises", "failed", "ValueError: no such shape", {"part": 1}),
    ],
)
def test_a_stage_writes_how_it_ended(name, status, note, result, tmp_path):
    """In this process, whose handlers of signals are put back."""
    asked, answer = tmp_path / "request.json", tmp_path / "result.json"
    asked.write_text(json.dumps({"mode": "quick"}))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stage_process.main(f"fake_stages:{name}", str(asked), str(answer))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert json.loads(answer.read_text()) == {"status": status, "note": note, "result": result}
