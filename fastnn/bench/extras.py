"""What a user pays besides steps: imports, the first step, memory, disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from .client import Client, PeerError
from .environment import installed_bytes
from .peers import Spec
from .statistics import spread

__all__ = ["import_time", "memory", "size", "startup"]

# Where compiled code would otherwise be found again; an empty folder is a cold start.
CACHES = ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


def import_time(spec: Spec, repeats: int, timeout: float = 120) -> dict[str, Any]:
    """Seconds of the library's import in fresh processes after NumPy's, and of NumPy's own."""
    code = (
        f"import time; a = time.perf_counter(); import numpy; b = time.perf_counter(); {spec.imports}; c = "
        "time.perf_counter(); print(b - a, c - b)"
    )
    pairs = []
    for _ in range(repeats):
        output = _run([sys.executable, "-P", "-c", code], timeout).split()
        pairs.append((float(output[-2]), float(output[-1])))
    return {"numpy": spread([pair[0] for pair in pairs]), "library": spread([pair[1] for pair in pairs])}


def startup(spec: Spec, threads: int, repeats: int, cold: bool = True, timeout: float = 300) -> dict[str, Any]:
    """Seconds from the start of a process to the end of its first training step.

    Cold: with empty caches of compiled code. Warm: with the caches that the run before filled.
    """
    command = [sys.executable, "-P", "-m", "fastnn.bench.firststep", spec.driver, str(threads)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = (
            {**os.environ, **{name: os.path.join(folder, name.lower()) for name in CACHES}}
            if cold
            else dict(os.environ)
        )
        seconds = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            _run(command, timeout, environment)
            seconds.append(time.perf_counter() - start)
    return {"cold": seconds[0] if cold else None, "warm": spread(seconds[1:])}


def _run(command: list[str], timeout: float, environment: dict[str, str] | None = None) -> str:
    """The output of a process that has to succeed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise PeerError("hung", f"did not finish within {timeout:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise PeerError("crashed", f"exit code {done.returncode}{': ' + said[-1][:200] if said else ''}")
    return done.stdout


def memory(spec: Spec, threads: int, rows: int, timeout: float = 300) -> dict[str, Any]:
    """Peak resident bytes of a process that trains an epoch of 784-300-100-10 at batch 128, its rows included."""
    with Client(spec.driver, threads) as client:
        client.ask(
            "prepare",
            timeout,
            net="784-300-100-10",
            batch=128,
            optimizer="sgd",
            rows=rows,
            steps=max(2, rows // 128),
            seed=0,
        )
        peak = client.ask("memory", timeout)["peak"]
    return {"peak": peak, "rows": rows * 785 * 4}


def size(spec: Spec) -> dict[str, Any]:
    """Bytes on disk of the library and what it needs."""
    parts = installed_bytes(spec.distributions)
    return {"total": sum(parts.values()), "parts": parts}
