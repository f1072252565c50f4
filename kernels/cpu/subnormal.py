"""Numbers too small to be normal count as zero while a thread trains.

A unit that has died gives its weights no gradient, and what decays by a factor a step - Adam's moments, weights under
L2 - ends among the subnormal numbers, below 1.2e-38 in float32, and stays there, because rounding holds it. Each
operation on such a number costs an x86 core some 150 cycles: a fit of small layers took ten times as long after some
thousand steps. Nothing is lost with them: they are a 10^30th of what moves.

How a thread treats them is a part of its state (x86: MXCSR, bits FTZ and DAZ, Intel, "64 and IA-32 Architectures
Software Developer's Manual", volume 1, section 10.2.3; ARM: FPCR, bit FZ, "Arm Architecture Reference Manual",
C5.2.8), so it is set before a program is called and set back after it, in each of its threads. Compiled calls of their
own, because a compiler may move arithmetic past such an instruction, and not past a call that it does not know.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from . import JIT, compiled

__all__ = ["as_zero"]

_MACHINE = platform.machine().lower()
_X86, _ARM = _MACHINE in ("x86_64", "amd64"), _MACHINE in ("aarch64", "arm64")
FLUSH = 0x8040 if _X86 else 1 << 24  # FTZ and DAZ; FZ
_I32, _I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def _mode(typingctx):
    """How this thread treats them, among other bits."""

    def codegen(context, builder, signature, args):
        if _ARM:
            asm = ir.InlineAsm(ir.FunctionType(_I64, []), "mrs $0, fpcr", "=r", side_effect=True)
            return builder.call(asm, [])
        place = builder.alloca(_I32)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        store = builder.module.declare_intrinsic("llvm.x86.sse.stmxcsr", fnty=kind)
        builder.call(store, [builder.bitcast(place, ir.IntType(8).as_pointer())])
        return builder.zext(builder.load(place), _I64)

    return types.int64(), codegen


@intrinsic
def _set_mode(typingctx, mode):
    """Sets all of these bits."""

    def codegen(context, builder, signature, args):
        if _ARM:
            asm = ir.InlineAsm(ir.FunctionType(ir.VoidType(), [_I64]), "msr fpcr, $0", "r", side_effect=True)
            builder.call(asm, args)
            return context.get_dummy_value()
        place = builder.alloca(_I32)
        builder.store(builder.trunc(args[0], _I32), place)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        load = builder.module.declare_intrinsic("llvm.x86.sse.ldmxcsr", fnty=kind)
        builder.call(load, [builder.bitcast(place, ir.IntType(8).as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def _begin():
    before = _mode()
    _set_mode(before | FLUSH)
    return before


def _end(before):
    _set_mode(before)


if JIT and (_X86 or _ARM):
    _begin, _end = compiled(_begin, types.int64()), compiled(_end, types.void(types.int64))
else:

    def _begin():
        """Nothing is known of this processor, or nothing is compiled."""
        return 0

    def _end(before):
        """Nor here."""


@contextlib.contextmanager
def as_zero() -> Iterator[None]:
    """Inside it this thread takes subnormal numbers for zero, and makes none."""
    before = _begin()
    try:
        yield
    finally:
        _end(before)
