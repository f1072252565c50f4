"""Threads of the CPU engine: how many, and BLAS held to one thread meanwhile. Who they are:
fastnn/backends/cpu_crew.py.

Everything here works without environment variables, and leaves the process as it found it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["blas_on_one_thread", "blas_on_one_thread_here", "sharing", "usable_threads"]

QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")
OLD_QUOTA_FILES = tuple(Path(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
_lock = threading.Lock()
_libraries: list[Any] = []
_before: list[int] = []  # threads of each library before the first of overlapping runs; empty while there are none
# Runs that hold BLAS at one thread now, and uses of `sharing` with the number of the thread. Each is entered, and taken
# out, by a key of its own: a handler of a signal may raise anywhere, and what is done twice must do no harm.
_holders: dict[object, None] = {}
_busy: dict[object, int] = {}


def _blas() -> list[Any]:
    """The BLAS libraries of this process, found once; looking for them costs most of a millisecond."""
    if not _libraries:
        from threadpoolctl import ThreadpoolController

        _libraries.extend(ThreadpoolController().select(user_api="blas").lib_controllers)
    return _libraries


def _set_threads(library: Any, count: int) -> None:
    """Set a library's threads from whatever thread this is.

    threadpoolctl (3.8) finds the library, but sets OpenBLAS's process-wide pool only from the first
    thread that ever did so, and silently ignores the others; overlapping runs end in any order.
    """
    if library.internal_api == "openblas" and library.threading_layer != "openmp":
        for name in _OPENBLAS_SETTERS:
            if (setter := getattr(library.dynlib, name, None)) is not None:
                setter(count)
                return
    library.set_num_threads(count)


_OPENBLAS_SETTERS = [
    f"{prefix}openblas_set_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("", "64_", "_64")
]


def _cores() -> int:
    """Cores this process may use: its affinity, and the quota of its container where there is one (cgroup)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for read in (_quota, _quota_of_old):
        try:
            quota, period = read()
            if quota > 0:
                cores = min(cores, quota // period)
        except (OSError, ValueError):
            pass  # no such file, or "max": no quota
    return max(1, cores)


def _quota() -> tuple[int, int]:
    quota, period = QUOTA_FILE.read_text().split()
    return int(quota), int(period)


def _quota_of_old() -> tuple[int, int]:
    """Of cgroup v1, where -1 is none."""
    quota, period = (int(path.read_text()) for path in OLD_QUOTA_FILES)
    return quota, period


def _told() -> list[int]:
    """Threads that each BLAS was told to use by others than this module. Only under the lock."""
    counts = _before or [library.get_num_threads() for library in _blas()]
    return [count for count in counts if count]


def usable_threads() -> int:
    """Threads worth starting now: this process's cores (affinity and container quota), fewer where BLAS was told to use
    fewer (joblib's workers, `threadpool_limits`, OPENBLAS_NUM_THREADS), divided among the threads of the caller's that
    fit or run beside this one."""
    cores = _cores()
    with _lock:
        others = len(set(_busy.values()) - {threading.get_ident()})
        return max(1, min([cores, *_told()]) // (others + 1))


@contextmanager
def sharing() -> Iterator[None]:
    """Inside, this thread counts as one that wants its share of the cores, also between two runs of a fit."""
    key = object()
    try:
        with _lock:
            _busy[key] = threading.get_ident()
        yield
    finally:
        _busy.pop(key, None)  # one step, and not there in a child that was forked inside


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """BLAS products inside use one thread each; restored when the last of overlapping uses ends."""
    key = object()
    try:
        with _lock:
            _holders[key] = None
            if not _before:
                _before[:] = [library.get_num_threads() for library in _blas()]
                for library in _blas():
                    _set_threads(library, 1)
        yield
    finally:
        try:
            _let_go(key)
        finally:
            _let_go(key)  # where a handler has raised amid the first


def _let_go(key: object) -> None:
    """BLAS as it was before, if nobody else holds it."""
    with _lock:
        _holders.pop(key, None)
        if not _holders and _before:
            _restore()


def _restore() -> None:
    for library, count in zip(_libraries, _before, strict=True):
        _set_threads(library, count)
    _before.clear()  # last: a child forked until here restores them itself


def blas_on_one_thread_here() -> None:
    """For the other threads of a team: OpenMP counts threads per calling thread, so each must be told again. It
    stays so in this thread.
    """
    for library in _blas():
        if getattr(library, "threading_layer", "") == "openmp":
            library.set_num_threads(1)


def _after_fork() -> None:
    """A child starts with no run under way and a lock of its own."""
    global _lock
    _lock = threading.Lock()
    _busy.clear()
    _holders.clear()
    if _before:
        _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
