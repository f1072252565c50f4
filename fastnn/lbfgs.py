"""`fit(optimizer="lbfgs")`: all rows at once, by SciPy's L-BFGS-B on the engine's gradient; for small data, which it
fits more closely than rules that take a batch a step (noise too).

Reference: C. Zhu, R. H. Byrd, P. Lu, J. Nocedal, "Algorithm 778: L-BFGS-B", ACM Transactions on Mathematical Software
23, 1997. (Without bounds, as here, it is L-BFGS.)
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks
from .backends.base import Array
from .early_stopping import BestEpoch, Patience
from .errors import Diverged, TrainingInterrupted, pip_install
from .interrupts import interrupt_after
from .optimizers import SGD
from .training import History, is_true
from .training_data import TrainingData

if TYPE_CHECKING:
    from .network import Network

__all__ = ["fit_whole", "refuse"]

TOO_HIGH = 1e300  # what a cost that is not finite counts as, so that the search along the line turns back
LEAST_GAIN = {"float32": 1e-7, "float64": 2.2e-9}  # of the cost, relative; what float32 rounds away is none


def refuse(net: Network, learning_rate: Any, batch_size: Any, order: Any) -> None:
    """ValueError for arguments of `fit` that mean nothing to it."""
    for name, given in (("learning_rate", learning_rate), ("batch_size", batch_size), ("order", order)):
        if given is not None:
            raise ValueError(
                f"{name}={given!r} means nothing to optimizer='lbfgs', which takes all rows at once and finds its "
                "steps itself"
            )
    if any(net.dropout):
        raise ValueError(
            f"dropout={net.dropout} changes the cost at random, and optimizer='lbfgs' needs the same one all the time"
        )


def fit_whole(
    net: Network,
    data: TrainingData,
    *,
    iterations: int,
    micro_batch: int | None,
    callbacks: Sequence[Any],
    progress: Any,
    patience: Patience | None,
) -> History:
    """At most so many iterations, each an epoch of the history; fewer where the cost falls no more.

    Raises
    ------
    ImportError
        SciPy is missing.
    Diverged
        The cost is not finite to begin with; nothing was changed.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise ImportError(
            f"optimizer='lbfgs' needs SciPy, which cannot be imported ({error}): {pip_install('cpu')}"
        ) from None
    search = _Search(net, data, micro_batch, callbacks, progress, patience)
    history, start = search.history, search.accepted
    if not search.cost_and_gradient(start)[0] < TOO_HIGH:
        search.write(start)
        raise Diverged(
            f"the cost is not finite before the first iteration: X or the targets (largest |X| is {data.largest():g}) "
            "or the parameters are far too large",
            epoch=net.epochs_trained, layer=None, history=history,
        )  # fmt: skip
    options = {"maxiter": iterations, "maxfun": 20 * iterations + 100, "ftol": LEAST_GAIN[net.dtype.name]}
    progress.start(iterations, 1)
    try:
        with suppress(StopIteration):
            minimize(
                search.cost_and_gradient, start, jac=True, method="L-BFGS-B", options=options, callback=search.iterated
            )
    except KeyboardInterrupt:
        history.interrupted = True
        warnings.warn(
            f"interrupted after {len(history.cost)} iterations; the last complete one is kept",
            TrainingInterrupted,
            stacklevel=4,  # the caller of Network.fit
        )
    finally:
        progress.stop()
        with interrupt_after():
            search.write(search.accepted)  # the last that was tried may lie beyond it
            if search.best is not None:
                search.best.restore(history)
    return history


