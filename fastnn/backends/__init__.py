"""The lazy registry of engines. Importing this imports no engine but NumPy's, and no optional package.

`"auto"` is the only name that chooses. Asking for an engine by name gets it or raises
`BackendUnavailable` with the reason and the install command.
"""

from __future__ import annotations

import importlib
import importlib.util
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailable, nearest, pip_install, unknown_name
from ..interrupts import LOADING, interrupt_after
from .base import Backend, Program

__all__ = ["AUTO_GPU_PARAMETERS", "Backend", "Program", "available_backends", "choose_backend", "get_backend"]

# Below this many parameters a step is bound by kernel launches, and a CPU finishes first. From
# public reports (small nets slower on a GPU), not from a measurement of fastnn; see README.
AUTO_GPU_PARAMETERS = 1_000_000


@dataclass(frozen=True)
class _Entry:
    module: str
    cls: str
    install: str


# In order of preference of "auto". That of CuPy is a belief: no GPU has timed it yet.
_ENGINES = {
    "cupy": _Entry(".cupy_backend", "CupyBackend", f'{pip_install("cuda13")} (driver for CUDA 13), or ".[cuda12]"'),
    "numba": _Entry(".numba_backend", "NumbaBackend", pip_install("cpu")),
    "numpy": _Entry(".numpy_backend", "NumpyBackend", pip_install()),
}
# A checkout's kernels lie beside its package, and only an installation puts them inside.
_UNINSTALLED = (
    "this fastnn is a checkout that is not installed: run pip install -e . in it, or leave its folder if fastnn is "
    "installed elsewhere"
)
_ROOT = Path(__file__).parents[2]  # of a checkout
_instances: dict[str, Backend] = {}
_configured: weakref.WeakValueDictionary[tuple[str, str], Backend] = weakref.WeakValueDictionary()  # with options
_reasons: dict[str, str] = {}


def get_backend(backend: str | Backend = "auto", *, parameters: int | None = None, **options: Any) -> Backend:
    """The engine of this name; one instance per process, or a new one with these options.

    Parameters
    ----------
    backend : str or Backend
        "numpy", "numba", "cupy", "auto", or an engine, which is returned as it is.
    parameters : int, optional
        Number of parameters of the network, for "auto".
    **options
        How this engine is to run instead of choosing for itself. "numba": threads (int), chunk (rows of a batch at a
        time), sliced (True: each thread takes a slice of the batch through all layers; False: all work on the same
        rows, each with its share of the weights), panels (True: products by fastnn's own kernels; False: by BLAS), amx
        (True: products of float32 on Intel's matrix unit). "cupy": fused (True: narrow nets by the fused kernel, an
        error for others; False: by captured steps). What is left out is still chosen. NumPy has none.

    Raises
    ------
    ValueError
        Unknown name or option, or an option out of range.
    BackendUnavailable
        The engine cannot run here; the message says why and what to install.
    TypeError
        Neither a name nor a Backend.
    """
    return choose_backend(backend, parameters=parameters, options=options)[0]


def choose_backend(
    backend: str | Backend = "auto", *, parameters: int | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Backend, str]:
    """The engine, and one sentence that says why it was taken. Arguments and errors as `get_backend`."""
    if options and (backend == "auto" or not isinstance(backend, str)):
        raise ValueError(
            f"{', '.join(options)}: options are for an engine asked for by name, as in get_backend('numba', "
            f"threads=1), got backend={backend!r}"
        )
    if isinstance(backend, Backend):
        return backend, f"{backend.name}: given"
    if not isinstance(backend, str):
        raise TypeError(f"backend must be a name or a Backend, got {backend!r} ({type(backend).__name__})")
    if backend == "auto":
        return _automatic(parameters)
    if backend not in _ENGINES:
        raise unknown_name("backend", backend, ["auto", *sorted(_ENGINES)])
    reason = _load(backend)
    if reason is not None:
        raise BackendUnavailable(
            f"backend={backend!r} cannot be used: {reason}. To install it: {_ENGINES[backend].install}"
        )
    if options:
        return _with_options(backend, options), (
            f"{backend}: asked for by name, with {', '.join(f'{name}={value!r}' for name, value in options.items())}"
        )
    return _instances[backend], f"{backend}: asked for by name"


