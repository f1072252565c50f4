"""The regressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import validate_data

from .. import small_data
from ..network import Network
from ..optimizers import Optimizer
from .base import AUTO, Dense, weights_of, whole

__all__ = ["DenseRegressor"]

Array = NDArray[Any]
COARSE = 1e-3  # of a standard deviation of the targets: an error of answers that is too large


def _shares(weights: Array | None) -> Array | None:
    """Weights of which the largest is 1: the sum of the largest numbers would overflow."""
    return None if weights is None else weights / weights.max()


def _moments(values: Array, weights: Array | None) -> tuple[Array, Array]:
    """Mean and standard deviation of each column of targets, the latter 1 where it is constant."""
    largest = np.abs(values).max(axis=0)
    unit = np.where(largest > 0, largest, 1.0)
    scaled = values / unit  # squares of the largest and of the smallest numbers are not to be had
    mean = np.average(scaled, axis=0, weights=weights)
    spread = np.sqrt(np.average((scaled - mean) ** 2, axis=0, weights=weights)) * unit
    return mean * unit, np.where(spread > 0, spread, 1.0)


class DenseRegressor(RegressorMixin, Dense):  # type: ignore[misc]
    """The squared or another error of one value a row, or of several. Targets are standardised for training, and
    predictions scaled back, so their unit does not matter; standardise inputs with `StandardScaler`.

    Parameters and attributes as `DenseClassifier`, but for `class_weight`; instead of `classes_` the targets' `mean_`
    and `spread_` (K,), their standard deviation, 1 where they are constant. One more parameter:

    cost : str, default "squared_error"
        Or "absolute_error", whose answers are medians, "huber:1.35" with the threshold in standard deviations of y, or
        "quantile:0.9" (`fastnn.costs`).
    """

    def __init__(
        self,
        hidden: Sequence[int] = small_data.HIDDEN,
        *,
        activation: Any = "relu",
        cost: str = "squared_error",
        optimizer: str | Optimizer = "adam",
        learning_rate: Any = None,
        batch_size: int = small_data.BATCH,
        epochs: int | None = None,
        l2: float | str = AUTO,
        dropout: float | Sequence[float] = 0.0,
        init: Any = "glorot",
        validation: float | None = None,
        patience: int | None = None,
        callbacks: Sequence[Any] = (),
        backend: Any = "auto",
        dtype: Any = "float32",
        random_state: Any = None,
    ) -> None:
        super().__init__(
            hidden, activation=activation, optimizer=optimizer, learning_rate=learning_rate, batch_size=batch_size,
            epochs=epochs, l2=l2, dropout=dropout, init=init, validation=validation, patience=patience,
            callbacks=callbacks, backend=backend, dtype=dtype, random_state=random_state,
        )  # fmt: skip
        self.cost = cost

    @whole
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> DenseRegressor:
        """Train on rows X (m, n) of finite numbers and their values y (m,) or (m, K), which count sample_weight (m,)
        each. Returns self.

        X_val, y_val, sample_weight_val: rows to watch instead of a share of X. A pipeline hands X_val on as it is,
        unless it is made with transform_input=["X_val"].
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True)
        values = np.asarray(y, np.float64).reshape(len(y), -1)
        weights = weights_of(sample_weight, X)
        self._standardise(values, y.ndim == 1, weights)
        watched = self._watched(X_val, y_val, sample_weight_val)
        self._train(X, self._targets(values), weights, values.shape[1], "identity", self.cost, watched)
        return self

    @whole
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> DenseRegressor:
        """Train for one epoch more on these rows, after `fit` or from the start. Returns self.

        Targets are standardised by the rows of the first call, or of `fit`: let them be many enough to tell their unit.
        lambda of `l2` is spread over all rows there have been, in `fit` too, so it is for rows that are seen once.
        """
        first = not hasattr(self, "network_")
        X, y = validate_data(self, X, y, reset=first, multi_output=True, y_numeric=True)
        values, weights = np.asarray(y, np.float64).reshape(len(y), -1), weights_of(sample_weight, X, part=True)
        if first:
            counted = weights if weights is not None and weights.any() else None
            self._standardise(values, y.ndim == 1, counted)
            self._begin(X.shape[1], values.shape[1], "identity", self.cost)
        self._go_on(X, self._targets(values), weights)
        return self

    def _standardise(self, values: Array, flat: bool, weights: Array | None) -> None:
        """By these targets."""
        self.mean_, self.spread_ = _moments(values, _shares(weights))
        self._flat, self._vary = flat, values.max(axis=0) > values.min(axis=0)

    def _targets(self, y: Array) -> Array:
        """(m, K), standardised."""
        values = np.asarray(y, np.float64).reshape(len(y), -1)
        if values.shape[1] != len(self.mean_):
            raise ValueError(f"y has {values.shape[1]} columns, the rows before had {len(self.mean_)}")
        return np.asarray((values - self.mean_) / self.spread_)

    def predict(self, X: Any) -> Array:
        """The value of each row (m,), or values (m, K), as `y` was."""
        rows = self._rows(X)
        h = np.asarray(self.network_.predict(rows), np.float64).reshape(len(rows), -1)
        values: Array = h * self.spread_ + self.mean_
        return values.ravel() if self._flat else values

    def to_network(self) -> Network:
        net = super().to_network()
        W, b = (np.asarray(net.backend.to_numpy(part[-1]), np.float64) for part in (net.weights, net.biases))
        with np.errstate(over="ignore"):
            scaled = [(W * self.spread_[:, None]).astype(net.dtype), (b * self.spread_ + self.mean_).astype(net.dtype)]
        # a bias as large as the mean is rounded to the dtype, and so are the answers
        far = self._vary & (np.abs(self.mean_) * np.finfo(net.dtype).eps > COARSE * self.spread_)
        if far.any() or not all(np.isfinite(part).all() for part in scaled):
            worst = int(np.argmax(np.abs(self.mean_) / self.spread_))
            raise ValueError(
                f"targets of {self.mean_[worst]:g} +- {self.spread_[worst]:g} do not fit {net.dtype}; give the "
                "estimator dtype='float64', or subtract their mean"
            )
        for part, values in zip((net.weights[-1], net.biases[-1]), scaled, strict=True):
            part[...] = net.backend.asarray(values)
        return net

    to_network.__doc__ = Dense.to_network.__doc__

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
