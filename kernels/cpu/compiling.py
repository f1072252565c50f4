"""Who waits while kernels are compiled is told when it begins, and how long it took."""

from __future__ import annotations

import contextlib
import time

from numba.core import event

from . import KEEPS

__all__ = ["announced"]


class _Listener(event.Listener):
    """Of compilations, which come one in another: what a kernel calls is compiled while it is."""

    def __init__(self, say, waiting):
        self._say, self._waiting, self._depth, self._began = say, waiting, 0, 0.0

    def on_start(self, event):
        if self._depth == 0:
            self._began = time.perf_counter()
            if self._waiting.seconds == 0:
                later = "for this process alone" if not KEEPS else "once; later runs read them from disk"
                self._say(f"the CPU kernels for this are compiled now, about ten seconds, {later}")
        self._depth += 1

    def on_end(self, event):
        self._depth -= 1
        if self._depth == 0:
            self._waiting.seconds += time.perf_counter() - self._began


@contextlib.contextmanager
def announced(say, waiting):
    """Inside, say(text) is called when a compilation begins, the first time, and the seconds of all are added to
    waiting.seconds; yields `waiting`.

    Numba compiles under one lock, so what other threads compile meanwhile is waited for, and counted, too.
    """
    with event.install_listener("numba:compile", _Listener(say, waiting)):
        yield waiting
