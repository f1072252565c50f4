"""The classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from .. import small_data
from ..optimizers import Optimizer
from ..row_weights import BALANCED
from .base import AUTO, Dense, weights_of, whole

__all__ = ["DenseClassifier"]

Array = NDArray[Any]


class DenseClassifier(ClassifierMixin, Dense):  # type: ignore[misc]
    """Softmax with cross-entropy over classes of any labels; sigmoids with cross-entropy over several labels a row, for
    y (m, K) of 0 and 1 as `MultiLabelBinarizer` makes it.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, default (64, 32)
        Units of the hidden layers; () for none.
    activation : str, Activation or list, default "relu"
        Of the hidden layers.
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
        A fraction of the rows to set apart for validation, the same of every class (rows of your own are arguments of
        `fit`); and the number of epochs without a lower validation cost after which training ends, and goes back to the
        best epoch.
    monitor : str or callable, default "val_cost"
        What `patience` waits for: a lower "val_cost", a higher "val_accuracy" of those rows, or a higher value of
        f(net) -> float, as in `Network.fit`.
    weight_decay : float, default None
        >= 0, of adam (then AdamW), lars or lamb, in place of the optimizer's own.
    clip_norm : float, default None
        > 0: gradients that are longer are scaled to that length. Not for "lbfgs".
    callbacks : sequence of callables
        f(epoch, history, net) after each epoch, as in `Network.fit`; where one returns True the fit ends. Functions of
        a module, if the estimator is to be pickled.
    verbose : bool or int, default False
        Whether progress is shown on stderr.
    class_weight : "balanced" or dict of label: number, default None
        Weight of each row of a class, times its sample_weight; "balanced": every class has the same total weight.
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
    classes_ : (K,) array
        The labels in order; of several labels a row their columns, 0..K-1.
    n_features_in_, feature_names_in_ : as in every estimator

    Notes
    -----
    Standardise inputs (`StandardScaler`). A sparse X becomes a dense copy of `dtype`. Lambda of `l2` is divided by the
    sum of the weights. In float32 a row predicted alone and the same row among others may differ in the last bits. A
    row of sample_weight 2 is equivalent to two rows, except for how rows fall into batches.
    `partial_fit` goes on with the optimizer's state, in a copy and after pickling too.
    Errors of fastnn are its own: `fastnn.Diverged`, and ValueError or TypeError for bad parameters.
    """

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
        class_weight: Any = None,
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
        self.class_weight = class_weight

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
    ) -> DenseClassifier:
        """Train on rows X (m, n) of finite numbers and their labels y, (m,) or (m, K) of 0 and 1, which count
        sample_weight (m,) each. A sparse y becomes a dense one. Returns self.

        X_val, y_val, sample_weight_val: rows to watch instead of a share of X, which count by `class_weight` too. A
        pipeline hands X_val on as it is, unless it is made with transform_input=["X_val"].
        """
        X, y = self._rows_and_targets(X, y)
        if (marks := self._marks(y)) is not None:
            self.classes_, codes = np.arange(marks.shape[1]), marks
        else:
            self.classes_, codes = np.unique(column_or_1d(y, warn=True), return_inverse=True)
            if len(self.classes_) < 2:
                raise ValueError(
                    f"y must have at least two classes to tell apart, got one class: {self.classes_.tolist()[0]!r}"
                )
        self._output, weights = "softmax" if marks is None else "sigmoid", weights_of(sample_weight, X)
        self._shares = self._shares_of_classes(codes, weights)
        self._train(
            X, codes, self._weighed(codes, weights), len(self.classes_), self._output, "cross_entropy",
            (X_val, y_val, sample_weight_val),
        )  # fmt: skip
        return self

    @whole
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> DenseClassifier:
        """Train for one epoch more on these rows, after `fit` or from the start. Returns self.

        classes: all labels that will ever occur, required in the first call unless `fit` came before. Not needed for
        several labels a row, which are the columns of y. lambda of `l2` is spread over all rows so far, those of `fit`
        included, so it is meant for rows that are seen once: with repeated passes over the same rows its effect
        fades. Weights are taken as they are, not divided by their mean. `epochs` and `validation` are ignored.
        """
        first = not hasattr(self, "network_")
        X, y = self._rows_and_targets(X, y, reset=first)
        marks = self._marks(y)
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight={self.class_weight!r} cannot be known from a part of the rows; give the weights, "
                "{label: number, ...}"
            )
        output = "softmax" if marks is None else "sigmoid"
        if not first and output != self._output:
            raise ValueError(
                f"y has {'one label' if marks is None else 'several labels'} a row, where there "
                f"{'were several' if marks is None else 'was one'} before"
            )
        if classes is None and marks is not None:
            classes = np.arange(marks.shape[1])
        if first:
            if classes is None:
                raise ValueError("classes must be given in the first call of partial_fit: all labels that will come")
            self.classes_, self._output = np.unique(classes), output
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes={classes!r} are not those of before, {self.classes_.tolist()}")
        codes, weights = self._targets(y), weights_of(sample_weight, X, part=True)
        if first:
            self._begin(X.shape[1], len(self.classes_), output, "cross_entropy")
        self._shares = self._shares_of_classes(codes, weights)
        self._go_on(X, codes, self._weighed(codes, weights))
        return self

    def _marks(self, y: Any) -> Array | None:
        """Several labels a row, (m, K) of 0 and 1; None of one label a row."""
        try:
            check_classification_targets(y)
        except TypeError as error:
            kinds = sorted({type(label).__name__ for label in np.asarray(y, dtype=object).ravel()})
            raise TypeError(f"y must hold labels of one kind, which can be sorted, got {', '.join(kinds)}") from error
        kind = type_of_target(y)
        if kind == "multiclass-multioutput":
            raise ValueError(
                f"y of shape {y.shape} holds several classes a row, which DenseClassifier does not take: one class a "
                "row (m,), or (m, K) of 0 and 1; one model for each column is sklearn.multioutput.MultiOutputClassifier"
            )
        if kind != "multilabel-indicator":
            return None
        marks = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
        if not np.isin(marks, (0, 1)).all():
            raise ValueError(f"y of several labels a row must be 0 and 1, got {np.unique(marks).tolist()}")
        if self.class_weight is not None:
            raise ValueError(
                f"class_weight={self.class_weight!r} is for one label a row, y has {marks.shape[1]}; give sample_weight"
            )
        return marks

    def _targets(self, y: Array) -> Array:
        """Marks (m, K), or the number of each row's label among `classes_` (m,)."""
        if self._output == "sigmoid":
            marks = self._marks(y)
            if marks is None or marks.shape[1] != len(self.classes_):
                raise ValueError(
                    f"several labels a row are ({len(y)}, {len(self.classes_)}) of 0 and 1, got shape {y.shape}"
                )
            return marks
        y = column_or_1d(y, warn=True)
        codes = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        if (strange := self.classes_[codes] != y).any():
            raise ValueError(f"y holds the label {y[strange].tolist()[0]!r}, which is none of {self.classes_.tolist()}")
        return np.asarray(codes)

    def _shares_of_classes(self, codes: Array, weights: Array | None) -> Array | None:
        """What a row of each class counts (K,), of the training rows with these weights; None for all the same."""
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, str) and self.class_weight == BALANCED:
            totals = np.bincount(codes, weights, minlength=len(self.classes_)).astype(np.float64)
            shares: Array = np.divide(totals.sum(), np.count_nonzero(totals) * totals, where=totals > 0, out=0 * totals)
            return shares
        of_class = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)
        if (wrong := ~(np.isfinite(of_class) & (of_class >= 0))).any():
            label = self.classes_[wrong].tolist()[0]
            raise ValueError(
                f"class_weight must be finite and >= 0, got {of_class[wrong][0]:g} for the label {label!r}"
            )
        return np.asarray(of_class)

    def _weighed(self, codes: Array, weights: Array | None) -> Array | None:
        """What each row counts, by itself and as one of its class."""
        if self._shares is None:
            return weights
        of_rows = self._shares[codes]
        return np.asarray(of_rows if weights is None else weights * of_rows)

    def predict(self, X: Any) -> Array:
        """The most probable label of each row; of several labels a row (m, K), 1 for those of probability >= 1/2."""
        rows = self._rows(X)
        answers = np.asarray(self.network_.predict(rows))
        return answers if self.network_.output.name == "sigmoid" else np.asarray(self.classes_[answers])

    def predict_proba(self, X: Any) -> Array:
        """(m, K): the probability of each of `classes_`, of which a row has one, or several."""
        rows = self._rows(X)
        return np.asarray(self.network_.predict_proba(rows))

    def predict_log_proba(self, X: Any) -> Array:
        """(m, K): the logarithms of these, also of what is too small for the dtype."""
        rows = self._rows(X)
        z = np.asarray(self.network_.logits(rows), np.float64)
        if not np.isfinite(z).all():
            self.network_.predict(rows)  # says what is wrong with these rows
        if self.network_.output.name == "sigmoid":
            return np.asarray(-np.logaddexp(0, -z))
        z = z - z.max(axis=1, keepdims=True)
        return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
