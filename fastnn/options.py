"""The options of a network, checked before anything is made: sizes, activations, dtype, initial Theta.

Each function returns what the network keeps, or raises ValueError or TypeError naming the argument,
what was given and what is expected.
"""

from __future__ import annotations

import itertools
import numbers
import warnings
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from . import activations, checks, initializers
from .activations import Activation
from .arrays import on_host
from .backends import Backend
from .errors import finite_number, positive_integer, unknown_name
from .initializers import Initializer
from .layout import Layout

PRECISIONS = ("fp32", "tf32", "bf16")
MOST_PARAMETERS = 1 << 40  # 4 TiB of float32; what memory really allows is less, and MemoryError says so

__all__ = [
    "PRECISIONS",
    "check_data_dtype",
    "check_dtype",
    "check_hidden",
    "check_precision",
    "check_sizes",
    "initial_theta",
]


def check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """(s_1, ..., s_L) as ints: at least two, each >= 1."""
    if isinstance(sizes, (str, bytes, Mapping, Set)) or not hasattr(sizes, "__len__") or getattr(sizes, "ndim", 1) != 1:
        raise TypeError(f"sizes must be a sequence of positive integers, got {sizes!r}")
    if len(sizes) < 2:
        raise ValueError(f"sizes must name at least the input and the output layer, got {list(sizes)}")
    checked = tuple(positive_integer(f"sizes[{i}]", size) for i, size in enumerate(sizes))
    parameters = sum(n_out * (n_in + 1) for n_in, n_out in itertools.pairwise(checked))
    if parameters > MOST_PARAMETERS:
        raise ValueError(
            f"sizes={list(checked)} make {parameters:,} parameters; more than {MOST_PARAMETERS:,} are certainly a "
            "mistake"
        )
    return checked


def check_hidden(hidden: Any, layers: int, argument: str = "hidden") -> tuple[Activation, ...]:
    """One Activation per hidden layer, from a name, an Activation or a list of them; `argument` is its
    name in messages.
    """
    if isinstance(hidden, (str, Activation)):
        chosen = [activations.get(hidden, argument, hidden=True)] * layers
    elif isinstance(hidden, Sequence):
        if argument == "hidden" and any(isinstance(h, numbers.Integral) for h in hidden):
            raise TypeError(
                f"hidden={hidden!r} must be activations, such as 'relu'; the units of hidden layers belong in sizes: "
                f"Network([inputs, {', '.join(map(str, hidden))}, outputs])"
            )
        chosen = [activations.get(h, f"{argument}[{i}]", hidden=True) for i, h in enumerate(hidden)]
        if len(chosen) != layers:
            raise ValueError(f"{argument} must have one activation per hidden layer ({layers}), got {len(chosen)}")
    else:
        raise TypeError(
            f"{argument} must be a name, an Activation or a list of them, got {hidden!r} ({type(hidden).__name__})"
        )
    if outputs := [g.name for g in chosen if g.output_only]:
        raise ValueError(f"{argument}={outputs[0]!r} is not possible: {outputs[0]} is for the output layer only")
    return tuple(chosen)


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """float32 or float64, in the machine's byte order."""
    if dtype is None:  # NumPy would take it for float64
        raise unknown_name("dtype", dtype, ("float32", "float64"))
    try:
        result: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        raise unknown_name("dtype", dtype, ("float32", "float64")) from None
    if result.name not in ("float32", "float64") or not result.isnative:
        raise unknown_name("dtype", result.name, ("float32", "float64"))
    return result


def check_data_dtype(dtype: Any) -> np.dtype[Any] | None:
    """The dtype of the data to come; None stays None."""
    try:
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found is not None and found.kind not in "biuf":
        raise TypeError(
            f"data_dtype must be a NumPy dtype of integers, floats or bool, such as 'uint8', or None, got {dtype!r}"
        )
    return found


def check_scale(scale: Any, dtype: np.dtype[Any]) -> float:
    """The factor of integer data, which is not 0 in the network's dtype."""
    number = finite_number("scale", scale, above=0)
    with np.errstate(over="ignore", under="ignore"):
        in_dtype = dtype.type(number)
    if in_dtype == 0:
        raise ValueError(f"scale={scale!r} is 0 in {dtype}, and every row the same; pixels have scale=1/255")
    return number


