"""Costs J with the delta of the output layer, one row for every pair that makes sense.

Symbols: z, a (m, K) of the output layer, h = a; y the targets; e = a - y; m the rows of the call.
delta carries no 1/m and the cost is a *sum* over rows; the caller divides. Costs come from z
(log-sum-exp, log1p), never from log(h), so they stay finite for every finite z; but poisson for every z whose e^z is
finite in float64.

| output  | cost          | sum over rows of J                           | delta                      |
|---------|---------------|----------------------------------------------|----------------------------|
| softmax | cross_entropy | sum_i [ log sum_k e^z_ik - z_i,y_i ]         | a - y                      |
| sigmoid | cross_entropy | sum_ik [ max(z,0) - y z + log(1 + e^-|z|) ]  | a - y                      |
| g       | squared_error | sum_ik (y - h)^2 / 2                         | e * g'(z)                  |
| softmax | squared_error | sum_ik (y - h)^2 / 2                         | h * (e - sum_j e_j h_j)    |
| identity| absolute_error| sum_ik |e|                                   | sign e                     |
| identity| huber:t       | sum_ik e^2/2 where |e| <= t, else t |e| - t^2/2 | e, at most t either way  |
| identity| quantile:q    | sum_ik (1-q) e where e > 0, else -q e        | 1-q, or -q where e < 0     |
| exp     | poisson       | sum_ik [ h - y - y (z - log y) ]             | a - y                      |

With absolute_error and quantile the delta is 0 where e is, one of the slopes there. Outputs become medians and
q-quantiles of the targets, not means; huber is between mean and median. poisson is half the deviance of counts y >= 0
(0 log 0 = 0), the negative log-likelihood but for what has no parameter in it, and 0 where h = y.

Sources: the lecture; the stable sigmoid form is max(z,0) - zy + log(1+e^-|z|), which equals
-[y log h + (1-y) log(1-h)] term by term. P. J. Huber, "Robust Estimation of a Location Parameter", Annals of
Mathematical Statistics 35(1), 1964, p. 75. R. Koenker, G. Bassett, "Regression Quantiles", Econometrica 46(1), 1978,
equation 3.1. P. McCullagh, J. A. Nelder, "Generalized Linear Models", second edition, 1989, section 6.2.3 (twice this).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activations import Activation
from .errors import finite_number, unknown_name

__all__ = ["COSTS", "Pair", "named", "pair"]

Array = NDArray[Any]
COSTS = ("cross_entropy", "squared_error", "absolute_error", "huber", "quantile", "poisson")
PARAMETERS = {"huber": 1.0, "quantile": 0.5}  # where none is given
BESIDE = {
    "identity": ", or another cost of errors",
    "exp": " or cost='poisson'",
}  # costs of outputs beside squared_error


@dataclass(frozen=True)
class Pair:
    """An output activation with a cost.

    Attributes
    ----------
    code : int
        Number by which compiled kernels select the pair; the same in kernels/cpu and kernels/cuda.
    targets : str
        "classes": integers (m,), or how probable each is, (m, K) in [0, 1] with a sum of 1 in each row;
        "probabilities": (m, K) in [0, 1]; "values": (m, K) floats, or
        integer classes (m,), which mean their one-hot rows; "numbers": (m, K) floats alone; "counts": such
        that are >= 0.
    delta : callable (activation, z, a, y) -> (m, K)
        The output delta, a fresh array, without 1/m.
    cost : callable (z, a, y) -> (m,)
        The rows' costs, to be summed in float64.
    parameter : float, optional
        Of a cost of errors, whose output is the identity, and of poisson; 1 for absolute_error and poisson, which make
        no use of it. None for the other costs.
    """

    code: int
    targets: str
    delta: Callable[[Activation, Array, Array, Array], Array]
    cost: Callable[[Array, Array, Array], Array]
    parameter: float | None = None


def one_hot(y: Array, like: Array) -> Array:
    """Rows of 0 and 1 of the shape and dtype of `like` for classes (m,); (m, K) targets pass through."""
    if y.ndim == 2:
        return y
    rows = np.zeros_like(like)
    rows[np.arange(y.shape[0]), y] = 1
    return rows


def _difference(activation: Activation, z: Array, a: Array, y: Array) -> Array:
    if y.ndim == 2:
        return np.asarray(a - y)
    delta = a.copy()
    delta[np.arange(y.shape[0]), y] -= 1
    return delta


def _times_derivative(activation: Activation, z: Array, a: Array, y: Array) -> Array:
    return np.asarray(_difference(activation, z, a, y) * activation.derivative(z, a))


def _through_softmax(activation: Activation, z: Array, a: Array, y: Array) -> Array:
    e = _difference(activation, z, a, y)
    return np.asarray(a * (e - (e * a).sum(axis=1, keepdims=True)))


def _softmax_cross_entropy(z: Array, a: Array, y: Array) -> Array:
    top = z.max(axis=1)
    log_sum = np.log(np.exp(z - top[:, None]).sum(axis=1))
    if y.ndim == 2:
        below = top.astype(np.float64)[:, None] - z  # which may be beyond float32
        return np.asarray((y * (log_sum[:, None] + below)).sum(axis=1))
    return np.asarray(log_sum + (top - z[np.arange(y.shape[0]), y]))


def _sigmoid_cross_entropy(z: Array, a: Array, y: Array) -> Array:
    terms = np.maximum(z, 0) - y * z + np.log1p(np.exp(-np.abs(z)))
    return np.asarray(terms.sum(axis=1, dtype=np.float64))


def _squared_error(z: Array, a: Array, y: Array) -> Array:
    e = (a - one_hot(y, a)).astype(np.float64)  # its square may be beyond float32
    return np.asarray((e * e).sum(axis=1) / 2)


def _errors(a: Array, y: Array) -> Array:
    return np.asarray((a - y).astype(np.float64))


def _within(t: float, activation: Activation, z: Array, a: Array, y: Array) -> Array:
    return np.asarray(np.clip(a - y, -t, t))  # NaN stays NaN


def _huber(t: float, z: Array, a: Array, y: Array) -> Array:
    size = np.abs(_errors(a, y))
    inner = np.minimum(size, t)
    return np.asarray((inner * (size - inner / 2)).sum(axis=1))


def _slopes(below: float, above: float, activation: Activation, z: Array, a: Array, y: Array) -> Array:
    e = a - y
    slope = np.where(e > 0, e.dtype.type(above), np.where(e < 0, e.dtype.type(below), e))  # 0, or NaN
    return np.asarray(slope)


def _tilted(below: float, above: float, z: Array, a: Array, y: Array) -> Array:
    e = _errors(a, y)
    return np.asarray((e * np.where(e > 0, above, below)).sum(axis=1))


def _half_poisson_deviance(z: Array, a: Array, y: Array) -> Array:
    z, y = z.astype(np.float64), y.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        terms = np.exp(z) - y - y * (z - np.log(np.where(y > 0, y, 1)))
    return np.asarray(terms.sum(axis=1))


SOFTMAX_CROSS_ENTROPY = Pair(0, "classes", _difference, _softmax_cross_entropy)
SIGMOID_CROSS_ENTROPY = Pair(1, "probabilities", _difference, _sigmoid_cross_entropy)
SQUARED_ERROR = Pair(2, "values", _times_derivative, _squared_error)
SOFTMAX_SQUARED_ERROR = Pair(3, "values", _through_softmax, _squared_error)
POISSON = Pair(4, "counts", _difference, _half_poisson_deviance, 1.0)


def named(cost: str) -> tuple[str, float | None]:
    """Name and parameter of a cost, as "huber:1.35" has them; the default parameter if none is given, None where there
    is none.

    Raises
    ------
    TypeError
        Not a string.
    ValueError
        An unknown name, or a parameter that is none or out of range.
    """
    if not isinstance(cost, str):
        raise TypeError(f"cost must be a name, as {', '.join(COSTS)}, got {cost!r} ({type(cost).__name__})")
    name, colon, text = cost.partition(":")
    if name not in COSTS:
        raise unknown_name("cost", name, COSTS)
    if not colon:
        return name, PARAMETERS.get(name)
    if name not in PARAMETERS:
        raise ValueError(f"cost={cost!r}: {name} takes no parameter; {' and '.join(PARAMETERS)} do")
    try:
        value = float(text.replace("_", "?"))  # which Python takes within numbers
    except ValueError:
        raise ValueError(
            f"cost={cost!r}: a number is expected behind the colon, as in {name}:{PARAMETERS[name]}"
        ) from None
    if name == "huber":
        return name, finite_number(f"cost={cost!r}: the threshold", value, above=0)
    if not 0 < value < 1:
        raise ValueError(f"cost={cost!r}: the quantile must lie between 0 and 1, got {value:g}")
    return name, value


@functools.cache
def _of_errors(name: str, parameter: float | None) -> Pair:
    """A cost of the errors of identity outputs; the same object for the same cost."""
    if name == "huber":
        assert parameter is not None
        return Pair(
            5, "numbers", functools.partial(_within, parameter), functools.partial(_huber, parameter), parameter
        )
    if name == "quantile":
        assert parameter is not None
        slopes = (-parameter, 1 - parameter)
        return Pair(6, "numbers", functools.partial(_slopes, *slopes), functools.partial(_tilted, *slopes), parameter)
    return Pair(7, "numbers", functools.partial(_slopes, -1.0, 1.0), functools.partial(_tilted, -1.0, 1.0), 1.0)


def pair(output: Activation, cost: str) -> Pair:
    """The row for this output activation and cost, whose parameter stands behind a colon: "huber:1.35".

    Raises
    ------
    TypeError
        cost is no string.
    ValueError
        Unknown cost, a parameter that does not fit, or a pair that makes no sense; the message says which costs fit.
    """
    name, parameter = named(cost)
    if output.of_z:
        raise ValueError(f"output={output.name!r} is for hidden layers alone; a cost of values fits output='identity'")
    if name == "poisson":
        if output.name != "exp":
            raise ValueError(f"cost='poisson' needs output='exp', got output={output.name!r}")
        return POISSON
    if name not in ("cross_entropy", "squared_error"):
        if output.name != "identity":
            raise ValueError(f"cost={cost!r} needs output='identity', got output={output.name!r}")
        return _of_errors(name, parameter)
    if name == "squared_error":
        return SQUARED_ERROR if output.elementwise else SOFTMAX_SQUARED_ERROR
    if output.name == "softmax":
        return SOFTMAX_CROSS_ENTROPY
    if output.name == "sigmoid":
        return SIGMOID_CROSS_ENTROPY
    raise ValueError(
        f"cost='cross_entropy' needs outputs in (0, 1): output={output.name!r} fits cost='squared_error'"
        f"{BESIDE.get(output.name, ' only')} (or use output='softmax' or "
        "'sigmoid')"
    )
