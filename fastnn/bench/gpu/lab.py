"""What the stages need of the card, in one place: the engine, a clock, plain products and copies. Nothing else here
knows CuPy.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from ...backends import get_backend
from ..client import Absent
from .timer import EventTimer, Timer

__all__ = ["CupyLab", "Lab", "open_lab"]

Work = Callable[[], Any]
# cudaDataType_t and cublasComputeType_t: what is stored, and how it is multiplied (gemmEx).
FLOAT, BFLOAT16 = 0, 14
COMPUTE = {"fp32": 68, "tf32": 77, "bf16": 68}  # CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32


class Lab(ABC):
    """The device as the stages see it: `backend` is the CuPy engine, `timer` the device's clock, `xp` its array
    library.
    """

    backend: Any
    timer: Timer
    xp: Any

    @abstractmethod
    def product(self, precision: str, m: int, n: int, k: int) -> Work:
        """A product (m, k) (k, n) of random numbers into memory that is there already."""

    @abstractmethod
    def copy(self, count: int) -> Work:
        """A copy of that many bytes within the device's memory."""


class CupyLab(Lab):
    """The current CUDA device."""

    def __init__(self) -> None:
        self.backend = get_backend("cupy")
        self.xp: Any = importlib.import_module("cupy")
        self.timer = EventTimer(self.xp)

    def product(self, precision: str, m: int, n: int, k: int) -> Work:
        cublas, handle = self.xp.cuda.cublas, self.xp.cuda.get_cublas_handle()
        a, b, c = (self._random(precision, count) for count in (m * k, k * n, m * n))
        kind, one, zero = BFLOAT16 if precision == "bf16" else FLOAT, np.ones(1, np.float32), np.zeros(1, np.float32)

        # Row-major C = A B is column-major C^T = B^T A^T: cuBLAS is given B first.
        def work(keep: tuple[Any, ...] = (a, b, c, one, zero)) -> None:
            cublas.gemmEx(
                handle, 0, 0, n, m, k, one.ctypes.data, b.data.ptr, kind, n, a.data.ptr, kind, k, zero.ctypes.data,
                c.data.ptr, kind, n, COMPUTE[precision], -1,
            )  # fmt: skip

        return work

    def _random(self, precision: str, count: int) -> Any:
        """Numbers in -1/2..1/2; zeros would run faster than real data. bf16 is the upper half of float32's bits."""
        some = self.xp.asarray(np.random.default_rng(0).random(min(count, 1 << 20), np.float32) - np.float32(0.5))
        numbers = self.xp.tile(some, -(-count // some.shape[0]))[:count]
        return (numbers.view(np.uint32) >> 16).astype(np.uint16) if precision == "bf16" else numbers

    def copy(self, count: int) -> Work:
        source, target = self.xp.ones(count, np.uint8), self.xp.empty(count, np.uint8)
        return lambda: target.data.copy_from_device_async(source.data, count, self.xp.cuda.get_current_stream())


def open_lab() -> Lab:
    """The lab on this machine's device.

    Raises
    ------
    Absent
        The engine cannot be used here, with the reason.
    """
    try:
        return CupyLab()
    except ImportError as error:
        raise Absent(str(error)) from None
