"""Callbacks of `fit`: functions of (epoch, history, net), called after each epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .errors import finite_number, positive_integer
from .schedules import Schedule

if TYPE_CHECKING:
    from .network import Network
    from .training import History

__all__ = ["Plateau"]


class Plateau:
    """Lowers the learning rate of a running fit when its cost no longer falls: the validation cost, or without
    validation the training cost.

    The same instance serves one fit after another, and pickles and copies of estimators hold it.

    Parameters
    ----------
    factor : float
        The rate is multiplied by this, 0 < factor < 1.
    patience : int
        Number of epochs to wait for a cost that is lower than the lowest by more than `threshold` of it; counted anew
        after each cut.
    threshold : float
        >= 0, relative.
    least : float
        > 0; the rate is not lowered further than this.
    """

    def __init__(self, factor: float = 0.5, patience: int = 5, *, threshold: float = 1e-4, least: float = 1e-6) -> None:
        self.factor = finite_number("factor", factor, above=0, below=1)
        self.patience = positive_integer("patience", patience)
        self.threshold = finite_number("threshold", threshold, least=0)
        self.least = finite_number("least", least, above=0)

    def __call__(self, epoch: int, history: History, net: Network) -> None:
        rule = net.optimizer
        if rule is None:
            raise ValueError("Plateau lowers the rate of a fit by steps, and optimizer='lbfgs' has none")
        if isinstance(rule.learning_rate, Schedule):
            raise ValueError(
                f"Plateau lowers a learning rate that is a number, and that of {rule!r} is a schedule; give only "
                "one of them"
            )
        costs, rates = history.val_cost or history.cost, history.learning_rate
        best, improved = math.inf, 0
        for i, cost in enumerate(costs):
            if cost < (best - self.threshold * abs(best) if math.isfinite(best) else best):  # not for NaN
                best, improved = cost, i
        cut = max((i for i in range(1, len(rates)) if rates[i] != rates[i - 1]), default=0)  # this epoch had a new rate
        waited = len(costs) - 1 - max(improved, cut - 1)
        if waited >= self.patience and rule.rate > self.least:
            rule.learning_rate = max(rule.rate * self.factor, self.least)

    def __repr__(self) -> str:
        return f"Plateau({self.factor:g}, {self.patience}, threshold={self.threshold:g}, least={self.least:g})"
