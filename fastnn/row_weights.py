"""How much each row counts: `sample_weight` of `Network.fit`, checked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import checks
from .arrays import on_host
from .errors import unknown_name

if TYPE_CHECKING:
    from .network import Network

__all__ = ["BALANCED", "AsGiven", "checked", "for_rows", "mean_of_one", "on_engine", "warn_of_small_sum"]

BALANCED = "balanced"
# 1 / the mean of weights, and lambda / their sum, from which L2 is so much stronger that it is hardly meant
SMALL_MEAN, STRONG = 10, 0.3


@dataclass(frozen=True)
class AsGiven:
    """Weights that are not divided by their mean: of rows that are part of others, as in `partial_fit`."""

    weights: Any


def checked(given: Any, y: Any, m: int, argument: str = "sample_weight") -> NDArray[np.float64]:
    """The weights (m,) in float64 in the host's memory.

    Parameters
    ----------
    given : array-like (m,) of finite numbers >= 0, or "balanced"
        The latter is m / (K count of the row's class), K the classes that occur.
    y : (m,) or (m, K)
        The checked targets, in the host's memory.

    Raises
    ------
    TypeError, ValueError
        Neither, another number of rows, a number that is negative or not finite; "balanced" without classes.
    """
    if isinstance(given, str):
        if given != BALANCED:
            raise unknown_name(argument, given, [BALANCED])
        if y.ndim == 2 and y.shape[1] == 1 and np.isin(y, (0, 1)).all():  # one sigmoid unit tells two classes apart
            y = y[:, 0].astype(np.int64)
        if y.ndim != 1:
            raise ValueError(f"{argument}='balanced' is for classes, y holds values of shape {tuple(y.shape)}")
        counts = np.bincount(y)
        return np.asarray(m / (np.count_nonzero(counts) * counts[y]))
    weights = checks.numeric(argument, on_host(given))
    if weights.shape != (m,):
        raise ValueError(f"{argument} must have one number per row of X, shape ({m},), got {weights.shape}")
    weights = np.asarray(weights, np.float64)
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{argument} must be finite and >= 0, got {weights[row]:g} at row {row}")
    return np.asarray(weights)


def mean_of_one(
    weights: NDArray[np.float64], rows: Any = slice(None), what: str = "sample_weight"
) -> tuple[NDArray[np.float64], float]:
    """All weights divided by the mean over `rows`, so that a step stays as long as without them; and the sum over rows.

    Raises
    ------
    ValueError
        All of these rows have 0.
    """
    top = float(weights[rows].max())
    if not top > 0:
        raise ValueError(f"{what} must be > 0 for some row, got 0 for all {len(weights[rows])}")
    shares = weights / top  # the sum of the largest numbers would overflow
    mean = float(shares[rows].mean())
    return np.asarray(shares / mean), mean * top * len(weights[rows])


def warn_of_small_sum(total: float, rows: int, l2: float) -> None:
    """lambda is divided by the sum of the weights: where that is 1, a usual lambda makes all outputs alike."""
    if total < rows / SMALL_MEAN and l2 > STRONG * total:
        warnings.warn(
            f"sample_weight sums to {total:g} over {rows} rows, and lambda is divided by that sum: l2={l2:g} acts as "
            f"l2={l2 * rows / total:g} would with weights whose mean is 1; divide the weights by their mean if that is "
            "not meant",
            UserWarning,
            stacklevel=5,
        )


def on_engine(weights: NDArray[np.float64] | None, net: Network, what: str = "sample_weight") -> tuple[Any, float]:
    """(weights (m,) of mean 1 on the network's engine and in its dtype, their sum before); (None, 0) for None."""
    if weights is None:
        return None, 0.0
    shares, total = mean_of_one(weights, what=what)
    return net.backend.asarray(shares.astype(net.dtype)), total


def for_rows(given: Any, net: Network, targets: Any) -> tuple[Any, float]:
    """The same of a `sample_weight` as it was given, for rows with these targets; (None, m) for None."""
    m = targets.shape[0]
    if given is None:
        return None, float(m)
    return on_engine(checked(given, net.backend.to_numpy(targets), m), net)
