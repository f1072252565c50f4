"""Compiles what predictions need before the first one. Engines compile a program when it is first used, which takes
seconds, and which program that is depends on the number of rows and their dtype.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import positive_integer

if TYPE_CHECKING:
    from .network import Network

__all__ = ["DTYPES", "warm_up"]

DTYPES = ("float32", "float64", "int64", "uint8")


def warm_up(net: Network, *, rows: int | Iterable[int] | None = None, dtypes: Any = DTYPES) -> float:
    """Predict zeros, so that no later prediction of rows of these dtypes has to compile. Returns the seconds it took.

    Compiled code is kept on disk, and most of it is for all networks of a dtype: done once where an image is built, a
    process there only reads it. (Training compiles programs of its own: `fit` once for those.)

    Parameters
    ----------
    net : Network
    rows : int or sequence of int, optional
        How many at a time; so many that each of the engine's ways to predict is taken if not given.
    dtypes : NumPy dtype or sequence of them
        Of the rows to come.

    Raises
    ------
    TypeError, ValueError
        A number of rows that is not a positive integer; a dtype that is no number's.
    """
    began = time.perf_counter()
    wanted = net.backend.warming_rows(net) if rows is None else [rows] if isinstance(rows, (int, np.integer)) else rows
    counts, kinds = [positive_integer("rows", m) for m in wanted], []
    for kind in [dtypes] if isinstance(dtypes, (str, type, np.dtype)) else dtypes:
        try:
            kinds.append(np.dtype(kind))
        except TypeError as error:
            raise TypeError(f"dtypes must be NumPy dtypes, got {kind!r}") from error
    if wrong := [str(kind) for kind in kinds if kind.kind not in "fiub"]:
        raise ValueError(f"dtypes must be of numbers, got {wrong[0]}")
    for m in counts:
        for kind in kinds:
            net._outputs(np.zeros((m, net.sizes[0]), kind))
    return time.perf_counter() - began
