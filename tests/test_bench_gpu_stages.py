"""What each stage of the GPU run makes of what it sees: with the stand-in of the device, tools that are shell
scripts, planted failures.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gpu_lab
import numpy as np
import pytest

from fastnn.backends.cupy_lt import Binding
from fastnn.bench.cases import Case, net_named
from fastnn.bench.cell import Settings
from fastnn.bench.client import Absent
from fastnn.bench.gpu import accuracy, cases, ceilings, environment, every_kernel, sanitizer, steps, suite
from fastnn.bench.gpu.stage import Request
from fastnn.bench.peers import Spec
from fastnn.bench.statistics import spread
from fastnn.kernels.cuda import sources


def nothing(part):
    """Where a stage writes its parts."""


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# ---- the card -----------------------------------------------------------------------------------------------------

SMI = """case "$1" in
  --query-gpu=*) echo "Some GPU, 580.1, 1000, 3, 345, 1980, 3201, 30, 700.00, 0, 9.0" ;;
  *) echo 512; echo "[N/A]" ;;
esac"""


def test_the_card_is_described(tmp_path, monkeypatch):
    script(tmp_path / "nvidia-smi", SMI)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert environment.card() == dict(
        zip(
            environment.FIELDS,
            ("Some GPU", "580.1", "1000", "3", "345", "1980", "3201", "30", "700.00", "0", "9.0"),
            strict=True,
        )
    )
    assert environment.others() == {"processes": 2, "memory": 512}
    properties = {"name": b"Some GPU", "major": 9, "minor": 0, "multiProcessorCount": 132, "l2CacheSize": 60}
    runtime = SimpleNamespace(
        getDevice=lambda: 0,
        getDeviceProperties=lambda device: properties,
        memGetInfo=lambda: (7, 8),
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13020,
    )
    fake = SimpleNamespace(
        __version__="14.2", cuda=SimpleNamespace(runtime=runtime, nvrtc=SimpleNamespace(getVersion=lambda: (13, 2)))
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(environment, "choose_binding", lambda: Binding(None, 130200, "nvmath-python"))
    parts = []
    result = environment.run(Request(), parts.append)
    assert result["device"] == {
        "name": "Some GPU",
        "compute": "9.0",
        "multiprocessors": 132,
        "l2_bytes": 60,
        "memory_free": 7,
        "memory_total": 8,
    }
    assert parts[0]["libraries"]["NVRTC"] == "13.2"
    assert parts[0]["libraries"]["cuBLASLt"] == "130200 through nvmath-python"
    assert parts[0]["versions"]["numpy"] == np.__version__
    json.dumps(parts)


@pytest.mark.parametrize("text", ["exit 9", "sleep 60", None])
def test_a_silent_driver_is_no_card(tmp_path, monkeypatch, text):
    if text:
        script(tmp_path / "nvidia-smi", text)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if text else str(tmp_path))
    real = environment.subprocess.run
    monkeypatch.setattr(environment.subprocess, "run", lambda *a, timeout, **k: real(*a, timeout=0.2, **k))
    assert environment.card() == {}
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(Absent, match="no CUDA device answers"):
        environment.run(Request(), nothing)


# ---- the suite ------------------------------------------------------------------------------------------------------


@pytest.fixture
def little_suite(tmp_path):
    """A checkout whose tests pass, fail, skip - or wait for ever if a file says so."""
    tests = tmp_path / "checkout" / "tests"
    tests.mkdir(parents=True)
    (tests.parent / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tests / "conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--require-backend', action='append', default=[])\n"
    )
    (tests / "test_gpu.py").write_text(
        "import pytest\n@pytest.mark.filterwarnings('ignore')\ndef test_good(): pass\n"
        "def test_bad(): assert 16 == 17, 'a wrong product'\n"
        "def test_skipped(): pytest.skip('none')\n@pytest.fixture\ndef broken(): raise OSError('no device')\ndef "
        "test_error(broken): pass\n"
    )
    (tests / "test_cupy_slow.py").write_text("import time\ndef test_first(): pass\ndef test_waits(): time.sleep(600)\n")
    return tests


def test_failures_come_with_their_short_text(little_suite):
    result = suite.group(little_suite, [str(little_suite / "test_gpu.py")], "", 60)
    assert {key: result[key] for key in ("status", "passed", "failed", "skipped")} == {
        "status": "failed",
        "passed": 1,
        "failed": 2,
        "skipped": 1,
    }
    texts = {failure["test"]: failure["text"] for failure in result["failures"]}
    assert texts["test_gpu::test_bad"].startswith("AssertionError: a wrong product")
    assert texts["test_gpu::test_error"] == "OSError: no device"


def test_a_group_that_hangs_shows_what_had_run(little_suite):
    result = suite.group(little_suite, [str(little_suite / "test_cupy_slow.py")], "", 4)
    assert result["status"] == "hung"
    assert result["passed"] == 1
    assert "not done within 4 s" in result["note"]


def test_a_suite_that_cannot_begin_says_why(little_suite):
    (little_suite / "conftest.py").write_text(
        "import pytest\ndef pytest_configure(config):\n    raise pytest.UsageError('cupy cannot be used: no driver')\n"
    )
    result = suite.group(little_suite, [str(little_suite / "test_gpu.py")], "", 60, ())
    assert result["status"] == "failed"
    assert result["note"] == "pytest ended with exit code 4: ERROR: cupy cannot be used: no driver"


def test_a_file_that_cannot_be_imported_leaves_the_others(little_suite):
    """Packages are others there than here: one that is missing, or too old for another, is missed by one file."""
    (little_suite / "test_more.py").write_text("import a_library_that_is_not_installed\n")
    result = suite.group(little_suite, [str(little_suite / name) for name in ("test_gpu.py", "test_more.py")], "", 60)
    assert (result["status"], result["passed"], result["failed"]) == ("failed", 1, 3)
    assert any("No module named 'a_library_that_is_not_in" in failure["text"] for failure in result["failures"])


def test_plugins_that_happen_to_be_installed_are_left_alone(little_suite, tmp_path, monkeypatch):
    """One that warns when it is loaded ends everything where warnings are failures."""
    (tmp_path / "bad-1.0.dist-info").mkdir()
    (tmp_path / "bad-1.0.dist-info" / "entry_points.txt").write_text("[pytest11]\nbad = bad\n")
    (tmp_path / "bad.py").write_text("raise OSError('a plugin that nobody asked for')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert suite.group(little_suite, [str(little_suite / "test_gpu.py")], "", 60)["passed"] == 1


def test_the_suite_stage(little_suite, monkeypatch):
    monkeypatch.setattr(suite, "GROUPS", (("device", ("test_gpu.py",), ""), ("late", ("test_gpu.py",), "")))
    parts = []
    result = suite.run(Request("default", 60, str(little_suite.parent)), parts.append)
    assert (result["passed"], result["failed"], result["left_out"]) == (2, 4, [])
    assert list(parts[0]["groups"]) == ["device"] or len(parts) == 2
    known = {"groups": {"device": {"status": "ok", "passed": 7, "failed": 0}, "late": {"status": "hung", "passed": 1}}}
    # what was done is not done again
    result = suite.run(Request("default", 60, str(little_suite.parent), results={"suite": known}), parts.append)
    assert (result["passed"], result["groups"]["device"]["passed"], result["groups"]["late"]["passed"]) == (8, 7, 1)
    with pytest.raises(Absent, match="no checkout"):
        suite.run(Request("default", 60, None), nothing)
    assert suite.run(Request("default", 1, str(little_suite.parent)), nothing)["left_out"] == ["device", "late"]


def test_a_group_ends_before_the_stage_does(little_suite, monkeypatch):
    """Interpreter and imports take of a stage's time, and pytest needs some to write its report."""
    given = []
    monkeypatch.setattr(suite, "group", lambda *a: given.append(a[3]) or {"status": "ok", "passed": 1})
    now = time.monotonic()
    suite.run(Request("quick", 90, checkout=str(little_suite.parent), deadline=now + 60), nothing)
    assert 44 < given[0] <= 60 - suite.WIND_DOWN
    left_out = suite.run(Request("quick", 90, checkout=str(little_suite.parent), deadline=now + 10), nothing)[
        "left_out"
    ]
    assert left_out == ["device"]
    suite.run(Request("default", 90, checkout=str(little_suite.parent), deadline=now + 60), nothing)
    assert given[1] < 0.7 * given[0] < given[-1]


