"""Where nothing is compiled yet, a process of its own compiles the products while this one compiles the program that
calls them.

Numba compiles on one thread at a time, so a second core would have nothing to do. What the process compiles it leaves
on disk, where this one finds it; what it does not, because it could not be started or failed, is compiled here, as
everything is where one core may be used or the folder for compiled code cannot be written.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from ..kernels.cpu import CACHE_FOLDER, JIT, KEEPS
from .cpu_threads import usable_threads

__all__ = ["compile_beside", "wait_for_products"]

PACKAGE = __name__.partition(".backends")[0]
PATIENCE = 120  # seconds; it takes three to eight

_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None
_asked: set[tuple[str, str]] = set()  # once is enough, and looking through the folder takes longer than a small fit


def compile_beside(first: str, call: str) -> None:
    """Begin `call`, of a function in kernels/cpu/on_demand.py, in a process of its own, unless the function `first`
    of the kernels ("module.name") is on disk already.
    """
    global _process
    if (first, call) in _asked:
        return
    _asked.add((first, call))
    if (
        not JIT
        or CACHE_FOLDER is None
        or not KEEPS
        or not _is_python()
        or any(CACHE_FOLDER.rglob(f"{first}-*.nbi"))
        or usable_threads() < 2
    ):
        return
    code = (
        f"import sys; sys.path[:] = {[path for path in sys.path if isinstance(path, str)]!r}; from "
        f"{PACKAGE}.kernels.cpu.on_demand import amx_table, table; from {PACKAGE}.kernels.cpu.packing import packing; "
        f"{call}"
    )
    with _lock, contextlib.suppress(OSError):
        if _process is None:
            _process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )


def wait_for_products() -> None:
    """Until that process, if there is one, has ended."""
    global _process
    if _process is None:
        return
    with _lock:
        if _process is not None:
            try:
                _process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                _stop()
            _process = None


def _stop() -> None:
    """Nobody waits any more: the fit was interrupted, or the process hangs."""
    if _process is not None and _process.poll() is None:
        _process.kill()
        _process.wait()


def _is_python() -> bool:
    """Whether what runs this is an interpreter that may be started anew, and not a program that holds one."""
    return bool(sys.executable) and not getattr(sys, "frozen", False) and Path(sys.executable).name.startswith("python")


def _forget() -> None:
    """A forked child compiles what is missing itself; the process is its parent's to wait for."""
    global _lock, _process
    _lock, _process = threading.Lock(), None


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
