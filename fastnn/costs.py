"""Costs J with the delta of the output layer, one row for every pair that makes sense.

Symbols: z, a (m, K) of the output layer, h = a; y the targets; e = a - y; m the rows of the call.
delta carries no 1/m and the cost is a *sum* over rows; the caller divides. Costs come from z
(log-sum-exp, log1p), never from log(h), so they stay finite for every finite z.

| output  | cost          | sum over rows of J                           | delta                      |
|---------|---------------|----------------------------------------------|----------------------------|
| softmax | cross_entropy | sum_i [ log sum_k e^z_ik - z_i,y_i ]         | a - y                      |
| sigmoid | cross_entropy | sum_ik [ max(z,0) - y z + log(1 + e^-|z|) ]  | a - y                      |
| g       | squared_error | sum_ik (y - h)^2 / 2                         | e * g'(z)                  |
| softmax | squared_error | sum_ik (y - h)^2 / 2                         | h * (e - sum_j e_j h_j)    |

Sources: the lecture; the stable sigmoid form is max(z,0) - zy + log(1+e^-|z|), which equals
-[y log h + (1-y) log(1-h)] term by term.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activations import Activation
from .errors import unknown_name

__all__ = ["COSTS", "Pair", "pair"]

Array = NDArray[Any]
COSTS = ("cross_entropy", "squared_error")


@dataclass(frozen=True)
class Pair:
    """An output activation with a cost.

    Attributes
    ----------
    code : int
        Number by which compiled kernels select the pair; the same in kernels/cpu and kernels/cuda.
    targets : str
        "classes": integers (m,); "probabilities": (m, K) in [0, 1]; "values": (m, K) floats, or
        integer classes (m,), which mean their one-hot rows.
    delta : callable (activation, z, a, y) -> (m, K)
        The output delta, a fresh array, without 1/m.
    cost : callable (z, a, y) -> (m,)
        The rows' costs, to be summed in float64.
    """

    code: int
    targets: str
    delta: Callable[[Activation, Array, Array, Array], Array]
    cost: Callable[[Array, Array, Array], Array]


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
    return np.asarray(log_sum + (top - z[np.arange(y.shape[0]), y]))


def _sigmoid_cross_entropy(z: Array, a: Array, y: Array) -> Array:
    terms = np.maximum(z, 0) - y * z + np.log1p(np.exp(-np.abs(z)))
    return np.asarray(terms.sum(axis=1, dtype=np.float64))


def _squared_error(z: Array, a: Array, y: Array) -> Array:
    e = (a - one_hot(y, a)).astype(np.float64)  # its square may be beyond float32
    return np.asarray((e * e).sum(axis=1) / 2)


SOFTMAX_CROSS_ENTROPY = Pair(0, "classes", _difference, _softmax_cross_entropy)
SIGMOID_CROSS_ENTROPY = Pair(1, "probabilities", _difference, _sigmoid_cross_entropy)
SQUARED_ERROR = Pair(2, "values", _times_derivative, _squared_error)
SOFTMAX_SQUARED_ERROR = Pair(3, "values", _through_softmax, _squared_error)


def pair(output: Activation, cost: str) -> Pair:
    """The row for this output activation and cost.

    Raises
    ------
    ValueError
        Unknown cost, or a pair that makes no sense; the message says which costs fit.
    """
    if cost not in COSTS:
        raise unknown_name("cost", cost, COSTS)
    if cost == "squared_error":
        return SQUARED_ERROR if output.elementwise else SOFTMAX_SQUARED_ERROR
    if output.name == "softmax":
        return SOFTMAX_CROSS_ENTROPY
    if output.name == "sigmoid":
        return SIGMOID_CROSS_ENTROPY
    raise ValueError(
        f"cost='cross_entropy' needs outputs in (0, 1): output={output.name!r} fits only cost='squared_error' (or use "
        "output='softmax' or 'sigmoid')"
    )
