"""What `fit(progress=True)` shows on stderr: a live bar on a terminal, plain lines elsewhere.

Any object with the four methods of `RichProgress` can be given as `progress` instead.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from .training import History

__all__ = ["RichProgress", "epoch_line"]

LINES = 40  # of epochs, at most, however many epochs there are


def _at_no_cost(show: Callable[..., None]) -> Callable[..., None]:
    """`show`, after whose first failure nothing more is shown: a full disk or a reader who has gone must not end a
    training.
    """

    @functools.wraps(show)
    def shown(self: RichProgress, *args: Any) -> None:
        try:
            show(self, *args)
        except OSError:
            bar, self._bar, self._stream = self._bar, None, _nowhere()
            with contextlib.suppress(OSError):
                if bar is not None:
                    bar.stop()

    return shown


class RichProgress:
    """A bar over all steps, and a line for every epoch, or every few when there are many.

    Parameters
    ----------
    file : text stream, optional
        Where to; sys.stderr, looked up when the fit starts, if not given.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._bar: Any = None

    @_at_no_cost
    def start(self, epochs: int, steps_per_epoch: int) -> None:
        """A fit of so many epochs and steps begins."""
        self._epochs, self._steps = epochs, steps_per_epoch
        self._done, self._shown = 0, 0
        self._every = -(-epochs // LINES)
        # A program without a terminal may have no stderr.
        self._stream = self._file or sys.stderr or _nowhere()
        self._history: History | None = None
        if self._stream.isatty():
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task("", total=epochs * steps_per_epoch, epoch=f"epoch 1/{epochs}", figures="")
            self._bar.start()

    @_at_no_cost
    def advance(self, steps_done_in_epoch: int) -> None:
        """So many steps of the current epoch are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done * self._steps + min(steps_done_in_epoch, self._steps))

    @_at_no_cost
    def epoch(self, epoch: int, history: History) -> None:
        """An epoch is complete; `epoch` counts over the network's life, the lines count over this fit."""
        self._done, self._history = len(history.cost), history
        if self._done % self._every == 0 or self._done == 1:
            self._print()
        if self._bar is not None:
            following = f"epoch {min(self._done + 1, self._epochs)}/{self._epochs}"
            self._bar.update(self._task, completed=self._done * self._steps, epoch=following, figures=_figures(history))

    @_at_no_cost
    def stop(self) -> None:
        """The fit ended, for whatever reason."""
        if self._history is not None and self._shown < self._done:
            self._print()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self) -> None:
        assert self._history is not None
        self._shown = self._done
        line = epoch_line(self._done, self._epochs, self._history)
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _bar(stream: TextIO) -> Any:
    from rich.console import Console  # not for programs that show no bar
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.fields[epoch]}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[figures]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=Console(file=stream), transient=True,
    )  # fmt: skip


def epoch_line(done: int, epochs: int, history: History) -> str:
    """'epoch  3/20  training: cost 0.1234, accuracy 96.50 %   validation: ...   0.12 s' of the last epoch in the
    history.
    """
    width = len(str(epochs))
    parts = [f"epoch {done:{width}d}/{epochs}", _side("training", history.cost, history.accuracy, history.with_l2)]
    if history.val_cost:
        parts.append(_side("validation", history.val_cost, history.val_accuracy))
    return "  ".join([*parts, f"{history.seconds[-1]:.2f} s"])


def _side(name: str, cost: list[float], accuracy: list[float], with_l2: bool = False) -> str:
    hits = f", accuracy {100 * accuracy[-1]:6.2f} %" if accuracy else ""
    return f"{name}: {'cost with L2' if with_l2 else 'cost'} {cost[-1]:<8.4g}{hits}"


def _figures(history: History) -> str:
    shown = f"cost {history.cost[-1]:.4g}"
    if history.val_cost:
        shown += f" / {history.val_cost[-1]:.4g} val"
    if history.accuracy:
        shown += f", accuracy {100 * history.accuracy[-1]:.1f} %"
    if history.val_accuracy:
        shown += f" / {100 * history.val_accuracy[-1]:.1f} % val"
    return shown
