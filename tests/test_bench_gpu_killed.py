"""A GPU run that is killed, or whose page cannot be made: what was measured is on disk, and nothing goes on computing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastnn.bench.gpu import __main__ as command
from fastnn.bench.gpu import runner
from fastnn.bench.gpu.runner import Stage, read

HERE = Path(__file__).parent
STAGES = "[Stage(n, n, 'fake_stages:' + n, 60, 60, 60) for n in ('good', 'hangs')]"
COMMAND = (
    "import sys\nfrom fastnn.bench.gpu import __main__ as command, runner\nfrom fastnn.bench.gpu.runner import Stage\n"
    f"command.STAGES = runner.STAGES = {STAGES}\nrunner.Run.__init__.__kwdefaults__['stages'] = runner.STAGES\n"
    "sys.exit(command.main(['--out', sys.argv[1], '--data', sys.argv[2], '--quick']))\n"
)


def gone(number):
    """Whether a process ends within a few seconds."""
    for _ in range(100):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{number}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL], ids=str)
def test_a_run_that_is_killed_leaves_its_results_and_its_page(kill, tmp_path):
    child = tmp_path / "child"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    process = subprocess.Popen([sys.executable, "-c", COMMAND, str(tmp_path), str(child)], env=environment)
    for _ in range(600):
        if child.exists() and child.read_text():
            break
        time.sleep(0.05)
    process.send_signal(kill)
    code = process.wait(timeout=60)
    number = int(child.read_text())
    try:
        (path,) = tmp_path.glob("*.json")
        stages = read(path)["stages"]
        assert stages["good"]["status"] == "ok"
        assert "good" in path.with_suffix(".html").read_text()
        assert "good" in path.with_suffix(".txt").read_text()
        if kill == signal.SIGTERM:
            assert code == 143
            assert stages["hangs"] | {"seconds": 0} == {
                "title": "hangs", "seconds": 0, "status": "partial", "note": "", "result": {"part": 3},
            }  # fmt: skip
            assert gone(number)
    finally:
        if not gone(number):
            os.kill(number, signal.SIGKILL)


def test_the_script_passes_on_that_it_is_to_end(tmp_path):
    """What is killed at a time limit is the script: its child would go on computing on the device."""
    sleeper = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    code = (
        "import runpy, sys; gpu = runpy.run_path(sys.argv[1]); "
        "sys.exit(gpu['waited_for']([sys.executable, '-c', *sys.argv[2:]], None))"
    )
    script = str(HERE.parent / "bench" / "gpu.py")
    process = subprocess.Popen([sys.executable, "-c", code, script, sleeper, str(tmp_path / "child")])
    child = tmp_path / "child"
    for _ in range(600):
        if child.exists() and child.read_text():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert gone(int(child.read_text()))


@pytest.mark.parametrize("broken", ["document", "show"])
def test_a_page_that_cannot_be_made_costs_nothing_else(broken, tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise ZeroDivisionError("nothing was measured")

    monkeypatch.setattr(command, broken, fails)
    monkeypatch.setattr(command, "STAGES", [Stage("good", "the good one", "fake_stages:good", 60, 60, 60)])
    monkeypatch.setattr(
        runner.Run.__init__, "__kwdefaults__", runner.Run.__init__.__kwdefaults__ | {"stages": command.STAGES}
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]))
    command.main(["--quick", "--out", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    assert read(path)["stages"]["good"]["status"] == "ok"
    assert "could not be written (ZeroDivisionError: nothing was measured)" in capsys.readouterr().err
    assert path.with_suffix({"document": ".txt", "show": ".html"}[broken]).exists()
