"""One fit of a network, and one by an optimizer that has a state, at a time, in each process. Imports the standard
library only.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

__all__ = ["FitLock"]


class FitLock:
    """The lock that a fit holds of its network, and of its optimizer, for each process its own.

    A child that is forked while the parent trains inherits the parent's memory but none of its other threads, so a
    lock that one of them held would stay locked in the child for good.

    Attributes
    ----------
    holder : int or None
        Identifier of the thread that trains, for messages.
    """

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}
        self.holder: int | None = None

    def of_this_process(self) -> threading.Lock:
        """The lock to hold while training; release the object that was acquired, the process may be another by then."""
        return self._locks.setdefault(os.getpid(), threading.Lock())  # one step: two threads get the same lock

    @contextlib.contextmanager
    def held(self, message: str | Callable[[], str], by_this_thread: str | None = None) -> Iterator[None]:
        """Inside it is held; RuntimeError with this message (or what makes it) where it is held already, or the other
        where this thread is its holder.
        """
        lock = self.of_this_process()
        if not lock.acquire(blocking=False):
            if by_this_thread and self.holder == threading.get_ident():
                raise RuntimeError(by_this_thread)
            raise RuntimeError(message if isinstance(message, str) else message())
        try:
            self.holder = threading.get_ident()
            yield
        finally:
            self.holder = None
            lock.release()

    def busy(self) -> bool:
        """Whether the network is being trained in this process."""
        return self.of_this_process().locked()