def test_every_file_is_in_one_group():
    tests = Path(__file__).parent
    found = {name: suite.files_of(tests, name) for name, _, _ in suite.GROUPS}
    assert all(found.values())
    every = [path for files in found.values() for path in files]
    assert len(every) == len(set(every)) == len(list(tests.glob("test_*.py")))
    assert set(suite.files_of(tests, suite.WHOLE[0])) == set(every)  # without a device all once more
    # a lent device does not wait for what runs on processors
    assert all(marker == "gpu" for _, _, marker in suite.GROUPS)


def test_only_deprecations_of_others_are_let_through(little_suite):
    (little_suite / "test_gpu.py").write_text(
        "import warnings\ndef test_a():\n    warnings.warn('old', DeprecationWarning)\ndef test_b():\n    "
        "warnings.warn('bad', RuntimeWarning)\n"
    )
    result = suite.group(little_suite, [str(little_suite / "test_gpu.py")], "", 60, ("-Werror::RuntimeWarning",))
    assert (result["passed"], result["failed"], result["failures"][0]["test"]) == (1, 1, "test_gpu::test_b")


# ---- the sanitizer
# ----------------------------------------------------------------------------------------------------


def test_every_kernel_runs_with_tails():
    """What compute-sanitizer watches is all there is: a kernel that this does not reach would never be watched."""
    # with fewer sizes than on a device
    ran = every_kernel.exercise(gpu_lab.make_backend(), ("float32",), ((33, (5, 40, 3)), (301, (3, 2, 2))))
    assert every_kernel.report(ran) == {"kernels": len(sources.kernels()), "missing": []}
    assert every_kernel.report(ran - {"add_bias"})["missing"] == ["add_bias"]
    assert not {"_launch", "seconds"} & set(vars(gpu_lab.make_backend().device))


