"""Stopping early: the best epoch so far by the cost of the validation rows, and when to look no further.

Reference: L. Prechelt, "Early Stopping - But When?", in "Neural Networks: Tricks of the Trade", LNCS 1524, 1998,
section 2.1 (the network of the lowest validation cost is what training returns) and the class of criteria UP (stop
after a number of epochs without improvement).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .snapshot import Snapshot

if TYPE_CHECKING:
    from .network import Network
    from .optimizers import Optimizer
    from .training import History

__all__ = ["BestEpoch"]


class BestEpoch:
    """Keeps a copy of what a fit changes, as it was after the epoch of the lowest validation cost.

    patience : epochs without a lower one after which the fit is over
    """

    def __init__(self, net: Network, optimizer: Optimizer, patience: int) -> None:
        self.patience, self._cost = patience, float("inf")
        self._snapshot = Snapshot(net, optimizer)

    def is_over(self, history: History) -> bool:
        """Looks at the epoch that was recorded last; `history.best` becomes its place if no epoch's cost was lower.
        True after `patience` epochs in a row that were no better.
        """
        last = len(history.val_cost) - 1
        if history.val_cost[last] < self._cost:  # not for NaN
            self._cost, history.best = history.val_cost[last], last
            self._snapshot.take()
        return last - (-1 if history.best is None else history.best) >= self.patience

    def restore(self, history: History) -> None:
        """Go back to the best epoch, if there is one."""
        if history.best is not None:
            self._snapshot.restore()
