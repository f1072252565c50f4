"""Update rules, one class each. They work on the flat vector, elementwise or layer by layer.

A rule reads the gradient D of the whole vector, the L2 term of the network included, scaled to the length `clip_norm`
if that is given and D is longer, and moves theta in place; every gradient is known before any parameter moves. `step`
is the NumPy reference. Compiled engines select their own code by `code` and read `hyper()`; `slots` names the state
vectors, each laid out as theta, zero at first. t counts the steps, 1 at the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .constant import Constant
from .errors import unknown_name
from .rule import Optimizer
from .schedules import Schedule

__all__ = ["LAMB", "LARS", "OPTIMIZERS", "SGD", "Adam", "Decaying", "LayerWise", "Momentum", "Optimizer", "get"]

Array = NDArray[Any]


class SGD(Optimizer):
    """Gradient descent: theta := theta - alpha D (the lecture).

    Parameters
    ----------
    learning_rate : float or Schedule
        alpha > 0.
    clip_norm : float, optional
        Length to which a longer gradient is scaled (`Optimizer`).
    """

    name, code = "sgd", 0

    def __init__(self, learning_rate: float | Schedule = 0.1, *, clip_norm: float | None = None) -> None:
        super().__init__(learning_rate, clip_norm)

    def step(self, theta: Array, grad: Array, state: Sequence[Array], t: int) -> None:
        theta -= theta.dtype.type(self.rate) * grad


class Momentum(Optimizer):
    """v := mu v + D; theta := theta - alpha v (Polyak 1964; the form of Sutskever et al. 2013 with alpha outside).

    Parameters
    ----------
    learning_rate : float or Schedule
        alpha > 0.
    momentum : float
        mu in [0, 1).
    clip_norm : float, optional
        Length to which a longer gradient is scaled (`Optimizer`).
    """

    name, code, slots = "momentum", 1, ("velocity",)
    momentum = Constant(least=0, below=1)

    def __init__(
        self, learning_rate: float | Schedule = 0.05, momentum: float = 0.9, *, clip_norm: float | None = None
    ) -> None:
        super().__init__(learning_rate, clip_norm)
        self.momentum = momentum

    def hyper(self) -> tuple[float, ...]:
        return (self.rate, self.momentum)

    def step(self, theta: Array, grad: Array, state: Sequence[Array], t: int) -> None:
        (v,) = state
        v *= v.dtype.type(self.momentum)
        v += grad
        theta -= theta.dtype.type(self.rate) * v


class Decaying(Optimizer):
    """A rule with a weight decay of its own, which is for weights alone and not part of the gradient.

    Attributes
    ----------
    weight_decay : float
    spans : (layers, 3) int64
        Where each layer's weights begin, where its biases begin, where it ends; from the network it is bound to.
    """

    weight_decay = Constant(least=0)
    spans: NDArray[np.int64] | None = None

    def bind(self, owner: Any, zeros: Callable[[], Any]) -> None:
        """As every rule; a network has a `layout`."""
        super().bind(owner, zeros)
        layout = getattr(owner, "layout", None)
        self.spans = None if layout is None else layout.spans()

    def parts(self) -> Iterator[tuple[slice, float]]:
        """Each layer's weights with the weight decay, then its biases with none."""
        assert self.spans is not None, "bound first"
        for begin, biases, end in self.spans.tolist():
            yield slice(begin, biases), self.weight_decay
            yield slice(biases, end), 0.0


class Moments(Decaying):
    """A rule of running means of the gradient, m, and of its square, v: the constants of Adam and LAMB."""

    slots = ("m", "v")
    beta1 = Constant(least=0, below=1)
    beta2 = Constant(least=0, below=1)
    eps = Constant(above=0)

    def __init__(
        self,
        learning_rate: float | Schedule,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        clip_norm: float | None,
    ) -> None:
        super().__init__(learning_rate, clip_norm)
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay

    def hyper(self) -> tuple[float, ...]:
        return (self.rate, self.beta1, self.beta2, self.eps, self.weight_decay)


