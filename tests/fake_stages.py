"""Stages of a GPU run that behave and misbehave; a stage process imports them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fastnn.bench.client import Absent


def good(request, write):
    print("the good one says hello")
    return {"mode": request.mode, "seen": sorted(request.results), "data": request.data}


def limit(request, write):
    return {"seconds": request.seconds}


def absent(request, write):
    raise Absent("the tool is not here")


def raises(request, write):
    write({"part": 1})
    raise ValueError("no such shape\nand a long story")


def crashes(request, write):
    write({"part": 2})
    print("about to fall", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(request, write):
    write({"part": 3})
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(request.data).write_text(str(child.pid))
    time.sleep(600)


def stubborn(request, write):
    """Does not end when it is asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def part_by_part(request, write):
    """One unit for each run; three are wanted."""
    done = list(request.results.get("parts", {}).get("done", []))
    done.append(len(done))
    return {"done": done, "left_out": list(range(len(done), 3))}
