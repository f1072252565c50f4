"""compute-sanitizer over every kernel: memcheck and racecheck, and a planted fault each, which the tool must see."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

from ...kernels.cuda import sources
from ..client import Absent
from ..statistics import Result
from .stage import Request, Write

__all__ = ["TOOLS", "find", "run", "watch"]

TOOLS = ("memcheck", "racecheck")
PLACES = (
    "/usr/local/cuda/bin/compute-sanitizer",
    "/usr/local/cuda-*/bin/compute-sanitizer",
    "/opt/nvidia/compute-sanitizer/compute-sanitizer",
)
ERROR = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard")
FOUND = 86  # exit code by which the tool says that it found something
# Calls of the API that fail are the libraries' way of asking what there is, and not of interest; memory that lies next
# to other memory is kept apart.
OPTIONS = {"memcheck": ("--report-api-errors=no", "--padding=512"), "racecheck": ()}
PLANTED = "planted"  # the kernel with a fault (every_kernel.py)


def find() -> str | None:
    """Where the tool is."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [
        *([os.path.join(home, "bin", "compute-sanitizer")] if home else []),
        *(path for pattern in PLACES for path in sorted(glob.glob(pattern), reverse=True)),
    ]
    return shutil.which("compute-sanitizer") or next((path for path in places if os.access(path, os.X_OK)), None)


def watch(
    tool: str, check: str, seconds: float, planted: bool, target: str = "fastnn.bench.gpu.every_kernel"
) -> Result:
    """One run under the tool: errors it counted, what the program printed, and a status.

    "ok": the tool looked and found nothing (planted: found the fault). "failed": it found something (planted: it
    did not). "absent": it did not look, for instance because it refuses the device.
    """
    # The kernels of cuBLAS are not watched: they are not fastnn's, take time, and the tool has reported faults in
    # Hopper's that were none (compute-sanitizer-samples, issue 19). fastnn's are extern "C", so these are their mangled
    # names.
    watched = [f"--kernel-name=kne={name}" for name in (*sources.kernels(), PLANTED)]
    command = [
        tool,
        "--tool",
        check,
        *OPTIONS[check],
        *watched,
        f"--error-exitcode={FOUND}",
        "--print-limit=20",
        sys.executable,
        "-P",
        "-m",
        target,
        *([check] if planted else []),
    ]
    try:
        with tempfile.TemporaryDirectory() as cache:
            # the engine's choices made here were not timed, and must not be remembered
            environment = {**os.environ, "XDG_CACHE_HOME": cache}
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=max(1.0, seconds), check=False, env=environment
            )
    except subprocess.TimeoutExpired:
        return {"status": "hung", "note": f"not done within {seconds:.0f} s", "errors": None}
    said = result.stdout + result.stderr
    print(said)
    match = ERROR.search(said)
    if match is None:
        return {
            "status": "absent",
            "note": f"the tool gave no summary: {(said.strip().splitlines() or ['nothing was printed'])[-1]}",
            "errors": None,
        }
    errors = int(match[1] or match[2])
    kernels = re.search(r"kernels: (\d+); missing: ?(.*)", said)
    outcome: Result = {
        "errors": errors,
        "kernels": int(kernels[1]) if kernels else None,
        "missing": kernels[2].split() if kernels else [],
        "note": "",
    }
    if planted:
        return {
            **outcome,
            "status": "ok" if errors else "failed",
            "note": "" if errors else "a planted fault was not reported: the tool sees nothing here",
        }
    if result.returncode not in (0, FOUND) or kernels is None:
        return {
            **outcome,
            "status": "failed",
            "note": f"the kernels did not run to their end (exit code {result.returncode})",
        }
    lines = [
        line.strip("= ")
        for line in said.splitlines()
        if line.startswith("=========") and ("Invalid" in line or "hazard" in line.lower())
    ]
    return {**outcome, "status": "failed" if errors else "ok", "note": "; ".join(lines[:3]) if errors else ""}


def run(request: Request, write: Write) -> Result:
    """The stage."""
    tool = find()
    if tool is None:
        raise Absent("compute-sanitizer is not installed here; it comes with the CUDA toolkit")
    earlier = (request.results.get("sanitizer") or {}).get("checks") or {}
    found: Result = {name: entry for name, entry in earlier.items() if entry["status"] == "ok"}
    left_out: list[str] = []
    for check in TOOLS:
        for planted in (True, False):
            name = f"{check}, planted fault" if planted else check
            if name in found:  # of an earlier run that is gone on with
                continue
            if request.left < 5:
                left_out.append(name)
                continue
            found[name] = watch(tool, check, request.left - 2, planted)
            write({"checks": found})
    failed = [name for name, entry in found.items() if entry["status"] in ("failed", "hung")]
    return {"checks": found, "failed": len(failed), "left_out": left_out}
