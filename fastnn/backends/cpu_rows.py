"""Rows as they come, for predictions of the CPU engine: converted and scaled a tile at a time where they must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernels.cpu.gather import convert_rows
from .base import Array
from .host import aligned

if TYPE_CHECKING:
    from ..network import Network

__all__ = ["PREDICTION_ROWS", "by_part", "converted", "factor_of"]

PREDICTION_ROWS = 512  # a tile: its activations stay in the cache


def factor_of(net: Network, x: Array) -> float:
    """Of rows as they come: the network's scale of integers."""
    return net.scale if net.scale is not None and x.dtype.kind in "iu" else 1.0


def converted(x: Array, dtype: Any, scale: float) -> Array:
    """scale x, in this dtype, a fresh array."""
    rows = aligned(x.shape, dtype)
    convert_rows(x, scale, rows)
    return rows


def by_part(predict: Callable[[Array, Array], bool], x: Array, h: Array, dtype: Any, scale: float) -> bool:
    """predict(x, h), or of rows that are converted to this dtype and scaled first, a tile at a time."""
    if x.dtype == dtype:
        return predict(x, h)
    tiles = [slice(first, first + PREDICTION_ROWS) for first in range(0, len(x), PREDICTION_ROWS)]
    return all(predict(converted(x[rows], dtype, scale), h[rows]) for rows in tiles)
