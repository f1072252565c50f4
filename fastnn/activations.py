"""Activation functions g and their derivatives g', one row each.

Shapes: z, a are (m, n); elementwise except softmax, which is shared over the row. `value` and
`derivative` are the NumPy reference; the compiled engines select their own code by `code` and
`parameter`. Sigmoid, softmax and friends neither overflow nor warn for any finite z. silu
and gelu (Phi, phi: the cdf and the density of the normal distribution) are for hidden layers, exp is for outputs: it
is infinite, without a warning, where e^z is beyond the dtype.

| name       | g(z)                  | g'(z)       | g(0) | g(-inf) | g(+inf) | g(NaN) |
|------------|-----------------------|-------------|------|---------|---------|--------|
| sigmoid    | 1/(1+e^-z)            | a(1-a)      | 1/2  | 0       | 1       | NaN    |
| tanh       | tanh z                | 1-a^2       | 0    | -1      | 1       | NaN    |
| relu       | max(0, z)             | 1 if z>0    | 0    | 0       | +inf    | NaN    |
| leaky_relu | z if z>0 else slope z | 1 or slope  | 0    | -inf    | +inf    | NaN    |
| identity   | z                     | 1           | 0    | -inf    | +inf    | NaN    |
| silu       | z s, s = 1/(1+e^-z)   | s+z s (1-s) | 0    | 0       | +inf    | NaN    |
| gelu       | z Phi(z)              | Phi+z phi   | 0    | 0       | +inf    | NaN    |
| exp        | e^z                   | a           | 1    | 0       | +inf    | NaN    |

softmax: e^z_j / sum_k e^z_k, not elementwise; a row of zeros gives 1/n, -inf beside a finite z gives 0, and +inf or NaN
makes the whole row NaN.

g' at the kink z = 0 of relu and leaky_relu is the left one (0, slope); g'(NaN) is NaN everywhere
but for identity, whose g' is the constant 1. leaky_relu with slope 0 is relu, also at -inf.
Sources: the lecture (MC886/MO444, Unicamp 2018); leaky ReLU: Maas et al. 2013, "Rectifier
nonlinearities improve neural network acoustic models", section 2; softmax: Bridle 1990; GELU, and the SiLU:
D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units (GELUs)", 2016, arXiv:1606.08415, section 2 (the exact form, not
the one by tanh).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .errors import finite_number, unknown_name
from .normal import cdf_and_density

__all__ = [
    "ACTIVATIONS",
    "GELU",
    "Activation",
    "Exp",
    "Identity",
    "LeakyReLU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "get",
]

Array = NDArray[Any]


class Activation:
    """One row of the table. Classes derived from it are refused: compiled engines know the table's alone. An instance
    cannot be changed.

    Attributes
    ----------
    name : str
        The name used in `hidden=`, `output=` and in model files.
    code : int
        Number by which compiled kernels select the function; kernels/cpu and kernels/cuda use the same.
    elementwise : bool
        False for softmax.
    output_only : bool
        True for softmax and exp, which are for the output layer.
    kinked : bool
        True where g' jumps at z = 0; the gradient check reports such crossings apart.
    of_z : bool
        True where g'(z) is not known from a = g(z), so that who trains keeps more than a. Hidden layers only.
    parameter : float
        The slope of leaky_relu; 0.0 where there is none.
    """

    name: ClassVar[str]
    code: ClassVar[int]
    elementwise: ClassVar[bool] = True
    output_only: ClassVar[bool] = False
    kinked: ClassVar[bool] = False
    of_z: ClassVar[bool] = False
    parameter: float = 0.0

    def value(self, z: Array, out: Array | None = None) -> Array:
        """a = g(z), (m, n) -> (m, n) of z's dtype. Overwrites `out`, which may be z itself."""
        raise NotImplementedError

    def derivative(self, z: Array, a: Array) -> Array:
        """g'(z), (m, n), a fresh array, from z and a = g(z)."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """What a model file stores: the name and the parameters by name."""
        return {"name": self.name}

    def __setattr__(self, name: str, value: Any) -> None:
        # networks that were made with it, and their compiled programs, have it as it was
        raise AttributeError(f"an activation cannot be changed; make another {type(self).__name__} for another {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Activation) and type(other) is type(self) and other.parameter == self.parameter

    def __hash__(self) -> int:
        return hash((type(self), self.parameter))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Sigmoid(Activation):
    """Logistic function 1/(1+e^-z), g' = a(1-a)."""

    name, code = "sigmoid", 1

    def value(self, z: Array, out: Array | None = None) -> Array:
        # e^-|z| <= 1 never overflows: 1/(1+e) for z >= 0, e/(1+e) below.
        e = np.exp(-np.abs(z))
        return np.asarray(np.divide(np.where(z < 0, e, z.dtype.type(1)), 1 + e, out=out))

    def derivative(self, z: Array, a: Array) -> Array:
        return np.asarray(a * (1 - a))


class Tanh(Activation):
    """Hyperbolic tangent, g' = 1-a^2."""

    name, code = "tanh", 2

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.asarray(np.tanh(z, out=out))

    def derivative(self, z: Array, a: Array) -> Array:
        return np.asarray(1 - a * a)


class ReLU(Activation):
    """Rectifier max(0, z), g' = 1 if z > 0 else 0."""

    name, code, kinked = "relu", 3, True

    def value(self, z: Array, out: Array | None = None) -> Array:
        # maximum keeps NaN and maps -inf to 0; z*(z>0) and where(z>0,z,0) each lose one of the two.
        return np.asarray(np.maximum(z, 0, out=out))

    def derivative(self, z: Array, a: Array) -> Array:
        return np.asarray(np.heaviside(z, z.dtype.type(0)))  # NaN stays NaN


