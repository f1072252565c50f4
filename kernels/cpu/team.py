"""A team of threads inside compiled code: a barrier, and prefetching.

Each thread of a team calls the same compiled function with its own number; the threads are Python's
(the compiled code holds no GIL), so nothing of OpenMP, TBB or Numba's own pool is involved: a fork
afterwards is safe, and several teams may run at once.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from . import JIT, compiled

__all__ = ["barrier", "new_barrier", "prefetch_at"]

_BYTE, _INT32, _INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


@intrinsic
def _atomic_add(typingctx, address, value):
    """Adds value to the int64 at address; the number that was there."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", builder.inttoptr(args[0], _INT64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.intp, types.int64), codegen


@intrinsic
def _atomic_load(typingctx, address):
    """The int64 at address, not kept in a register."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(builder.inttoptr(args[0], _INT64.as_pointer()), "seq_cst", 8)

    return types.int64(types.intp), codegen


@intrinsic
def _prefetch(typingctx, address):
    """Asks for the cache line at address; never faults."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT32, _INT32, _INT32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_BYTE.as_pointer()], kind)
        read, keep, data = ir.Constant(_INT32, 0), ir.Constant(_INT32, 3), ir.Constant(_INT32, 1)
        builder.call(function, [pointer, read, keep, data])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def _address(typingctx, pointer):
    """A pointer as a number."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(args[0], _INT64)

    return types.intp(pointer), codegen


_sched_yield = types.ExternalFunction("sched_yield", types.intc())
_SPINS = 4000  # about 2 microseconds; after that another process may need the core more


def new_barrier():
    """Memory for one barrier: arrivals and generation, each on a cache line of its own."""
    return np.zeros(32, np.int64)


def _barrier(memory, team):
    """Returns when all `team` threads have called it as often as this one. Everything written before is seen after."""
    if team == 1:
        return
    arrivals = memory.ctypes.data
    generation = arrivals + 128
    mine = _atomic_load(generation)
    if _atomic_add(arrivals, 1) == team - 1:
        _atomic_add(arrivals, -team)
        _atomic_add(generation, 1)
    else:
        spins = 0
        while _atomic_load(generation) == mine:
            spins += 1
            if spins > _SPINS:
                _sched_yield()


def _prefetch_bytes(pointer, count):
    """Asks for the cache lines of `count` bytes from a pointer on."""
    address = _address(pointer)
    for offset in range(0, count, 64):
        _prefetch(address + offset)


if JIT:
    barrier = compiled(_barrier)
    prefetch_at = compiled(_prefetch_bytes)
else:

    def barrier(memory, team):
        """Without JIT a team has one thread."""

    def prefetch_at(pointer, count):
        """Without JIT there is nothing to ask for."""