def _with_options(name: str, options: Mapping[str, Any]) -> Backend:
    """An engine of these options: the same as long as somebody uses it, because it holds streams and workspaces."""
    key = name, repr(sorted(options.items()))
    if (made := _configured.get(key)) is not None:
        return made
    cls = type(_instances[name])
    for option in options:
        if not cls.options:
            raise ValueError(f"{option}={options[option]!r}: the {name} engine has no options")
        if option not in cls.options:
            raise ValueError(
                f"the {name} engine has no option {option!r}{nearest(option, cls.options) or '.'} Known: "
                f"{', '.join(cls.options)}."
            )
    engine = cls(**options)
    engine.given = dict(options)
    return _configured.setdefault(key, engine)


def available_backends() -> dict[str, str | None]:
    """Each engine's name with None if it can be used here, else the reason why not."""
    return {name: _why_not(name) for name in ("numpy", "numba", "cupy")}


def install_command(name: str) -> str:
    """The pip command that installs what an engine needs."""
    return _ENGINES[name].install


def _automatic(parameters: int | None) -> tuple[Backend, str]:
    why_not: list[str] = []
    for name in _ENGINES:
        # Before CuPy is even imported: that opens the device, which takes a second and some of its memory.
        if name == "cupy" and (parameters or 0) < AUTO_GPU_PARAMETERS:
            found = "" if parameters is None else f", this network has {parameters:,}"
            why_not.append(f"cupy is considered from {AUTO_GPU_PARAMETERS:,} parameters on{found}")
            continue
        reason = _load(name)
        if reason is None:
            return _instances[name], "; ".join([f"{name}: the best engine that can be used here", *why_not])
        why_not.append(f"{name} not taken: {reason}")
    raise BackendUnavailable("no engine can be used: " + "; ".join(why_not))  # pragma: no cover - NumPy always loads


def _why_not(name: str) -> str | None:
    """As `_load`; also what is said to those who ask for the engine while the environment holds nonsense, which is
    not remembered.
    """
    try:
        return _load(name)
    except ValueError as error:
        return str(error)


def _refuse_foreign_kernels() -> None:
    """A checkout that is found by way of its folder runs the kernels of the one that is installed."""
    own = _ROOT / "kernels" / "__init__.py"
    if not own.is_file() or not (_ROOT / "pyproject.toml").is_file():
        return
    found = importlib.util.find_spec("fastnn.kernels")
    if found is not None and found.origin is not None and not own.samefile(found.origin):
        raise BackendUnavailable(
            f"this fastnn, a checkout in {_ROOT}, would run the kernels of another one, in "
            f"{Path(found.origin).parent}: run pip install -e . in it"
        )


def _load(name: str) -> str | None:
    """Make the engine's one instance; the reason if that cannot be done. Both outcomes are remembered."""
    if name in _instances:  # without the lock, which another thread may hold for the ten seconds of a compilation
        return None
    with LOADING:
        if name not in _instances and name not in _reasons:
            entry = _ENGINES[name]
            try:
                if name != "numpy":
                    _refuse_foreign_kernels()
                with interrupt_after():  # of a package that was half imported nothing works in this process any more
                    module = importlib.import_module(entry.module, __package__)
                    _instances[name] = getattr(module, entry.cls)()
            except BackendUnavailable as error:
                _reasons[name] = str(error)
            except ImportError as error:
                _reasons[name] = (
                    _UNINSTALLED
                    if error.name == "fastnn.kernels"
                    else f"{error.name or 'a package it needs'} cannot be imported ({error})"
                )
        return _reasons.get(name)
