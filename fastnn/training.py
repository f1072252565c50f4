"""`fit`: epochs of mini-batch training, run by an engine's program in slices of about 0.2 seconds.

Between slices, and only there, fastnn acts: progress, Ctrl-C, the finiteness check, callbacks. A
slice either completes or is undone, so the network never holds half a step.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from . import early_stopping, fit_schedule, optimizers, options
from .backends.base import Array, Job, Program
from .dropout import Drawn, epoch_key
from .early_stopping import BestEpoch
from .errors import Diverged, TrainingInterrupted, positive_integer
from .interrupts import interrupt_after
from .lost_device import HostCopy
from .network import Network
from .optimizers import Optimizer
from .schedules import Schedule, rates_at
from .snapshot import Snapshot, keep, kept_or_made
from .training_data import Orders, TrainingData, prepare, refuse_spoilt, warn_if_symmetric

__all__ = ["LBFGS", "History", "fit", "is_true"]

SLICE_SECONDS = 0.2
FIRST_SLICE_FLOPS, STEP_FLOPS = 100_000_000, 100_000  # a step costs time however small it is: a thousand at most
DEFAULT_BATCH = 128
LBFGS = "lbfgs"  # no rule of steps, but a way to fit
LARGE_PARAMETER = 100.0  # initial weights are of the order of 1, and trained ones seldom reach 10


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
        On the validation rows after the epoch; empty without validation. The cost is that of the answers alone, without
        L2: weights that shrink would hide that they get worse.
    seconds : list of float
        Wall time of the epoch's training steps, validation and callbacks not counted.
    learning_rate : list of float
        alpha of the epoch's last step.
    monitored : list of float
        What a function given as `monitor` said of the network after the epoch; empty without one. NaN where it failed.
    interrupted : bool
        Ctrl-C ended the fit early.
    best : int or None
        With `patience`: the place in these lists of the best epoch, that of the lowest `val_cost` unless `monitor` says
        otherwise, to which the network has gone back.
    with_l2 : bool
        `cost` holds an L2 term, which `val_cost` never does.
    """

    cost: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    val_cost: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    monitored: list[float] = field(default_factory=list)
    interrupted: bool = False
    best: int | None = None
    with_l2: bool = False

    def to_dict(self) -> dict[str, list[float]]:
        """The lists that hold something, all of one length, an entry per epoch, as `pandas.DataFrame` takes them;
        copies.
        """
        lists = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: list(values) for name, values in lists.items() if isinstance(values, list) and values}


