"""Options, the engines every test runs on, and the summary of which of them ran.

Only a real GPU may be missing: a test that cannot get any other engine fails, it does not skip.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Deterministic and short by default; `--hypothesis-profile=thorough` looks further.
settings.register_profile(
    "fastnn",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", parent=settings.get_profile("fastnn"), derandomize=False, max_examples=500)
settings.load_profile("fastnn")

# "cupy-on-cpu" is the CuPy engine bound to a stand-in device that runs its CUDA kernels on the CPU.
ENGINES = ("numpy", "numba", "cupy-on-cpu", "cupy")
MAY_BE_MISSING = {"cupy"}
# Those that tests go through. Where CuPy is not installed thousands would be made, handed to a process and skipped to
# say that, which the summary says once. Without the compiler the Numba engine is another, and the others are as they are.
if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
    IN_TURN = ("numba",)
elif importlib.util.find_spec("cupy") is None:
    IN_TURN = ENGINES[:-1]
else:
    IN_TURN = ENGINES
REQUIRED = pytest.StashKey[frozenset[str]]()

# A shell starts what runs in its background with Ctrl-C ignored, and so would be the processes that tests start and
# interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

_made: dict[str, object] = {}  # name -> the engine, or the reason (str) why there is none


def engine(name):
    """The engine of this name, or a string that says why it cannot be used. One instance per session."""
    if name not in _made:
        try:
            if name == "cupy-on-cpu":
                _made[name] = importlib.import_module("cuda_on_cpu").make_backend()
            else:
                import fastnn

                _made[name] = fastnn.get_backend(name)
        except Exception as error:  # the reason is reported, whatever it is
            _made[name] = f"{type(error).__name__}: {error}"
    return _made[name]


def pytest_addoption(parser):
    parser.addoption(
        "--require-backend", action="append", default=[], metavar="NAME", choices=ENGINES,
        help="an error if this engine cannot be used (repeatable); with cupy, gpu tests that would skip fail",
    )  # fmt: skip
    parser.addoption(
        "--strict-arrays", action="store_true",
        help="cupy-on-cpu with arrays that refuse what CuPy's refuse (cuda_on_cpu/strict.py)",
    )  # fmt: skip


def _matrix_units_of_our_own():
    """Whatever machine this is: plans are to be the same everywhere. What becomes of them where others may use the unit
    has its own tests. Before there is an engine, which asks when it is made.
    """
    try:
        from fastnn.backends import cpu_unit
    except ImportError:
        return
    cpu_unit.really_shared, cpu_unit._one_thread_of_a_core = cpu_unit._one_thread_of_a_core, lambda: False


def pytest_configure(config):
    _matrix_units_of_our_own()
    if config.getoption("--strict-arrays"):
        _made["cupy-on-cpu"] = importlib.import_module("cuda_on_cpu.strict").make_backend()
    config.stash[REQUIRED] = frozenset(config.getoption("--require-backend"))
    for name in sorted(config.stash[REQUIRED]):
        if isinstance(engine(name), str):
            raise pytest.UsageError(f"--require-backend={name}, but it cannot be used: {engine(name)}")


def _engine_of(item):
    """The engine a test runs on, None where it runs on none in particular."""
    callspec = getattr(item, "callspec", None)
    name = callspec.params.get("backend") if callspec else None
    if name in ENGINES:
        return name
    return "cupy" if item.get_closest_marker("gpu") else None


# Files that take longest come first: `make test` hands whole files to two processes, and one that begins last would be
# waited for by the other.
LONG = (
    "test_estimators.py", "test_numba_beside.py", "test_other_processors.py", "test_cuda_nvrtc.py", "test_bench_runs.py",
    "test_wheel.py", "test_cli_train.py", "test_cuda_faults.py", "test_training.py", "test_prediction.py",
    "test_cli_resume.py", "test_bench_gpu_stages.py", "test_missing_packages.py", "test_numba_cache.py",
    "test_network_gradients.py", "test_warming.py", "test_programs.py", "test_panels.py", "test_bench_gpu_rehearsal.py",
    "test_forks.py", "test_cli_other.py", "test_readme.py", "test_precision.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_runtest_setup(item):
    name = _engine_of(item)
    if name is None:
        return
    item.user_properties.append(("engine", name))
    reason = engine(name)
    if isinstance(reason, str):
        if name in MAY_BE_MISSING and name not in item.config.stash[REQUIRED]:
            pytest.skip(f"{name}: {reason}")
        pytest.fail(f"engine {name} cannot be used: {reason}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and item.get_closest_marker("gpu")
        and "cupy" in item.config.stash[REQUIRED]
    ):
        report.outcome, report.longrepr = "failed", f"skipped, but --require-backend=cupy was given: {report.longrepr}"
    return report


_ran: Counter[tuple[str, str]] = Counter()


def pytest_runtest_logreport(report):
    name = dict(report.user_properties).get("engine")
    if name and (report.when == "call" or (report.when == "setup" and not report.passed)):
        _ran[name, "expected to fail" if hasattr(report, "wasxfail") else report.outcome] += 1


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("engines")
    for name in ENGINES:
        counts = {
            outcome: _ran[name, outcome]
            for outcome in ("passed", "failed", "skipped", "expected to fail")
            if _ran[name, outcome]
        }
        text = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        if counts.keys() - {"skipped"}:
            terminalreporter.line(f"{name:12} ran: {text}")
        else:
            reason = _made.get(name) if name in IN_TURN or name not in MAY_BE_MISSING else engine(name)
            reason = reason.splitlines()[0] if isinstance(reason, str) else "no test asked for it"
            terminalreporter.line(f"{name:12} did not run ({text or 'no tests'}): {reason}")


# Module scope groups the tests of a file by engine; Hypothesis needs more than function scope.
@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.gpu if name == "cupy" else ()) for name in IN_TURN]
)
def backend(request):
    """Each engine in turn."""
    return engine(request.param)


@pytest.fixture(scope="module", params=["float32", "float64"])
def dtype(request):
    """Both dtypes in turn."""
    return np.dtype(request.param)


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Run the command line in an empty folder; gives (exit code, stdout, stderr)."""
    from typer.testing import CliRunner

    from fastnn.cli.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def households(tmp_path):
    """Categories, a column of numbers of rows, missing cells, a rare class; and other rows for the test."""
    rng = np.random.default_rng(0)
    for name, rows in (("homes", 300), ("others", 60)):
        lines = ["id,size,city,sold"]
        for i in range(rows):
            city, size = ("Oslo", "Rome")[rng.integers(2)], rng.integers(20, 200)
            rare = "yes" if size > 175 and city == "Oslo" else "no"
            lines.append(f"h{i},{'' if i % 29 == 3 else size},{city},{rare}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