class _Search:
    """What the minimiser is given, and what is done after each of its iterations."""

    def __init__(
        self,
        net: Network,
        data: TrainingData,
        micro_batch: int | None,
        callbacks: Sequence[Any],
        progress: Any,
        patience: Patience | None,
    ) -> None:
        self.net, self.data, self.callbacks, self.progress = net, data, callbacks, progress
        self.history = History(with_l2=net.l2 > 0)
        self.best = None if patience is None else BestEpoch(net, SGD(), patience)
        self.accepted = np.array(net.backend.to_numpy(net.theta), np.float64)
        self._rows = len(data.train_rows)
        self._total = data.total_weight or float(self._rows)
        most = micro_batch or max(1, checks.BLOCK // max(net.sizes))
        index = net.backend.asarray(data.train_rows)
        self._parts = [index[first : first + most] for first in range(0, self._rows, most)]
        self._counts_hits = net._counts_hits(data.y) and not data.has_fractions(net)
        self._tried: tuple[Array, float, int] = (np.empty(0), math.inf, 0)  # parameters, their cost, rows right
        self._began = time.perf_counter()

    def write(self, theta: Array) -> None:
        """The network's parameters."""
        backend = self.net.backend
        with np.errstate(over="ignore"):
            backend.copyto(self.net.theta, backend.asarray(theta.astype(self.net.dtype)))

    def cost_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """J and D (P,) over all training rows, in float64; the network holds theta afterwards."""
        net, data = self.net, self.data
        self.write(theta)
        cost_sum, hits, Delta = 0.0, 0, None
        with np.errstate(all="ignore"):
            for rows in self._parts:
                found = net.backend.gradient(net, data.x, data.y, rows, data.weights, 0.0, None, data.scale or 1.0)
                if found is not None:
                    of_part, D, right = found
                    Delta = D * D.dtype.type(len(rows)) if Delta is None else Delta + D * D.dtype.type(len(rows))
                    cost_sum, hits = cost_sum + of_part * len(rows), hits + (right or 0)
                    continue
                y, weights = data.y[rows], None if data.weights is None else data.weights[rows]
                of_part, Delta, h = net._backpropagate(data.rows(net, rows), y, Delta, weights)
                cost_sum += of_part
                hits += net._count_hits(h, y) or 0
            assert Delta is not None
            Delta /= self._rows
            net._add_l2_gradient(Delta, net.l2 / self._total)
            cost = cost_sum / self._rows + net.l2 / (2 * self._total) * net._sum_of_squared_weights()
        gradient = np.asarray(net.backend.to_numpy(Delta), np.float64)
        if not (math.isfinite(cost) and np.isfinite(gradient).all()):
            cost, gradient = TOO_HIGH, np.zeros_like(gradient)
        self._tried = theta.copy(), cost, hits
        return cost, gradient

    def iterated(self, intermediate_result: Any) -> None:
        """SciPy has accepted these parameters (the argument's name tells it to give the cost too)."""
        net, history, theta = self.net, self.history, np.array(intermediate_result.x)
        if not np.array_equal(theta, self._tried[0]):
            self.cost_and_gradient(theta)
        _, cost, hits = self._tried
        val_cost, val_hits, val_rows = 0.0, None, 0
        before, scale = net.scale, net.scale if self.data.scale is None else self.data.scale
        if self.data.validation is not None:
            x, y, weights = self.data.validation
            val_rows = x.shape[0]
            net._learnt(epochs=net.epochs_trained, scale=scale)  # engines may keep these rows as integers
            try:
                val_cost, val_hits = net._evaluate(x, y, weights)
            except BaseException:  # the parameters that are kept are still those of before
                net._learnt(epochs=net.epochs_trained, scale=before)
                raise
        now = time.perf_counter()
        with interrupt_after():  # an entry in each list or in none
            self.accepted = theta
            history.cost.append(cost)
            history.seconds.append(now - self._began)
            if self._counts_hits:
                history.accuracy.append(hits / self._rows)
            if val_rows:
                history.val_cost.append(val_cost)
                if self._counts_hits and val_hits is not None:
                    history.val_accuracy.append(val_hits / val_rows)
            net._learnt(epochs=net.epochs_trained + 1, scale=scale)
            over = self.best is not None and self.best.is_over(history)
        epoch = net.epochs_trained - 1
        self.progress.epoch(epoch, history)
        wishes = [is_true(callback(epoch, history, net)) for callback in self.callbacks]
        self._began = time.perf_counter()
        if any(wishes) or over:
            raise StopIteration