def fit(
    net: Network,
    X: Any,
    y: Any,
    *,
    optimizer: str | Optimizer,
    learning_rate: float | Schedule | Callable[[int], float] | None,
    batch_size: int | None,
    epochs: int,
    shuffle: bool,
    order: Callable[[int], Any] | None,
    validation: tuple[Any, ...] | float | None,
    callbacks: Sequence[Callable[[int, History, Network], Any]],
    progress: Any,
    seed: int,
    scale: float | None,
    micro_batch: int | None,
    patience: int | None,
    sample_weight: Any,
    monitor: Any,
) -> History:
    """The work of `Network.fit`, where arguments, defaults, errors and warnings are documented."""
    under_way = net._training.held(
        "this network is being trained in another thread; wait for that fit, or train a copy (copy.deepcopy(net))",
        "this network is being trained by the fit that called this one, from a callback; train after it, or train a "
        "copy (copy.deepcopy(net))",
    )
    with under_way, contextlib.ExitStack() as until_the_end:
        until_the_end.callback(setattr, net, "_optimizer", None)
        whole = isinstance(optimizer, str) and optimizer == LBFGS
        rule = optimizers.SGD() if whole else optimizers.get(optimizer, learning_rate)
        until_the_end.enter_context(rule.held())
        net._optimizer = None if whole else rule
        data = prepare(net, X, y, validation, seed, scale, sample_weight)
        rows = data.train_rows.shape[0]
        _check_kinds(shuffle, order, callbacks)
        if whole:
            from . import lbfgs

            lbfgs.refuse(net, learning_rate, batch_size, order)
            batch_size = rows
        batch_size, epochs = _batch_size(batch_size, rows), positive_integer("epochs", epochs)
        shown = _progress(progress)
        micro_batch = options.check_micro_batch(micro_batch, batch_size)
        stopping = early_stopping.checked(net, data, patience, monitor)
        if whole:
            refuse_spoilt(net)
            if net.epochs_trained == 0:
                warn_if_symmetric(net)
            with net.backend.under_way():
                return lbfgs.fit_whole(
                    net, data, iterations=epochs, micro_batch=micro_batch, callbacks=callbacks, progress=shown,
                    patience=stopping,
                )  # fmt: skip
        before = net.epochs_trained - rule.began(net)
        course = fit_schedule.of_fit(rule.learning_rate, before, epochs)
        fit_schedule.refuse_spent(course, before, epochs, -(-rows // batch_size))
        if isinstance(optimizer, str):  # an instance may go on in another fit
            fit_schedule.warn_if_cut(course, epochs, stacklevel=3)
        orders = Orders(data.train_rows, bool(shuffle), order, seed)
        job = Job(net, rule, batch_size, micro_batch, rows, data.x.dtype)
        refuse_spoilt(net)
        with net.backend.under_way():
            if net.epochs_trained == 0:
                warn_if_symmetric(net)  # an error where warnings are: before the optimizer is bound to this network
            began = rule.began(net)
            until_the_end.enter_context(fit_schedule.going_by(rule, course))
            program, snapshot = kept_or_made(job)
            rule.first_epoch = began
            program.scale = 1.0 if data.scale is None else data.scale
            program.weights, program.total_weight = data.weights, data.total_weight
            best = None if stopping is None else BestEpoch(net, rule, stopping)
            history = _Fit(net, program, snapshot, data, orders, callbacks, shown, best).run(epochs)
            if rule is optimizer:  # of a name, the next fit makes a rule anew
                keep(net, program, snapshot)
            return history


def _batch_size(given: Any, rows: int) -> int:
    """The batch size to use for this many training rows."""
    if given is None:
        return min(DEFAULT_BATCH, rows)
    if (batch_size := positive_integer("batch_size", given)) > rows:
        raise ValueError(
            f"batch_size={given} is larger than the {rows} training rows; give at most {rows}, or None for "
            f"min({DEFAULT_BATCH}, rows)"
        )
    return batch_size


def _check_kinds(shuffle: Any, order: Any, callbacks: Any) -> None:
    """Raises TypeError where shuffle, order or callbacks have the wrong type."""
    if not isinstance(shuffle, (bool, np.bool_)):
        raise TypeError(
            f"shuffle must be True or False, got {type(shuffle).__name__}; rows in an order of your own are order=f, "
            "epoch -> row numbers"
        )
    if order is not None and not callable(order):
        raise TypeError(f"order must be a callable epoch -> row numbers, got {type(order).__name__}")
    if not isinstance(callbacks, (list, tuple)):
        raise TypeError(
            f"callbacks must be a list or tuple of callables f(epoch, history, net), got {type(callbacks).__name__}"
        )
    for i, callback in enumerate(callbacks):
        if not callable(callback):
            raise TypeError(f"callbacks[{i}] must be callable f(epoch, history, net), got {type(callback).__name__}")


# ---- the loop ---------------------------------------------------------------------------------------


class _Fit:
    """One fit: the epochs, their slices, and what is done between them."""

    def __init__(
        self,
        net: Network,
        program: Program,
        snapshot: Snapshot,
        data: TrainingData,
        orders: Orders,
        callbacks: Sequence[Any],
        progress: Any,
        best: BestEpoch | None,
    ) -> None:
        self.net, self.program, self.data, self.orders = net, program, data, orders
        self.callbacks, self.progress, self.best = callbacks, progress, best
        self.history = History(with_l2=net.l2 > 0)
        self.snapshot, self.host = snapshot, HostCopy(net, program.optimizer)
        # Nothing is known of the speed yet, and the first slice may capture or compile: so many steps that they are
        # soon over anywhere. A fit of few steps has no other slice.
        self.steps_per_slice = max(1, FIRST_SLICE_FLOPS // (6 * net.layout.size * program.batch_size + STEP_FLOPS))
        self.interrupted = False  # a Ctrl-C came in the slice that completed an epoch
        self.clip_norm = program.optimizer.clip_norm
        self.counts_hits = net._counts_hits(data.y) and not data.has_fractions(net)

    def run(self, epochs: int) -> History:
        first = self.net.epochs_trained
        self.done = 0  # steps completed in the current epoch
        self.progress.start(epochs, self.program.steps(self.data.train_rows.shape[0]))
        try:
            for epoch in range(first, first + epochs):
                self._epoch(epoch)
                self.net._learnt(epochs=epoch + 1, scale=self.net.scale)
                self.progress.epoch(epoch, self.history)
                with interrupt_after():  # a copy that is torn would be gone back to
                    over = self.best is not None and self.best.is_over(self.history)
                wishes = [is_true(callback(epoch, self.history, self.net)) for callback in self.callbacks]
                if wishes and not self._all_finite():
                    raise ValueError(
                        f"a callback has left NaN or infinity in the parameters, or in the optimizer's state, after "
                        f"epoch {epoch}; they are as it left them"
                    )
                if self.program.optimizer.clip_norm != self.clip_norm:
                    raise RuntimeError(
                        f"a callback has set clip_norm, by which this fit was planned, from {self.clip_norm} to "
                        f"{self.program.optimizer.clip_norm} after epoch {epoch}; set it between fits"
                    )
                if any(wishes) or over:  # of a list, so that every callback sees every epoch
                    break
                if self.interrupted:
                    raise KeyboardInterrupt
                if epoch + 1 < first + epochs and self.program.optimizer.lost(self.net):
                    raise RuntimeError(
                        f"a callback has reset {self.program.optimizer!r}, by which this fit trains, after epoch "
                        f"{epoch}, or trained another network by it; do so between fits"
                    )
        except KeyboardInterrupt:
            self.history.interrupted = True
            # it may have come when the epoch was recorded and not counted yet
            trained = max(self.net.epochs_trained, first + len(self.history.cost))
            self.net._learnt(epochs=trained, scale=self.net.scale)
            kept = (
                "the last completed step is kept"
                if self.history.best is None
                else "the parameters go back to those of the best epoch"
            )
            warnings.warn(
                f"interrupted in epoch {self.net.epochs_trained} after {self.done} steps of it (epochs count from 0); "
                f"{kept}",
                TrainingInterrupted,
                stacklevel=4,  # the caller of Network.fit
            )
        except Exception as error:
            if (lost := self.host.rescue(error, self.history)) is not None:
                raise lost from error
            raise
        finally:
            self.progress.stop()
        if self.best is not None:
            with interrupt_after():
                self.best.restore(self.history)
        return self.history

    def _epoch(self, epoch: int) -> None:
        order = self.orders.of(epoch)
        self.program.key = epoch_key(self.orders.seed, epoch)
        on_device = self.net.backend.asarray(order)
        steps = self.program.steps(order.shape[0])
        cost_sum, rows, seconds = 0.0, 0, 0.0
        self.done = 0
        while self.done < steps:
            stop = min(steps, self.done + self.steps_per_slice)
            taken = stop - self.done
            began = time.perf_counter()
            self.program.continues = self.done > 0  # so that sums do not depend on the clock, which cuts the slices
            cost_sum, slice_rows = self._slice(on_device, self.done, stop, epoch)
            elapsed = time.perf_counter() - began
            self.steps_per_slice = max(1, min(int(taken * SLICE_SECONDS / max(elapsed, 1e-9)), 1 << 30))
            rows, seconds = rows + slice_rows, seconds + elapsed
            self.progress.advance(stop)
        self.net.backend.flush_subnormals(self.net.theta, *self.program.optimizer.state)
        self._record(cost_sum / rows, (self.program.hits or 0) / rows, seconds)
        self.done = 0

    def _slice(self, order: Array, start: int, stop: int, epoch: int) -> tuple[float, int]:
        """Run steps start..stop, or undo them: on divergence, and on any exception from inside the program."""
        self.snapshot.take()
        self.host.refresh(epoch, start)
        epoch_ends = stop == self.program.steps(order.shape[0])
        result: tuple[float, int] | None = None
        try:
            with interrupt_after():
                rates = _rates(self.program.optimizer, epoch, start, stop, self.program.steps(order.shape[0]))
                cost_sum, rows = self.program.run(self.data.x, self.data.y, order, start, stop, rates)
                if not (math.isfinite(cost_sum) and self._all_finite()):
                    raise self._diverged(epoch, start, stop, order)
                result = cost_sum, rows
                self.done = stop
                if self.data.scale is not None:
                    # now that the network has learnt something of such rows
                    self.net._learnt(epochs=self.net.epochs_trained, scale=self.data.scale)
        except KeyboardInterrupt:
            if result is None:
                self.snapshot.restore()
            if result is None or not epoch_ends:
                raise
            self.interrupted = True  # the epoch is complete: it is recorded before the fit ends
        except BaseException:
            self.snapshot.restore()
            raise
        return result

    def _all_finite(self) -> bool:
        """Whether parameters and the optimizer's state are finite. Squares in the state overflow first, and then
        nothing moves any more.
        """
        return all(map(self.net.backend.all_finite, (self.net.theta, *self.program.optimizer.state)))

    def _record(self, cost: float, accuracy: float, seconds: float) -> None:
        """Append one epoch; validation first, so that an interrupt there leaves lists of equal length."""
        net, history = self.net, self.history
        val_cost, val_hits, val_rows = 0.0, None, 0
        if self.data.validation is not None:
            x, y, weights = self.data.validation
            val_rows = x.shape[0]
            val_cost, val_hits = net._evaluate(x, y, weights)
        with interrupt_after():  # an entry in each list or in none
            history.cost.append(cost)
            history.seconds.append(seconds)
            history.learning_rate.append(self.program.optimizer.rate)
            if self.counts_hits:
                history.accuracy.append(accuracy)
            if val_rows:
                history.val_cost.append(val_cost)
                if self.counts_hits and val_hits is not None:
                    history.val_accuracy.append(val_hits / val_rows)

    def _diverged(self, epoch: int, start: int, stop: int, order: Array) -> Diverged:
        """The error with epoch, step, layer and likely causes; the snapshot is restored."""
        net, rule = self.net, self.program.optimizer
        found = self._first_failure(epoch, order, start, stop)
        what = "the cost, a parameter or the optimizer's state is no longer finite"
        where = (
            f"step {found[0]}: {what}, first in layer {found[1]}"
            if found
            else f"steps {start} to {stop - 1}: {what}. Re-running these steps one at a time stays finite"
        )
        if found and found[2]:
            where += f": an output e^z is beyond {net.dtype} there (z > {np.log(np.finfo(net.dtype).max):.2f})"
        self.snapshot.restore()
        failed = found[0] if found else stop - 1
        rates = _rates(rule, epoch, failed, failed + 1, self.program.steps(order.shape[0]))
        rate = rule.rate if rates is None else float(rates[0])
        largest, parameter = self.data.largest(), float(abs(net.theta).max())
        causes = [f"the learning rate {rate:g} is too large"]
        if rate * net.l2 > (self.data.total_weight or self.data.train_rows.shape[0]):  # thrown beyond 0 by a step
            causes.append(f"l2={net.l2:g} is too large for this learning rate")
        if largest > 10:
            causes.append(f"the inputs are not scaled (largest |X| is {largest:g})")
        if (
            net.pair.targets in ("values", "numbers")
            and self.data.y.ndim == 2
            and (top := float(abs(self.data.y).max())) > 10
        ):
            causes.append(f"the targets are not scaled (largest |y| is {top:g})")
        if parameter > LARGE_PARAMETER:
            causes.append(f"parameters were as large as {parameter:g} before already")
        elif epoch == 0:
            causes.append("the initial weights are too large")
        return Diverged(
            f"training diverged in epoch {epoch}, {where}. Likely causes: {'; '.join(causes)}. Parameters and "
            "optimizer are back at the last finite slice. Epochs and steps count from 0.",
            epoch=epoch,
            layer=found[1] if found else None,
            history=self.history,
        )

    def _first_failure(self, epoch: int, order: Array, start: int, stop: int) -> tuple[int, int, bool] | None:
        """Run the slice again step by step, and return the step that fails, its layer (2..L), and whether an output e^z
        is infinite where z is not. None if no step fails: single steps may round differently from the whole slice.

        After a step backpropagation has carried the NaN into every layer, so the step is looked at
        from the parameters before it: the first z going forward, else the first Delta coming back,
        else the first parameter that its own update made infinite.
        """
        net, program, finite = self.net, self.program, self.net.backend.all_finite
        self.snapshot.restore()
        program.continues = False
        before = Snapshot(net, program.optimizer)
        for step in range(start, stop):
            before.take()
            program.clear()
            rates = _rates(program.optimizer, epoch, step, step + 1, program.steps(order.shape[0]))
            cost_sum, _ = program.run(self.data.x, self.data.y, order, step, step + 1, rates)
            if math.isfinite(cost_sum) and self._all_finite():
                continue
            vectors = [net.split(vector) for vector in (net.theta, *program.optimizer.state)]
            bad_parameters = [
                not all(finite(W[layer]) and finite(b[layer]) for W, b in vectors) for layer in range(len(net.weights))
            ]
            before.restore()
            rows = order[step * program.batch_size : (step + 1) * program.batch_size]
            weights = None if program.weights is None else program.weights[rows]
            with np.errstate(all="ignore"):
                x = self.data.rows(net, rows)
                factors = net._dropped(Drawn(program.key, step), len(rows))
                z, _, a = net._forward(x, factors)
                bad_z = [not finite(values) for values in z]
                bad_Delta = [False] * len(z)
                overflows = net.output.name == "exp" and not any(bad_z) and not finite(a[-1])
                if not any(bad_z):
                    Delta_W, Delta_b = net.split(net._backpropagate(x, self.data.y[rows], None, weights, factors)[1])
                    bad_Delta = [not (finite(W) and finite(b)) for W, b in zip(Delta_W, Delta_b, strict=True)]
            if any(bad_z):
                return step, 2 + bad_z.index(True), False
            if any(bad_Delta):
                return step, 1 + len(z) - bad_Delta[::-1].index(True), overflows
            return step, 2 + bad_parameters.index(True) if any(bad_parameters) else 1 + len(z), overflows
        return None


def is_true(answer: Any) -> bool:
    """Whether the answer is True, of Python or NumPy. Other truthy values, such as a list that a callback happens to
    return, do not stop a fit.
    """
    return isinstance(answer, (bool, np.bool_)) and bool(answer)


def _rates(optimizer: Optimizer, epoch: int, start: int, stop: int, steps: int) -> np.ndarray[Any, Any] | None:
    """alpha of steps start..stop of an epoch of so many steps; None where it is one number (fastnn.schedules)."""
    schedule = optimizer.learning_rate
    if not isinstance(schedule, Schedule):
        return None
    return rates_at(schedule, epoch - optimizer.first_epoch + np.arange(start, stop) / steps)


class _NoProgress:
    def start(self, epochs: int, steps_per_epoch: int) -> None: ...
    def advance(self, steps_done_in_epoch: int) -> None: ...
    def epoch(self, epoch: int, history: History) -> None: ...
    def stop(self) -> None: ...


def _progress(progress: Any) -> Any:
    if progress is True:
        from .progress import RichProgress

        return RichProgress()
    if progress is False:
        return _NoProgress()
    missing = [name for name in ("start", "advance", "epoch", "stop") if not callable(getattr(progress, name, None))]
    if missing:
        raise TypeError(
            f"progress must be True, False or an object with start, advance, epoch and stop, got {progress!r}, which "
            f"lacks {', '.join(missing)}"
        )
    return progress
