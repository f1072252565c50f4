"""Robust centre and spread of targets, for the costs that are robust to outliers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import costs

__all__ = ["centre_and_spread", "is_robust"]

Array = NDArray[Any]
ROBUST_COSTS = ("absolute_error", "huber", "quantile")
# Spreads that are rounding: of a column whose numbers are one number but for that
ROUNDING, TINY, EQUAL = 1e-6, 1e-12, 1e-12
NORMAL = 1.4826  # standard deviation of normal numbers by their median absolute deviation, 1 / Phi^-1(3/4)


def is_robust(cost: Any) -> bool:
    """Whether this is one of the robust costs; False for anything that is not a cost, too."""
    return isinstance(cost, str) and cost.partition(":")[0] in ROBUST_COSTS


def centre_and_spread(cost: str, values: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Centre and spread of each column of values (m, K), two arrays (K,).

    The centre is the constant with the least cost: the median, or the quantile if that is the cost. The spread is
    1.4826 times the median absolute deviation from the median. Where more than half of a column is the same number (up
    to rounding) it is the root mean square deviation from the median instead, which is 0 if all are the same. Rows
    count by their weights (m,), which are not all 0.

    P. J. Huber, "Robust Statistics", 1981, section 5.1.
    """
    name, parameter = costs.named(cost)
    weights = np.ones(len(values)) if weights is None else weights
    median = _quantile(values, 0.5, weights)
    centre = _quantile(values, parameter, weights) if name == "quantile" and parameter is not None else median
    far = np.abs(values - median)
    spread = NORMAL * _quantile(far, 0.5, weights)
    largest = np.where(far.max(axis=0) > 0, far.max(axis=0), 1.0)
    flat = largest * np.sqrt(np.average((far / largest) ** 2, axis=0, weights=weights))
    return centre, np.where(spread > np.maximum(ROUNDING * np.abs(median), TINY * flat), spread, flat)


def _quantile(values: Array, q: float, weights: Array) -> Array:
    """Of each column: the least number up to which that part of the weight lies, or halfway to the next one where it is
    just that part.
    """
    order = np.argsort(values, axis=0, kind="stable")
    sums = np.cumsum(weights[order], axis=0)
    ends = []
    for reached in (sums >= (1 - EQUAL) * q * sums[-1], sums > (1 + EQUAL) * q * sums[-1]):
        at = np.where(reached.any(axis=0), reached.argmax(axis=0), len(values) - 1)
        ends.append(np.take_along_axis(values, np.take_along_axis(order, at[None], axis=0), axis=0)[0])
    return np.asarray(ends[0] / 2 + ends[1] / 2)
