"""Numba kernels for the CPU: how they are compiled and where the compiled code is kept.

Numba's disk cache does not notice a change in a function of another file, so a hash of all the
sources here names the cache folder: new sources, new folder. The folder lies in the user's cache
(`$XDG_CACHE_HOME/fastnn` or `~/.cache/fastnn`), or in `NUMBA_CACHE_DIR` where that is set; where
none can be written, a warning says so and the code is compiled anew in each process.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import os
import tempfile
import threading
import warnings
from pathlib import Path

import numba
import numpy as np

__all__ = [
    "CACHE_FOLDER",
    "JIT",
    "compiled",
    "exact",
    "exported",
    "inner",
    "once",
    "part",
    "per_dtype",
    "undisturbed_by",
]

# False under NUMBA_DISABLE_JIT, where kernels run as plain Python; calling BLAS through Numba then
# silently multiplies nothing, so kernels/cpu/gemm.py has a Python product for that case.
JIT = not numba.config.DISABLE_JIT

# What a compiler may do with floating point here. Never blanket fastmath: `nnan` and `ninf` would
# delete the NaN checks and the documented edge values.
_RELAXED = {"reassoc", "contract", "nsz", "arcp"}


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _cache_folder() -> Path | None:
    """The folder for this state of the sources, made and tried; None if it cannot be written."""
    # expanduser, unlike Path.home(), does not raise where there is no home
    root = Path(numba.config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder = root / "fastnn" / f"numba-{_source_hash()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        warnings.warn(
            f"compiled code cannot be kept in {folder} ({error.strerror or error}), so each process compiles anew "
            "(seconds); set NUMBA_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


CACHE_FOLDER = _cache_folder()
_lock = threading.RLock()


def _undisturbed():
    """Kernels are compiled and loaded by one thread at a time: where Numba keeps them is one setting of the process,
    and what two threads ask for at once is compiled once.
    """
    return _lock


def undisturbed_by(context):
    """From here on kernels are compiled and loaded inside of context(), which lets one thread in at a time, and holds
    back a Ctrl-C, which would leave memory of the compiler that is freed twice.
    """
    global _undisturbed
    _undisturbed = context


def once(make):
    """make(*key), called once for each key in the process, however many threads ask."""
    made = {}

    @functools.cache  # found without the lock
    @functools.wraps(make)
    def result(*key):
        with _undisturbed():
            if key not in made:
                made[key] = make(*key)
            return made[key]

    return result


def _decorated(function, signature, **options):
    """`numba.njit` with fastnn's options, caching in CACHE_FOLDER."""
    if not JIT:
        return np.errstate(all="ignore")(function)  # compiled code does not warn either
    arguments = (signature,) if signature is not None else ()
    # Nothing written in C calls these (`exported` is for that), so no entry for C is compiled.
    dispatcher = _cached(
        lambda **cache: numba.njit(
            *arguments, nogil=True, error_model="numpy", no_cfunc_wrapper=True, **cache, **options
        )(function)
    )
    return _careful(dispatcher) if signature is None else dispatcher


def _careful(dispatcher):
    """The same, which waits for the end of what is compiled, or loaded, when it is first called."""
    compile_ = dispatcher.compile

    def compile_whole(signature):
        with _undisturbed(), _uncollected():
            return compile_(signature)

    dispatcher.compile = compile_whole
    return dispatcher


def _cached(decorate):
    """decorate(cache=...) with the compiled code kept in CACHE_FOLDER, if there is one."""
    if CACHE_FOLDER is None:
        with _undisturbed(), _uncollected():
            return decorate()
    with _undisturbed(), _uncollected():
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(CACHE_FOLDER)  # read by Numba when the function is decorated, not later
        try:
            return decorate(cache=True)
        finally:
            numba.config.CACHE_DIR = before


@contextlib.contextmanager
def _uncollected():
    """Compilation makes millions of objects of which few are garbage: looking for it meanwhile is a tenth of the
    time, and saves 80 MB of 350.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def compiled(function, signature=None):
    """A kernel: compiled without the GIL, division by zero as in NumPy, sums may be reordered."""
    return _decorated(function, signature, fastmath=_RELAXED)


def inner(function):
    """As `compiled`, for callers that are compiled too: no entry for Python is compiled, and a call from there ends the
    process (tests take `py_func`).

    Literals among its arguments are types of their own to Numba, and each combination is compiled anew: pass numbers
    that are none, np.int64(0) for 0.
    """
    return _decorated(function, None, fastmath=_RELAXED, no_cpython_wrapper=True)


def part(function):
    """A part of one kernel, written apart for its readers: put into its caller before compilation, so it costs none
    of its own.
    """
    return _decorated(function, None, fastmath=_RELAXED, inline="always")


def exact(function, signature=None):
    """As `compiled`, but only a*b+c may be contracted: for code that relies on the order of its operations."""
    return _decorated(function, signature, fastmath={"contract"})


def per_dtype(function, signature):
    """A function dtype -> `function` compiled for it, once per process, or read from the disk cache.

    signature: dtype name -> Numba signature. It is given, so that nothing else can ever be compiled silently.
    """

    @once
    def by_name(name):
        return compiled(function, signature(name) if JIT else None)

    return lambda dtype: by_name(np.dtype(dtype).name)


def exported(function, signature):
    """A C function of this signature, whose `address` compiled code may be given and call; it may not raise. Not
    without JIT.
    """
    return _cached(
        lambda **cache: numba.cfunc(signature, nopython=True, error_model="numpy", fastmath=_RELAXED, **cache)(function)
    )
