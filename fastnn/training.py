"""`fit`: epochs of mini-batch training, run by an engine's program in slices of about 0.2 seconds.

Between slices, and only there, fastnn acts: progress, Ctrl-C, the finiteness check, callbacks. A
slice either completes or is undone, so the network never holds half a step.
"""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import checks, optimizers
from .backends.base import Array, Program
from .errors import Diverged, SymmetricStart, TrainingInterrupted, finite_number, positive_integer
from .network import DEFAULT_LEARNING_RATE, Network
from .optimizers import Optimizer

__all__ = ["History", "fit"]

SLICE_SECONDS = 0.2
DEFAULT_BATCH = 128


@dataclass
class History:
    """What happened, one entry per completed epoch of this fit.

    Attributes
    ----------
    cost : list of float
        Mean training cost, each row's taken before its update, L2 included.
    accuracy : list of float
        Fraction of training rows right before their update; empty where right and wrong make no sense.
    val_cost, val_accuracy : list of float
        On the validation rows after the epoch, L2 included; empty without validation.
    seconds : list of float
        Wall time of the epoch's training steps, validation and callbacks not counted.
    interrupted : bool
        Ctrl-C ended the fit early.
    """

    cost: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    val_cost: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    interrupted: bool = False


def fit(
    net: Network,
    X: Any,
    y: Any,
    *,
    optimizer: str | Optimizer = "adam",
    learning_rate: float = DEFAULT_LEARNING_RATE,
    batch_size: int | None = None,
    epochs: int = 20,
    shuffle: bool = True,
    order: Callable[[int], Any] | None = None,
    validation: tuple[Any, Any] | float | None = None,
    callbacks: Sequence[Callable[[int, History, Network], Any]] = (),
    progress: Any = False,
    seed: int = 0,
    scale: float | None = None,
) -> History:
    """Train `net` on the rows of X.

    Parameters
    ----------
    X : array-like (m, s_1)
        Real numbers, finite; converted to the network's dtype.
    y : array-like
        Classes (m,), or (m, K), or (m,) for K = 1; what fits follows from output and cost.
    optimizer : str or Optimizer
        "sgd", "momentum", "adam" start fresh; an instance keeps its state over several fits.
    learning_rate : float
        alpha > 0, default 0.001; not together with an instance.
    batch_size : int, optional
        Rows per step; min(128, rows) if not given. The short last batch is used and divided by its own rows.
    epochs : int
        Epochs of this fit. They are numbered over the network's life, so a second fit goes on.
    shuffle : bool
        Each epoch takes the rows in the order numpy.random.default_rng([seed, epoch]).permutation(rows).
    order : callable, optional
        epoch -> row numbers of that epoch, instead of shuffling.
    validation : (X, y) or float, optional
        Rows to evaluate after each epoch; a fraction sets rows of X apart, chosen by the seed.
    callbacks : sequence of callables
        f(epoch, history, net) after each epoch; returning True stops.
    progress : bool or object
        True shows a live bar on stderr.
    scale : float, optional
        Factor > 0 for integer X (pixels), applied as it is read and kept with the network.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        Bad input; nothing was changed.
    Diverged
        The cost or a parameter stopped being finite. Parameters and optimizer are back at the last finite slice.
    RuntimeError
        The network is being trained in another thread.

    Warns
    -----
    TrainingInterrupted
        Ctrl-C: the last completed step is kept and the history so far returned.
    SymmetricStart
        Hidden units start identical and will stay identical.
    """
    if not net._training.acquire(blocking=False):
        raise RuntimeError("this network is being trained in another thread; wait for that fit, or train a copy (copy.deepcopy(net))")
    try:
        rule = optimizers.get(optimizer, None if learning_rate is DEFAULT_LEARNING_RATE else learning_rate)
        data = _prepare(net, X, y, validation, seed, scale)
        rows = data.train_rows.shape[0]
        if batch_size is None:
            batch_size = min(DEFAULT_BATCH, rows)
        elif positive_integer("batch_size", batch_size) > rows:
            raise ValueError(f"batch_size={batch_size} is larger than the {rows} training rows; give at most {rows}, or None for min({DEFAULT_BATCH}, rows)")
        epochs = positive_integer("epochs", epochs)
        if order is not None and not callable(order):
            raise TypeError(f"order must be a callable epoch -> row numbers, got {type(order).__name__}")
        for i, callback in enumerate(callbacks):
            if not callable(callback):
                raise TypeError(f"callbacks[{i}] must be callable f(epoch, history, net), got {type(callback).__name__}")
        program = net.backend.compile(net, rule, int(batch_size))
        program.training_rows = rows
        if net.epochs_trained == 0:
            _warn_if_symmetric(net)
        orders = _Orders(data.train_rows, bool(shuffle), order, seed)
        return _Fit(net, program, data, orders, callbacks, _progress(progress)).run(epochs)
    finally:
        net._training.release()


