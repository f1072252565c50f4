"""Array handling of the engines whose arrays are NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Array, Backend

__all__ = ["HostBackend"]


class HostBackend(Backend):
    """An engine that computes in NumPy arrays in the host's memory."""

    def is_array(self, x: object) -> bool:
        return isinstance(x, np.ndarray)

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        return np.ascontiguousarray(x, dtype=dtype)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return np.zeros(shape, dtype)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return np.empty(shape, dtype)

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
