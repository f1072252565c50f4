"""Which operation is certain to come before which: a checker of the order of streams.

The stand-in does everything at once in program order, so a wait that is forgotten would not show in its numbers. Here
every stream and every thread of the host has a vector clock (Lamport 1978; Mattern 1989), which marks and
synchronisation pass on, and every operation says which bytes it reads and writes. Two operations of which one writes,
on bytes that overlap, of which neither is certain to come first, are an `OrderFault`, whatever happened this time.

Operations between two marks of a stream share a number: a step that is repeated is looked at once.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from contextlib import contextmanager

import numpy as np

DEFAULT = "the default stream"
MOST_RETIRED = 256  # blocks of memory kept so that nobody else gets their addresses


class OrderFault(RuntimeError):
    """Nothing orders two operations on the same memory of which one writes."""


class Actor:
    """What a stream or a thread knows, and what it did: {number: operations between two of its marks}."""

    def __init__(self, key, blocking=False):
        self.key, self.clock, self.number, self.done, self.blocking = key, {}, 1, {}, blocking
        self.version, self.seen = 0, {}


def extent(x):
    """(first byte, byte behind the last) of an array; an empty one has none."""
    first = x.__array_interface__["data"][0]  # faster than x.ctypes
    if x.flags.c_contiguous:
        return first, first + x.nbytes
    # of the rest, only matrices with gaps between their rows are met: no negative strides
    return first, first + (sum((n - 1) * s for n, s in zip(x.shape, x.strides, strict=True)) + x.itemsize) * (
        x.size > 0
    )


def operation(name, reads=(), writes=()):
    """What `Order.note` takes; `reads` and `writes` are pairs of a name and an array."""
    return name, tuple(
        (*extent(x), write, label) for write, pairs in ((False, reads), (True, writes)) for label, x in pairs
    )


def conflict(mine, others):
    """The first pair of accesses, one of each operation, that overlap and of which one writes."""
    for low, high, write, label in mine:
        for low2, high2, write2, label2 in others:
            if (write or write2) and low < high2 and low2 < high:
                return (write, label), (write2, label2), (max(low, low2), min(high, high2))
    return None


class Order:
    """Streams are named by strings; each thread has a current one, at first the default stream.

    The engine's own streams do not wait for the default stream nor it for them (`cudaStreamNonBlocking`); a stream
    of a user may be `blocking`, as CUDA's are if nothing is said: then it and the default stream wait for each other.
    """

    def __init__(self):
        self._actors, self._here, self._lock = {}, threading.local(), threading.RLock()
        self._any_blocking = False
        self._hosts, self._numbers = weakref.WeakSet(), itertools.count(1)  # actors of threads that live
        self._freed, self._freed_pinned, self._retired, self._living = {}, [], [], {}

    # ---- who

    def _actor(self, key):
        actor = self._actors.get(key)
        if actor is None:
            actor = self._actors[key] = Actor(key)
        return actor

    def _host(self):
        host = getattr(self._here, "host", None)
        if host is None:
            host = self._actor(f"thread {next(self._numbers)} of the host")
            for other in list(self._hosts):  # whoever started this thread knew something; nobody says who it was
                self._join(host, self._release(other))
            self._here.host = host
            self._hosts.add(host)
        return host

    @property
    def stream(self):
        """The current stream of this thread."""
        return getattr(self._here, "stream", DEFAULT)

    @contextmanager
    def on(self, stream, blocking=False):
        """Inside, this is the current stream."""
        before, self._here.stream = self.stream, stream
        self._actor(stream).blocking |= blocking
        self._any_blocking |= blocking
        try:
            yield
        finally:
            self._here.stream = before

    # ---- clocks

    @staticmethod
    def _join(actor, clock):
        newer = [(key, number) for key, number in clock.items() if actor.clock.get(key, 0) < number]
        if newer:
            actor.clock.update(newer)
            actor.version += 1

    @staticmethod
    def _release(actor):
        """All that the actor knows and did so far; what it does from here on has another number."""
        if actor.number in actor.done:
            actor.clock[actor.key] = actor.number
            actor.number += 1
            actor.version += 1
        return actor.clock

    def _asked(self, stream):
        """The stream, which is asked for something by this thread: after all that the thread knows."""
        actor, host = self._actor(stream), self._host()
        clock = self._release(host)
        if actor.seen.get(host.key) != host.version:
            self._join(actor, clock)
            actor.seen[host.key] = host.version
        if not self._any_blocking:
            return actor
        others = [a for a in self._actors.values() if a.blocking] if stream == DEFAULT else ()
        for other in [self._actor(DEFAULT)] if actor.blocking else others:
            self._join(actor, self._release(other))
        return actor

    def record(self, stream=None):
        """What is certain when the present end of a stream, at first the current one, is reached."""
        with self._lock:
            return dict(self._release(self._asked(stream or self.stream)))

    def wait(self, reached, stream=None):
        """What the stream is asked for from here on comes after `reached`."""
        with self._lock:
            self._join(self._asked(stream or self.stream), reached)

    def synchronize(self, reached=None):
        """This thread goes on when that is reached, at first the end of the current stream."""
        with self._lock:
            self._join(self._host(), self.record() if reached is None else reached)
            self._drop_what_all_know()

    def _drop_what_all_know(self):
        """Whatever is asked for is asked for by a thread, and comes after what that knows."""
        for actor in self._actors.values():
            if actor.done:
                least = min(actor.number - 1 if a is actor else a.clock.get(actor.key, 0) for a in self._hosts)
                actor.done = {number: done for number, done in actor.done.items() if number > least}

    # ---- what is done

    def note(self, operation):
        """The current stream is asked for this.

        Raises
        ------
        OrderFault
            Something touches the same memory, and nothing says which comes first.
        """
        with self._lock:
            self._add(self._asked(self.stream), operation)

    def note_host(self, operation):
        """This thread does this itself."""
        with self._lock:
            self._add(self._host(), operation)

    def _add(self, actor, operation):
        done = actor.done.setdefault(actor.number, {})
        if operation not in done:
            self._check(actor, operation)
            done[operation] = None

    def _check(self, actor, operation):
        name, accesses = operation
        for other in self._actors.values():
            if other is actor or not other.done:
                continue
            known = actor.clock.get(other.key, 0)
            for number in reversed(other.done):
                if number <= known:
                    break
                for before, touched in other.done[number]:
                    if found := conflict(accesses, touched):
                        (write, label), (write2, label2), (low, high) = found
                        raise OrderFault(
                            f"{name} on {actor.key} {'writes' if write else 'reads'} {label}, which {before} on "
                            f"{other.key} {'writes' if write2 else 'reads'} as {label2} ({high - low} bytes at "
                            f"{low:#x}), and nothing says which comes first"
                        )

    # ---- memory: CuPy's pool gives what was taken on a stream to that stream again, pinned memory to anybody

    def taken(self, memory, keeps, pinned=False):
        """`memory` can be given away again when it is gone; `keeps`, the array behind it, knows where it was."""
        place = self._freed_pinned if pinned else self._freed.setdefault(self.stream, [])

        number = id(memory)

        def gone(reference):
            place.append(keeps)
            self._living.pop(number, None)

        self._living[number] = weakref.ref(memory, gone)

    def hand_out(self):
        """Memory is asked for on the current stream: what it had before may be used again from here on."""
        with self._lock:
            for places, actor in ((self._freed.get(self.stream), self.stream), (self._freed_pinned, None)):
                while places:
                    block = places.pop()
                    self._retired.append(block)
                    again = operation("memory that was freed and is used again", (), [("it", block)])
                    self._check(self._host() if actor is None else self._asked(actor), again)
            if len(self._retired) > MOST_RETIRED:
                self._forget([extent(block) for block in self._retired])
                self._retired.clear()

    def _forget(self, blocks):
        """Others may get these addresses."""
        blocks = sorted(blocks)
        lows = np.array([low for low, _ in blocks])

        def living(access):
            at = int(np.searchsorted(lows, access[0], side="right")) - 1
            return at < 0 or access[0] >= blocks[at][1]

        for actor in self._actors.values():
            for number, operations in actor.done.items():
                actor.done[number] = {(name, tuple(filter(living, touched))): None for name, touched in operations}


class Pinned(np.ndarray):
    """Pinned memory of the host, which says when NumPy writes or reads it."""

    order = None

    def __array_finalize__(self, source):
        self.order = getattr(source, "order", None)

    def _touched(self, name, reads, writes):
        reads, writes = ([("pinned memory", x) for x in xs if isinstance(x, Pinned)] for xs in (reads, writes))
        if self.order is not None:
            self.order.note_host(operation(name, reads, writes))

    def __setitem__(self, key, value):
        self._touched("an assignment", (), [self])
        super().__setitem__(key, value)

    def __array_function__(self, function, types, arguments, options):
        out = options.get("out")
        self._touched(f"numpy.{function.__name__}", [x for x in arguments if x is not out], [out])
        plain = {name: x.view(np.ndarray) if isinstance(x, Pinned) else x for name, x in options.items()}
        return function(*(x.view(np.ndarray) if isinstance(x, Pinned) else x for x in arguments), **plain)
