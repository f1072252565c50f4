"""Delays Ctrl-C while it would leave something half done: a step, a copy, the loading of an engine or a kernel. Also
the lock by which engines and kernels are loaded one at a time. Imports the standard library only.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["LOADING", "interrupt_after", "loading"]

LOADING = threading.RLock()  # of engines and kernels


@contextmanager
def interrupt_after() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of the block; a second one does not wait. Where the block raises, that exception
    is its cause.

    Only where Python's own handler would act: in the main thread, without a handler of the user's, or of such a block
    around this one.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    remember = _Remember()
    try:
        signal.signal(signal.SIGINT, remember)
        yield
    except Exception as error:
        if remember.pending:
            raise KeyboardInterrupt from error
        raise
    finally:
        try:
            _act_again(remember)
        finally:
            _act_again(remember)  # where the handler of another signal has raised amid the first
    if remember.pending:
        raise KeyboardInterrupt


@contextmanager
def loading() -> Iterator[None]:
    """Inside, this thread alone loads engines and kernels, and Ctrl-C waits."""
    with LOADING, interrupt_after():
        yield


def _act_again(remember: _Remember) -> None:
    if signal.getsignal(signal.SIGINT) is remember:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Remember:
    """A handler of Ctrl-C that acts on the second one."""

    pending = False

    def __call__(self, signum: int, frame: Any) -> None:
        if self.pending:
            signal.default_int_handler(signum, frame)
        self.pending = True


def _after_fork() -> None:
    """A child forked by another thread meanwhile has no such block to wait for the end of: its Ctrl-C acts at once."""
    if isinstance(signal.getsignal(signal.SIGINT), _Remember):
        signal.signal(signal.SIGINT, signal.default_int_handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
    # A fork waits until another thread has loaded its engine or kernel: the child would get half of its modules and a
    # lock that nobody opens.
    os.register_at_fork(before=LOADING.acquire, after_in_parent=LOADING.release, after_in_child=LOADING.release)
