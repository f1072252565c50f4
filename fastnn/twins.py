"""Copies of a network and of its optimizer that are made together, by one pickle or one deepcopy, belong together as
the originals do. The standard library only.

A network hands its Link to its own copy, and to that of its optimizer. One run of pickle, or of deepcopy, makes one
copy of it, whichever of the two comes first, and another run makes another; so the two meet at it only if they were
copied together. Nobody keeps it afterwards.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["Link"]


class Link:
    """Where copies meet. Nothing of it but its identity is copied."""

    original = False  # of a copy, which is made without __init__
    _net: weakref.ref[Any] | None = None
    _waiting: tuple[tuple[weakref.ref[Any], Callable[[Any, Any], None]], ...] = ()

    def __init__(self) -> None:
        self.original = True

    def __getstate__(self) -> None:
        return None

    def network_is(self, net: Any) -> None:
        """The copy of the network has come."""
        self._net = weakref.ref(net)
        for rule, join in self._waiting:
            if (there := rule()) is not None:
                join(there, net)
        self._waiting = ()

    def when_there(self, rule: Any, join: Callable[[Any, Any], None]) -> None:
        """Calls join(rule, net) now or when the copy of the network comes, if it ever does."""
        net = None if self._net is None else self._net()
        if net is not None:
            join(rule, net)
        else:
            self._waiting = (*self._waiting, (weakref.ref(rule), join))