CLEAN = 'echo "kernels: 22; missing: "; echo "========= ERROR SUMMARY: 0 errors"'
FAULTY = (
    'echo "kernels: 20; missing: softmax add_bias"; echo "========= Invalid __global__ write of size 4 bytes"; echo '
    '"========= ERROR SUMMARY: 3 errors"; exit 86'
)


@pytest.mark.parametrize(
    ("text", "planted", "expected"),
    [
        (CLEAN, False, {"status": "ok", "errors": 0, "kernels": 22, "missing": []}),
        (
            FAULTY,
            False,
            {
                "status": "failed",
                "errors": 3,
                "missing": ["softmax", "add_bias"],
                "note": "Invalid __global__ write of size 4 bytes",
            },
        ),
        (FAULTY, True, {"status": "ok", "errors": 3}),
        (CLEAN, True, {"status": "failed", "note": "a planted fault was not reported: the tool sees nothing here"}),
        (
            'echo "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)"; exit 86',
            True,
            {"status": "ok", "errors": 2},
        ),
        (
            'echo "========= Error: Device not supported"; exit 1',
            False,
            {"status": "absent", "note": "the tool gave no summary: ========= Error: Device not supported"},
        ),
        (
            'echo "========= ERROR SUMMARY: 0 errors"; exit 1',
            False,
            {"status": "failed", "note": "the kernels did not run to their end (exit code 1)"},
        ),
        ("sleep 60", False, {"status": "hung", "note": "not done within 1 s"}),
    ],
)
def test_what_the_sanitizer_says(tmp_path, text, planted, expected):
    result = sanitizer.watch(str(script(tmp_path / "tool", text)), "memcheck", 1 if "sleep" in text else 30, planted)
    assert {key: result[key] for key in expected} == expected


def test_the_tools_watch_fastnns_kernels_and_the_planted_one_alone(tmp_path):
    commands = {}
    for check in sanitizer.TOOLS:
        sanitizer.watch(
            str(script(tmp_path / check, f'echo "$@" > {tmp_path}/{check}.said; {CLEAN}')), check, 30, False
        )
        commands[check] = (tmp_path / f"{check}.said").read_text().split()
        watched = {
            word.removeprefix("--kernel-name=kne=") for word in commands[check] if word.startswith("--kernel-name")
        }
        assert watched == {*sources.kernels(), "planted"}
        assert all(f"void {sanitizer.PLANTED}(" in text for text in every_kernel.PLANTED.values())
    assert {"--report-api-errors=no", "--padding=512"} <= set(commands["memcheck"])
    assert not {"--report-api-errors=no", "--padding=512"} & set(commands["racecheck"])


def test_the_sanitizer_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(sanitizer, "PLACES", ())
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    with pytest.raises(Absent, match="compute-sanitizer is not installed"):
        sanitizer.run(Request(), nothing)
    script(tmp_path / "compute-sanitizer", f'case "$*" in *every_kernel) {CLEAN} ;; *) {FAULTY} ;; esac')
    result = sanitizer.run(Request(), nothing)
    assert {name: entry["status"] for name, entry in result["checks"].items()} == dict.fromkeys(
        ("memcheck, planted fault", "memcheck", "racecheck, planted fault", "racecheck"), "ok"
    )
    assert result["failed"] == 0
    assert sanitizer.run(Request(seconds=1), nothing)["left_out"]


# ---- ceilings
# -----------------------------------------------------------------------------------------------------------


