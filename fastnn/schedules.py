"""Learning rates that change while a network trains: a small table of frozen classes.

A schedule is a function of the position e, the number of epochs the network has been trained by the
optimizer, as a real number: step s (from 0) of the S steps of epoch 3 has e = 3 + s / S. So a schedule is
the same for every batch size. It begins with the optimizer: where `fit` is given a name, or an instance
that has not taken a step, it counts from 0; an instance that goes on in another fit, or after
`fastnn.resume`, goes on in its schedule too.

    net.fit(X, y, optimizer="momentum", batch_size=8192, epochs=30,
            learning_rate=schedules.WarmUp(schedules.Cosine(0.8, epochs=30), epochs=5))

Cosine and Polynomial without `epochs` end where the fit ends that first trains by them, here WarmUp(Cosine(0.8), 5);
the optimizer keeps the length that they get there.

Wherever a schedule takes a schedule, it takes a number as well, for a rate that stays, or a function epoch -> rate
(PerEpoch).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .errors import finite_number, positive_integer

__all__ = [
    "Constant",
    "Cosine",
    "PerEpoch",
    "Piecewise",
    "Polynomial",
    "Schedule",
    "Step",
    "WarmUp",
    "config",
    "first_rate",
    "from_config",
    "get",
    "is_function",
    "rates_at",
    "scaled",
]

Array = NDArray[np.float64]
LONG = 1e9  # epochs


class Schedule:
    """alpha as a function of the epochs trained; compared and shown by its values."""

    def at(self, epochs: Any) -> Array:
        """alpha at these positions (any shape, >= 0), float64 of that shape."""
        raise NotImplementedError

    def times(self, factor: float) -> Schedule:
        """The same course with every rate multiplied by factor > 0."""
        raise NotImplementedError

    def over(self, epochs: float) -> Schedule:
        """The same course ending after so many epochs where it was made without a length, else itself."""
        return self


@dataclass(frozen=True)
class Constant(Schedule):
    """alpha = learning_rate > 0 for ever."""

    learning_rate: float

    def __post_init__(self) -> None:
        _check(self, learning_rate=(0, None))

    def at(self, epochs: Any) -> Array:
        return np.full(np.shape(epochs), self.learning_rate)

    def times(self, factor: float) -> Constant:
        return Constant(self.learning_rate * factor)


@dataclass(frozen=True)
class WarmUp(Schedule):
    """In a straight line from `start` to the rate that `then` has at `epochs`; from there `then` itself.

    Goyal et al. 2017 (arXiv 1706.02677, section 2.2, gradual warmup): from the small batch's rate to the
    large batch's over 5 epochs. `then` counts from the same epoch 0 as everything else, so that
    WarmUp(Cosine(0.8, 30), 5) ends at epoch 30.

    Parameters
    ----------
    then : Schedule or float
        What comes after.
    epochs : float
        Length > 0.
    start : float, optional
        Rate > 0 of the first step; a tenth of the rate at the end of the warm-up if not given.
    """

    then: Schedule | float
    epochs: float = 5.0
    start: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "then", get(self.then, "then"))
        _check(self, epochs=(0, None))
        if self.start is None:
            if _is_open(get(self.then)):  # which has no top yet
                return
            self._refuse_no_top()
            object.__setattr__(self, "start", self._top() / 10)
        _check(self, start=(0, None))

    def _refuse_no_top(self) -> None:
        if not self._top() > 0:
            raise ValueError(
                f"then={self.then!r} is down to {self._top():g} after epochs={self.epochs:g}, where the warm-up is "
                "to end; give a longer schedule, or a shorter warm-up"
            )

    def _top(self) -> float:
        assert isinstance(self.then, Schedule)
        return float(self.then.at(self.epochs))

    def at(self, epochs: Any) -> Array:
        assert isinstance(self.then, Schedule)
        if self.start is None:
            raise _no_length(self)
        e = np.asarray(epochs, np.float64)
        rising = self.start + (self._top() - self.start) * (e / self.epochs)
        return np.where(e < self.epochs, rising, self.then.at(e))

    def times(self, factor: float) -> WarmUp:
        assert isinstance(self.then, Schedule)
        return WarmUp(self.then.times(factor), self.epochs, None if self.start is None else self.start * factor)

    def over(self, epochs: float) -> WarmUp:
        assert isinstance(self.then, Schedule)
        if (then := self.then.over(epochs)) is self.then:
            return self
        whole = WarmUp(then, self.epochs, self.start)
        whole._refuse_no_top()
        return whole


@dataclass(frozen=True)
class Cosine(Schedule):
    """From learning_rate down to `final` along half a cosine in `epochs` epochs; `final` from there on.

    final + (learning_rate - final) (1 + cos(pi e / epochs)) / 2: Loshchilov and Hutter 2017
    (arXiv 1608.03983, equation 5) without restarts. 0 <= final <= learning_rate. Without `epochs` it ends with the fit.
    """

    learning_rate: float
    epochs: float | None = None
    final: float = 0.0

    def __post_init__(self) -> None:
        _check(self, learning_rate=(0, None), final=(None, 0), **_length(self.epochs))
        _descending(self)

    def at(self, epochs: Any) -> Array:
        share = np.minimum(_shares(self, epochs), 1.0)
        return self.final + (self.learning_rate - self.final) * (1 + np.cos(np.pi * share)) / 2

    def times(self, factor: float) -> Cosine:
        return replace(self, learning_rate=self.learning_rate * factor, final=self.final * factor)

    def over(self, epochs: float) -> Cosine:
        return replace(self, epochs=epochs) if self.epochs is None else self


@dataclass(frozen=True)
class Polynomial(Schedule):
    """From learning_rate down to `final` as (1 - e / epochs)^power; `final` from there on.

    power 2 is what LARS was published with (arXiv 1708.03888, algorithm 1), power 1 what LAMB was.
    power > 0, 0 <= final <= learning_rate. Without `epochs` it ends with the fit.
    """

    learning_rate: float
    epochs: float | None = None
    power: float = 2.0
    final: float = 0.0

    def __post_init__(self) -> None:
        _check(self, learning_rate=(0, None), power=(0, None), final=(None, 0), **_length(self.epochs))
        _descending(self)

    def at(self, epochs: Any) -> Array:
        left = np.maximum(1 - _shares(self, epochs), 0.0)
        return self.final + (self.learning_rate - self.final) * left**self.power

    def times(self, factor: float) -> Polynomial:
        return replace(self, learning_rate=self.learning_rate * factor, final=self.final * factor)

    def over(self, epochs: float) -> Polynomial:
        return replace(self, epochs=epochs) if self.epochs is None else self


@dataclass(frozen=True)
class Step(Schedule):
    """learning_rate times `factor` after every `every` epochs: learning_rate factor^floor(e / every). every, factor
    > 0.
    """

    learning_rate: float
    every: float
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check(self, learning_rate=(0, None), every=(0, None), factor=(0, None))

    def at(self, epochs: Any) -> Array:
        times = np.asarray(epochs, np.float64) / self.every
        # 0.3 / 0.1 is a little less than 3
        whole = np.where(np.isclose(times, np.rint(times), rtol=4e-16, atol=0), np.rint(times), np.floor(times))
        return self.learning_rate * self.factor**whole

    def times(self, factor: float) -> Step:
        return replace(self, learning_rate=self.learning_rate * factor)


@dataclass(frozen=True)
class Piecewise(Schedule):
    """learning_rates[0] before boundaries[0], then learning_rates[1], and so on; one rate more than boundaries.

    boundaries are positions > 0 in epochs, ascending; rates are > 0.
    """

    boundaries: tuple[float, ...]
    learning_rates: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("boundaries", "learning_rates"):
            given = getattr(self, name)
            if isinstance(given, (str, bytes)) or not hasattr(given, "__len__") or not hasattr(given, "__getitem__"):
                raise TypeError(f"{name} must be a sequence of numbers, got {given!r}")
            object.__setattr__(
                self, name, tuple(finite_number(f"{name}[{i}]", value, above=0) for i, value in enumerate(given))
            )
        if len(self.learning_rates) != len(self.boundaries) + 1:
            raise ValueError(
                f"learning_rates must be one more than the {len(self.boundaries)} boundaries, got "
                f"{len(self.learning_rates)}"
            )
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"boundaries must ascend, got {self.boundaries}")

    def at(self, epochs: Any) -> Array:
        return np.asarray(self.learning_rates)[
            np.searchsorted(self.boundaries, np.asarray(epochs, np.float64), side="right")
        ]

    def times(self, factor: float) -> Piecewise:
        return replace(self, learning_rates=tuple(rate * factor for rate in self.learning_rates))


@dataclass(frozen=True)
class PerEpoch(Schedule):
    """alpha = rate(epoch), the same for all steps of an epoch; epochs are whole numbers from 0. What a plain function
    given as a learning rate becomes. It must give the same rate whenever it is asked; a model file cannot hold it.

    Raises
    ------
    TypeError, ValueError
        When it is asked: the function gives no finite number >= 0.
    """

    rate: Callable[[int], float]

    def at(self, epochs: Any) -> Array:
        e = np.asarray(epochs, np.float64)
        whole, place = np.unique(np.floor(e), return_inverse=True)
        rates = [
            finite_number(f"the learning rate {self.rate!r} gives for epoch {k:g}", self.rate(int(k)), least=0)
            for k in whole
        ]
        return np.array(rates, np.float64)[place].reshape(e.shape)

    def times(self, factor: float) -> PerEpoch:
        return PerEpoch(lambda epoch: self.rate(epoch) * factor)


SCHEDULES: dict[str, type[Any]] = {cls.__name__: cls for cls in (Constant, WarmUp, Cosine, Polynomial, Step, Piecewise)}


def config(schedule: Schedule) -> dict[str, Any]:
    """The schedule as JSON can hold it, for `from_config`.

    Raises
    ------
    TypeError
        It is of a class of your own.
    """
    kind: Any = type(schedule)
    if kind not in SCHEDULES.values():
        raise TypeError(f"learning_rate={schedule!r} is a schedule of your own, which a model file cannot hold")
    values = {field.name: getattr(schedule, field.name) for field in fields(kind)}
    return {
        "name": kind.__name__,
        **{name: config(value) if isinstance(value, Schedule) else value for name, value in values.items()},
    }


def from_config(described: dict[str, Any]) -> Schedule:
    """The schedule that `config` described.

    Raises
    ------
    TypeError, ValueError
        It describes none.
    """
    values = dict(described)
    name = values.pop("name", None)
    if not isinstance(name, str) or name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}")
    return SCHEDULES[name](  # type: ignore[no-any-return]
        **{key: from_config(value) if isinstance(value, dict) else value for key, value in values.items()}
    )


def get(learning_rate: Schedule | float | Callable[[int], float], argument: str = "learning_rate") -> Schedule:
    """The schedule itself, a PerEpoch for a function of the epoch, or a Constant for a number > 0.

    Raises
    ------
    TypeError, ValueError
        None of them, or a number that is not finite and > 0.
    """
    if is_function(learning_rate):
        return PerEpoch(learning_rate)
    return (
        learning_rate
        if isinstance(learning_rate, Schedule)
        else Constant(finite_number(argument, learning_rate, above=0))
    )


def is_function(learning_rate: Any) -> TypeGuard[Callable[[int], float]]:
    """Of the epoch, and not a schedule; nor its class, which can be called too."""
    return callable(learning_rate) and not isinstance(learning_rate, (Schedule, type))


def scaled(
    learning_rate: Schedule | float, batch_size: int, *, base_batch: int, warmup_epochs: float = 5.0
) -> Schedule:
    """The rate for batches of batch_size, from one that was found for base_batch: linear scaling with gradual warm-up.

    Goyal et al. 2017 (arXiv 1706.02677, page 3): when the batch is k times as large, multiply the rate by k,
    and begin with the rate of the small batch, rising to the k-fold one over the first 5 epochs. The rule is
    for gradient descent and momentum, and for moderate k: on MNIST k = 64 does not train (docs/large-batches.md).

    Parameters
    ----------
    learning_rate : Schedule or float
        That of batches of base_batch rows.
    batch_size, base_batch : int
        Rows per step; k = batch_size / base_batch.
    warmup_epochs : float
        >= 0; 0 leaves the warm-up out.

    Returns
    -------
    Schedule
        k times the given one, after a warm-up that begins with the given one's first rate if k > 1.

    Raises
    ------
    TypeError, ValueError
        An argument that is not what it should be.
    """
    base = get(learning_rate)
    k = positive_integer("batch_size", batch_size) / positive_integer("base_batch", base_batch)
    warmup_epochs = finite_number("warmup_epochs", warmup_epochs, least=0)
    if k <= 1 or warmup_epochs == 0:
        return base.times(k)
    return WarmUp(base.times(k), warmup_epochs, start=float(base.at(0.0)))


def rates_at(schedule: Schedule, epochs: Any) -> Array:
    """What a schedule says at these positions, float64 of their shape.

    Raises
    ------
    TypeError, ValueError
        It says something else than a finite number >= 0 for each.
    """
    positions = np.asarray(epochs, np.float64)
    with np.errstate(all="ignore"):
        answer = schedule.at(positions)
    try:
        rates = np.asarray(answer, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"learning_rate={schedule!r} must give numbers, got {type(answer).__name__}") from None
    if rates.shape != positions.shape:
        raise ValueError(
            f"learning_rate={schedule!r} must give a rate for each of the positions, an array of shape "
            f"{positions.shape}, got shape {rates.shape}"
        )
    if not (wrong := np.isfinite(rates) & (rates >= 0)).all():
        at = positions[~wrong].flat[0]
        raise ValueError(
            f"learning_rate={schedule!r} must give finite rates >= 0, got {rates[~wrong].flat[0]:g} at epoch {at:g}"
        )
    return rates


def first_rate(schedule: Schedule) -> float:
    """What it begins with; where it was made without a length, that of a very long one. Errors as `rates_at`."""
    return float(rates_at(schedule.over(LONG), 0.0))


def _is_open(schedule: Schedule) -> bool:
    """Whether it was made without a length."""
    return schedule.over(LONG) is not schedule


def _no_length(schedule: Schedule) -> ValueError:
    return ValueError(
        f"{schedule!r} was made without a length, which is that of the fit; give epochs=, or ask schedule.over(epochs)"
    )


def _shares(schedule: Cosine | Polynomial, epochs: Any) -> Array:
    """Which part of its length these positions are; only 0 is known where it has none."""
    e = np.asarray(epochs, np.float64)
    if schedule.epochs is None:
        if e.any():
            raise _no_length(schedule)
        return e
    return e / schedule.epochs


def _length(epochs: float | None) -> dict[str, tuple[float | None, float | None]]:
    return {} if epochs is None else {"epochs": (0, None)}


def _check(schedule: Schedule, **bounds: tuple[float | None, float | None]) -> None:
    """Each field is a finite number (above, least), kept as a float."""
    for name, (above, least) in bounds.items():
        object.__setattr__(schedule, name, finite_number(name, getattr(schedule, name), above=above, least=least))


def _descending(schedule: Cosine | Polynomial) -> None:
    if not schedule.final <= schedule.learning_rate:
        raise ValueError(f"final must be at most learning_rate={schedule.learning_rate:g}, got {schedule.final:g}")