class LeakyReLU(Activation):
    """z if z > 0 else slope * z, g' = 1 or slope.

    Parameters
    ----------
    slope : float
        Finite and >= 0 (a negative slope would not be monotone). Default 0.01, as in the lecture.

    Raises
    ------
    TypeError, ValueError
        The slope is not a finite number >= 0.
    """

    name, code, kinked = "leaky_relu", 4, True

    def __init__(self, slope: float = 0.01) -> None:
        self.__dict__["parameter"] = finite_number("slope", slope, least=0)

    @property
    def slope(self) -> float:
        return self.parameter

    def value(self, z: Array, out: Array | None = None) -> Array:
        slope = z.dtype.type(self.parameter)
        negative = np.minimum(z, 0)
        if slope:
            negative *= slope  # 0 * -inf would be NaN, so slope 0 takes the other way
        else:
            negative = np.where(np.isnan(z), z, z.dtype.type(0))
        return np.add(np.maximum(z, 0), negative, out=out)

    def derivative(self, z: Array, a: Array) -> Array:
        slope = np.where(np.isnan(z), z, z.dtype.type(self.parameter))
        return np.where(z > 0, z.dtype.type(1), slope)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "slope": self.parameter}

    def __repr__(self) -> str:
        return f"LeakyReLU(slope={self.parameter!r})"


class Identity(Activation):
    """g(z) = z, g' = 1."""

    name, code = "identity", 0

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.asarray(np.positive(z, out=out))

    def derivative(self, z: Array, a: Array) -> Array:
        return np.ones_like(z)


class SiLU(Activation):
    """z / (1 + e^-z), also called swish; hidden layers only."""

    name, code, of_z = "silu", 7, True

    def value(self, z: Array, out: Array | None = None) -> Array:
        z = np.maximum(z, -1000)  # g(-inf) is 0
        return np.asarray(np.multiply(z, Sigmoid().value(z), out=out))

    def derivative(self, z: Array, a: Array) -> Array:
        z = np.clip(z, -1000, 1000)
        return np.asarray(Sigmoid().value(z) * (1 + z * Sigmoid().value(-z)))


class GELU(Activation):
    """z Phi(z) with the cdf of the normal distribution (not the approximation by tanh); hidden layers only."""

    name, code, of_z = "gelu", 8, True

    def value(self, z: Array, out: Array | None = None) -> Array:
        a = np.maximum(z, -1000) * cdf_and_density(z)[0]
        return np.asarray(np.positive(a.astype(z.dtype), out=out))

    def derivative(self, z: Array, a: Array) -> Array:
        cdf, density = cdf_and_density(z)
        return np.asarray(cdf + np.clip(z, -1000, 1000) * density).astype(z.dtype)


class Exp(Activation):
    """e^z, g' = a, the logarithm as link of counts; output layer only. 0 or infinite where e^z is beyond the dtype."""

    name, code, output_only = "exp", 6, True

    def value(self, z: Array, out: Array | None = None) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(np.exp(z, out=out))

    def derivative(self, z: Array, a: Array) -> Array:
        return a.copy()


class Softmax(Activation):
    """h_j = e^z_j / sum_k e^z_k over each row; output layer only.

    The row's maximum is subtracted first, so the result is invariant to a shift of the row and
    nothing overflows. A row that holds NaN or +inf, or only -inf, is NaN throughout.
    """

    name, code, elementwise, output_only = "softmax", 5, False, True

    def value(self, z: Array, out: Array | None = None) -> Array:
        with np.errstate(invalid="ignore"):  # inf - inf: the documented NaN row
            e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(np.divide(e, e.sum(axis=1, keepdims=True), out=out))

    def derivative(self, z: Array, a: Array) -> Array:
        raise TypeError("softmax has no elementwise derivative; its output delta is in fastnn.costs")


ACTIVATIONS: dict[str, type[Activation]] = {
    cls.name: cls for cls in (Sigmoid, Tanh, ReLU, LeakyReLU, Identity, Softmax, SiLU, GELU, Exp)
}


def get(activation: str | Activation, argument: str = "activation", hidden: bool = False) -> Activation:
    """The Activation for a name (with its default parameters), or the instance itself; hidden: of a hidden layer, for
    the names in the message.

    Raises
    ------
    ValueError
        Unknown name; the message suggests the nearest.
    TypeError
        Neither a name nor an Activation.
    """
    if isinstance(activation, Activation):
        if type(activation) not in ACTIVATIONS.values():
            # compiled engines, and model files, know a function by its name
            raise TypeError(
                f"{argument} must be one of fastnn's own activations ({', '.join(ACTIVATIONS)}), got a class of your "
                f"own, {type(activation).__name__}"
            )
        return activation
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise unknown_name(
                argument, activation, [name for name, g in ACTIVATIONS.items() if not (hidden and g.output_only)]
            )
        return ACTIVATIONS[activation]()
    raise TypeError(f"{argument} must be a name or an Activation, got {activation!r} ({type(activation).__name__})")


def from_config(config: dict[str, Any]) -> Activation:
    """The Activation a model file describes; names are looked up in the table, never imported."""
    options = dict(config)
    name = options.pop("name", None)
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    allowed = {"slope"} if name == LeakyReLU.name else set()
    if set(options) != allowed:
        raise ValueError(f"activation {name!r} takes {sorted(allowed) or 'no parameters'}, got {sorted(options)}")
    return ACTIVATIONS[name](**options)
