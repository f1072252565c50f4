"""What the estimators have in common: their parameters, and how a network is made and trained of them."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import optimizers, row_weights, saved_optimizer, small_data
from ..errors import finite_number, positive_integer
from ..fit_schedule import warn_if_cut
from ..network import Network
from ..optimizers import Optimizer
from ..options import check_dtype, check_hidden
from ..row_weights import AsGiven
from ..snapshot import Snapshot
from ..training import LBFGS

__all__ = ["Dense", "undone", "weights_of", "whole"]

Array = NDArray[Any]
AUTO = "auto"
_RULE = "_rule_and_its_state"  # in pickles: an optimizer's own leave its state out


def whole(fit: Any) -> Any:
    """`fit` that leaves the estimator's attributes as they were where it fails, fitted or not."""

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


def weights_of(sample_weight: Any, X: Array, *, part: bool = False) -> Array | None:
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


@contextlib.contextmanager
def undone(net: Network, rule: Optimizer) -> Iterator[None]:
    """Where the block raises, all that it has learnt goes back, as if it had not begun."""
    before, theta, l2, epochs = Snapshot(net, rule), net.theta, net.l2, net.epochs_trained
    before.take()
    try:
        yield
    except BaseException:
        if net.theta is theta:  # not where the device is lost, with all that was there
            before.restore()
            if not rule.t:  # what state it has is of now
                rule.reset()
            net.l2, net.epochs_trained = l2, epochs
        raise


