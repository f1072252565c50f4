"""One row through a network beyond a core's cache: helpers that wait for rows are asked to come when rows follow one
another closely, and leave soon after.

To wake a thread takes as long as to read a megabyte of weights, so who predicts a row now and then does it alone, and
nobody watches meanwhile.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from ..kernels.cpu.shared_row import (
    ALONE,
    AWAY,
    COMING,
    CROWDED,
    HELPED,
    NOT_FINITE,
    attend,
    dismiss,
    lead,
    new_seats,
    withdraw,
)
from .base import Array
from .cpu_crew import send

__all__ = ["SharedRow"]

HELPERS, BYTES_EACH = 3, 1 << 20  # at most so many, and one more thread for so many bytes of parameters
CLOSE = 3e-4  # seconds between two rows that follow one another closely
PATIENCE = 5e-4  # seconds to watch for the next row
TRIED_LOOKS = 10_000  # about a tenth of a millisecond, to see how long they take here
USEFUL = 100  # rows with help before a slow one, for which it was worthwhile
ROWS = 1000  # after which a helper leaves, and is asked again if there are cores for it
SLOW = 5e-4  # seconds longer than alone is too long for a row with help: a helper without a core was waited for
# Seconds until helpers are sent for again, where they were slow or others led; twice as many each time, unless they had
# been of use before.
LATER, LATEST = 0.01, 0.64

_lock = threading.Lock()
_seats = new_seats(HELPERS)  # of the whole process: there are no more cores for two callers than for one


class SharedRow:
    """Rows, one at a time, through one network, called as the function of kernels/cpu/one_row.py.

    Parameters
    ----------
    theta : (P,)
        For its dtype and size.
    threads : () -> int
        How many may read a row now.
    most : int, optional
        How many may ever, whoever else's helpers are there; as many as pay if not given.
    """

    def __init__(self, theta: Array, threads: Callable[[], int], most: int | None = None) -> None:
        self._threads = threads
        self._lead: Any = lead(theta.dtype)
        self._attend, self._dismiss, self._withdraw = attend(), dismiss(), withdraw()
        _looks_a_second()  # measured now, not amid rows
        self._most = 1 + min(HELPERS, theta.nbytes // BYTES_EACH, HELPERS if most is None else most - 1)
        self._last_alone = self._not_before = 0.0
        self._alone = math.inf  # seconds of a row
        self._helped, self._later = 0, LATER  # rows since the last slow one

    def __call__(self, x: Array, layers: Array, h: Array) -> bool:
        """Overwrites h (1, s_L) with a^(L) of x (1, s_1); False if x holds NaN or infinity."""
        began = time.perf_counter()
        result = self._lead(x, layers, h, _seats, self._most - 1)
        now = time.perf_counter()
        if result == ALONE:
            self._alone = min(self._alone, now - began)
            if began - self._last_alone < CLOSE and now > self._not_before:
                helpers = min(self._threads(), self._most) - 1
                self._not_before = now + (LATER if helpers else LATEST)
                self._invite(helpers)
            self._last_alone = now
        elif result == HELPED:
            self._helped += 1
            if now - began > self._alone + SLOW:
                self._do_without(now)
        elif result == CROWDED and now > self._not_before:
            self._do_without(now)
        return bool(result != NOT_FINITE)

    def _do_without(self, now: float) -> None:
        """For a while: their cores are wanted elsewhere."""
        self._later = LATER if self._helped > USEFUL else min(2 * self._later, LATEST)
        self._helped, self._not_before = 0, now + self._later
        self._dismiss(_seats)

    def _invite(self, helpers: int) -> None:
        """So many, who come when they are awake."""
        for number in range(helpers):
            expected = sent = False
            try:
                with _lock:
                    if _seats[number, 0] != AWAY:
                        continue
                    expected = True
                    _seats[number, 0] = COMING
                sent = send(
                    functools.partial(
                        self._attend, _seats, number, min(1 << 62, int(PATIENCE * _looks_a_second())), ROWS
                    )
                )
            finally:
                if expected and not sent:
                    # no thread could be started, or a signal's handler raised; who comes nevertheless finds that nobody
                    # is expected
                    self._withdraw(_seats, number)


@functools.cache
def _looks_a_second() -> float:
    """Of a helper who watches alone. A processor's pause between two takes 10 to 50 nanoseconds, or hardly any time."""
    times = []
    for _ in range(3):  # one may be interrupted
        seats = new_seats(1)
        seats[0, 0] = COMING
        began = time.perf_counter_ns()
        attend()(seats, 0, TRIED_LOOKS, ROWS)
        times.append(time.perf_counter_ns() - began)
    return TRIED_LOOKS / max(1, min(times)) * 1e9


def _after_fork() -> None:
    """A child has none of the helpers, and nobody who leads."""
    global _lock
    _lock = threading.Lock()
    _seats[...] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
