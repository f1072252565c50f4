"""The learning curve of a fit as a picture. Needs matplotlib (extra `plot`), which is imported when first used."""

from __future__ import annotations

import importlib.util
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files
from .errors import pip_install

if TYPE_CHECKING:
    from .training import History

__all__ = ["INSTALL", "available", "learning_curve"]

INSTALL = pip_install("plot")
TRAINING, VALIDATION = "#1f6fb4", "#d1601f"  # apart for colour-blind eyes, and in grey


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def learning_curve(history: History, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Write a picture in one move: cost, and accuracy where there is one, against the epoch, of training and validation
    rows.

    Parameters
    ----------
    history : History
        At least one epoch.
    path : path
        Overwritten; its ending, such as .png, .pdf or .svg, chooses the format, and .png is added to none.

    Raises
    ------
    ValueError
        The history is empty, or the ending is no picture format.
    ImportError
        matplotlib is missing.
    OSError
        The file cannot be written.
    """
    if not history.cost:
        raise ValueError("history holds no completed epoch, there is nothing to draw")
    # No pyplot: it keeps global state and may look for a display.
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"a learning curve needs matplotlib, which cannot be imported ({error}): {INSTALL}") from None

    panels: list[tuple[str, list[float], list[float]]] = [("cost", history.cost, history.val_cost)]
    if history.accuracy:
        panels.append(("accuracy", history.accuracy, history.val_accuracy))
    figure = Figure(figsize=(5.2 * len(panels), 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, training, validation) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        _panel(axes, name, training, validation, history.best, history.with_l2 and name == "cost")
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=11)
    picture, path = io.BytesIO(), Path(path)
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    figure.savefig(picture, dpi=130, format=path.suffix[1:].lower())
    files.replace(path, picture.getvalue())


def _panel(
    axes: Any, name: str, training: list[float], validation: list[float], best: int | None, with_l2: bool
) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    marker = "o" if len(training) <= 40 else ""
    of_training = "training, with L2" if with_l2 else "training"
    for label, values, colour in ((of_training, training, TRAINING), ("validation", validation, VALIDATION)):
        if values:
            axes.plot(
                range(1, len(values) + 1),
                values,
                color=colour,
                marker=marker,
                markersize=3,
                linewidth=1.6,
                label=f"{label}, last {_last(name, values[-1])}",
            )
    if best is not None:
        axes.axvline(best + 1, color="0.5", linewidth=1, linestyle=":", label="best epoch")
    if name == "cost" and min([*training, *validation]) > 0 and max(training) > 20 * min(training):
        axes.set_yscale("log")
    if name == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _last(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.4g}"
