"""LLVM instructions on whole vectors, which the compiler splits where a machine's are shorter, and the machine's sizes.

Everything is given by address (int64); strides and places are in numbers.
"""

from __future__ import annotations

import platform

import numpy as np
from llvmlite import ir
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features

__all__ = ["FEATURES", "FETCH", "VECTOR", "WIDE", "Emitter", "ask_for", "lanes", "padded"]


def _features() -> dict[str, bool]:
    """What Numba compiles for: this processor, less what NUMBA_ENABLE_AVX=0 leaves out, or NUMBA_CPU_FEATURES."""
    text = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return {name[1:]: name[0] == "+" for name in text.split(",") if name}


FEATURES = _features()
_X86 = platform.machine().lower() in ("x86_64", "amd64")


def vector_bytes(features: dict[str, bool], x86: bool) -> int:
    """Bytes of a vector in these kernels; on ARM it is a pair of registers."""
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") or not x86 else 16


VECTOR = vector_bytes(FEATURES, _X86)
WIDE = VECTOR == 64  # 32 vectors in registers, not 16
FETCH = 64  # bytes of a cache line, asked for one at a time
_I64, _I32, _I8 = ir.IntType(64), ir.IntType(32), ir.IntType(8)


def lanes(dtype) -> int:
    """Numbers of a vector."""
    return VECTOR // np.dtype(dtype).itemsize


def padded(width: int, dtype) -> int:
    """The next multiple of a vector."""
    return -(-width // lanes(dtype)) * lanes(dtype)


def ask_for(builder, address, near, write=0):
    """Asks for the cache line at an address; never faults.

    near: 2 into the second-level cache, 3 into the first. write: 1 for this core alone, so that a store need not wait
    until the others have given the line up.
    """
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [_I8.as_pointer()], kind)
    builder.call(function, [builder.inttoptr(address, _I8.as_pointer()), _I32(write), _I32(near), _I32(1)])


class Emitter:
    """LLVM instructions on addresses (int64) and vectors of one type."""

    def __init__(self, builder, real):
        self.builder, self.size = builder, real.bitwidth // 8
        self.real = ir.FloatType() if real.bitwidth == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.real, VECTOR // self.size)
        self.count = VECTOR // self.size

    def at(self, address, elements, constant=0):
        """address + (elements + constant) numbers."""
        scaled = self.builder.mul(elements, _I64(self.size))
        return self.builder.add(address, self.builder.add(scaled, _I64(constant * self.size)))

    def vector_at(self, address, vectors):
        """address + so many vectors."""
        return self.builder.add(address, self.builder.mul(vectors, _I64(VECTOR)))

    def load(self, address, kind=None):
        kind = kind or self.vector
        return self.builder.load(
            self.builder.inttoptr(address, kind.as_pointer()), align=8 if kind is _I64 else self.size
        )

    def store(self, value, address):
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=self.size)

    def splat(self, scalar):
        unset = ir.Constant(ir.VectorType(scalar.type, self.count), ir.Undefined)
        one = self.builder.insert_element(unset, scalar, _I32(0))
        return self.builder.shuffle_vector(one, unset, ir.Constant(ir.VectorType(_I32, self.count), [0] * self.count))

    def add_product(self, a, b, total):
        """total += a b, in one rounding where the machine can."""
        product = self.builder.fmul(a, b, flags=("contract",))
        self.builder.store(self.builder.fadd(product, self.builder.load(total), flags=("contract",)), total)

    def zero(self):
        return ir.Constant(self.vector, [ir.Constant(self.real, 0.0)] * self.count)

    def sum_at(self, start):
        """A sum that the compiler keeps in a register."""
        place = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(start, place)
        return place

    def last_lanes(self, vector, wanted):
        """The vector with zeros in all lanes but the last `wanted`."""
        lane = ir.Constant(ir.VectorType(_I64, self.count), list(range(self.count)))
        first = self.builder.sub(_I64(self.count), wanted)
        return self.builder.select(self.builder.icmp_signed(">=", lane, self.splat(first)), vector, self.zero())

    def first_lanes(self, vector, wanted):
        """The vector with zeros in all lanes but the first `wanted`."""
        lane = ir.Constant(ir.VectorType(_I64, self.count), list(range(self.count)))
        return self.builder.select(self.builder.icmp_signed("<", lane, self.splat(wanted)), vector, self.zero())

    def first_lane(self, scalar):
        """A vector of zeros with this number in its first lane."""
        return self.builder.insert_element(self.zero(), scalar, _I32(0))

    def sums_across(self, vectors):
        """A vector of the sums of the numbers of each of `count` vectors."""
        side = 1
        while len(vectors) > 1:
            vectors = [
                self.builder.fadd(*self.swap(a, b, side)) for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
            side *= 2
        return vectors[0]

    def swap(self, a, b, side):
        """The two vectors after their off-diagonal blocks of this side have changed places."""
        n, kind = self.count, ir.VectorType(_I32, self.count)
        low = ir.Constant(kind, [j if not j & side else n + j - side for j in range(n)])
        high = ir.Constant(kind, [j + side if not j & side else n + j for j in range(n)])
        return self.builder.shuffle_vector(a, b, low), self.builder.shuffle_vector(a, b, high)

    def prefetch(self, address, near=2):
        """Asks for a line: 2 into the second-level cache, 3 into the first."""
        ask_for(self.builder, address, near)
