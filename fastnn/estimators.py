"""Networks as scikit-learn estimators, for pipelines, cross-validation and searches over hyper-parameters.

    from fastnn.estimators import DenseClassifier
    model = make_pipeline(StandardScaler(), DenseClassifier(hidden=(64, 32)))
    cross_val_score(model, X, y)

Parameters have fastnn's names and meanings, not those of scikit-learn's MLP; what they mean in detail is told by
`fastnn.Network` and `Network.fit`. Wants scikit-learn 1.6 or later (extra `sklearn`), which nothing else in fastnn does
but the digits of the example.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import optimizers, row_weights, saved_optimizer
from .errors import finite_number, pip_install
from .network import Network
from .optimizers import Optimizer
from .row_weights import BALANCED, AsGiven

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(
        f"fastnn.estimators needs scikit-learn 1.6 or later, which cannot be imported ({error}): "
        f"{pip_install('sklearn')}"
    ) from None

__all__ = ["DenseClassifier", "DenseRegressor"]

Array = NDArray[Any]
EPOCHS, STEPS = 100, 1000  # by default, at least
_RULE = "_rule_and_its_state"  # in pickles: an optimizer's own leave its state out


def _whole(fit: Any) -> Any:
    """`fit` that leaves the estimator as it was where it fails, fitted or not; of `partial_fit` what is known of the
    data. (Where training itself fails there, the network has gone back to the last finite slice.)
    """

    @functools.wraps(fit)
    def fit_or_nothing(self: Any, *args: Any, **named: Any) -> Any:
        before = dict(vars(self))
        try:
            fit(self, *args, **named)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise
        history = vars(self).get("history_")  # none, or the last one's, of rows that count nothing
        if history is not None and history is not before.get("history_") and history.interrupted:
            # or a search would take the score of half a training, and go on
            raise KeyboardInterrupt("the estimator keeps what it has learnt until then")
        return self

    return fit_or_nothing


def _weights(sample_weight: Any, X: Array, *, part: bool = False) -> Array | None:
    """(m,) finite numbers >= 0, not all 0 unless the rows are part of others; None for None."""
    if sample_weight is None:
        return None
    if isinstance(sample_weight, str):
        raise TypeError(
            f"sample_weight must be one number per row, got {sample_weight!r}; classes that count the same are "
            "class_weight='balanced'"
        )
    weights = np.asarray(row_weights.checked(sample_weight, X, len(X)))
    if not part and not weights.any():
        # in the words that scikit-learn's checks expect
        raise ValueError("Sample weights must contain at least one non-zero number; sample_weight is 0 for every row")
    return weights


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


class _Dense(BaseEstimator):  # type: ignore[misc]
    """What both have in common: the parameters, and how a network is made and trained of them."""

    network_: Network
    optimizer_: Optimizer
    _seed: int

    def __init__(
        self,
        hidden: Sequence[int] = (64, 32),
        *,
        activation: Any = "relu",
        optimizer: str | Optimizer = "adam",
        learning_rate: Any = None,
        batch_size: int = 32,
        epochs: int | None = None,
        l2: float = 3.0,
        dropout: float | Sequence[float] = 0.0,
        init: Any = "glorot",
        validation: float | None = None,
        patience: int | None = None,
        backend: Any = "auto",
        dtype: Any = "float32",
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.epochs = epochs
        self.l2 = l2
        self.dropout = dropout
        self.init = init
        self.validation = validation
        self.patience = patience
        self.backend = backend
        self.dtype = dtype
        self.random_state = random_state

    def _made(self, inputs: int, outputs: int, output: str, cost: str) -> tuple[Network, Optimizer, int]:
        """An untrained network, its rule, and the seed of both and of the order of rows."""
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        hidden = [self.hidden] if isinstance(self.hidden, numbers.Integral) else self.hidden
        if isinstance(hidden, (str, bytes)) or not hasattr(hidden, "__iter__"):
            raise TypeError(f"hidden must be the units of the hidden layers, such as (64, 32), got {hidden!r}")
        net = Network(
            [inputs, *hidden, outputs], hidden=self.activation, output=output, cost=cost, l2=self.l2,
            dropout=self.dropout, init=self.init, backend=self.backend, dtype=self.dtype, seed=seed,
        )  # fmt: skip
        # an instance has a state, and fit begins anew
        return net, optimizers.get(copy.deepcopy(self.optimizer), self.learning_rate), seed

    def _train(self, X: Array, y: Array, weights: Array | None, outputs: int, output: str, cost: str) -> None:
        """A fresh network, of codes of classes or of standardised values."""
        net, rule, seed = self._made(X.shape[1], outputs, output, cost)
        watched = None
        if self.patience is not None and self.validation is None:
            raise ValueError(
                f"patience={self.patience} waits for a lower cost of rows that are set apart, and there are none; give "
                "validation=0.1"
            )
        if self.validation is not None:
            share = finite_number("validation", self.validation, above=0, below=1)
            classes = y if cost == "cross_entropy" else None
            parts = [X, y] if weights is None else [X, y, weights]
            try:
                dealt = train_test_split(*parts, test_size=share, random_state=seed, stratify=classes)
            except ValueError as error:
                raise ValueError(
                    f"validation={share:g} of {len(X)} rows cannot be set apart, every class in both parts: {error}"
                ) from None
            (X, y, *rest), watched = dealt[::2], tuple(dealt[1::2])
            weights = rest[0] if rest else None
        self.history_ = net.fit(
            X, y, optimizer=rule, batch_size=self._rows_a_step(X), epochs=self._epochs(X), validation=watched,
            patience=self.patience, seed=seed, sample_weight=weights,
        )  # fmt: skip
        self.network_, self.optimizer_, self._seed = net, rule, seed

    def _go_on(self, X: Array, y: Array, weights: Array | None) -> None:
        """One epoch more on these rows; none if all count nothing."""
        if weights is not None and not weights.any():
            return
        self.history_ = self.network_.fit(
            X, y, optimizer=self.optimizer_, batch_size=self._rows_a_step(X), epochs=1, seed=self._seed,
            sample_weight=None if weights is None else AsGiven(weights),
        )  # fmt: skip

    def _epochs(self, X: Array) -> Any:
        if self.epochs is not None:
            return self.epochs
        size = self._rows_a_step(X)
        valid = isinstance(size, numbers.Integral) and int(size) > 0  # `fit` refuses the others
        steps = -(-len(X) // int(size)) if valid else 1
        return max(EPOCHS, -(-STEPS // steps))

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "network_" in state and self.optimizer_.belongs_to(self.network_):
            with contextlib.suppress(TypeError):  # a schedule of one's own: the copy's rule begins anew
                state[_RULE] = saved_optimizer.description(self.network_, self.optimizer_)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        kept = state.pop(_RULE, None)
        super().__setstate__(state)
        if kept is not None:
            self.optimizer_ = saved_optimizer.restored(self.network_, *kept)

    def _rows_a_step(self, X: Array) -> Any:
        size = self.batch_size
        return min(size, len(X)) if isinstance(size, numbers.Integral) else size

    def to_network(self) -> Network:
        """A copy of `network_` that can be saved, exported to ONNX and used without scikit-learn; of a regressor its
        answers are in the unit of `y`, for which the last layer's parameters are scaled. A classifier's outputs are the
        probabilities of `classes_` in their order.

        Raises
        ------
        ValueError
            The scaled parameters do not fit the network's dtype.
        """
        check_is_fitted(self)
        return copy.deepcopy(self.network_)

    def _rows(self, X: Any) -> Array:
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, reset=False))


class DenseClassifier(ClassifierMixin, _Dense):  # type: ignore[misc]
    """Softmax with cross-entropy over classes of any labels.

    Parameters
    ----------
    hidden : sequence of int, default (64, 32)
        Units of the hidden layers; () for none.
    activation : str, Activation or list, default "relu"
        Of the hidden layers.
    optimizer : str or Optimizer, default "adam"
        A name, or an instance, of which every fit takes a fresh copy.
    learning_rate : float or Schedule, default None
        None is the rule's own.
    batch_size : int, default 32
        Rows per step; all, if there are fewer. `Network.fit` takes 128.
    epochs : int, default None
        Passes over the rows, at most with `patience`. None makes 100, and of few rows so many more that they are 1,000
        steps. `Network.fit` makes 20.
    l2 : float, default 3.0
        lambda of (lambda / 2n) ||Theta||^2 over n training rows. Not 0 as in `Network`, because an estimator's usual
        data are hundreds to thousands of rows, which a hundred epochs would learn by heart; with many rows it vanishes.
    dropout : float or sequence of float, default 0.0
        Probability with which each unit of the hidden layers is left out of a step.
    init : str or Initializer, default "glorot"
        How weights begin, as in `Network`. Not "auto", which is He's for ReLU: its larger weights cost regressions of
        few rows some of their score.
    validation, patience : float and int, default None
        A share of the rows to be watched and not trained on, of every class alike; and after how many epochs without a
        lower cost of theirs training goes back to the best and ends.
    class_weight : "balanced" or dict of label: number, default None
        What each row of a class counts, times its sample_weight; "balanced": every class the same in all.
    backend, dtype : str, default "auto" and "float32"
        The engine, and the type of numbers.
    random_state : int, RandomState or None
        Seed of the initial weights and of the order of rows.

    Attributes
    ----------
    network_ : fastnn.Network
    optimizer_ : Optimizer
    history_ : fastnn.History
    classes_ : (K,) array
    n_features_in_, feature_names_in_ : as in every estimator

    Notes
    -----
    Standardise inputs (`StandardScaler`). Lambda of `l2` is divided by the sum of the weights: where that is 1, as in
    `AdaBoostClassifier`, give l2=3/n for n rows. In float32 a row predicted alone and the same row among others may
    differ in the last bits. A row of sample_weight 2 is as good as two rows, up to how rows fall into batches.
    `partial_fit` goes on with the optimizer's state, in a copy and after pickling too.
    Several labels a row are not supported.
    Errors of fastnn are its own: `fastnn.Diverged`, and ValueError or TypeError for bad parameters.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64, 32),
        *,
        activation: Any = "relu",
        optimizer: str | Optimizer = "adam",
        learning_rate: Any = None,
        batch_size: int = 32,
        epochs: int | None = None,
        l2: float = 3.0,
        dropout: float | Sequence[float] = 0.0,
        init: Any = "glorot",
        validation: float | None = None,
        patience: int | None = None,
        class_weight: Any = None,
        backend: Any = "auto",
        dtype: Any = "float32",
        random_state: Any = None,
    ) -> None:
        super().__init__(
            hidden, activation=activation, optimizer=optimizer, learning_rate=learning_rate, batch_size=batch_size,
            epochs=epochs, l2=l2, dropout=dropout, init=init, validation=validation, patience=patience,
            backend=backend, dtype=dtype, random_state=random_state,
        )  # fmt: skip
        self.class_weight = class_weight

    @_whole
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> DenseClassifier:
        """Train on rows X (m, n) of finite numbers and their labels y (m,), which count sample_weight (m,) each.
        Returns self.
        """
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        classes, codes = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must have at least two classes to tell apart, got one class: {classes.tolist()[0]!r}")
        self.classes_ = classes
        self._train(
            X, codes, self._weighed(codes, _weights(sample_weight, X)), len(classes), "softmax", "cross_entropy"
        )
        return self

    @_whole
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> DenseClassifier:
        """Train for one epoch more on these rows, after `fit` or from the start. Returns self.

        classes: all labels that will ever come, in the first call; after `fit` those it was given. lambda of `l2` is
        spread over the rows of each call, and weights are taken as they are, not divided by their mean. Other
        parameters of the training (`epochs`, `validation`) play no part.
        """
        first = not hasattr(self, "network_")
        X, y = validate_data(self, X, y, reset=first)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight={self.class_weight!r} cannot be known from a part of the rows; give the weights, "
                "{label: number, ...}"
            )
        if first:
            if classes is None:
                raise ValueError("classes must be given in the first call of partial_fit: all labels that will come")
            self.classes_ = np.unique(classes)
            net, rule, seed = self._made(X.shape[1], len(self.classes_), "softmax", "cross_entropy")
            self.network_, self.optimizer_, self._seed = net, rule, seed
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes={classes!r} are not those of before, {self.classes_.tolist()}")
        codes = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        if (strange := self.classes_[codes] != y).any():
            raise ValueError(f"y holds the label {y[strange].tolist()[0]!r}, which is none of {self.classes_.tolist()}")
        self._go_on(X, codes, self._weighed(codes, _weights(sample_weight, X, part=True)))
        return self

    def _weighed(self, codes: Array, weights: Array | None) -> Array | None:
        """What each row counts, by itself and as one of its class."""
        if self.class_weight is None:
            return weights
        weights = np.ones(len(codes)) if weights is None else weights
        if isinstance(self.class_weight, str) and self.class_weight == BALANCED:
            totals = np.bincount(codes, weights)
            of_class = np.divide(totals.sum(), np.count_nonzero(totals) * totals, where=totals > 0, out=0 * totals)
            return np.asarray(weights * of_class[codes])
        of_class = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)
        if (wrong := ~(np.isfinite(of_class) & (of_class >= 0))).any():
            label = self.classes_[wrong].tolist()[0]
            raise ValueError(
                f"class_weight must be finite and >= 0, got {of_class[wrong][0]:g} for the label {label!r}"
            )
        return np.asarray(weights * of_class[codes])

    def predict(self, X: Any) -> Array:
        """The most probable label of each row."""
        rows = self._rows(X)
        return np.asarray(self.classes_[np.asarray(self.network_.predict(rows))])

    def predict_proba(self, X: Any) -> Array:
        """(m, K): the probability of each of `classes_`."""
        rows = self._rows(X)
        return np.asarray(self.network_.predict_proba(rows))

    def predict_log_proba(self, X: Any) -> Array:
        """(m, K): the logarithms of these; -inf of what is 0 in the dtype."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))


class DenseRegressor(RegressorMixin, _Dense):  # type: ignore[misc]
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
        hidden: Sequence[int] = (64, 32),
        *,
        activation: Any = "relu",
        cost: str = "squared_error",
        optimizer: str | Optimizer = "adam",
        learning_rate: Any = None,
        batch_size: int = 32,
        epochs: int | None = None,
        l2: float = 3.0,
        dropout: float | Sequence[float] = 0.0,
        init: Any = "glorot",
        validation: float | None = None,
        patience: int | None = None,
        backend: Any = "auto",
        dtype: Any = "float32",
        random_state: Any = None,
    ) -> None:
        super().__init__(
            hidden, activation=activation, optimizer=optimizer, learning_rate=learning_rate, batch_size=batch_size,
            epochs=epochs, l2=l2, dropout=dropout, init=init, validation=validation, patience=patience,
            backend=backend, dtype=dtype, random_state=random_state,
        )  # fmt: skip
        self.cost = cost

    @_whole
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> DenseRegressor:
        """Train on rows X (m, n) of finite numbers and their values y (m,) or (m, K), which count sample_weight (m,)
        each. Returns self.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True)
        values = np.asarray(y, np.float64).reshape(len(y), -1)
        weights = _weights(sample_weight, X)
        self.mean_, self.spread_, self._flat = *_moments(values, _shares(weights)), y.ndim == 1
        self._train(X, (values - self.mean_) / self.spread_, weights, values.shape[1], "identity", self.cost)
        return self

    @_whole
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> DenseRegressor:
        """Train for one epoch more on these rows, after `fit` or from the start. Returns self.

        Targets are standardised by the rows of the first call, or of `fit`: let them be many enough to tell their unit.
        lambda of `l2` is spread over the rows of each call.
        """
        first = not hasattr(self, "network_")
        X, y = validate_data(self, X, y, reset=first, multi_output=True, y_numeric=True)
        values, weights = np.asarray(y, np.float64).reshape(len(y), -1), _weights(sample_weight, X, part=True)
        if first:
            counted = weights if weights is not None and weights.any() else None
            self.mean_, self.spread_, self._flat = *_moments(values, _shares(counted)), y.ndim == 1
            net, rule, seed = self._made(X.shape[1], values.shape[1], "identity", self.cost)
            self.network_, self.optimizer_, self._seed = net, rule, seed
        elif values.shape[1] != len(self.mean_):
            raise ValueError(f"y has {values.shape[1]} columns, the rows before had {len(self.mean_)}")
        self._go_on(X, (values - self.mean_) / self.spread_, weights)
        return self

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
        if not all(np.isfinite(part).all() for part in scaled):
            raise ValueError(
                f"targets of {np.abs(self.mean_).max():g} +- {self.spread_.max():g} do not fit {net.dtype}; give the "
                "estimator dtype='float64'"
            )
        for part, values in zip((net.weights[-1], net.biases[-1]), scaled, strict=True):
            part[...] = net.backend.asarray(values)
        return net

    to_network.__doc__ = _Dense.to_network.__doc__

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