class Adam(Moments):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1); with `weight_decay` AdamW (Loshchilov and Hutter 2019,
    arXiv 1711.05101, algorithm 2), which the field calls decoupled.

    m := b1 m + (1-b1) D;  v := b2 v + (1-b2) D^2;
    theta := theta - alpha (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps) - alpha beta theta, the last on weights alone.

    Parameters
    ----------
    learning_rate : float or Schedule
        alpha > 0.
    beta1, beta2 : float
        Decay rates in [0, 1).
    eps : float
        > 0, outside the root, as in the paper.
    weight_decay : float
        beta >= 0, on weights and not on biases (PyTorch's AdamW takes both), not part of m and v, beside the network's
        own L2, which is.
    clip_norm : float, optional
        Length to which a longer gradient is scaled (`Optimizer`).
    """

    name, code = "adam", 2

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, eps, weight_decay, clip_norm)

    def parts(self) -> Iterator[tuple[slice, float]]:
        return super().parts() if self.weight_decay else Optimizer.parts(self)

    def step(self, theta: Array, grad: Array, state: Sequence[Array], t: int) -> None:
        m, v = state
        scalar = theta.dtype.type  # 1 - b^t in float64 first: in float32 it would lose its digits at small t
        m += scalar(1 - self.beta1) * (grad - m)
        v += scalar(1 - self.beta2) * (grad * grad - v)
        root = np.sqrt(v * scalar(1 / (1 - self.beta2**t)))
        root += scalar(self.eps)
        for part, decay in self.parts():
            if decay:
                theta[part] *= scalar(1 - self.rate * decay)
        theta -= scalar(self.rate / (1 - self.beta1**t)) * (m / root)


class LayerWise(Decaying):
    """A rule that gives each layer a step of its own length, for large batches.

    A layer's weights are one part of theta and its biases another; each moves by its own ratio of norms, and
    `weight_decay` is for weights alone. Norms are Euclidean, summed in float64. Where one of the two norms is
    0 - biases begin there - their ratio counts as 1, or the part would never move.
    """


def _norm(x: Array) -> float:
    return float(np.sqrt(np.sum(np.square(x, dtype=np.float64))))


def _ratio(norm: float, other: float) -> float:
    """norm / other, 1 where one of them is 0 (or NaN, which is in theta then anyway)."""
    return norm / other if norm > 0 and other > 0 else 1.0


def _lift(length: float) -> float:
    """A power of two, exact, by which a direction is multiplied and its length divided: beside tiny gradients a length
    is beyond float32, and the step is not.
    """
    return 2.0**64 if length > 1e30 else 1.0


class LARS(LayerWise):
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1).

    For the weights, and for the biases, of each layer w with gradient g:
    lambda = eta ||w|| / (||g|| + beta ||w||);  v := mu v + alpha lambda (g + beta w);  w := w - v.

    Parameters
    ----------
    learning_rate : float or Schedule
        alpha > 0, the paper's gamma; it multiplies eta, so it is of the order of 1 and more.
    momentum : float
        mu in [0, 1).
    trust : float
        eta > 0, the LARS coefficient: how far a part moves, in terms of its own norm.
    weight_decay : float
        beta >= 0, on weights, beside the network's own L2, which is part of g.
    clip_norm : float, optional
        Length to which a longer gradient is scaled (`Optimizer`).
    """

    name, code, slots = "lars", 3, ("velocity",)
    momentum = Constant(least=0, below=1)
    trust = Constant(above=0)

    def __init__(
        self,
        learning_rate: float | Schedule = 1.0,
        momentum: float = 0.9,
        trust: float = 0.001,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(learning_rate, clip_norm)
        self.momentum = momentum
        self.trust = trust
        self.weight_decay = weight_decay

    def hyper(self) -> tuple[float, ...]:
        return (self.rate, self.momentum, self.trust, self.weight_decay)

    def step(self, theta: Array, grad: Array, state: Sequence[Array], t: int) -> None:
        scalar = theta.dtype.type
        for part, decay in self.parts():
            w, g, v = theta[part], grad[part], state[0][part]
            size = _norm(w)
            length = self.rate * self.trust * _ratio(size, _norm(g) + decay * size)
            lift = _lift(length)
            v *= scalar(self.momentum)
            v += scalar(length / lift) * (scalar(lift) * (g + scalar(decay) * w))
            w -= v


class LAMB(Moments, LayerWise):
    """Adam with a step length per layer (You et al. 2020, arXiv 1904.00962, algorithm 2, with phi(x) = x).

    m and v as in Adam; r = (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps);
    for the weights, and for the biases, of each layer: w := w - alpha ||w|| / ||r + beta w|| (r + beta w).

    Parameters
    ----------
    learning_rate : float or Schedule
        alpha > 0: how far a part moves, in terms of its own norm.
    beta1, beta2 : float
        Decay rates in [0, 1).
    eps : float
        > 0, outside the root.
    weight_decay : float
        beta >= 0 (the paper's lambda), on weights, not part of m and v, beside the network's own L2, which is.
    clip_norm : float, optional
        Length to which a longer gradient is scaled (`Optimizer`).
    """

    name, code = "lamb", 4

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-2,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, eps, weight_decay, clip_norm)

    def step(self, theta: Array, grad: Array, state: Sequence[Array], t: int) -> None:
        m, v = state
        scalar = theta.dtype.type
        m += scalar(1 - self.beta1) * (grad - m)
        v += scalar(1 - self.beta2) * (grad * grad - v)
        root = np.sqrt(v * scalar(1 / (1 - self.beta2**t)))
        root += scalar(self.eps)
        r = scalar(1 / (1 - self.beta1**t)) * (m / root)
        for part, decay in self.parts():
            w, direction = theta[part], r[part]
            direction += scalar(decay) * w
            length = self.rate * _ratio(_norm(w), _norm(direction))
            lift = _lift(length)
            w -= scalar(length / lift) * (scalar(lift) * direction)


OPTIMIZERS: dict[str, type[Optimizer]] = {cls.name: cls for cls in (SGD, Momentum, Adam, LARS, LAMB)}


def check_known(optimizer: Optimizer) -> None:
    """TypeError for a class that is none of the table's: compiled engines know a rule by its name, and would take
    another step than its `step`.
    """
    if type(optimizer) not in OPTIMIZERS.values():
        raise TypeError(
            f"optimizer must be one of fastnn's own rules ({', '.join(OPTIMIZERS)}), got a class of your own, "
            f"{type(optimizer).__name__}"
        )


def get(
    optimizer: str | Optimizer, learning_rate: float | Schedule | Callable[[int], float] | None = None
) -> Optimizer:
    """A fresh rule for a name, or the instance itself.

    Parameters
    ----------
    optimizer : str or Optimizer
        "sgd", "momentum", "adam", "lars" or "lamb", or an instance.
    learning_rate : float or Schedule, optional
        > 0, for a name; the rule's own if not given.

    Returns
    -------
    Optimizer

    Raises
    ------
    ValueError
        Unknown name (the nearest is suggested), "lbfgs", which takes no steps, a learning rate that is not > 0, or a
        learning rate given beside an instance, which has its own.
    TypeError
        Neither a name nor an Optimizer.
    """
    if isinstance(optimizer, Optimizer):
        check_known(optimizer)
        if learning_rate is not None:
            raise ValueError(
                f"learning_rate={learning_rate!r} was given beside optimizer={optimizer!r}, which has its own; give "
                "one of the two"
            )
        return optimizer
    if isinstance(optimizer, str):
        if optimizer.lower() == "adamw":
            raise ValueError(
                f"optimizer={optimizer!r} is not a name; AdamW is fastnn.optimizers.Adam(1e-3, weight_decay=0.01)"
            )
        if optimizer != "lbfgs" and optimizer.lower() == "lbfgs":
            raise unknown_name("optimizer", optimizer, [*OPTIMIZERS, "lbfgs"])
        if optimizer == "lbfgs":
            raise ValueError(
                f"optimizer={optimizer!r} takes no steps of batches: it is for net.fit(X, y, optimizer='lbfgs') and "
                "the estimators"
            )
        if optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", optimizer, [*OPTIMIZERS, "lbfgs"])
        kind: Callable[..., Optimizer] = OPTIMIZERS[optimizer]
        return kind() if learning_rate is None else kind(learning_rate)
    a_class = isinstance(optimizer, type) and issubclass(optimizer, Optimizer)
    hint = f"; an instance is {optimizer.__name__}()" if a_class else ""
    raise TypeError(f"optimizer must be a name or an Optimizer, got {optimizer!r} ({type(optimizer).__name__}){hint}")