def test_the_ceiling_is_the_best_median():
    lab = gpu_lab.StandInLab()
    found = ceilings.measure(lab, [(32, 32, 32), (512, 256, 128)], (1 << 20, 1 << 22), rounds=3)
    for precision, rate in gpu_lab.RATES.items():
        entry = found["gemm"][precision]
        assert entry["at"] == "512 x 256 x 128"
        # the middle one of three times that are 1.00, 1.01, 1.02 of it
        assert entry["best"] == pytest.approx(rate / 1e9 / 1.01, rel=1e-6)
        assert entry["sustained"] == pytest.approx(rate / 1e9 / 1.25)
        assert entry["all"][0]["gflops"] < entry["best"] / 9
    assert found["copy"]["best"] == pytest.approx(4000 / 1.01, rel=1e-6)
    assert lab.timer.count == (3 * 2 + 2) * (3 + 3)  # warm-ups do not count but are run


def test_ways_are_timed_in_turn():
    timer, order = gpu_lab.ToldTimer(), []
    found = timer.compare({name: (lambda name=name: order.append(name) or 1.0) for name in "ab"}, rounds=2, warm_up=1)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert set(found) == {"a", "b"}


def test_shapes_are_those_of_the_layers():
    assert (8192, 4096, 784) in ceilings.shapes("default")
    assert (8192, 1024, 1024) in ceilings.shapes("default")
    assert len(ceilings.shapes("all")) > len(ceilings.shapes("default")) > len(ceilings.shapes("quick"))


# ---- whole steps
# ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _workers_find_the_fakes(monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    )


def peer(name, driver, **more):
    return Spec(name, name, driver, ("numpy",), "import json", sweep=False, **more)


@pytest.mark.usefixtures("_workers_find_the_fakes")
def test_whole_steps_beside_others():
    """fastnn over the stand-in is right beside the float64 run; one that is wrong is not compared with."""
    peers = {
        spec.name: spec
        for spec in (
            peer("captured", "gpu_lab:Eager", own=True),
            peer("torch", "fake_peers:Good"),
            peer("compile", "fake_peers:Wrong"),
            peer("jax", "fake_peers:Missing"),
        )
    }
    case = Case(net_named("12-9-3"), 16, "adam")
    settings = Settings(rows=64, seconds=0.001, rounds=3, timeout=60, compared=1)
    parts = []
    found = steps.measure(
        [case], peers, settings, {"fp32": 1.0}, lambda: 1e6, {}, lambda part: parts.append(copy.deepcopy(part))
    )
    cell = found["cells"][case.key]
    assert {name: entry["status"] for name, entry in cell["entrants"].items()} == {
        "captured": "ok",
        "torch": "ok",
        "compile": "disagrees",
    }
    assert cell["entrants"]["captured"]["theta_error"] < 1e-3
    assert (cell["ours"], cell["best_peer"]) == ("captured", "torch")
    assert cell["share"] > 0
    assert found["peers"]["jax"]["absent"]
    assert [set(part["cells"][case.key]["entrants"]) for part in parts] == [
        {"captured", "torch"},
        {"captured", "torch", "compile"},
    ]
    again = steps.measure([case, Case(net_named("12-9-3"), 8)], peers, settings, {}, lambda: 1.0, found, nothing)
    assert again["cells"][case.key] == cell
    assert again["left_out"] == ["train/12-9-3@8@sgd"]
    cell["entrants"]["jax"] = {"status": "hung"}  # a library that was still compiling: once more, and then it is done
    again = steps.measure([case], peers, settings, {"fp32": 1.0}, lambda: 1e6, found, parts.append)
    assert "jax" not in again["cells"][case.key]["entrants"]
    assert again["cells"][case.key]["repeated"]
    again["cells"][case.key]["entrants"]["jax"] = {"status": "hung"}
    once_more = steps.measure([case], peers, settings, {"fp32": 1.0}, lambda: 1e6, again, parts.append)
    assert once_more["cells"][case.key]["entrants"]["jax"] == {"status": "hung"}
    assert len(parts) == 3  # without the one that compiles, and with it; once more
    with pytest.raises(Absent, match="ModuleNotFoundError"):
        steps.measure(
            [case],
            {"captured": peer("captured", "fake_peers:Missing", own=True)},
            settings,
            {},
            lambda: 1e6,
            {},
            nothing,
        )


def entry(*seconds, status="ok"):
    return {"status": status, "note": "", "rounds": {str(i): s for i, s in enumerate(seconds)}, **spread(seconds)}


def judged(case, share=None, **entrants):
    cell = {
        "entrants": entrants,
        "ours": "captured" if entrants.get("captured", {}).get("status") == "ok" else None,
        "share": share,
    }
    cases.judge(cell, case)
    return cell


