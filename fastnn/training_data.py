"""The rows of a fit: checked and on the engine, validation rows set apart, and their order in each epoch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import checks, row_weights
from .backends.base import Array
from .errors import SymmetricStart, finite_number, natural_number
from .network import Network
from .options import check_scale

__all__ = ["Orders", "TrainingData", "prepare", "refuse_spoilt", "warn_if_symmetric"]


COPIES_OF_THETA = 8  # Delta, the optimizer's state, the copies of both that fit keeps: left free where X is placed


@dataclass
class TrainingData:
    """Prepared rows on the engine, x perhaps in a dtype that the engine reads as it is; validation rows taken from
    X are not among train_rows.

    weights : (m,) of the network's dtype, of mean 1 over the training rows; None for rows that count alike
    total_weight : sum of the training rows' weights as they were given
    validation : (x, y, weights), the weights again of mean 1, or None
    """

    x: Array
    y: Array
    train_rows: np.ndarray[Any, Any]
    validation: tuple[Array, Array, Array | None] | None
    scale: float | None
    weights: Array | None = None
    total_weight: float | None = None

    def rows(self, net: Network, index: Array, keep: frozenset[str] = frozenset()) -> Array:
        """Those rows of x in the network's dtype, scaled, or as they are if their dtype is one to keep."""
        on_host = isinstance(self.x, np.ndarray)
        chosen = np.asarray(self.x[net.backend.to_numpy(index)]) if on_host else self.x[index]
        return (
            chosen
            if chosen.dtype == net.dtype and net.backend.is_array(chosen)
            else checks.inputs(chosen, net.sizes[0], net.dtype, net.backend, scale=self.scale, keep=keep)
        )

    def has_fractions(self, net: Network) -> bool:
        """Whether targets of sigmoids lie between 0 and 1, where right and wrong make no sense."""
        return net.pair.targets == "probabilities" and not bool(((self.y == 0) | (self.y == 1)).all())

    def largest(self) -> float:
        """max |x| as the network sees it."""
        factor = self.scale if self.scale is not None and self.x.dtype.kind in "iu" else 1.0
        return factor * max(float(self.x.max()), -float(self.x.min()))


def prepare(
    net: Network, X: Any, y: Any, validation: Any, seed: Any, scale: float | None, sample_weight: Any = None
) -> TrainingData:
    """X, y, validation and sample_weight as `fit` takes them, checked, converted, on the engine; nothing of `net` is
    changed.

    Raises
    ------
    TypeError, ValueError
        What does not fit, by argument, row and column.
    """
    seed = natural_number("seed", seed)
    X = checks.numeric("X", X, net.backend)
    if scale is None:
        scale = net.scale
    else:
        scale = check_scale(scale, net.dtype)
        if X.dtype.kind not in "iu":
            raise ValueError(
                f"scale={scale!r} is for integer data, X is {X.dtype}; scale it yourself or pass the integers"
            )
        if net.scale is not None and net.scale != scale:
            raise ValueError(f"scale={scale!r} differs from {net.scale!r}, with which this network was trained before")
    checks.warn_if_unscaled(X, scale, stacklevel=4)
    x = checks.inputs(
        X,
        net.sizes[0],
        net.dtype,
        net.backend,
        scale=scale,
        keep=net.backend.reads,
        strided=net.backend.reads_strides,
        beside=COPIES_OF_THETA * net.theta.nbytes,
    )
    targets = net._targets(y, x.shape[0])
    if net.pair.targets in ("values", "numbers") and targets.ndim == 2:
        checks.warn_if_coarse(y, net.dtype, stacklevel=4)
    if net.pair.targets == "counts" and not net.epochs_trained:  # who goes on may do so with rows that are all 0
        checks.refuse_only_zeros(targets)
    data = TrainingData(x, targets, np.arange(x.shape[0]), None, scale)
    weights, as_given = None, isinstance(sample_weight, row_weights.AsGiven)
    if as_given:
        sample_weight = sample_weight.weights
    if sample_weight is not None:
        weights = row_weights.checked(sample_weight, np.asarray(net.backend.to_numpy(targets)), x.shape[0])
    if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
        checks.warn_if_unscaled(validation[0], scale, stacklevel=4, argument="validation X")
        val_x = checks.inputs(
            validation[0],
            net.sizes[0],
            net.dtype,
            net.backend,
            scale=scale,
            argument="validation X",
            keep=net.backend.predicts,
        )
        val_y, val_weights = net._targets(validation[1], val_x.shape[0], argument="validation y"), None
        if len(validation) == 3:
            host_y = np.asarray(net.backend.to_numpy(val_y))
            val_weights = row_weights.checked(validation[2], host_y, val_x.shape[0], "validation weights")
        data.validation = val_x, val_y, row_weights.on_engine(val_weights, net, "validation weights")[0]
    elif validation is not None:
        if isinstance(validation, (tuple, list)):
            raise TypeError(
                "validation must be a pair (X, y), with weights (X, y, weights), or a fraction, got "
                f"{type(validation).__name__} of {len(validation)}"
            )
        chosen = _validation_rows(x.shape[0], finite_number("validation", validation, above=0, below=1), seed)
        data.train_rows = np.setdiff1d(data.train_rows, chosen)
        index = net.backend.asarray(chosen)
        val_weights = None if weights is None else weights[chosen]
        data.validation = (
            data.rows(net, index, keep=net.backend.predicts),
            targets[index],
            row_weights.on_engine(val_weights, net, "sample_weight of the validation rows")[0],
        )
    if weights is not None:
        shares, data.total_weight = row_weights.mean_of_one(weights, data.train_rows)
        if not as_given:
            row_weights.warn_of_small_sum(data.total_weight, len(data.train_rows), net.l2)
        weights = weights if as_given else shares
        data.weights = net.backend.asarray(weights.astype(net.dtype))
    return data


