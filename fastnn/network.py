"""The network: sizes, activations, cost and one flat vector Theta, on an engine it does not know.

Forward and backward passes are in fastnn/backpropagation.py, training in fastnn/training.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import activations, checks, costs, d2, dropout, optimizers, options, row_weights, settable
from .activations import Activation
from .backends import Backend, choose_backend
from .backends.base import Job
from .backpropagation import Backpropagation
from .errors import finite_number, natural_number
from .fit_lock import FitLock
from .fit_method import FitMethod
from .layout import Layout, Views
from .twins import Link

if TYPE_CHECKING:
    import os

__all__ = ["Network"]

Array = Any
_YOUNGER = {"_any_backend": False, "_told": False, "_written_by": None}  # than pickles of older versions


class Network(Backpropagation, FitMethod):
    """A dense feed-forward network.

    Parameters
    ----------
    sizes : sequence of int
        Units per layer (s_1, ..., s_L), input first, at least two.
    hidden : str, Activation or list of them
        Activation of the hidden layers; a list has one entry per hidden layer.
    output : str or Activation
        Activation of the output layer.
    cost : str
        "cross_entropy" (softmax or sigmoid outputs) or "squared_error" (any output); of identity outputs also
        "absolute_error", "huber:1.35" with its threshold or "quantile:0.9"; of exp outputs "poisson", for counts
        (`fastnn.costs`).
    init : str, Initializer, flat vector, or (weights, biases)
        Initial Theta: "auto" (He before relu, leaky_relu, silu, gelu, else Glorot), another name, an instance,
        a vector laid out as `theta`, or two lists of arrays (n_out, n_in) and (n_out,).
    l2 : float
        lambda >= 0; acts on weights, never on biases.
    backend : str or Backend
        "auto" chooses from what is usable and the number of parameters; a name gets that engine or raises.
    dtype : "float32" or "float64"
    precision : "fp32", "tf32" or "bf16"
        Products of training, for float32 on the CuPy engine: in full; with factors rounded to 10 bits of
        mantissa; or with activations, deltas and a copy of the weights in bfloat16. Theta, Delta, the
        optimizer's state and the cost stay float32 (sums float64), and so do predictions.
    seed : int
        Seed >= 0 of the initial weights; the same on every engine.
    dropout : float or sequence of float
        Probability 0 <= p < 1 with which `fit` leaves each unit of a hidden layer out of a step, for all hidden layers
        or one for each (fastnn.dropout).

    Attributes
    ----------
    theta : array (P,)
        All parameters, on the engine's device, writable in place: for each layer in turn its
        weights row by row, then its biases.
    weights, biases : sequence of arrays
        Views into theta, (n_out, n_in) and (n_out,).
    sizes, hidden, output, cost, dtype, precision : what was given
        Fixed; hidden is a list of Activation, one per hidden layer, output an Activation, dtype a NumPy dtype.
    backend : Backend
        The engine.
    backend_reason : str
        Why this engine was taken.
    epochs_trained : int
        Epochs completed over the network's life; the next `fit` goes on from there.
    scale : float or None
        Factor for integer inputs, from the `fit` that was given one. Floats are taken as they are.
    l2 : float
        lambda.
    dropout : tuple of float
        p of each hidden layer.

    The last four may be set between fits, not by a callback.

    Raises
    ------
    ValueError, TypeError
        A parameter that is not known or makes no sense beside the others.
    BackendUnavailable
        The engine asked for by name cannot run here.
    """

    theta: Array
    weights: Sequence[Array]
    biases: Sequence[Array]

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        hidden: str | Activation | Sequence[str | Activation] = "relu",
        output: str | Activation = "softmax",
        cost: str = "cross_entropy",
        init: Any = "auto",
        l2: float = 0.0,
        backend: str | Backend = "auto",
        dtype: Any = "float32",
        precision: str = "fp32",
        seed: int = 0,
        dropout: float | Sequence[float] = 0.0,
    ) -> None:
        self.sizes = options.check_sizes(sizes)
        self.hidden = options.check_hidden(hidden, len(self.sizes) - 2)
        self.output = activations.get(output, "output")
        self.cost = cost
        self.pair = costs.pair(self.output, cost)
        if self.sizes[-1] < 2 and not self.output.elementwise:
            raise ValueError("softmax over one output is always 1; use two outputs, or output='sigmoid'")
        self.l2 = l2
        self.dropout = dropout  # the setter makes a tuple of it
        self.dtype = options.check_dtype(dtype)
        self.precision = precision
        seed = natural_number("seed", seed)
        self.layout = Layout(self.sizes)
        start = options.initial_theta(init, self.layout, [*self.hidden, self.output], seed, self.dtype)
        self.backend, self.backend_reason = choose_backend(backend, parameters=self.layout.size)
        self._any_backend = isinstance(backend, str) and backend == "auto"  # a copy elsewhere may be on another
        options.check_precision(self.precision, self.dtype, self.backend)
        self._place(start)
        self.epochs_trained = 0
        self.scale: float | None = None
        self.preprocessing: dict[str, Any] | None = None
        self._told = False  # whether the user has been warned of preprocessing
        self._written_by: str | None = None  # the version of fastnn, of a network from a file

    def _place(self, vector: Array) -> None:
        theta = self.backend.empty((self.layout.size,), self.dtype)
        self.backend.copyto(theta, self.backend.asarray(vector))
        self._use(theta)
        self._training, self._link = FitLock(), Link()
        self._optimizer: optimizers.Optimizer | None = None

    def _use(self, theta: Array) -> None:
        """Make theta, an array of the engine, the parameters, and weights and biases views of it."""
        weights, biases = self.layout.split(theta)
        # Not by way of __dict__: where that has been asked for, Python finds every attribute of the object more slowly,
        # and one row notices.
        for name, value in (
            ("theta", theta),
            ("weights", Views("weights", weights)),
            ("biases", Views("biases", biases)),
        ):
            super().__setattr__(name, value)
        self._predictor: Any = None  # what the engine keeps between predictions of this network
        self._kept_program: Any = None  # what `fit` keeps for the next one (training.py)

    def _move(self, backend: Backend, reason: str, theta: Array) -> None:
        """Continue on another engine with theta, an array of that engine, in full precision."""
        super().__setattr__("backend", backend)
        super().__setattr__("precision", "fp32")
        self.backend_reason, self._any_backend = reason, False
        self._use(theta)

    def __setattr__(self, name: str, value: Any) -> None:
        """Parameters are written in place: an array put in their place would be seen by some parts of the engines
        and not by others. What they were made for is fixed.
        """
        super().__setattr__(name, settable.checked(self, name, value, named=type(self) is Network))

    def _learnt(self, *, epochs: int, scale: float | None) -> None:
        """Set what a running fit has reached; users cannot set it during a fit."""
        super().__setattr__("epochs_trained", epochs)
        super().__setattr__("scale", scale)

    @property
    def l2(self) -> float:
        """lambda >= 0 of the L2 term; may be set between fits."""
        return self._l2

    @l2.setter
    def l2(self, value: float) -> None:
        self._l2 = finite_number("l2", value, least=0)

    @property
    def dropout(self) -> tuple[float, ...]:
        """p of each hidden layer; may be set between fits, to one number for all of them too."""
        return self._dropout

    @dropout.setter
    def dropout(self, value: float | Sequence[float]) -> None:
        self._dropout = dropout.check_dropout(value, len(self.hidden))

    @property
    def optimizer(self) -> optimizers.Optimizer | None:
        """The optimizer of the fit under way, whose rate a callback may set; None between fits, and in L-BFGS's."""
        return self._optimizer

    @property
    def activations(self) -> list[Activation]:
        """g of layers 2..L."""
        return [*self.hidden, self.output]

    def split(self, vector: Array) -> tuple[list[Array], list[Array]]:
        """Views (weights, biases) of a vector (P,) laid out as theta, on the host or the device: lists of (n_out, n_in)
        and of (n_out,). ValueError for another shape.
        """
        return self.layout.split(vector)

    # ---- use --------------------------------------------------------------------------------------

    def predict_proba(self, X: Any) -> Array:
        """h, (m, K), for softmax and sigmoid outputs.

        Raises
        ------
        ValueError
            The output is neither softmax nor sigmoid, or X does not fit.
        """
        if self.output.name not in ("softmax", "sigmoid"):
            raise ValueError(
                f"predict_proba needs a softmax or sigmoid output, this network has {self.output.name!r}; use predict"
            )
        self._warn_of_table()
        return self._outputs(X)

    def logits(self, X: Any) -> Array:
        """z^(L), (m, K), of the network's dtype: what softmax or sigmoid makes probabilities of, for example for
        calibration by a temperature. X and errors as for `predict`, but z that overflow are returned, infinite or NaN.
        """
        self._warn_of_table()
        return self._outputs(X, activated=False)

    def predict(self, X: Any) -> Array:
        """What the network says of each row.

        Softmax: the class, int64 (m,). Sigmoid with cross_entropy: h >= 1/2 as int64 0/1, (m, K).
        Otherwise h, (m, K). With K = 1 the last two have shape (m,).

        Raises
        ------
        ValueError
            X does not fit, or is so large that no class can be told: its products overflow.
        """
        self._warn_of_table()
        return self._answers(self._outputs(X))

    def _answers(self, h: Array) -> Array:
        """The answers of `predict`, made from outputs."""
        h = self._told_apart(h)
        if self.output.name == "softmax":
            return h.argmax(axis=1)
        if self.pair.targets == "probabilities":
            h = (h >= 0.5).astype(np.int64)
        return h[:, 0] if self.sizes[-1] == 1 else h

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """How right the answers are.

        Parameters
        ----------
        X : (m, s_1), y : targets (see `fit`)
        sample_weight : (m,) or "balanced", optional
            How much each row counts, >= 0 and not all 0; "balanced": each class the same, as in `fit`.

        Returns
        -------
        float
            Accuracy for classes (of their probabilities: for the largest); for 0/1 targets the fraction of rows with
            all right. Otherwise 1 - sum cost(y, h) / sum cost(y, best constant), the mean over outputs: D^2 of the
            pinball cost for quantile costs, of the absolute error for absolute_error and of the deviance for poisson,
            R^2 for the others
            (fastnn/d2.py). A constant column of y counts 1.0 if matched exactly, else 0.0.

        Raises
        ------
        TypeError, ValueError
            X, y or sample_weight does not fit, or products overflow.
        """
        self._warn_of_table()
        return self._score(self._outputs(X), y, sample_weight)

    def _score(self, outputs: Array, y: Any, sample_weight: Any = None) -> float:
        h = np.asarray(self.backend.to_numpy(self._told_apart(outputs)), np.float64)
        # in float32 sums down the rows drift by percents, and targets of 1e9 +- 1 are all the same
        targets = checks.targets(y, self.pair, h.shape[0], self.sizes[-1], np.dtype(np.float64), self.backend)
        t = np.asarray(self.backend.to_numpy(targets))
        weights = None
        if sample_weight is not None:
            weights, _ = row_weights.mean_of_one(row_weights.checked(sample_weight, t, len(t)))
        if t.ndim == 1:
            right = h.argmax(axis=1) == t
        elif self.pair.targets == "classes":
            right = h.argmax(axis=1) == t.argmax(axis=1)
        elif self.pair.targets == "probabilities" and np.isin(t, (0, 1)).all():
            right = ((h >= 0.5) == t).all(axis=1)
        else:
            return d2.score(self.cost, t, h, weights)
        return float(np.average(right, weights=weights))

    def plan(
        self,
        batch_size: int = 128,
        *,
        explain: bool = False,
        micro_batch: int | None = None,
        optimizer: str | optimizers.Optimizer = "adam",
        training_rows: int | None = None,
        data_dtype: Any = None,
    ) -> str:
        """How this network's engine would run training steps: one sentence, for people.

        Parameters
        ----------
        batch_size, micro_batch, optimizer
            As for `fit`.
        explain : bool
            Several lines, with the reasons.
        training_rows : int, optional
            Rows of an epoch; many if not given. Few steps an epoch may be planned differently.
        data_dtype : NumPy dtype, optional
            Of the X to train with; the network's if not given. Data of uint8 may be planned differently.

        Raises
        ------
        TypeError, ValueError
            An argument that `fit` would refuse too; a data_dtype that is not one of numbers.
        """
        parts = options.check_micro_batch(micro_batch, batch_size)
        return self.backend.plan(
            Job(
                self, optimizers.get(optimizer), batch_size, parts, training_rows, options.check_data_dtype(data_dtype)
            ),
            explain,
        )

    def save(self, path: str | os.PathLike[str], *, optimizer: optimizers.Optimizer | None = None) -> None:
        """Write the model to one safetensors file, NAME.safetensors or a name without the ending of another format, in
        one move; with the optimizer that trained it, if given, for `fastnn.resume`. TypeError, ValueError and OSError
        as documented for `fastnn.model_file.save`; a file already there is untouched then.
        """
        from .model_file import save

        save(self, path, optimizer=optimizer)

    def export_onnx(self, path: str | os.PathLike[str], *, data_dtype: Any = None) -> None:
        """Write the network to NAME.onnx, for other runtimes. `fastnn.onnx_export.export_onnx` documents inputs and
        outputs of the model, `data_dtype`, and errors (ImportError without the package onnx, ValueError, OSError).
        """
        from .onnx_export import export_onnx

        export_onnx(self, path, data_dtype=data_dtype)

    # ---- shared with training ---------------------------------------------------------------------

    def _counts_hits(self, y: Array) -> bool:
        """Whether right and wrong can be told for these targets: classes, their probabilities, or 0 and 1."""
        return y.ndim == 1 or self.pair.targets in ("probabilities", "classes")

    def _count_hits(self, h: Array, y: Array) -> int | None:
        """Rows that are right: the largest output for classes, every output on y's side of 1/2 for sigmoids."""
        if not self._counts_hits(y):
            return None
        if y.ndim == 1:
            return int((h.argmax(axis=1) == y).sum())
        if self.pair.targets == "classes":
            return int((h.argmax(axis=1) == y.argmax(axis=1)).sum())
        return int(((h >= 0.5) == (y >= 0.5)).all(axis=1).sum())

    def _evaluate(self, x: Array, y: Array, weights: Array | None = None) -> tuple[float, int | None]:
        """Mean cost without L2 and the number of hits over prepared rows, in blocks; weights have a mean of 1."""
        cost_sum, hits = 0.0, 0
        for rows in self._blocks(x.shape[0]):
            z = self.backend.outputs(self, x[rows], activated=False)
            assert z is not None, "prepared rows are finite"
            a = self.backend.activate(self.output, z)
            of_rows = None if weights is None else weights[rows]
            cost_sum += self.backend.cost_sum(self.output, self.cost, z, a, y[rows], of_rows)
            hits += self._count_hits(a, y[rows]) or 0
        return cost_sum / x.shape[0], hits if self._counts_hits(y) else None

    def _told_apart(self, h: Array) -> Array:
        """h, unchanged. Where it is to become classes or 0 and 1, NaN is an error, and not the first class, or 0."""
        softmax = self.output.name == "softmax"
        if softmax or self.pair.targets == "probabilities":
            if len(h) == 1 and (softmax or h.shape[1] == 1) and h[0, 0] == h[0, 0]:
                return h  # one row would notice what follows
            first = h[:, 0] if softmax else h  # of softmax a row is NaN as a whole
            wrong = first != first
            if bool(wrong.any()):
                row = int(np.argwhere(self.backend.to_numpy(wrong))[0][0])
                if not self.backend.all_finite(self.theta):
                    raise ValueError(
                        "the parameters hold NaN or infinity, and so do the outputs; write others into them"
                    )
                raise ValueError(
                    f"the outputs of row {row} are not numbers, because its products overflow {self.dtype}: X there, "
                    "or a parameter, is far too large; scale X as for training"
                )
        return h

    def _outputs(self, X: Any, activated: bool = True) -> Array:
        if type(X) is np.ndarray and X.ndim == 2 and X.flags.c_contiguous and (backend := self.backend).checks_outputs:
            m, n = X.shape
            if (
                m
                and n == self.sizes[0]
                and (X.dtype == self.dtype or backend.predicts_kind(X))
                and (h := backend.outputs(self, X, activated)) is not None
            ):
                if self.scale is not None:
                    checks.warn_if_unscaled(X, self.scale, stacklevel=3)
                return h  # what follows would only look at X once more, which one row would notice
        X = checks.numeric("X", X, self.backend)
        if X.ndim != 2 or X.shape[0] == 0:
            self._inputs(X)  # refuses, with its reason
        checks.warn_if_unscaled(X, self.scale, stacklevel=3)
        device, parts = self._on_device(X), []
        for rows in self._blocks(X.shape[0]):
            h = self.backend.outputs(self, self._inputs(X[rows], first_row=rows.start), activated)
            assert h is not None, "prepared rows are finite"
            parts.append(h if device else self.backend.to_numpy(h))
        if len(parts) == 1:
            return parts[0]
        return self.backend.concatenate(parts) if device else np.concatenate(parts)

    def _warn_of_table(self) -> None:
        if self.preprocessing is not None and not self._told:
            self._told = checks.warned_of_table(self.preprocessing, stacklevel=3)

    def _blocks(self, m: int) -> Iterator[slice]:
        """Row ranges whose widest activation stays near checks.BLOCK elements."""
        rows = max(1, checks.BLOCK // max(self.sizes))
        return (slice(start, min(start + rows, m)) for start in range(0, m, rows))

    def _on_device(self, X: Any) -> bool:
        return self.backend.is_array(X) and type(X) is not np.ndarray

    def _inputs(self, X: Any, first_row: int = 0, argument: str = "X") -> Array:
        return checks.inputs(
            X, self.sizes[0], self.dtype, self.backend, scale=self.scale, argument=argument, first_row=first_row
        )

    def _targets(self, y: Any, m: int, argument: str = "y") -> Array:
        return checks.targets(y, self.pair, m, self.sizes[-1], self.dtype, self.backend, argument=argument)

    # ---- copies -----------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = {
            key: value
            for key, value in self.__dict__.items()
            if key not in ("backend", "weights", "biases", "_predictor", "_kept_program", "_training", "_optimizer")
        }
        return {
            **state,
            "theta": self.backend.to_numpy(self.theta),
            "backend": ("auto", {}) if self._any_backend else (self.backend.name, dict(self.backend.given)),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        theta, (name, given), link = state.pop("theta"), state.pop("backend"), state.pop("_link", None)
        self.__dict__.update(_YOUNGER | {"_dropout": (0.0,) * len(state["hidden"])} | state)
        self.backend, reason = choose_backend(name, parameters=self.layout.size, options=given)
        if self._any_backend:
            self.backend_reason = reason
        if self.precision not in self.backend.precisions:
            options.warn_of_precision(self.precision, self.backend)
            super().__setattr__("precision", "fp32")
        self._place(np.array(theta))
        if link is not None and not link.original:  # of copy.copy it is the same one
            link.network_is(self)

    def __repr__(self) -> str:
        hidden = ", ".join(dict.fromkeys(repr(g) for g in self.hidden)) or "no hidden layer"
        return (
            f"Network({'-'.join(map(str, self.sizes))}, {hidden}, {self.output.name} + {self.cost}, "
            f"{self.layout.size:,} parameters, {self.dtype}, {self.backend.name})"
        )