def check_micro_batch(micro_batch: Any, batch_size: int) -> int | None:
    """The part of a batch that is taken at a time; None stays None."""
    if micro_batch is not None and positive_integer("micro_batch", micro_batch) > positive_integer(
        "batch_size", batch_size
    ):
        raise ValueError(
            f"micro_batch={micro_batch} is larger than batch_size={batch_size}; it is the part of a batch that is "
            "taken at a time"
        )
    return None if micro_batch is None else int(micro_batch)


def check_precision(precision: Any, dtype: np.dtype[Any], backend: Backend) -> None:
    """Raises ValueError where the network's engine or dtype does not know this arithmetic of products."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision != "fp32" and dtype != np.float32:
        raise ValueError(
            f"precision={precision!r} is a way to train float32 networks, this one is {dtype}; use precision='fp32' "
            "or dtype='float32'"
        )
    if precision not in backend.precisions:
        raise ValueError(
            f"precision={precision!r} is for the cupy engine, this network runs on {backend.name}; use "
            "precision='fp32', or backend='cupy' with a GPU"
        )


def _is_vector(init: Any) -> bool:
    """Of a pair (weights, biases) as a list: whether it is a list of two numbers, the whole of a tiny Theta."""
    return isinstance(init, list) and isinstance(init[0], numbers.Real)


def warn_of_precision(precision: str, backend: Backend, where: str = "") -> None:
    """A network that was trained in a precision that its engine here does not know goes on in fp32."""
    warnings.warn(
        f"{where}precision={precision!r}, in which the network was trained, is not one of the {backend.name} engine; "
        "it goes on with precision='fp32'",
        UserWarning,
        stacklevel=4,
    )


def initial_theta(
    init: Any, layout: Layout, g: Sequence[Activation], seed: int, dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """The initial Theta, drawn or given in float64, in the network's dtype."""
    vector = np.zeros(layout.size)
    weights, biases = layout.split(vector)
    if isinstance(init, (str, Initializer)):
        rng = np.random.default_rng(seed)
        for W, activation in zip(weights, g, strict=True):
            rule = initializers.get(init, activation)
            drawn = checks.numeric(f"what {rule!r} draws", rule.draw(W.shape[1], W.shape[0], rng))
            if drawn.shape != W.shape:
                raise ValueError(f"init={rule!r} must draw weights of shape {W.shape}, got {drawn.shape}")
            W[...] = drawn
    elif isinstance(init, tuple | list) and len(init) == 2 and not _is_vector(init):
        for kind, given, views in (("weights", init[0], weights), ("biases", init[1], biases)):
            if isinstance(given, (str, bytes, Mapping)) or not hasattr(given, "__len__"):
                raise TypeError(
                    f"init {kind} must be a list of {len(views)} arrays, one per layer, got {type(given).__name__}"
                )
            if len(given) != len(views):
                raise ValueError(f"init {kind} must have one array per layer ({len(views)}), got {len(given)}")
            for layer, (array, view) in enumerate(zip(given, views, strict=True)):
                array = checks.numeric(f"init {kind}[{layer}]", on_host(array))
                if array.shape != view.shape:
                    raise ValueError(f"init {kind}[{layer}] must have shape {view.shape}, got {array.shape}")
                view[...] = array
    else:
        if isinstance(init, (bytes, Mapping)) or not hasattr(init, "__len__"):
            raise TypeError(
                f"init must be a name, an Initializer, a flat vector or a pair (weights, biases), got {init!r} "
                f"({type(init).__name__})"
            )
        array = checks.numeric("init", on_host(init))
        if array.shape != vector.shape:
            raise ValueError(
                f"init must be a vector of {layout.size} parameters for these sizes, got shape {array.shape}"
            )
        vector[...] = array
    with np.errstate(over="ignore"):
        theta = vector.astype(dtype)
    if not np.isfinite(theta).all():
        index = int(np.argmin(np.isfinite(theta)))
        overflow = f", which overflows {dtype}," if np.isfinite(vector[index]) else ""
        raise ValueError(f"init must be finite, got {vector[index]}{overflow} at {layout.layer_of(index)[1]}")
    return theta
