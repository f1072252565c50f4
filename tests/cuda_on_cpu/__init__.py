"""The CuPy engine on the CPU, for tests: its own kernels and its own Python over a stand-in of the device."""

from __future__ import annotations

import functools

from fastnn.backends.cupy_backend import CupyBackend

from .builder import CompilerMissing, library
from .device import KernelFault, ShimDevice
from .order import OrderFault

__all__ = ["CompilerMissing", "KernelFault", "OrderFault", "ShimDevice", "library", "make_backend"]


@functools.cache
def make_backend() -> CupyBackend:
    """The engine over the stand-in; one in a process, as `fastnn.get_backend` has it."""
    return CupyBackend(ShimDevice(shared_bytes=100 << 10), fused=False)  # trials would take most of the time
