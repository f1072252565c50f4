"""The threads that share a run of the CPU engine. They stay for the next one, because to start one takes longer than
many a prediction.

A thread that waits uses no core and leaves after IDLE seconds; so a process at rest has none.
"""

from __future__ import annotations

import _thread
import ctypes
import functools
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from .cpu_threads import blas_on_one_thread_here, sharing

__all__ = ["IDLE", "run_parts", "run_team", "send"]

IDLE = 5.0  # seconds
GIVEN_UP = 1.0  # seconds for the others of a run whose own share failed
_lock = threading.Lock()
_waiting: list[_Mate] = []  # the one that has worked last is taken first: its core is awake


class _Mate:
    """A thread that does one job after another for whoever takes it from `_waiting`."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self.number = 0
        started = _thread.allocate_lock()
        started.acquire()
        _thread.start_new_thread(self._live, (started,))
        started.acquire()  # it must have a number, to be sent to a core
        if not self.number:
            raise RuntimeError("a thread ended as it began; is there memory for more?")

    def _live(self, started: Any) -> None:
        try:
            self.number = threading.get_native_id()
        except MemoryError:
            return
        finally:
            started.release()  # who started this one waits
        while True:
            try:
                job = self.jobs.get(timeout=IDLE)
            except queue.Empty:
                with _lock:
                    if self not in _waiting:
                        continue  # taken at this moment
                    _waiting.remove(self)
                    return
            if job.taken():
                if job.allowed is not None:
                    _may_run_on(0, job.allowed)
                job.work()
                with _lock:
                    _waiting.append(self)  # before the caller knows: its next run finds this thread waiting
                job.finished = True
                job.done.release()
            del job  # and with it the caller's arrays


class _Job:
    """work(), which may not raise, to be done once, however often it is handed over; then it is `finished` and
    `done` is released. allowed: the cores of the caller, if known.
    """

    def __init__(self, work: Callable[[], None], allowed: set[int] | None) -> None:
        self.finished = False
        self.work, self.allowed, self.done, self._tickets = work, allowed, _thread.allocate_lock(), [None]
        self.done.acquire()

    def taken(self) -> bool:
        """Whether this is the first time."""
        try:
            self._tickets.pop()
        except IndexError:
            return False
        return True


def _may_run_on(thread: int, cores: set[int]) -> bool:
    try:
        os.sched_setaffinity(thread, cores)
    except OSError:
        return False  # a sandbox may forbid it; the scheduler then takes its time
    return True


def _take(count: int) -> list[_Mate]:
    """So many threads that wait.

    Raises
    ------
    RuntimeError
        They could not be started.
    """
    with _lock:
        first = max(0, len(_waiting) - count)
        mates = _waiting[first:]
        del _waiting[first:]
    try:
        while len(mates) < count:
            mates.append(_Mate())
    except BaseException:
        with _lock:
            _waiting.extend(mates)
        raise
    return mates


def _after_fork() -> None:
    """A child has none of these threads."""
    global _lock
    _lock = threading.Lock()
    _waiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _find_getcpu() -> Callable[[], int] | None:
    """The number of the core this thread runs on, as a function; None where the system does not tell (other than
    Linux).
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        function: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError):
        return None
    return function


_getcpu = _find_getcpu()


def _hand_over(works: list[Callable[[], None]], mates: list[_Mate], raised: list[BaseException]) -> list[_Job]:
    """Each of `works` to one of as many threads. What a signal's handler raises meanwhile goes to `raised`.

    A thread wakes on the core it slept on, or on the one that woke it, and the scheduler may take milliseconds to
    notice the idle one beside it, which is all that a short run takes. So each is sent to other cores than this one and
    those of the others before it wakes.
    """
    allowed = os.sched_getaffinity(0) if _getcpu is not None else None
    cores = sorted(allowed - {_getcpu()}) if _getcpu is not None and allowed is not None else []
    jobs = [_Job(work, allowed) for work in works]
    for me, (mate, job) in enumerate(zip(mates, jobs, strict=True)):
        if own_cores := set(cores[me :: len(jobs)]):
            _may_run_on(mate.number, own_cores)
        _insist(functools.partial(mate.jobs.put, job), raised)
    return jobs


def send(work: Callable[[], Any]) -> bool:
    """Lets a thread of the crew do work(), which may not raise, and does not wait for it. False if no thread could
    be started.
    """
    try:
        mates = _take(1)
    except RuntimeError:
        return False
    raised: list[BaseException] = []
    _hand_over([work], mates, raised)
    if raised:
        raise raised[0]
    return True


def _run_beside(works: list[Callable[[], None]], own: Callable[[], None]) -> None:
    """Each of `works` in a thread of the crew, and `own` in this one; returns when all are done, and raises then
    what own() or a signal's handler raised.
    """
    raised: list[BaseException] = []
    jobs = _hand_over(works, _take(len(works)), raised)
    failed = True
    try:
        own()
        failed = False
    except BaseException as error:
        raised.append(error)
    waiting = True
    while waiting:
        try:
            for job in jobs:
                # Where this one's share failed, others may wait for it forever; otherwise they work on the caller's
                # memory until they are done. A signal's handler may raise as `acquire` returns, which then has been
                # effective, and would never return again.
                while not job.finished and job.done.acquire(timeout=GIVEN_UP if failed else -1):
                    pass
            waiting = False
        except BaseException as error:
            raised.append(error)
    if raised:
        raise raised[0]


def _insist(call: Callable[[], Any], raised: list[BaseException]) -> None:
    """call() until it returns: what a signal's handler raised meanwhile is kept for later. It may have been
    effective and raise nevertheless.
    """
    while True:
        try:
            call()
            return
        except BaseException as error:
            raised.append(error)


def run_team(work: Callable[[int], Any], team: int) -> list[Any]:
    """[work(0), ..., work(team - 1)], each in a thread of its own, work(0) in this one.

    None begins before all threads exist, so members may wait for each other.

    Raises
    ------
    RuntimeError
        The threads could not be started; nothing was run.
    """
    if team == 1:
        with sharing():
            return [work(0)]
    results: list[Any] = [None] * team
    errors: list[BaseException] = []

    def member(me: int) -> None:
        try:
            blas_on_one_thread_here()
            results[me] = work(me)
        except BaseException as error:
            errors.append(error)

    def own() -> None:
        results[0] = work(0)

    with sharing():
        _run_beside([functools.partial(member, me) for me in range(1, team)], own)
    if errors:
        raise errors[0]
    return results


def run_parts(work: Callable[[int], Any], parts: int, team: int) -> list[Any]:
    """[work(0), ..., work(parts - 1)], each by whichever of `team` threads is free; this one begins before the others
    are awake.

    For parts that need neither each other nor BLAS.

    Raises
    ------
    RuntimeError
        The threads could not be started.
    """
    results: list[Any] = [None] * parts
    errors: list[BaseException] = []
    numbers = iter(range(parts))
    next_number = threading.Lock()

    def take() -> None:
        while not errors:
            with next_number:
                number = next(numbers, None)
            if number is None:
                return
            try:
                results[number] = work(number)
            except BaseException as error:
                errors.append(error)

    with sharing():
        _run_beside([take] * (min(team, parts) - 1), take)
    if errors:
        raise errors[0]
    return results
