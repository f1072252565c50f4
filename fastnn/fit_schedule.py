"""The schedule of a fit: how long it is, and whether it ends before the fit or goes on behind it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .errors import UnfinishedSchedule
from .schedules import Cosine, Polynomial, Schedule, WarmUp, rates_at

if TYPE_CHECKING:
    from .rule import Optimizer

__all__ = ["going_by", "of_fit", "refuse_spent", "warn_if_cut"]

MOST_EPOCHS = 1_000_000  # of which a schedule is looked at beforehand, and the last
MUCH = 0.5  # of the way down


def of_fit(learning_rate: float | Schedule, first: int, epochs: int) -> float | Schedule:
    """The same, with the end of this fit where it was made without one. first: epochs there have been."""
    return learning_rate.over(first + epochs) if isinstance(learning_rate, Schedule) else learning_rate


@contextlib.contextmanager
def going_by(rule: Optimizer, course: float | Schedule) -> Iterator[None]:
    """Inside, the rule goes by `course`; afterwards too if it has taken a step by then, else by what it had: a fit that
    nothing was learnt in is not the one that gives a schedule its length.
    """
    before, rate, steps = rule.learning_rate, rule.rate, rule.t
    if course is not before:
        rule.learning_rate = course
    try:
        yield
    finally:
        if rule.t == steps and rule.learning_rate is course is not before:
            rule.learning_rate = before
            rule.took(rate)


def refuse_spent(learning_rate: float | Schedule, first: int, epochs: int, steps: int) -> None:
    """A schedule that has reached 0 before the end of the fit would run epochs that change nothing."""
    if isinstance(learning_rate, Schedule):
        # a fit of 10^9 is one that something else will end
        looked_at = np.append(np.arange(first, first + min(epochs, MOST_EPOCHS)), first + epochs - 1)
        last_steps = looked_at + (steps - 1) / steps
        spent = last_steps[~(rates_at(learning_rate, last_steps) > 0)]
        if spent.size:
            raise ValueError(
                f"learning_rate={learning_rate!r} is down to 0 in epoch {int(spent[0])}, but this fit runs from epoch "
                f"{first} to {first + epochs - 1} (counted from 0, the optimizer's first); give a longer schedule, one "
                "with a final rate, fewer epochs, or an optimizer that begins anew"
            )


def warn_if_cut(learning_rate: float | Schedule, epochs: int, *, stacklevel: int) -> None:
    """UnfinishedSchedule where after so many epochs, when nothing comes behind them, a cosine or a polynomial has less
    than half of its way down behind it.
    """
    inner, begin = learning_rate, 0.0
    while isinstance(inner, WarmUp):
        begin, inner = max(begin, inner.epochs), inner.then
    if not isinstance(inner, (Cosine, Polynomial)) or inner.epochs is None:
        return
    top, final = float(inner.at(begin)), inner.final
    left = (float(inner.at(max(begin, epochs))) - final) / (top - final) if top > final else 0.0
    if left > MUCH:
        warnings.warn(
            f"learning_rate={learning_rate!r} is made for {inner.epochs:g} epochs, and training ends after {epochs}, "
            f"with {100 * left:.0f} % of the way down not gone; leave its epochs out, and it ends with the fit",
            UnfinishedSchedule,
            stacklevel=stacklevel + 1,
        )
