"""A team of threads inside compiled code: a barrier, and prefetching.

Each thread of a team calls the same compiled function with its own number; the threads are Python's
(the compiled code holds no GIL), so nothing of OpenMP, TBB or Numba's own pool is involved: a fork
afterwards is safe, and several teams may run at once.
"""

from __future__ import annotations

import platform
import sys

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from . import JIT, compiled
from .vectors import ask_for

__all__ = [
    "AT_ONCE",
    "ask_to_read",
    "atomic_add",
    "atomic_load",
    "atomic_store",
    "barrier",
    "call_back",
    "give_way",
    "new_barrier",
    "pause",
    "prefetch_at",
]

_INT64 = ir.IntType(64)


@intrinsic
def atomic_add(typingctx, address, value):
    """Adds value to the int64 at address; the number that was there."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", builder.inttoptr(args[0], _INT64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.intp, types.int64), codegen


@intrinsic
def atomic_load(typingctx, address):
    """The int64 at address, not kept in a register."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(builder.inttoptr(args[0], _INT64.as_pointer()), "seq_cst", 8)

    return types.int64(types.intp), codegen


@intrinsic
def atomic_store(typingctx, address, value):
    """Writes the int64 at address, after everything before."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[1], builder.inttoptr(args[0], _INT64.as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), codegen


def _asks_for(write):
    """An instruction that asks for the cache line at an address, to read it or to write it."""

    @intrinsic
    def ask(typingctx, address):
        def codegen(context, builder, signature, args):
            ask_for(builder, args[0], 3, write)
            return context.get_dummy_value()

        return types.void(types.intp), codegen

    return ask


ask_to_read, _ask_to_write = _asks_for(0), _asks_for(1)


@intrinsic
def _address(typingctx, pointer):
    """A pointer as a number."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(args[0], _INT64)

    return types.intp(pointer), codegen


_HINTS = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "amd64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.hint", [1]),
    "arm64": ("llvm.aarch64.hint", [1]),
}


@intrinsic
def pause(typingctx):
    """Tells the core that this is a loop of waiting. Without it the looks of who waits slowed the thread that was
    waited for: by 5 to 28 % of steps of 20 to 100 microseconds.
    """

    def codegen(context, builder, signature, args):
        name, numbers = _HINTS.get(platform.machine().lower(), ("", []))
        if name:
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)] * len(numbers))
            builder.call(
                builder.module.declare_intrinsic(name, fnty=kind), [ir.IntType(32)(number) for number in numbers]
            )
        return context.get_dummy_value()

    return types.void(), codegen


_LINUX = sys.platform.startswith("linux")
_sched_yield = types.ExternalFunction("sched_yield", types.intc())
_usleep = types.ExternalFunction("usleep", types.intc(types.uintc))
_sched_getcpu = types.ExternalFunction("sched_getcpu", types.intc())
_SPINS = 500  # about 5 microseconds; more where a pause takes longer than here
_PATIENCE = _SPINS + 10_000  # about 100 more
_NAP = 10  # microseconds, to which the system adds about 50
# parameters added up and moved: lines of the others' Deltas cross over while theta's are called back from the cores
# that have read them
AT_ONCE = 1024
_LINE = 16  # numbers between two that different threads write: two cache lines, which are fetched together


def new_barrier(team):
    """Memory for one barrier of so many threads: how often each has come, and where each was then, on lines of
    their own.
    """
    return np.zeros(2 * team * _LINE, np.int64)


def _here():
    """1 + the number of the core this thread runs on; 0 where the system does not tell."""
    return np.int64(_sched_getcpu()) + 1 if _LINUX else np.int64(0)


def _barrier(memory, me, team):
    """Returns when all `team` threads have called it as often as this one, each with its number. Everything written
    before is seen after.

    Each writes on its own line and reads the others': one crossing between cores, where a counter that all add to and a
    number that tells them to go on are three. Who waits stays awake at first: where each thread has a core to itself
    nothing is faster. Where one that is waited for was last seen on this core, it gives the core up, for the other may
    need it. Otherwise it sleeps after a while: beside other processes the one that is waited for may have to wait for
    its core, and who only yields a core to such a process is without it for milliseconds at every step.
    """
    if team == 1:
        return
    first = memory.ctypes.data
    mine, to_place = first + 8 * _LINE * me, 8 * _LINE * team
    times = atomic_load(mine) + 1
    atomic_store(mine + to_place, _here())  # not on the line that others look at, which would cross twice
    atomic_add(mine, 1)
    spins = 0
    for other in range(team):
        theirs = first + 8 * _LINE * other
        while atomic_load(theirs) < times:
            spins += 1
            pause()
            if spins > _SPINS:
                here, together = _here(), False
                for late in range(other, team):
                    at = first + 8 * _LINE * late
                    together = together or (
                        late != me and atomic_load(at) < times and atomic_load(at + to_place) == here
                    )
                if together and (here > 0 or spins <= _PATIENCE):
                    _sched_yield()
                elif spins > _PATIENCE:
                    _usleep(_NAP)


def _give_way(spins):
    """For who waits in a loop, with the number of its looks: gives the core up for a moment when they have been
    many. One more.
    """
    pause()
    if spins > _PATIENCE:
        _usleep(_NAP)
    elif spins > _SPINS:
        _sched_yield()
    return spins + 1


def _prefetch_bytes(pointer, count):
    """Asks for the cache lines of `count` bytes from a pointer on."""
    address = _address(pointer)
    for offset in range(0, count, 64):
        ask_to_read(address + offset)


def _call_back_bytes(address, count):
    """Asks for the cache lines of `count` bytes from an address on, to write them: other cores have read them since
    this one wrote them last.
    """
    for offset in range(0, count, 64):
        _ask_to_write(address + offset)


if JIT:
    _here = compiled(_here)
    barrier, give_way = compiled(_barrier), compiled(_give_way)
    prefetch_at, call_back = compiled(_prefetch_bytes), compiled(_call_back_bytes)
else:

    def barrier(memory, me, team):
        """Without JIT a team has one thread."""

    def give_way(spins):
        """Without JIT nobody waits."""
        return spins

    def prefetch_at(pointer, count):
        """Without JIT there is nothing to ask for."""

    def call_back(address, count):
        """Nor here."""
