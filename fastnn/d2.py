"""How much better predictions of numbers are than the best constant: R^2, and D^2 of costs that are not squared.

1 - sum w cost(y, h) / sum w cost(y, c) per output, c the constant with the least such sum: the mean for squares, the
median for absolute errors, the q-quantile for the cost quantile:q, the mean for poisson. 1 is perfect, 0 as good as the
constant, and there is no worst. R. Koenker, J. Machado, "Goodness of Fit and Related Inference Processes for Quantile
Regression", Journal of the American Statistical Association 94, 1999, equation 7; the same as scikit-learn's r2_score,
d2_pinball_score, d2_absolute_error_score and, with power=1, d2_tweedie_score; its d2_pinball_score without weights only
from scikit-learn 1.9 on, which before compares with an interpolated quantile, a constant that need not be the best.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import costs, robust

__all__ = ["d2_pinball", "d2_poisson", "half_poisson_deviance", "quantile_of", "r2", "score"]

Array = NDArray[np.float64]


def quantile_of(cost: str) -> float | None:
    """The quantile that outputs of networks trained by this cost are, 1/2 for absolute_error; None of other costs."""
    name, parameter = costs.named(cost)
    return 0.5 if name == "absolute_error" else parameter if name == "quantile" else None


def score(cost: str, y: Any, predicted: Any, weights: Any = None) -> float:
    """D^2 of quantile costs, of absolute_error and of poisson, R^2 of the others; arguments as `d2_pinball`."""
    if cost == "poisson":
        return d2_poisson(y, predicted, weights)
    alpha = quantile_of(cost)
    return r2(y, predicted, weights) if alpha is None else d2_pinball(y, predicted, alpha, weights)


def r2(y: Any, predicted: Any, weights: Any = None) -> float:
    """R^2, the mean over outputs; arguments, constant outputs and errors as `d2_pinball`."""
    t, h, w = _checked(y, predicted, weights)
    spread = (w * (t - (w * t).sum(axis=0) / w.sum()) ** 2).sum(axis=0)
    counted = t[w[:, 0] > 0]  # of which the mean, where all are 0.1, may be another number by its rounding
    return _better((w * (t - h) ** 2).sum(axis=0), np.where(counted.max(axis=0) > counted.min(axis=0), spread, 0.0))


def d2_pinball(y: Any, predicted: Any, alpha: float, weights: Any = None) -> float:
    """D^2 of the pinball cost, the mean over outputs: e = y - h costs alpha e where it is >= 0, else (alpha - 1) e.

    Parameters
    ----------
    y, predicted : array-like (m,) or (m, K)
        Finite numbers of one shape, m >= 1; worked on in float64.
    alpha : float
        The quantile, between 0 and 1; with 1/2 it is D^2 of the absolute error.
    weights : array-like (m,), optional
        How much each row counts, >= 0 and not all 0; only their ratios matter.

    Returns
    -------
    float
        At most 1. An output whose targets are all the same counts 1 if they are matched exactly, else 0.

    Raises
    ------
    ValueError
        Shapes that do not fit each other; weights that are negative, NaN or all 0.
    """
    t, h, w = _checked(y, predicted, weights)
    best = robust._quantile(t, alpha, w[:, 0])
    return _better((w * _pinball(t - h, alpha)).sum(axis=0), (w * _pinball(t - best, alpha)).sum(axis=0))


def d2_poisson(y: Any, predicted: Any, weights: Any = None) -> float:
    """D^2 of the Poisson deviance, the mean over outputs, of y >= 0 and predicted >= 0; arguments, constant outputs and
    errors as `d2_pinball`. -inf where 0 is predicted, or infinity, and is wrong.
    """
    t, h, w = _checked(y, predicted, weights)
    mean = (w * t).sum(axis=0) / w.sum()
    counted = t[w[:, 0] > 0]
    spread = (w * half_poisson_deviance(t, np.broadcast_to(mean, t.shape))).sum(axis=0)
    lost = np.where(w > 0, half_poisson_deviance(t, h), 0.0)
    return _better((w * lost).sum(axis=0), np.where(counted.max(axis=0) > counted.min(axis=0), spread, 0.0))


def half_poisson_deviance(y: Array, h: Array) -> Array:
    """h - y - y log(h / y) of each pair of numbers >= 0, with 0 log 0 = 0; 0 where they are the same, and infinity
    where h is infinite, or 0 beside another y.
    """
    with np.errstate(all="ignore"):
        cost = h - y - np.where(y > 0, y * (np.log(h) - np.log(y)), 0.0)
    return np.asarray(np.where(np.isinf(h), np.inf, np.where(h == y, 0.0, cost)))


def _pinball(e: Array, alpha: float) -> Array:
    return np.where(e >= 0, alpha, alpha - 1) * e


def _checked(y: Any, predicted: Any, weights: Any) -> tuple[Array, Array, Array]:
    """(m, K) twice, and (m, 1)."""
    t, h = np.asarray(y, np.float64), np.asarray(predicted, np.float64)
    if t.shape != h.shape or t.ndim not in (1, 2) or not t.size:
        raise ValueError(f"y and predicted must have one shape, (m,) or (m, K), got {t.shape} and {h.shape}")
    w = np.ones(len(t)) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (len(t),):
        raise ValueError(f"weights must have one number per row of y, shape ({len(t)},), got {w.shape}")
    if not (w >= 0).all() or not w.max() > 0:
        raise ValueError("weights must be >= 0, and > 0 for some row")
    return t.reshape(len(t), -1), h.reshape(len(t), -1), (w / w.max())[:, None]  # sums of the largest overflow


def _better(residual: Array, spread: Array) -> float:
    constant = np.where(residual == 0, 1.0, 0.0)
    return float(np.where(spread == 0, constant, 1 - residual / np.where(spread == 0, 1, spread)).mean())
