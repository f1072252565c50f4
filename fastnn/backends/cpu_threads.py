"""Threads of the CPU engine: how many, a team of them, and BLAS held to one thread meanwhile.

Everything here works without environment variables, and leaves the process as it found it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["blas_on_one_thread", "run_team", "usable_threads"]

_lock = threading.Lock()
_controller: Any = None
_limiter: Any = None
_holders = 0  # runs that hold BLAS at one thread now


def _blas() -> Any:
    """One controller for the process; making a fresh one costs 40 times as much as using it."""
    global _controller
    if _controller is None:
        from threadpoolctl import ThreadpoolController

        _controller = ThreadpoolController().select(user_api="blas")
    return _controller


def usable_threads() -> int:
    """Threads worth starting now: this process's cores, fewer where BLAS was told to use fewer (joblib's
    workers, `threadpool_limits`, OPENBLAS_NUM_THREADS), shared with the runs already under way."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with _lock:
        if _holders == 0:  # otherwise BLAS is at one thread because of us
            told = [library.get_num_threads() for library in _blas().lib_controllers]
            cores = min([cores, *(n for n in told if n)])
        return max(1, cores // (_holders + 1))


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """BLAS products inside use one thread each; restored when the last of overlapping uses ends."""
    global _holders, _limiter
    with _lock:
        if _holders == 0:
            _limiter = _blas().limit(limits=1)
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0:
                _limiter.restore_original_limits()
                _limiter = None


def _after_fork() -> None:
    """A child starts with no run under way and a lock of its own."""
    global _lock, _holders, _limiter
    _lock = threading.Lock()
    if _limiter is not None:
        _limiter.restore_original_limits()
    _holders, _limiter = 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run_team(work: Callable[[int], Any], team: int) -> list[Any]:
    """[work(0), ..., work(team - 1)], each in a thread of its own, work(0) in this one.

    None begins before all threads exist, so members may wait for each other.

    Raises
    ------
    RuntimeError
        The threads could not be started; nothing was run.
    """
    if team == 1:
        return [work(0)]
    results: list[Any] = [None] * team
    errors: list[BaseException] = []
    start = threading.Event()
    go = False

    def member(me: int) -> None:
        start.wait()
        if go:
            try:
                results[me] = work(me)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=member, args=(me,), name=f"fastnn-{me}", daemon=True) for me in range(1, team)]
    begun: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            begun.append(thread)
        go = True
    finally:
        start.set()
        if not go:
            for thread in begun:
                thread.join()
    results[0] = work(0)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
