"""Errors and warnings of fastnn, and the wording they share. Imports the standard library only."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from typing import Any

# What other libraries call a thing -> its name here.
ELSEWHERE = {
    **dict.fromkeys(("xavier", "xavier_uniform", "xavier_normal", "glorot_uniform", "glorot_normal"), "glorot"),
    **dict.fromkeys(("kaiming", "kaiming_uniform", "kaiming_normal", "he_uniform", "he_normal"), "he"),
    **dict.fromkeys(("linear", "none"), "identity"),
    **dict.fromkeys(("logistic", "expit"), "sigmoid"),
    "exponential": "exp",
    "swish": "silu",
    **dict.fromkeys(("mse", "mean_squared_error", "l2_loss", "mseloss"), "squared_error"),
    **dict.fromkeys(("mae", "mean_absolute_error", "l1_loss", "l1loss"), "absolute_error"),
    **dict.fromkeys(("huberloss", "huber_loss", "smooth_l1"), "huber"),
    **dict.fromkeys(("pinball", "pinball_loss", "quantile_loss"), "quantile"),
    **dict.fromkeys(("poisson_loss", "poisson_nll", "poisson_nll_loss", "half_poisson"), "poisson"),
    **dict.fromkeys(
        (
            "log_loss",
            "nll",
            "bce",
            "categorical_crossentropy",
            "binary_crossentropy",
            "sparse_categorical_crossentropy",
        ),
        "cross_entropy",
    ),
    **dict.fromkeys(("gd", "gradient_descent"), "sgd"),
    **dict.fromkeys(("cuda", "gpu"), "cupy"),
    "cpu": "numba",
    **dict.fromkeys(("float32", "full"), "fp32"),
    "bfloat16": "bf16",
}


def pip_install(extra: str = "") -> str:
    """The command that installs fastnn with an extra. There is no release: it is installed from a clone, and
    another project may take any name on PyPI.
    """
    wanted = f".[{extra}]" if extra else "."
    return f'pip install "{wanted}" in the folder of a clone of fastnn'


class BackendUnavailable(RuntimeError):
    """The engine asked for by name cannot run here. The message gives the reason and the install command."""


class Diverged(ArithmeticError):
    """Training stopped because the cost or a parameter became infinite or NaN.

    The network and the optimizer are back at the last finite slice when this is raised.

    Attributes
    ----------
    epoch : int
        Epoch in which it happened, counted over the network's life.
    layer : int or None
        Layer l (2..L, as in the lecture) where the first non-finite number was found; None where it was not found
        again when the steps were repeated one by one.
    history : fastnn.training.History
        The completed epochs.
    """

    def __init__(self, message: str, *, epoch: int, layer: int | None, history: object) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.layer = layer
        self.history = history

    def __reduce__(self) -> tuple[Any, ...]:  # from a worker of a pool it comes as a pickle
        made = functools.partial(type(self), epoch=self.epoch, layer=self.layer, history=self.history)
        return made, self.args, self.__dict__


class DeviceLost(RuntimeError):
    """The GPU stopped answering while a network trained. The network is on the NumPy engine when this is raised.

    Attributes
    ----------
    epoch, step : int
        Its parameters are those from before this step of this epoch.
    history : fastnn.training.History
        The completed epochs.
    """

    def __init__(self, message: str, *, epoch: int, step: int, history: object) -> None:
        super().__init__(message)
        self.epoch, self.step, self.history = epoch, step, history

    def __reduce__(self) -> tuple[Any, ...]:
        made = functools.partial(type(self), epoch=self.epoch, step=self.step, history=self.history)
        return made, self.args, self.__dict__


class ModelFileError(ValueError):
    """The file is not a model, is damaged, or describes something this version does not know."""


class DataFileError(ValueError):
    """A data file (IDX, CSV, npz) is missing, truncated, or malformed."""


class TrainingInterrupted(UserWarning):
    """Ctrl-C stopped a fit; the last completed step was kept."""


class SymmetricStart(UserWarning):
    """Some hidden units start identical and will stay identical."""


class UnfinishedSchedule(UserWarning):
    """A fit ends with most of the way down of its learning rate not gone."""


class UnknownCategory(UserWarning):
    """A table holds a text that did not occur in training; it counts as none of the column's categories."""


class UnscaledInput(UserWarning):
    """The data are not on the scale that the network expects.

    Whole numbers beyond 1 as floats, for a network that scales integers and takes floats as they are; rows of a table,
    for a network that takes them scaled; or targets whose differences the dtype rounds away.
    """


def nearest(given: object, known: Iterable[str], cutoff: float = 0.5) -> str:
    """'; did you mean 'relu'?' or '' - the nearest of the known names, or what other libraries' name for it is
    here, for error messages.
    """
    names = list(known)
    elsewhere = ELSEWHERE.get(str(given).lower().replace("-", "_").replace(" ", "_"), "")
    match = (
        [elsewhere] if elsewhere in names else difflib.get_close_matches(str(given).lower(), names, n=1, cutoff=cutoff)
    )
    return f"; did you mean {match[0]!r}?" if match else ""


def unknown_name(argument: str, given: object, known: Iterable[str]) -> ValueError:
    """A ValueError naming the argument, what was given, the names there are, and the nearest of them."""
    names = list(known)
    return ValueError(f"{argument}={given!r} is not known{nearest(given, names) or '.'} Known: {', '.join(names)}.")


def positive_integer(argument: str, given: object) -> int:
    """`given` as an int >= 1.

    Raises
    ------
    TypeError
        `given` is not an integer (bools and floats are not).
    ValueError
        `given` is below 1.
    """
    import numpy as np

    if isinstance(given, bool) or not isinstance(given, (int, np.integer)):
        raise TypeError(f"{argument} must be a positive integer, got {given!r} ({type(given).__name__})")
    if given < 1:
        raise ValueError(f"{argument} must be a positive integer, got {given!r}")
    return int(given)


def natural_number(argument: str, given: object) -> int:
    """`given` as an int >= 0. TypeError if it is none (bools and floats are not), ValueError below 0."""
    import numpy as np

    if isinstance(given, bool) or not isinstance(given, (int, np.integer)):
        raise TypeError(f"{argument} must be an integer >= 0, got {given!r}")
    if given < 0:
        raise ValueError(f"{argument} must be an integer >= 0, got {given!r}")
    return int(given)


def finite_number(
    argument: str,
    given: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    also: str = "",
) -> float:
    """`given` as a finite float inside the bounds: > above, >= least, < below. `also` says in an error what else would
    have been taken.

    Raises
    ------
    TypeError
        `given` is not a real number.
    ValueError
        `given` is not finite or outside the bounds.
    """
    import numpy as np

    bounds = [
        f"> {above:g}" if above is not None else "",
        f">= {least:g}" if least is not None else "",
        f"< {below:g}" if below is not None else "",
    ]
    wanted = " ".join(["a finite number", " and ".join(b for b in bounds if b)]).strip() + (
        f" or {also}" if also else ""
    )
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, (int, float, np.integer, np.floating)):
        raise TypeError(f"{argument} must be {wanted}, got {given!r} ({type(given).__name__})")
    try:
        value = float(given)
    except OverflowError:  # an integer of hundreds of digits
        value = float("inf")
    inside = (
        np.isfinite(value)
        and (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
    )
    if not inside:
        raise ValueError(f"{argument} must be {wanted}, got {given!r}")
    return value
