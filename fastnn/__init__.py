"""fastnn: dense neural networks at the speed of the hardware, on NumPy, Numba or CuPy.

`import fastnn` imports NumPy and nothing heavier; the rest is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__

# Public name -> (module, attribute); modules themselves have no attribute.
_PUBLIC = {
    "Activation": (".activations", "Activation"),
    "BackendUnavailable": (".errors", "BackendUnavailable"),
    "DataFileError": (".errors", "DataFileError"),
    "DeviceLost": (".errors", "DeviceLost"),
    "Diverged": (".errors", "Diverged"),
    "History": (".training", "History"),
    "ModelFileError": (".errors", "ModelFileError"),
    "Network": (".network", "Network"),
    "SymmetricStart": (".errors", "SymmetricStart"),
    "TrainingInterrupted": (".errors", "TrainingInterrupted"),
    "UnfinishedSchedule": (".errors", "UnfinishedSchedule"),
    "UnknownCategory": (".errors", "UnknownCategory"),
    "UnscaledInput": (".errors", "UnscaledInput"),
    "activations": (".activations", None),
    "available_backends": (".backends", "available_backends"),
    "callbacks": (".callbacks", None),
    "costs": (".costs", None),
    "estimators": (".estimators", None),
    "evaluation": (".evaluation", None),
    "get_backend": (".backends", "get_backend"),
    "gradcheck": (".gradient_check", "gradcheck"),
    "initializers": (".initializers", None),
    "load": (".model_file", "load"),
    "optimizers": (".optimizers", None),
    "plots": (".plots", None),
    "prediction": (".prediction", None),
    "resume": (".model_file", "resume"),
    "schedules": (".schedules", None),
    "warm_up": (".warming", "warm_up"),
}

# Written out for type checkers. Whoever asks for all names, or looks at all of them, need not have scikit-learn, hence
# no estimators.
__all__ = [
    "Activation",
    "BackendUnavailable",
    "DataFileError",
    "DeviceLost",
    "Diverged",
    "History",
    "ModelFileError",
    "Network",
    "SymmetricStart",
    "TrainingInterrupted",
    "UnfinishedSchedule",
    "UnknownCategory",
    "UnscaledInput",
    "__version__",
    "activations",
    "available_backends",
    "callbacks",
    "costs",
    "evaluation",
    "get_backend",
    "gradcheck",
    "initializers",
    "load",
    "optimizers",
    "plots",
    "prediction",
    "resume",
    "schedules",
    "warm_up",
]

if TYPE_CHECKING:
    from . import (
        activations,
        callbacks,
        costs,
        estimators,
        evaluation,
        initializers,
        optimizers,
        plots,
        prediction,
        schedules,
    )
    from .activations import Activation
    from .backends import available_backends, get_backend
    from .errors import (
        BackendUnavailable,
        DataFileError,
        DeviceLost,
        Diverged,
        ModelFileError,
        SymmetricStart,
        TrainingInterrupted,
        UnfinishedSchedule,
        UnknownCategory,
        UnscaledInput,
    )
    from .gradient_check import gradcheck
    from .model_file import load, resume
    from .network import Network
    from .training import History
    from .warming import warm_up


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fastnn' has no attribute {name!r}")
    module_name, attribute = _PUBLIC[name]
    module = importlib.import_module(module_name, __name__)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
