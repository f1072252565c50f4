"""The test suite on the device: pytest with --require-backend=cupy, group by group, every failure with its short
text.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import IO

from ..client import Absent
from ..statistics import Result
from .stage import Request, Write

__all__ = ["GROUPS", "files_of", "group", "run", "summary"]

# (name, files; all that are left if empty, marker). What touches the device most comes first, in case time runs out.
GROUPS = (
    ("device", ("test_gpu.py", "test_gpu_cublaslt.py"), "gpu"),
    ("operations", ("test_operations.py", "test_activations.py", "test_costs.py"), "gpu"),
    ("programs", ("test_programs.py", "test_training.py", "test_network*.py"), "gpu"),
    ("the rest of the device tests", (), "gpu"),
)
WHOLE = ("everything that needs no device", (), "not gpu and not slow and not browser")  # minutes on processors alone
# Packages are newer there than those that the tests were written with: that one of them deprecates something is no
# failure of the device.
LENIENT = tuple(f"-Wdefault::{kind}" for kind in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"))
MOST_FAILURES, MOST_TEXT = 40, 400
# Seconds from a Ctrl-C to pytest to the end of the stage, in which it ends a test and writes its report; and of what is
# left beside them, at most so much for one of several groups.
WIND_DOWN, SHARE = 15.0, 0.6


def _short(text: str) -> str:
    """The lines of a failure that say what was wrong."""
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")] or text.strip().splitlines()[-3:]
    return " ".join(lines)[:MOST_TEXT]


def summary(report: Path) -> Result:
    """{"passed", "failed", "skipped", "seconds", "failures": [{"test", "text"}]} of a JUnit report."""
    counts: Result = {"passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0, "failures": []}
    for case in ET.parse(report).getroot().iter("testcase"):
        if case.get("name") is None:  # the one during which time was up
            continue
        counts["seconds"] += float(case.get("time") or 0)
        bad = [child for child in case if child.tag in ("failure", "error")]
        if bad:
            counts["failed"] += 1
            if len(counts["failures"]) < MOST_FAILURES:
                name = f"{(case.get('classname') or '').rpartition('.')[2]}::{case.get('name')}"
                counts["failures"].append({"test": name, "text": _short(bad[0].text or bad[0].get("message") or "")})
        else:
            counts["skipped" if any(child.tag == "skipped" for child in case) else "passed"] += 1
    return counts


def files_of(tests: Path, name: str) -> list[str]:
    """The files of a group of this name; for one without patterns those that no group of the same marker has."""
    groups = (*GROUPS, WHOLE)
    _, patterns, marker = next(group for group in groups if group[0] == name)
    taken = {
        path
        for _, others, same in groups
        if same in (marker, "") and not patterns
        for pattern in others
        for path in tests.glob(pattern)
    }
    return sorted(
        str(path) for pattern in patterns or ("test_*.py",) for path in tests.glob(pattern) if path not in taken
    )


def group(
    tests: Path, wanted: list[str], marker: str, seconds: float, options: tuple[str, ...] = ("--require-backend=cupy",)
) -> Result:
    """Run these files within the time; what pytest itself says where there is no report."""
    root = tests.parent
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",  # a file that wants a package that is not there leaves the others
            "-c",
            str(root / "pyproject.toml"),
            f"--rootdir={root}",
            f"--junitxml={report}",
            *(("-m", marker) if marker else ()),
            *LENIENT,
            *options,
            *wanted,
        ]
        with (Path(folder) / "said").open("w+", encoding="utf-8", errors="replace") as said:
            code = _run(command, folder, said, seconds)
            said.seek(0)
            words = said.read()
        print(words)
        if not report.exists() or code not in (0, 1, 5, None):  # 1: some failed; 5: none was chosen; None: time was up
            last = (words.strip().splitlines() or [""])[-1]
            return {
                "status": "hung" if code is None else "failed",
                "note": f"not done within {seconds:.0f} s"
                if code is None
                else f"pytest ended with exit code {code}: {last}",
            }
        counts = summary(report)
    if code is None:
        return {"status": "hung", "note": f"not done within {seconds:.0f} s; these had run", **counts}
    return {
        "status": "ok" if not counts["failed"] and counts["passed"] else "failed",
        "note": "" if counts["passed"] or counts["failed"] else "no test ran",
        **counts,
    }


def _run(command: list[str], folder: str, said: IO[str], seconds: float) -> int | None:
    """The exit code; None if time was up. A Ctrl-C first, so that pytest still writes its report."""
    # plugins that happen to be installed may warn when they are loaded, where warnings are failures
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=subprocess.STDOUT, env=environment)
    try:
        return process.wait(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None


def run(request: Request, write: Write) -> Result:
    """The stage; Absent without the folder tests/."""
    tests = Path(request.checkout or ".") / "tests"
    if request.checkout is None or not (tests / "conftest.py").exists():
        raise Absent("there is no checkout with tests/ here; run bench/gpu.py from one")
    groups: Result = {
        name: entry
        for name, entry in ((request.results.get("suite") or {}).get("groups") or {}).items()
        if entry["status"] == "ok"
    }
    left_out: list[str] = []
    every = (*GROUPS[:1],) if request.mode == "quick" else (*GROUPS, WHOLE) if request.mode == "all" else GROUPS
    for name, _, marker in every:
        if name in groups:  # of an earlier run that is gone on with
            continue
        if request.left < WIND_DOWN + 5:
            left_out.append(name)
            continue
        if name == WHOLE[0] and shutil.which("g++") is None:
            groups[name] = {
                "status": "absent",
                "note": "some of these tests compile the kernels for the CPU with g++, which is not here",
            }
            continue
        seconds = (request.left - WIND_DOWN) * (1 if name == every[-1][0] else SHARE)
        groups[name] = group(tests, files_of(tests, name), marker, seconds)
        write({"groups": groups})
    failed = sum(int(entry.get("failed") or entry["status"] in ("failed", "hung")) for entry in groups.values())
    return {
        "groups": groups,
        "passed": sum(int(entry.get("passed", 0)) for entry in groups.values()),
        "failed": failed,
        "left_out": left_out,
    }