# ---- the data ---------------------------------------------------------------------------------------


@dataclass
class _Data:
    """Prepared rows on the engine; validation rows taken from X are not among train_rows."""

    x: Array
    y: Array
    train_rows: np.ndarray[Any, Any]
    validation: tuple[Array, Array] | None
    scale: float | None


def _prepare(net: Network, X: Any, y: Any, validation: Any, seed: Any, scale: float | None) -> _Data:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be an integer >= 0, got {seed!r}")
    X = checks.numeric("X", X)
    if scale is None:
        scale = net.scale
    else:
        scale = finite_number("scale", scale, above=0)
        if X.dtype.kind not in "iu":
            raise ValueError(f"scale={scale!r} is for integer data, X is {X.dtype}; scale it yourself or pass the integers")
        if net.scale is not None and net.scale != scale:
            raise ValueError(f"scale={scale!r} differs from {net.scale!r}, with which this network was trained before")
    x = checks.inputs(X, net.sizes[0], net.dtype, net.backend, scale=scale)
    targets = net._targets(y, x.shape[0])
    train = np.arange(x.shape[0])
    held_out: tuple[Array, Array] | None = None
    if isinstance(validation, tuple) and len(validation) == 2:
        val_x = checks.inputs(validation[0], net.sizes[0], net.dtype, net.backend, scale=scale, argument="validation X")
        held_out = val_x, net._targets(validation[1], val_x.shape[0], argument="validation y")
    elif validation is not None:
        if isinstance(validation, (tuple, list)):
            raise TypeError(f"validation must be a pair (X, y) or a fraction, got {type(validation).__name__} of {len(validation)}")
        chosen = _validation_rows(x.shape[0], finite_number("validation", validation, above=0, below=1), int(seed))
        train = np.setdiff1d(train, chosen)
        index = net.backend.asarray(chosen)
        held_out = x[index], targets[index]
    return _Data(x, targets, train, held_out, scale)


def _validation_rows(m: int, fraction: float, seed: int) -> np.ndarray[Any, Any]:
    count = round(m * fraction)
    if not 1 <= count <= m - 1:
        raise ValueError(f"validation={fraction:g} of {m} rows is {count}; at least one row must be left on each side")
    # A key of three words never meets the [seed, epoch] of a shuffle.
    return np.sort(np.random.default_rng([seed, 0, 1]).permutation(m)[:count])


@dataclass
class _Orders:
    """The order of rows in each epoch, the same on every engine."""

    train_rows: np.ndarray[Any, Any]
    shuffle: bool
    order: Callable[[int], Any] | None
    seed: int

    def of(self, epoch: int) -> np.ndarray[Any, Any]:
        rows = self.train_rows
        if self.order is not None:
            given = np.asarray(self.order(epoch))
            if given.ndim != 1 or given.dtype.kind not in "iu" or given.size == 0:
                raise ValueError(f"order({epoch}) must give a one-dimensional, non-empty array of row numbers, got shape {given.shape} of {given.dtype}")
            if given.min() < 0 or given.max() >= rows.shape[0]:
                raise ValueError(f"order({epoch}) must give row numbers 0..{rows.shape[0] - 1}, got {given.min()}..{given.max()}")
            return np.ascontiguousarray(rows[given], np.int64)
        if self.shuffle:
            return rows[np.random.default_rng([self.seed, epoch]).permutation(rows.shape[0])]
        return rows