def _validation_rows(m: int, fraction: float, seed: int) -> np.ndarray[Any, Any]:
    count = round(m * fraction)
    if not 1 <= count <= m - 1:
        raise ValueError(f"validation={fraction:g} of {m} rows is {count}; at least one row must be left on each side")
    # A key of three words never meets the [seed, epoch] of a shuffle.
    return np.sort(np.random.default_rng([seed, 0, 1]).permutation(m)[:count])


@dataclass
class Orders:
    """The order of rows in each epoch, the same on every engine."""

    train_rows: np.ndarray[Any, Any]
    shuffle: bool
    order: Callable[[int], Any] | None
    seed: int

    def of(self, epoch: int) -> np.ndarray[Any, Any]:
        rows = self.train_rows
        if self.order is not None:
            answer = self.order(epoch)
            try:
                given = np.asarray(answer)
            except ValueError as error:  # lists of different lengths
                raise ValueError(
                    f"order({epoch}) must give a one-dimensional, non-empty array of row numbers, got "
                    f"something else ({error})"
                ) from None
            if given.ndim != 1 or given.dtype.kind not in "iu" or given.size == 0:
                raise ValueError(
                    f"order({epoch}) must give a one-dimensional, non-empty array of row numbers, got shape "
                    f"{given.shape} of {given.dtype}"
                )
            if given.min() < 0 or given.max() >= rows.shape[0]:
                raise ValueError(
                    f"order({epoch}) must give row numbers 0..{rows.shape[0] - 1}, got {given.min()}..{given.max()}"
                )
            return np.ascontiguousarray(rows[given], np.int64)
        if self.shuffle:
            return rows[np.random.default_rng([self.seed, epoch]).permutation(rows.shape[0])]
        return rows


def refuse_spoilt(net: Network) -> None:
    """ValueError where parameters are NaN or infinite before the first step: no step would make them finite again."""
    finite = net.backend.all_finite
    if not finite(net.theta):
        layer = next(
            layer
            for layer, parameters in enumerate(zip(net.weights, net.biases, strict=True))
            if not all(map(finite, parameters))
        )
        raise ValueError(
            f"the parameters of layer {layer + 2} hold NaN or infinity, from which nothing can be learned; write "
            "finite numbers into them, or make the network anew"
        )


def warn_if_symmetric(net: Network) -> None:
    """Units of a hidden layer with the same incoming and the same outgoing weights stay the same for ever."""
    weights = [net.backend.to_numpy(W) for W in net.weights]
    biases = [net.backend.to_numpy(b) for b in net.biases]
    for layer in range(len(weights) - 1):
        units = np.column_stack([weights[layer], biases[layer], weights[layer + 1].T])
        distinct = len({unit.tobytes() for unit in units})
        if distinct < len(units):
            warnings.warn(
                f"{len(units) - distinct + 1} or more of the {len(units)} units of layer {layer + 2} start identical "
                "and will stay identical; "
                "use a random init (init='auto') to break the symmetry",
                SymmetricStart,
                stacklevel=4,
            )
            return
