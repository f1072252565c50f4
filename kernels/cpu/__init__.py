"""Numba kernels for the CPU: how they are compiled and where the compiled code is kept.

Numba's disk cache does not notice a change in a function of another file, so a hash of all the
sources here names the cache folder: new sources, new folder. The folder lies in the user's cache
(`$XDG_CACHE_HOME/fastnn` or `~/.cache/fastnn`), or in `NUMBA_CACHE_DIR` where that is set; where
none can be written, a warning says so and the code is compiled anew in each process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numba
import numpy as np

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None
from numba.core import sigutils, typeinfer
from numba.core.caching import FunctionCache, NullCache
from numba.core.ccallback import CFunc

try:
    from numba.core.caching import UserProvidedCacheLocator
except ImportError:  # its name before Numba 0.62
    from numba.core.caching import _UserProvidedCacheLocator as UserProvidedCacheLocator

from ..collector import uncollected

__all__ = [
    "CACHE_FOLDER",
    "JIT",
    "KEEPS",
    "compiled",
    "entry",
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
UNUSED_DAYS = 60
PATIENCE = 60.0  # seconds: the longest compilation of one function takes a few
_RELAXED = {"reassoc", "contract", "nsz", "arcp"}


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _cache_folder() -> tuple[Path | None, bool]:
    """The folder for this state of the sources, made and tried, and whether it can be written; no folder if it cannot,
    and holds nothing either.
    """
    # expanduser, unlike Path.home(), does not raise where there is no home
    root = Path(numba.config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder = root / "fastnn" / f"numba-{_source_hash()}"
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # used today
        if new:
            _forget_unused(folder.parent)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK) and any(folder.rglob("*.nbi")):
            return folder, False  # what somebody has put there is read; that nothing is added is said when it is tried
        _warn_that_nothing_is_kept(folder, error)
        return None, False
    return folder, True


@functools.cache
def _warn_once(folder: Path | None, reason: str) -> None:
    warnings.warn(
        f"compiled code cannot be kept in {folder} ({reason}), so each process compiles anew (seconds); set "
        "NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=4,
    )


def _warn_that_nothing_is_kept(folder: Path | None, error: OSError) -> None:
    _warn_once(folder, error.strerror or str(error))


def _forget_unused(root: Path) -> None:
    """Removes what other states of the sources have left and nobody has used for UNUSED_DAYS."""
    for old in root.glob("numba-*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > UNUSED_DAYS * 86_400:
                shutil.rmtree(old, ignore_errors=True)


CACHE_FOLDER, KEEPS = _cache_folder()
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


class _Kept(FunctionCache):
    """Numba's cache of a function, to which a damaged file is none; on a full disk nothing is kept, which is said."""

    def load_overload(self, sig, target_context):
        found = self._load(sig, target_context)
        if found is None and _turns:
            _turns[-1].wait()
            found = self._load(sig, target_context)
        return found

    def _load(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # broken bytes may raise anything
            return None

    def save_overload(self, sig, data):
        try:
            try:
                super().save_overload(sig, data)
            except OSError:
                raise
            except Exception:  # an index of broken bytes
                self.flush()
                super().save_overload(sig, data)
        except OSError as error:
            _warn_that_nothing_is_kept(CACHE_FOLDER, error)


def _kept(function):
    """The cache of a function in CACHE_FOLDER, where that can be written."""
    if CACHE_FOLDER is None:
        return NullCache()
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(CACHE_FOLDER)  # read by Numba when a cache is made, not later
    if not KEEPS:  # Numba would try to write there, and have no cache
        UserProvidedCacheLocator.ensure_cache_path = lambda self: None
    try:
        return _Kept(function)
    except RuntimeError as error:  # no source file is found, as in a zip: Numba cannot tell one state from the next
        _warn_once(CACHE_FOLDER, str(error))
        return NullCache()
    finally:
        numba.config.CACHE_DIR = before
        if not KEEPS:
            del UserProvidedCacheLocator.ensure_cache_path


def _decorated(function, signature, **options):
    """`numba.njit` with fastnn's options, caching in CACHE_FOLDER."""
    if not JIT:
        return np.errstate(all="ignore")(function)  # compiled code does not warn either
    # Nothing written in C calls these (`exported` is for that), so no entry for C is compiled.
    dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, **options)(function)
    # Compilation makes millions of objects of which few are garbage: looking for it meanwhile is a tenth of the time,
    # and saves 80 MB of 350.
    with _undisturbed(), _in_turn(function), uncollected():
        dispatcher._cache = _kept(function)
        if signature is None:
            return _careful(dispatcher)
        with typeinfer.register_dispatcher(dispatcher):  # as numba.njit(signature) does
            dispatcher.compile(signature)
            dispatcher.disable_compile()
    return dispatcher


def _careful(dispatcher):
    """The same, which waits for the end of what is compiled, or loaded, when it is first called."""
    compile_ = dispatcher.compile

    def compile_whole(signature):
        with _undisturbed(), _in_turn(dispatcher.py_func), uncollected():
            return compile_(signature)

    dispatcher.compile = compile_whole
    return dispatcher


_turns = []  # of the functions that this process compiles now, the innermost last


class _Turn:
    """Processes that need the same function compile it by turns: who has waited finds on disk what another has made."""

    def __init__(self, function):
        self.name, self._file = f"{function.__module__}.{function.__qualname__}", None

    def wait(self):
        """Until no other process compiles this function. Nobody waits for one that does not go on: after PATIENCE each
        compiles for itself, as where files cannot be locked.
        """
        if fcntl is None or not KEEPS or any(turn.name == self.name and turn._file for turn in _turns):
            return
        try:
            (CACHE_FOLDER / "locks").mkdir(exist_ok=True)
            self._file = open(CACHE_FOLDER / "locks" / self.name, "a")  # noqa: SIM115 - until `end`, which unlocks it
            until = time.monotonic() + PATIENCE
            while not _locked(self._file) and time.monotonic() < until:
                time.sleep(0.02)
        except OSError:
            pass

    def end(self):
        if self._file is not None:
            self._file.close()


def _locked(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _in_turn(function):
    """Inside, the function is compiled, or loaded; inside of `_undisturbed()`."""
    turn = _Turn(function)
    _turns.append(turn)
    try:
        yield
    finally:
        _turns.remove(turn)
        turn.end()


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


def entry(kernel):
    """What calls a kernel of one signature without a look at the types of its arguments, which for named tuples of many
    arrays takes longer than a small step: for callers that have made them all. An array of another type of number would
    be read as one of the right type.
    """
    if not JIT:
        return kernel
    (made,) = kernel.overloads.values()
    return made.entry_point


def exported(function, signature):
    """A C function of this signature, whose `address` compiled code may be given and call; it may not raise. Not
    without JIT.
    """
    function = CFunc(
        function,
        sigutils.normalize_signature(signature),
        locals={},
        options={"nopython": True, "error_model": "numpy", "fastmath": _RELAXED},
    )
    with _undisturbed(), _in_turn(function.__wrapped__), uncollected():
        function._cache = _kept(function.__wrapped__)
        function.compile()
    return function
