"""Python's garbage collector, switched off for a while by whoever must not be disturbed by it, also in several threads
at once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

__all__ = ["uncollected"]

_LOCK = threading.Lock()
_inside = 0  # blocks under way, in all threads
_was_on = False  # before the first of them


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Inside the collector is off; it is on again at the end of the last such block, if it was before the first."""
    global _inside, _was_on
    with _LOCK:
        if _inside == 0:
            _was_on = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _end(1)


def _end(blocks: int) -> None:
    global _inside
    if _inside and (_inside := max(0, _inside - blocks)) == 0 and _was_on:
        gc.enable()


def _after_fork() -> None:
    """None of the threads that were inside, or held the lock, is in the child."""
    global _LOCK
    _LOCK = threading.Lock()
    _end(_inside)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
