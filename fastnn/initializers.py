"""Initial weights, one class each. Biases start at zero.

A row draws W (n_out, n_in) in float64 from the generator it is given; the network casts it to its
dtype, so a seed gives the same initial Theta on every engine.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .activations import Activation
from .errors import finite_number, unknown_name

__all__ = ["INITIALIZERS", "Glorot", "He", "Initializer", "LeCun", "Normal", "Orthogonal", "Uniform", "Zeros", "get"]

Array = NDArray[Any]


class Initializer:
    """One row of the table: `draw` gives the weights of one layer."""

    name: ClassVar[str]

    def draw(self, n_in: int, n_out: int, rng: np.random.Generator) -> Array:
        """W, float64 (n_out, n_in)."""
        raise NotImplementedError

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"{type(self).__name__}({options})"


class Uniform(Initializer):
    """Uniform in [-eps, eps] (the lecture's symmetry breaking).

    Parameters
    ----------
    eps : float, optional
        > 0. Default sqrt(6 / (n_in + n_out)), the fan-in/fan-out rule of the lecture's exercise
        (Glorot and Bengio 2010, eq. 16).
    """

    name = "uniform"

    def __init__(self, eps: float | None = None) -> None:
        self.eps = None if eps is None else finite_number("eps", eps, above=0)

    def draw(self, n_in: int, n_out: int, rng: np.random.Generator) -> Array:
        eps = np.sqrt(6 / (n_in + n_out)) if self.eps is None else self.eps
        return rng.uniform(-eps, eps, (n_out, n_in))


class Glorot(Initializer):
    """Uniform in +-sqrt(6 / (n_in + n_out)) (Glorot and Bengio 2010, eq. 16): keeps the variance both ways for tanh
    and sigmoid.
    """

    name = "glorot"

    def draw(self, n_in: int, n_out: int, rng: np.random.Generator) -> Array:
        limit = np.sqrt(6 / (n_in + n_out))
        return rng.uniform(-limit, limit, (n_out, n_in))


class He(Initializer):
    """Normal with variance 2 / n_in (He et al. 2015, arXiv 1502.01852, eq. 10): keeps the variance forward for ReLU."""

    name = "he"

    def draw(self, n_in: int, n_out: int, rng: np.random.Generator) -> Array:
        return np.asarray(rng.standard_normal((n_out, n_in)) * np.sqrt(2 / n_in))


class LeCun(Initializer):
    """Normal with variance 1 / n_in (LeCun et al. 1998, "Efficient BackProp", eq. 16)."""

    name = "lecun"

    def draw(self, n_in: int, n_out: int, rng: np.random.Generator) -> Array:
        return np.asarray(rng.standard_normal((n_out, n_in)) * np.sqrt(1 / n_in))


class Normal(Initializer):
    """Normal with mean 0.

    Parameters
    ----------
    std : float
        Standard deviation > 0, default 0.01.
    """

    name = "normal"

    def __init__(self, std: float = 0.01) -> None:
        self.std = finite_number("std", std, above=0)

    def draw(self, n_in: int, n_out: int, rng: np.random.Generator) -> Array:
        return rng.standard_normal((n_out, n_in)) * self.std


class Orthogonal(Initializer):
    """Rows (or columns, whichever are fewer) orthonormal, from a QR factorisation of normal numbers (Saxe et al.
    2014, arXiv 1312.6120).
    """

    name = "orthogonal"

    def draw(self, n_in: int, n_out: int, rng: np.random.Generator) -> Array:
        q, r = np.linalg.qr(rng.standard_normal((max(n_in, n_out), min(n_in, n_out))))
        q *= np.sign(np.diagonal(r))  # makes the factorisation unique, so the result is uniform (Mezzadri 2007)
        return np.ascontiguousarray(q if n_out >= n_in else q.T)


class Zeros(Initializer):
    """All zero. Allowed because the lecture demonstrates why it fails: equal units stay equal."""

    name = "zeros"

    def draw(self, n_in: int, n_out: int, rng: np.random.Generator) -> Array:
        return np.zeros((n_out, n_in))


INITIALIZERS: dict[str, type[Initializer]] = {
    cls.name: cls for cls in (Uniform, Glorot, He, LeCun, Normal, Orthogonal, Zeros)
}


def get(init: str | Initializer, activation: Activation) -> Initializer:
    """The Initializer for a name or "auto": He before relu, leaky_relu, silu and gelu, which let about half of the
    variance through; Glorot before everything else.

    Raises
    ------
    ValueError
        Unknown name; the nearest is suggested.
    TypeError
        Neither a name nor an Initializer.
    """
    if isinstance(init, Initializer):
        return init
    if isinstance(init, str):
        if init == "auto":
            return He() if activation.kinked or activation.of_z else Glorot()
        if init not in INITIALIZERS:
            raise unknown_name("init", init, ["auto", *INITIALIZERS])
        return INITIALIZERS[init]()
    raise TypeError(
        f"init must be a name, an Initializer or a pair of lists of arrays (weights, biases), got {type(init).__name__}"
    )
