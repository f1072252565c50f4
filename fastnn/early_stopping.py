"""Stopping early: the best epoch so far by the cost of the validation rows, by their accuracy or by a figure of one's
own, and when to look no further.

Reference: L. Prechelt, "Early Stopping - But When?", in "Neural Networks: Tricks of the Trade", LNCS 1524, 1998,
section 2.1 (the network of the lowest validation cost is what training returns) and the class of criteria UP (stop
after a number of epochs without improvement).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import finite_number, positive_integer, unknown_name
from .snapshot import Snapshot

if TYPE_CHECKING:
    from .network import Network
    from .optimizers import Optimizer
    from .training import History
    from .training_data import TrainingData

__all__ = ["MONITORS", "BestEpoch", "Patience", "checked"]

MONITORS = ("val_cost", "val_accuracy")


class Patience(NamedTuple):
    """epochs in a row without a better one, after which a fit is over; better is a lower val_cost, a higher
    val_accuracy, or a higher value of a function of the network.
    """

    epochs: int
    monitor: str | Callable[[Network], Any] = "val_cost"


def checked(net: Network, data: TrainingData, patience: Any, monitor: Any) -> Patience | None:
    """`patience` and `monitor` as `fit` is given them; None without patience.

    Raises
    ------
    TypeError, ValueError
        One of them is not what it should be, or there is nothing to monitor.
    """
    if not callable(monitor):
        if not isinstance(monitor, str):
            raise TypeError(
                f"monitor must be 'val_cost', 'val_accuracy' or a callable f(net) -> float, got {monitor!r} "
                f"({type(monitor).__name__})"
            )
        if monitor not in MONITORS:
            raise unknown_name("monitor", monitor, MONITORS)
    if patience is None:
        if monitor != "val_cost":
            raise ValueError(f"monitor={monitor!r} is what patience waits for; give that too, as in patience=10")
        return None
    epochs = positive_integer("patience", patience)
    if callable(monitor):
        return Patience(epochs, monitor)
    what = "a lower cost" if monitor == "val_cost" else "a higher accuracy"
    if data.validation is None:
        raise ValueError(
            f"patience={patience} waits for {what} of the validation rows, and there are none; give "
            "validation=0.1, or (X, y)"
        )
    if monitor == "val_accuracy" and not (
        net._counts_hits(data.y) and net._counts_hits(data.validation[1]) and not data.has_fractions(net)
    ):
        raise ValueError(
            "monitor='val_accuracy' is for classes and for 0 and 1, and these targets are neither; give 'val_cost', or "
            "a callable f(net) -> float"
        )
    return Patience(epochs, monitor)


class BestEpoch:
    """Keeps a copy of what a fit changes, as it was after the best epoch."""

    def __init__(self, net: Network, optimizer: Optimizer, patience: Patience) -> None:
        self.net, self.patience, self._highest = net, patience, float("-inf")
        self._snapshot = Snapshot(net, optimizer)

    def is_over(self, history: History) -> bool:
        """Looks at the epoch that was recorded last; `history.best` becomes its place if no epoch was as good. True
        after `patience` epochs in a row that were no better.

        Raises
        ------
        TypeError, ValueError
            What a function of one's own gives is no finite number.
        """
        last = len(history.cost) - 1
        if (value := self._value(history)) > self._highest:  # not for NaN
            self._highest, history.best = value, last
            self._snapshot.take()
        return last - (-1 if history.best is None else history.best) >= self.patience.epochs

    def _value(self, history: History) -> float:
        """Of the epoch that was recorded last; the higher, the better."""
        monitor = self.patience.monitor
        if not callable(monitor):
            return -history.val_cost[-1] if monitor == "val_cost" else history.val_accuracy[-1]
        history.monitored.append(float("nan"))  # an entry in each list, also where that does not end well
        value = monitor(self.net)
        if getattr(value, "ndim", None) == 0:
            value = value.item()
        history.monitored[-1] = finite_number(
            f"the value of monitor={monitor!r} after epoch {self.net.epochs_trained - 1}", value
        )
        return history.monitored[-1]

    def restore(self, history: History) -> None:
        """Go back to the best epoch, if there is one."""
        if history.best is not None:
            self._snapshot.restore()
