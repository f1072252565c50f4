"""Products compiled in a process of its own, where nothing is on disk yet (fastnn/backends/cpu_beside.py)."""

import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastnn
from fastnn.backends import cpu_beside
from fastnn.kernels.cpu import JIT

needs_jit = pytest.mark.skipif(not JIT, reason="about code that is compiled")

# Trains a little; tells how many processes were started, and how many of the six products and parts this one found on
# disk.
TRAIN = textwrap.dedent("""
    import subprocess, sys
    import numpy as np
    import fastnn
    from fastnn.backends import cpu_beside
    from fastnn.kernels.cpu import on_demand, packing, panels

    started, popen = [], subprocess.Popen
    def start(command, **options):
        if command[0] == sys.executable:  # NumPy 2.0 asks lscpu, when numpy.testing is imported
            started.append(command)
        return popen(command, **options)
    cpu_beside.subprocess.Popen = start
    cpu_beside.usable_threads = lambda: 2
    {before}
    net = fastnn.Network([3, 4, 2], hidden="tanh", backend=fastnn.get_backend("numba", threads=1, panels=True), seed=0)
    net.fit(np.ones((8, 3)), np.arange(8) % 2, batch_size=4, epochs=1, shuffle=False)
    used = [*panels._compiled("float32"), *packing._compiled("float32"), *(on_demand._compiled("float32", which) for which in (on_demand.ACTIVATE, on_demand.DERIVATIVE))]
    print(len(started), sum(function.cache_hits for function in used), float(net.theta.sum()).hex())
""")


def _train(tmp_path, before=""):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TRAIN.format(before=before)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def _files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.nbc")}


@needs_jit
@pytest.mark.slow
def test_the_first_fit_compiles_its_program_alone(tmp_path):
    first = _train(tmp_path)
    assert first[:2] == ["1", "8"]
    files = _files(tmp_path)
    assert files, "compiled code is kept where NUMBA_CACHE_DIR says"
    again = _train(tmp_path)
    assert again[:2] == ["0", "8"]
    assert _files(tmp_path) == files, "and read back, not compiled again"
    broken = tmp_path / "python-broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    anew = tmp_path / "anew"
    shutil.copytree(tmp_path / "fastnn", anew / "fastnn")
    beside = [path for path in anew.rglob("*.nb*") if path.name.startswith(("panels.", "packing.", "on_demand."))]
    assert len(beside) > 16, "an index and code of what the other process compiled"
    for path in beside:
        path.unlink()
    alone = _train(anew, f"sys.executable = {str(broken)!r}")
    assert alone[:2] == ["1", "0"], "it is compiled here, where its process fails"
    assert first[2] == again[2] == alone[2]


class Process:
    """One that takes as long as it likes."""

    def __init__(self, hangs):
        self.hangs, self.calls = hangs, []

    def wait(self, timeout=None):
        self.calls.append("wait")
        if self.hangs and timeout is not None:
            raise subprocess.TimeoutExpired("python", timeout)

    def poll(self):
        return None

    def kill(self):
        self.calls.append("kill")


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The command lines of what would be started, where nothing is compiled yet."""
    lines = []
    monkeypatch.setattr(cpu_beside, "JIT", True)
    monkeypatch.setattr(cpu_beside, "CACHE_FOLDER", tmp_path)
    monkeypatch.setattr(cpu_beside, "_process", None)
    monkeypatch.setattr(cpu_beside, "_asked", set())
    monkeypatch.setattr(cpu_beside, "usable_threads", lambda: 2)
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(subprocess, "Popen", lambda line, **options: lines.append(line) or Process(hangs=False))
    return lines


def test_one_process_is_started_and_waited_for(started):
    cpu_beside.compile_beside("panels._apply", "table('float32', set())")
    cpu_beside.compile_beside("amx._forward", "amx_table(set())")  # one is enough
    ((python, flag, command, code),) = started
    assert (python, flag, command) == ("/usr/bin/python3", "-P", "-c")
    assert "from fastnn.kernels.cpu.on_demand import amx_table, table; " in code
    assert code.endswith("from fastnn.kernels.cpu.packing import packing; table('float32', set())")
    assert repr(sys.path) in code
    process = cpu_beside._process
    cpu_beside.wait_for_products()
    cpu_beside.wait_for_products()
    assert process.calls == ["wait"]


def test_none_is_started_where_it_would_not_help(started, monkeypatch, tmp_path):
    def ask():
        cpu_beside._asked.clear()
        cpu_beside.compile_beside("panels._apply", "table('float32', set())")

    (tmp_path / "deeper").mkdir()
    kept = tmp_path / "deeper" / "panels._apply-116.py311.nbi"
    kept.touch()
    ask()
    kept.unlink()
    for name, value in (("JIT", False), ("CACHE_FOLDER", None), ("usable_threads", lambda: 1)):
        with monkeypatch.context() as changed:
            changed.setattr(cpu_beside, name, value)
            ask()
    for name, value in (("executable", ""), ("executable", "/usr/bin/gimp"), ("frozen", True)):
        with monkeypatch.context() as changed:
            changed.setattr(sys, name, value, raising=False)
            ask()
    assert started == []
    cpu_beside.wait_for_products()


def test_the_folder_is_looked_through_once(started, monkeypatch, tmp_path):
    """It holds hundreds of files, and looking takes longer than a small fit."""
    looked = []
    monkeypatch.setattr(type(tmp_path), "rglob", lambda folder, pattern: looked.append(pattern) or ["found"])
    for _ in range(3):
        cpu_beside.compile_beside("panels._apply", "table('float32', set())")
        cpu_beside.compile_beside("panels._apply", "table('float64', set())")
    assert looked == ["panels._apply-*.nbi"] * 2
    assert started == []


def test_one_that_cannot_be_started_or_hangs_is_done_without(started, monkeypatch):
    def refused(*args, **options):
        raise PermissionError("no process here")

    with monkeypatch.context() as changed:
        changed.setattr(subprocess, "Popen", refused)
        cpu_beside.compile_beside("panels._apply", "table('float32', set())")
    assert cpu_beside._process is None
    hanging = Process(hangs=True)
    monkeypatch.setattr(cpu_beside, "_process", hanging)
    cpu_beside.wait_for_products()
    assert hanging.calls == ["wait", "kill", "wait"]
    assert cpu_beside._process is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_it_to_its_parent(monkeypatch):
    process = Process(hangs=False)
    monkeypatch.setattr(cpu_beside, "_process", process)
    monkeypatch.setattr(cpu_beside, "_lock", cpu_beside._lock)
    cpu_beside._forget()
    cpu_beside._stop()
    assert process.calls == []


@needs_jit
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_the_parts_are_those_that_training_needs(monkeypatch, loss):
    asked = []
    monkeypatch.setattr("fastnn.backends.numba_backend.compile_beside", lambda first, call: asked.append((first, call)))
    options = {"output": "identity", "cost": loss} if loss == "squared_error" else {}
    net = fastnn.Network(
        [3, 4, 2], hidden="sigmoid", backend=fastnn.get_backend("numba", threads=1, panels=True), **options
    )
    net.fit(np.ones((8, 3)), np.ones((8, 2)) if options else np.arange(8) % 2, batch_size=4, epochs=1)
    assert asked == [("panels._apply", "table('float32', {4, 5}); packing('float32')")]