NARROW, WIDEST = Case(net_named("784-16-16-10"), 32), Case(net_named("784-4096-4096-4096-10"), 8192, "sgd", "bf16")


def test_verdicts():
    ok, slow, gone_ = entry(1.0), entry(20.0), entry(1.0, status="crashed")
    assert judged(NARROW, captured=ok, compile=entry(3.0), torch=entry(10.0))["verdict"] == "PASS"
    assert judged(NARROW, captured=ok, compile=entry(2.9), torch=slow)["verdict"] == "MISS"
    assert judged(NARROW, captured=ok, compile=slow, torch=entry(9.0))["verdict"] == "MISS"
    undecided = judged(NARROW, captured=ok, compile=gone_, torch=slow)
    assert (undecided["verdict"], undecided["open"]) == (None, ["compile has no result"])
    # the other half is missed already
    assert judged(NARROW, captured=ok, compile=gone_, torch=entry(2.0))["verdict"] == "MISS"
    assert judged(NARROW, captured=gone_, compile=ok, torch=ok)["verdict"] == "MISS"
    assert judged(NARROW, captured=gone_)["verdict"] is None
    assert judged(WIDEST, 0.86, captured=ok, compile=entry(1.2))["verdict"] == "PASS"
    assert judged(WIDEST, 0.84, captured=ok, compile=entry(1.2))["verdict"] == "MISS"
    assert judged(WIDEST, None, captured=ok, compile=entry(1.2))["open"] == ["the ceiling was not measured"]
    assert judged(Case(net_named("784-16-16-10"), 512), captured=ok)["target"] is None


def test_the_table_of_targets():
    wanted = [cases.target(case) for case in cases.training_cases("default")]
    assert all(wanted)
    assert len({row.row for row in wanted}) == 4
    shares = {
        (case.optimizer, case.precision): cases.target(case).share
        for case in cases.training_cases("default")
        if case.net.width == 4096
    }
    assert shares == {("sgd", "bf16"): 0.85, ("adam", "bf16"): 0.80, ("sgd", "tf32"): 0.85, ("adam", "tf32"): 0.80}
    assert cases.target(Case(net_named("784-4096-4096-4096-10"), 8192)) is None  # fp32 is asked nothing
    every = cases.training_cases("all")
    assert len(every) == len({case.key for case in every}) == 5 * 4 * 2 * 3
    assert {case.key for case in cases.training_cases("quick") + cases.training_cases("default")} <= {
        case.key for case in every
    }


@pytest.mark.usefixtures("_workers_find_the_fakes")
def test_time_to_accuracy(tmp_path):
    from test_bench_runs import write_idx

    for part, m in (("train", 512), ("t10k", 64)):
        y = np.arange(m) % 10
        X = np.zeros((m, 28, 28))
        X[np.arange(m), 2 * y] = 255
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", X)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", y)
    peers = {"captured": peer("captured", "gpu_lab:Eager", own=True), "torch": peer("torch", "fake_peers:Raises")}
    found = accuracy.measure(str(tmp_path), peers, 1, lambda: 1e6, nothing)
    (run,) = found["runs"]["captured"]
    assert run["curve"][-1][1] >= 0.98
    assert found["median"] == run["reached"]
    assert found["verdict"] == ("PASS" if found["median"] < found["asked"] else "MISS")
    assert found["runs"]["torch"] == [{"status": "error", "note": "RuntimeError: no such optimizer"}]
    assert accuracy.measure(str(tmp_path), peers, 1, lambda: 1.0, nothing)["left_out"] == [
        "captured, seed 0",
        "torch, seed 0",
    ]
    with pytest.raises(Absent, match="MNIST"):
        accuracy.run(Request(data=str(tmp_path / "nowhere")), nothing)


@pytest.mark.usefixtures("_workers_find_the_fakes")
def test_small_steps_are_checked_against_numpy_and_large_ones_on_the_device(monkeypatch):
    asked = []

    def cell(case, entrants, settings, *rest, **options):
        asked.append((case.net.width, settings.oracle))
        return {"entrants": {}}

    monkeypatch.setattr(steps, "training_cell", cell)
    peers = {"own": peer("own", "fake_peers:Good", own=True)}
    chosen = [c for c in cases.training_cases("default") if c.optimizer == "sgd" and c.precision in ("fp32", "bf16")]
    steps.measure(chosen, peers, Settings(oracle="cupy"), {}, lambda: 100.0, {}, nothing)
    assert asked == [(16, "numpy"), (4096, "cupy"), (300, "cupy"), (1024, "cupy")]