def _warn_if_symmetric(net: Network) -> None:
    """Units of a hidden layer with the same incoming and the same outgoing weights stay the same for ever."""
    weights = [net.backend.to_numpy(W) for W in net.weights]
    biases = [net.backend.to_numpy(b) for b in net.biases]
    for layer in range(len(weights) - 1):
        units = np.column_stack([weights[layer], biases[layer], weights[layer + 1].T])
        distinct = len({unit.tobytes() for unit in units})
        if distinct < len(units):
            warnings.warn(
                f"{len(units) - distinct + 1} or more of the {len(units)} units of layer {layer + 2} start identical and will stay identical; "
                "use a random init (init='auto') to break the symmetry",
                SymmetricStart,
                stacklevel=4,
            )
            return


# ---- the loop ---------------------------------------------------------------------------------------


class _Fit:
    """One fit: the epochs, their slices, and what is done between them."""

    def __init__(self, net: Network, program: Program, data: _Data, orders: _Orders, callbacks: Sequence[Any], progress: Any) -> None:
        self.net, self.program, self.data, self.orders = net, program, data, orders
        self.callbacks, self.progress = callbacks, progress
        self.history = History()
        self.snapshot = _Snapshot(net, program.optimizer)
        self.steps_per_slice = 1  # the first slice may compile; its time sets nothing but the next one
        soft = program.net.pair.targets == "probabilities" and not bool(((data.y == 0) | (data.y == 1)).all())
        self.counts_hits = net.counts_hits(data.y) and not soft

    def run(self, epochs: int) -> History:
        first = self.net.epochs_trained
        self.done = 0  # steps completed in the current epoch
        self.progress.start(epochs, self.program.steps(self.data.train_rows.shape[0]))
        try:
            for epoch in range(first, first + epochs):
                self._epoch(epoch)
                self.net.epochs_trained = epoch + 1
                self.progress.epoch(epoch, self.history)
                if any([callback(epoch, self.history, self.net) is True for callback in self.callbacks]):  # noqa: C419 - every callback sees every epoch
                    break
        except KeyboardInterrupt:
            self.history.interrupted = True
            warnings.warn(
                f"interrupted in epoch {self.net.epochs_trained} after {self.done} steps of it; the last completed step is kept",
                TrainingInterrupted,
                stacklevel=4,
            )
        finally:
            self.progress.stop()
        return self.history

    def _epoch(self, epoch: int) -> None:
        order = self.orders.of(epoch)
        if self.data.scale is not None:
            self.net.scale = self.data.scale  # kept from here on: all that can be refused has been checked
        on_device = self.net.backend.asarray(order)
        steps = self.program.steps(order.shape[0])
        cost_sum, rows, hits, seconds = 0.0, 0, 0, 0.0
        self.done = 0
        while self.done < steps:
            stop = min(steps, self.done + self.steps_per_slice)
            taken = stop - self.done
            began = time.perf_counter()
            slice_cost, slice_rows = self._slice(on_device, self.done, stop, epoch)
            elapsed = time.perf_counter() - began
            self.steps_per_slice = max(1, min(int(taken * SLICE_SECONDS / max(elapsed, 1e-9)), 1 << 30))
            cost_sum, rows, seconds = cost_sum + slice_cost, rows + slice_rows, seconds + elapsed
            hits += self.program.hits or 0
            self.progress.advance(stop)
        self._record(cost_sum / rows, hits / rows, seconds)
        self.done = 0

    def _slice(self, order: Array, start: int, stop: int, epoch: int) -> tuple[float, int]:
        """Run steps start..stop, or undo them: on divergence, and on any exception from inside the program."""
        self.snapshot.take()
        result: tuple[float, int] | None = None
        try:
            with _interrupt_after():
                cost_sum, rows = self.program.run(self.data.x, self.data.y, order, start, stop)
                if not (math.isfinite(cost_sum) and self.net.backend.all_finite(self.net.theta)):
                    raise self._diverged(epoch, start, stop, order)
                result = cost_sum, rows
                self.done = stop
        except BaseException:
            if result is None:
                self.snapshot.restore()
            raise
        return result

    def _record(self, cost: float, accuracy: float, seconds: float) -> None:
        """Append one epoch; validation first, so that an interrupt there leaves lists of equal length."""
        net, history = self.net, self.history
        val_cost, val_hits, val_rows = 0.0, None, 0
        if self.data.validation is not None:
            x, y = self.data.validation
            val_rows = x.shape[0]
            val_cost, val_hits = net._evaluate(x, y, net.l2 / self.data.train_rows.shape[0])
        history.cost.append(cost)
        history.seconds.append(seconds)
        if self.counts_hits:
            history.accuracy.append(accuracy)
        if val_rows:
            history.val_cost.append(val_cost)
            if self.counts_hits and val_hits is not None:
                history.val_accuracy.append(val_hits / val_rows)

    def _diverged(self, epoch: int, start: int, stop: int, order: Array) -> Diverged:
        """The error with epoch, layer and likely causes, worked out before the snapshot is restored."""
        net, rule = self.net, self.program.optimizer
        layer = _first_bad_layer(net, self.data.x[order[: self.program.batch_size]])
        largest = float(abs(self.data.x).max())
        causes = [f"the learning rate {rule.learning_rate:g} is too large"]
        if largest > 10:
            causes.append(f"the inputs are not scaled (largest |X| is {largest:g})")
        if net.pair.targets == "values" and self.data.y.ndim == 2 and (top := float(abs(self.data.y).max())) > 10:
            causes.append(f"the targets are not scaled (largest |y| is {top:g})")
        causes.append("the initial weights are too large")
        return Diverged(
            f"training diverged in epoch {epoch}, steps {start}..{stop - 1}: the cost or a parameter is no longer finite, first in layer {layer}. "
            f"Likely causes: {'; '.join(causes)}. Parameters and optimizer are back at the last finite slice.",
            epoch=epoch, layer=layer, history=self.history,
        )  # fmt: skip