@contextlib.contextmanager
def _naming(argument: str) -> Iterator[None]:
    """Errors inside are of this argument."""
    try:
        yield
    except (ValueError, TypeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{argument}: {error}") from None


class Dense(BaseEstimator):  # type: ignore[misc]
    """What both have in common: the parameters, and how a network is made and trained of them."""

    network_: Network
    optimizer_: Optimizer | None
    history_: Any
    _seed: int
    _seen: float  # rows, or the sum of their weights

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = small_data.HIDDEN,
        *,
        activation: Any = "relu",
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
        self.hidden_layer_sizes = hidden_layer_sizes
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
        self.monitor = monitor
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.callbacks = callbacks
        self.verbose = verbose
        self.backend = backend
        self.dtype = dtype
        self.random_state = random_state

    def _made(self, inputs: int, outputs: int, output: str, cost: str) -> tuple[Network, Optimizer | None, int]:
        """An untrained network, its rule (None for L-BFGS), and the seed of both and of the order of rows."""
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        hidden: Any = self.hidden_layer_sizes
        hidden = [hidden] if isinstance(hidden, numbers.Integral) else hidden
        if isinstance(hidden, (str, bytes)) or not hasattr(hidden, "__iter__"):
            raise TypeError(
                f"hidden_layer_sizes must be the units of the hidden layers, such as (64, 32), got {hidden!r}"
            )
        hidden = [positive_integer(f"hidden_layer_sizes[{i}]", units) for i, units in enumerate(hidden)]
        activation = check_hidden(self.activation, len(hidden), "activation")
        net = Network(
            [inputs, *hidden, outputs], hidden=activation, output=output, cost=cost, l2=self._l2(1),
            dropout=self.dropout, init=self.init, backend=self.backend, dtype=self.dtype, seed=seed,
        )  # fmt: skip
        if self._whole():
            if self.clip_norm is not None:
                raise ValueError(f"clip_norm={self.clip_norm!r} is not for 'lbfgs', which searches along its gradient")
            if self.weight_decay is not None:
                raise ValueError(f"weight_decay={self.weight_decay!r} is not for 'lbfgs'; give l2")
            return net, None, seed
        rule = copy.deepcopy(self.optimizer)
        if isinstance(rule, Optimizer):
            rule.reset()  # an instance may have a state, and fit begins anew: that is no news here
        rule = optimizers.get(rule, self.learning_rate)
        if self.weight_decay is not None:
            if not isinstance(rule, optimizers.Decaying):
                raise ValueError(
                    f"weight_decay={self.weight_decay!r} is for adam, lars and lamb, not for {rule.name!r}; give l2"
                )
            rule.weight_decay = self.weight_decay
        if self.clip_norm is not None:
            rule.clip_norm = self.clip_norm
        return net, rule, seed

    def _whole(self) -> bool:
        return isinstance(self.optimizer, str) and self.optimizer == LBFGS

    def _l2(self, rows: float) -> float:
        """lambda, of so many rows or weights of that sum."""
        if isinstance(self.l2, str) and self.l2 == AUTO:
            return small_data.l2_of(rows)
        return finite_number("l2", self.l2, least=0, also=repr(AUTO))

    def _train(
        self,
        X: Array,
        y: Array,
        weights: Array | None,
        outputs: int,
        output: str,
        cost: str,
        watch: tuple[Any, Any, Any],
    ) -> None:
        """A fresh network, of codes of classes or of values; watch: X_val, y_val and sample_weight_val of `fit`."""
        net, rule, seed = self._made(X.shape[1], outputs, output, cost)
        none = isinstance(self.validation, numbers.Real) and self.validation == 0
        share = self.validation is not None and not none
        if not isinstance(self.verbose, (numbers.Integral, np.bool_)):
            raise TypeError(f"verbose must be True or False, or a number, got {self.verbose!r}")
        given = any(part is not None for part in watch)
        if self.patience is not None and not share and not given and not callable(self.monitor):
            what = "a higher accuracy" if self.monitor == "val_accuracy" else "a lower cost"
            raise ValueError(
                f"patience={self.patience} waits for {what} of rows that are set apart, and there are none; give "
                "validation=0.1, or fit(X, y, X_val=..., y_val=...)"
            )
        if share and not given:
            X, y, weights, apart = self._set_apart(X, y, weights, seed, stratify=output == "softmax")
            y = self._learn_unit(y, weights)
            watched: tuple[Any, ...] | None = (apart[0], self._in_unit(apart[1]), *apart[2:])
        else:
            y = self._learn_unit(y, weights)
            watched = self._watched(*watch)
        self._start(net, y, weights)
        self._seen = _sum(X, weights)
        net.l2 = self._l2(self._seen)
        epochs = self._epochs(X)
        if rule is not None and isinstance(epochs, numbers.Integral):  # `fit` refuses others
            warn_if_cut(rule.learning_rate, int(epochs), stacklevel=4)
        self.history_ = net.fit(
            X, y, optimizer=LBFGS if rule is None else rule,
            learning_rate=self.learning_rate if rule is None else None,
            batch_size=None if rule is None else self._rows_a_step(X), epochs=epochs, validation=watched,
            patience=self.patience, monitor=self.monitor, seed=seed, sample_weight=weights, progress=bool(self.verbose),
            callbacks=() if self.callbacks is None else self.callbacks,
        )  # fmt: skip
        self.network_, self.optimizer_, self._seed = net, rule, seed

    def _set_apart(
        self, X: Array, y: Array, weights: Array | None, seed: int, stratify: bool
    ) -> tuple[Array, Array, Array | None, tuple[Array, ...]]:
        """Training rows and a share of rows to be watched, of every class alike if they are to `stratify`."""
        if isinstance(self.validation, (tuple, list, np.ndarray)):
            raise TypeError(
                "validation must be a fraction of the rows, such as 0.1; rows of your own are fit(X, y, X_val=..., "
                "y_val=...)"
            )
        share = finite_number("validation", self.validation, above=0, below=1)
        parts = [X, y] if weights is None else [X, y, weights]
        try:
            dealt = train_test_split(*parts, test_size=share, random_state=seed, stratify=y if stratify else None)
        except ValueError as error:
            raise ValueError(
                f"validation={share:g} of {len(X)} rows cannot be set apart, every class in both parts: {error}"
            ) from None
        (X, y, *rest), watched = dealt[::2], tuple(dealt[1::2])
        return X, y, rest[0] if rest else None, watched

    def _watched(self, X_val: Any, y_val: Any, sample_weight_val: Any) -> tuple[Any, ...] | None:
        """Rows to be watched, given to `fit`, as the network takes them."""
        if X_val is None and y_val is None and sample_weight_val is None:
            return None
        _refuse_masked(X_val=X_val, y_val=y_val)
        if X_val is None or y_val is None:
            raise ValueError("X_val and y_val are the rows to be watched and their targets: give both, or neither")
        with _naming("X_val"):
            X = self._dense(validate_data(self, X_val, accept_sparse="csr", reset=False))
        with _naming("y_val"):
            y = self._targets(y_val.toarray() if hasattr(y_val, "toarray") else np.asarray(y_val))
        if len(y) != len(X):
            raise ValueError(f"y_val must have one entry per row of X_val ({len(X)}), got {len(y)}")
        with _naming("sample_weight_val"):
            weights = self._weighed(y, weights_of(sample_weight_val, X))
        return (X, y) if weights is None else (X, y, weights)

    def _targets(self, y: Array) -> Array:
        """Targets as the network takes them."""
        raise NotImplementedError

    def _learn_unit(self, y: Array, weights: Array | None) -> Array:
        """Targets of the training rows in a unit that is found of them."""
        return y

    def _in_unit(self, y: Array) -> Array:
        """Targets in that unit."""
        return y

    def _start(self, net: Network, y: Array, weights: Array | None) -> None:
        """Biases that the targets tell, before the first step."""

    def _rows_and_targets(self, X: Any, y: Any, *, reset: bool = True, **checks: Any) -> tuple[Array, Array]:
        """As scikit-learn checks them; what its checks would change in silence is refused, or kept as it is."""
        _refuse_masked(X=X, y=y)
        plain = getattr(getattr(y, "dtype", None), "numpy_dtype", None)  # of pandas' nullable ones, which become floats
        if plain is not None and not y.isna().any():
            y = y.to_numpy(dtype=plain)
        X, y = validate_data(self, X, y, accept_sparse="csr", reset=reset, multi_output=True, **checks)
        return self._dense(X), y

    def _dense(self, X: Any) -> Array:
        """Sparse rows as a dense copy in the network's dtype."""
        return np.asarray(X.astype(check_dtype(self.dtype)).toarray() if issparse(X) else X)

    def _weighed(self, targets: Array, weights: Array | None) -> Array | None:
        """What each row counts, beside its own weight."""
        return weights

    def _begin(self, inputs: int, outputs: int, output: str, cost: str) -> None:
        """A network that has seen nothing yet."""
        self.network_, self.optimizer_, self._seed = self._made(inputs, outputs, output, cost)
        self._seen = 0.0

    def _go_on(self, X: Array, y: Array, weights: Array | None) -> None:
        """One epoch more on these rows; none if all count nothing. lambda is spread over all rows there have been."""
        self._refuse_whole()
        assert self.optimizer_ is not None
        if weights is not None and not weights.any():
            return
        rows = _sum(X, weights)
        self._seen += rows
        with undone(self.network_, self.optimizer_):
            self.network_.l2 = self._l2(self._seen) * (rows / self._seen)
            self.history_ = self.network_.fit(
                X, y, optimizer=self.optimizer_, batch_size=self._rows_a_step(X), epochs=1, seed=self._seed,
                sample_weight=None if weights is None else AsGiven(weights), progress=bool(self.verbose),
                callbacks=() if self.callbacks is None else self.callbacks,
            )  # fmt: skip

    def _refuse_whole(self) -> None:
        if self.optimizer_ is None:
            raise ValueError("partial_fit takes steps of batches, which optimizer='lbfgs' does not; give 'adam'")

    def _epochs(self, X: Array) -> Any:
        if self.epochs is not None:
            return self.epochs
        if self._whole():
            return small_data.ITERATIONS
        size = self._rows_a_step(X)
        valid = isinstance(size, numbers.Integral) and int(size) > 0  # `fit` refuses the others
        return small_data.epochs_of(len(X), int(size)) if valid else small_data.EPOCHS

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def __copy__(self) -> Any:
        """Two estimators with one network would train it in turn."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "network_" in state and self.optimizer_ is not None and self.optimizer_.belongs_to(self.network_):
            with contextlib.suppress(TypeError):  # a schedule of one's own: the rule goes along as it is
                state[_RULE] = saved_optimizer.description(self.network_, self.optimizer_)
                del state["optimizer_"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        kept = state.pop(_RULE, None)
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():  # of an older version
            if name != "self" and parameter.default is not parameter.empty:
                state.setdefault(name, parameter.default)
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
            The scaled parameters do not fit the network's dtype, or are too coarse in it.
        """
        check_is_fitted(self)
        return copy.deepcopy(self.network_)

    def _rows(self, X: Any) -> Array:
        check_is_fitted(self)
        _refuse_masked(X=X)
        return self._dense(validate_data(self, X, accept_sparse="csr", reset=False))


def _refuse_masked(**given: Any) -> None:
    """TypeError for masked arrays, of which scikit-learn takes what is masked too."""
    for name, x in given.items():
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError(f"{name} must be a plain array, got a masked one; fill or drop the masked entries first")


def _sum(X: Array, weights: Array | None) -> float:
    """What the rows count in all, at most the largest number there is."""
    if weights is None:
        return float(len(X))
    with np.errstate(over="ignore"):
        return min(float(weights.sum()), float(np.finfo(np.float64).max))
