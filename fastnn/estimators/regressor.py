"""The regressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import check_is_fitted

from .. import counts, d2, small_data
from ..initializers import Initializer
from ..network import Network
from ..optimizers import Optimizer
from ..robust import centre_and_spread, is_robust
from .base import AUTO, Dense, _refuse_masked, _sum, undone, weights_of, whole

__all__ = ["DenseRegressor"]

Array = NDArray[Any]
COUNTS = "poisson"
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
    varies = _vary(values, weights)  # the mean of equal numbers is rounded, and they differ from it
    equal = values[0] if weights is None else values[int(np.argmax(weights))]
    return np.where(varies, mean * unit, equal), np.where(varies & (spread > 0), spread, 1.0)


def _vary(values: Array, weights: Array | None) -> Array:
    """Whether the targets that count differ, for each column."""
    counted = values if weights is None else values[weights > 0]
    return np.asarray(counted.max(axis=0) > counted.min(axis=0))


class DenseRegressor(RegressorMixin, Dense):  # type: ignore[misc]
    """The squared or another error of one value a row, or of several. Targets are standardised for training, and
    predictions scaled back, so their unit does not matter; standardise inputs with `StandardScaler`.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, default (64, 32)
        Units of the hidden layers; () for none.
    activation : str, Activation or list, default "relu"
        Of the hidden layers.
    cost : str, default "squared_error"
        Or "absolute_error", whose answers are medians, "huber:1.35" or "quantile:0.9" (`fastnn.costs`). With these
        `mean_` is the median of y, or that quantile, and `spread_` 1.4826 times its median absolute deviation, which a
        few outliers do not move; that is the unit of huber's threshold. Or "poisson", for counts and rates >= 0:
        answers are e^z, targets are taken as they are (`mean_` is 0, `spread_` 1), and training begins at their mean.
        For a rate give y / exposure with sample_weight=exposure.
    optimizer : str or Optimizer, default "adam"
        A name, or an instance, of which every fit takes a fresh copy. "lbfgs" takes all rows at once, for `epochs`
        iterations at most (200 by default): small data are fitted closely, noise too unless `l2` is large enough; it
        has no `partial_fit`.
    learning_rate : float or Schedule, default None
        None is the optimizer's default.
    batch_size : int, default 32
        Rows per step; all, if there are fewer. None is that of `Network.fit`, 128.
    epochs : int, default None
        Passes over the rows, with `patience` an upper limit. None means 100, but more for few rows, so that there are
        at least 1,000 steps, and fewer for many rows, about 20,000 steps, but at least 20 epochs. `Network.fit` has 20.
    l2 : float, default "auto"
        lambda of (lambda / 2n) ||Theta||^2 over n training rows, or weights of that sum. "auto" is 3, and n / 100 where
        that is less. Not 0 as in `Network`, because estimators usually get hundreds to thousands of rows, which a
        hundred epochs would overfit; with many rows its effect vanishes.
    dropout : float or sequence of float, default 0.0
        Probability with which each unit of the hidden layers is left out of a step.
    init : str or Initializer, default "glorot"
        Initial weights, as in `Network`. Not "auto", which is He for ReLU: its larger weights lower the scores of
        regressions with few rows.
    validation, patience : float and int, default None
        A fraction of the rows to set apart for validation (rows of your own are arguments of `fit`); and the number of
        epochs without a lower validation cost after which training ends, and goes back to the best epoch.
    monitor : str or callable, default "val_cost"
        What `patience` waits for: a lower "val_cost", or a higher value of f(net) -> float, as in `Network.fit`, where
        net answers in standardised units.
    weight_decay : float, default None
        >= 0, of adam (then AdamW), lars or lamb, in place of the optimizer's own.
    clip_norm : float, default None
        > 0: gradients that are longer are scaled to that length. Not for "lbfgs".
    callbacks : sequence of callables
        f(epoch, history, net) after each epoch, as in `Network.fit`; where one returns True the fit ends. Functions of
        a module, if the estimator is to be pickled.
    verbose : bool or int, default False
        Whether progress is shown on stderr.
    backend, dtype : str, default "auto" and "float32"
        The engine, and the type of numbers.
    random_state : int, RandomState or None
        Seed of the initial weights and of the order of rows.

    Attributes
    ----------
    network_ : fastnn.Network
    optimizer_ : Optimizer or None
        None with "lbfgs".
    history_ : fastnn.History
    mean_, spread_ : (K,) arrays
        Of the targets, which are trained on as (y - mean_) / spread_: their mean and standard deviation, 1 where they
        are constant; with a robust `cost` as described there.
    n_features_in_, feature_names_in_ : as in every estimator

    Notes
    -----
    Standardise inputs (`StandardScaler`). A sparse X becomes a dense copy of `dtype`. Lambda of `l2` is divided by the
    sum of the weights. In float32 a row predicted alone and the same row among others may differ in the last bits. A
    row of sample_weight 2 is equivalent to two rows, except for how rows fall into batches.
    `partial_fit` goes on with the optimizer's state, in a copy and after pickling too.
    Errors of fastnn are its own: `fastnn.Diverged`, and ValueError or TypeError for bad parameters.
    """

    mean_: Array
    spread_: Array

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = small_data.HIDDEN,
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
        monitor: Any = "val_cost",
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        callbacks: Sequence[Any] = (),
        verbose: bool = False,
        backend: Any = "auto",
        dtype: Any = "float32",
        random_state: Any = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes, activation=activation, optimizer=optimizer, learning_rate=learning_rate,
            batch_size=batch_size, epochs=epochs, l2=l2, dropout=dropout, init=init, validation=validation,
            patience=patience, monitor=monitor, weight_decay=weight_decay, clip_norm=clip_norm, callbacks=callbacks,
            verbose=verbose, backend=backend, dtype=dtype, random_state=random_state,
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
        X, y = self._rows_and_targets(X, y, y_numeric=True)
        values, self._flat = np.asarray(y, np.float64).reshape(len(y), -1), y.ndim == 1
        watch = X_val, y_val, sample_weight_val
        self._train(X, values, weights_of(sample_weight, X), values.shape[1], self._output(), self.cost, watch)
        return self

    @whole
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> DenseRegressor:
        """Train for one epoch more on these rows, after `fit` or from the start. Returns self.

        Targets are standardised by all rows so far, those of `fit` included, and the last layer is rescaled to match.
        With robust costs the unit is that of the first call, so give that many rows. lambda of `l2` is spread over all
        rows so far, so it is meant for rows that are seen once.
        """
        first = not hasattr(self, "network_")
        X, y = self._rows_and_targets(X, y, reset=first, y_numeric=True)
        values, weights = np.asarray(y, np.float64).reshape(len(y), -1), weights_of(sample_weight, X, part=True)
        counted = None if weights is not None and not weights.any() else weights
        if first:
            self._flat = y.ndim == 1
            self._learn_unit(values, counted)
            self._begin(X.shape[1], values.shape[1], self._output(), self.cost)
            self._start(self.network_, values, counted)
            self._go_on(X, self._targets(values), weights)
            return self
        self._check_columns(values)
        self._refuse_whole()
        assert self.optimizer_ is not None
        with undone(self.network_, self.optimizer_):  # and the unit, with the other attributes (`whole`)
            cost = self.network_.cost  # not that of `set_params`, which is for the next `fit`
            if cost != COUNTS and not is_robust(cost) and (weights is None or counted is not None):
                self._follow(values, counted)
            self._go_on(X, self._in_unit(values), weights)
        return self

    def _counts(self) -> bool:
        return isinstance(self.cost, str) and self.cost == COUNTS

    def _output(self) -> str:
        return "exp" if self._counts() else "identity"

    def _start(self, net: Network, y: Array, weights: Array | None) -> None:
        if self._counts() and isinstance(self.init, (str, Initializer)):  # which leave the biases at 0
            counts.start_at_mean(net, y, weights)

    def _learn_unit(self, y: Array, weights: Array | None) -> Array:
        shares = _shares(weights)
        self.mean_, self.spread_ = _moments(y, shares)
        if is_robust(self.cost):
            self.mean_, spread = centre_and_spread(self.cost, y, shares)
            self.spread_ = np.where(spread > 0, spread, 1.0)
        elif self._counts():
            self.mean_, self.spread_ = np.zeros(y.shape[1]), np.ones(y.shape[1])
        self._vary, self._rows_of_unit = _vary(y, shares), _sum(y, weights)
        return self._in_unit(y)

    def _follow(self, values: Array, weights: Array | None) -> None:
        """Mean and spread of all rows there have been, these among them (T. Chan, G. Golub, R. LeVeque, "Updating
        formulae and a pairwise algorithm for computing sample variances", 1979, eq. 2.1), and the network with them.
        """
        mean, spread = _moments(values, _shares(weights))
        vary = _vary(values, weights)
        rows_before = vars(self).get("_rows_of_unit", self._seen)  # a pickle of an older version has them there
        rows, before = _sum(values, weights), (self.mean_, np.where(self._vary, self.spread_, 0.0))
        share = rows / (rows_before + rows)
        with np.errstate(over="ignore", under="ignore"):
            moved = mean - before[0]
            joint = np.hypot(
                np.hypot(np.sqrt(share) * np.where(vary, spread, 0.0), np.sqrt(1 - share) * before[1]),
                np.sqrt(share * (1 - share)) * moved,
            )
        known, mean_before, spread_before = self._vary, self.mean_, self.spread_
        self._vary = joint > 0
        self.mean_, self.spread_ = before[0] + share * moved, np.where(joint > 0, joint, 1.0)
        self._rows_of_unit = rows_before + rows
        # of a column that was constant so far the network knows no differences yet
        self._rescale((mean_before, np.where(known, spread_before, self.spread_)))

    def _rescale(self, before: tuple[Array, Array]) -> None:
        """Give the last layer the unit of now, so that answers in the unit of y stay as they were."""
        net = self.network_
        W, b = (np.asarray(net.backend.to_numpy(part[-1]), np.float64) for part in (net.weights, net.biases))
        W = W * (before[1] / self.spread_)[:, None]
        b = (b * before[1] + (before[0] - self.mean_)) / self.spread_
        for part, values in zip((net.weights[-1], net.biases[-1]), (W, b), strict=True):
            part[...] = net.backend.asarray(values.astype(net.dtype))

    def _check_columns(self, values: Array) -> None:
        if values.shape[1] != len(self.mean_):
            raise ValueError(f"y has {values.shape[1]} columns, the rows before had {len(self.mean_)}")

    def _in_unit(self, y: Array) -> Array:
        return np.asarray((y - self.mean_) / self.spread_)

    def _targets(self, y: Array) -> Array:
        """(m, K), standardised."""
        values = np.asarray(y, np.float64).reshape(len(y), -1)
        self._check_columns(values)
        return self._in_unit(values)

    def predict(self, X: Any) -> Array:
        """The value of each row (m,), or values (m, K), as `y` was."""
        rows = self._rows(X)
        h = np.asarray(self.network_.predict(rows), np.float64).reshape(len(rows), -1)
        values: Array = h * self.spread_ + self.mean_
        return values.ravel() if self._flat else values

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """How much better the predictions are than the best constant, the mean over the columns of y, which is (m,) or
        (m, K): D^2 of the pinball cost with that quantile for quantile costs, D^2 of the absolute error for
        absolute_error, D^2 of the deviance for poisson, R^2 for other costs (`fastnn.d2`). 1 is perfect,
        0 as good as the constant. Rows count sample_weight (m,) each.

        Raises
        ------
        TypeError, ValueError
            X, y or sample_weight does not fit; the model is not fitted (NotFittedError).
        """
        check_is_fitted(self)
        cost = self.network_.cost  # not that of `set_params`, which is for the next `fit`
        if cost != COUNTS and d2.quantile_of(cost) is None:
            return float(super().score(X, y, sample_weight))
        _refuse_masked(y=y)
        predicted = self.predict(X)
        values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        check_consistent_length(X, values)
        self._check_columns(values := values.reshape(len(values), -1))
        return d2.score(cost, values, predicted.reshape(values.shape), weights_of(sample_weight, values))

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
