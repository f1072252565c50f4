"""Array handling of the engines whose arrays are NumPy's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import device_of
from .base import Array, Backend

__all__ = ["ALIGNMENT", "HostBackend", "aligned"]

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


def aligned(shape: tuple[int, ...], dtype: Any, make: Callable[..., Array] = np.empty) -> Array:
    """An array whose memory begins at a multiple of 64 bytes; `make` is np.empty or np.zeros.

    NumPy promises 16. A BLAS may sum in another order where an array begins elsewhere, and where it begins
    differs from run to run.
    """
    count, size = math.prod(shape), np.dtype(dtype).itemsize
    raw = make(count + ALIGNMENT // size, dtype)
    first = -raw.ctypes.data % ALIGNMENT // size
    return raw[first : first + count].reshape(shape)


class HostBackend(Backend):
    """An engine that computes in NumPy arrays in the host's memory."""

    def is_array(self, x: object) -> bool:
        return isinstance(x, np.ndarray)

    def adopt(self, argument: str, x: Any) -> Any:
        if device_of(x) is not None:
            raise TypeError(
                f"{argument} lies on a GPU ({type(x).__module__}.{type(x).__name__}), the {self.name} engine computes "
                "in the host's memory; pass a host array, or use backend='cupy'"
            )
        return x

    def as_rows(self, x: Any, beside: int) -> Array:
        return self.asarray(x)

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        return np.ascontiguousarray(x, dtype=dtype)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return aligned(shape, dtype, np.zeros)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return aligned(shape, dtype)

    def copyto(self, target: Array, source: Array) -> None:
        np.copyto(target, source)

    def concatenate(self, parts: list[Array]) -> Array:
        return np.concatenate(parts)

    def sum_of_squares(self, x: Array) -> float:
        return float(np.sum(np.square(x, dtype=np.float64)))

    def all_finite(self, x: Array) -> bool:
        return bool(np.isfinite(x).all())

    def synchronize(self) -> None:
        """Nothing to wait for: every call returns when it is done."""