def _first_bad_layer(net: Network, x: Array) -> int:
    """The lecture's number (2..L) of the first layer with a parameter, or else a z, that is not finite."""
    finite = net.backend.all_finite
    for layer, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        if not (finite(W) and finite(b)):
            return layer + 2
    with np.errstate(all="ignore"):
        z, _ = net._forward(x)
    return next((layer + 2 for layer, values in enumerate(z) if not finite(values)), len(net.sizes))


class _Snapshot:
    """A copy of Theta, the optimizer's state and its step counter, to go back to."""

    def __init__(self, net: Network, optimizer: Optimizer) -> None:
        self.copyto, self.optimizer = net.backend.copyto, optimizer
        self.live = [net.theta, *optimizer.state]
        self.kept = [net.backend.empty(x.shape, x.dtype) for x in self.live]
        self.t = optimizer.t

    def take(self) -> None:
        for kept, live in zip(self.kept, self.live, strict=True):
            self.copyto(kept, live)
        self.t = self.optimizer.t

    def restore(self) -> None:
        for kept, live in zip(self.kept, self.live, strict=True):
            self.copyto(live, kept)
        self.optimizer.t = self.t


@contextmanager
def _interrupt_after() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of the block, so that no step is torn; a second one does not wait.

    Only where Python's own handler would act: in the main thread, without a handler of the user's.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pending = False

    def remember(signum: int, frame: Any) -> None:
        nonlocal pending
        if pending:
            signal.default_int_handler(signum, frame)
        pending = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pending:
        raise KeyboardInterrupt


class _NoProgress:
    def start(self, epochs: int, steps_per_epoch: int) -> None: ...
    def advance(self, steps_done_in_epoch: int) -> None: ...
    def epoch(self, epoch: int, history: History) -> None: ...
    def stop(self) -> None: ...


def _progress(progress: Any) -> Any:
    if progress is True:
        from .progress import RichProgress

        return RichProgress()
    return progress or _NoProgress()
