"""Which BLAS multiplies inside compiled code: Intel's MKL on Intel CPUs where it is installed, else SciPy's.

The choice depends on the machine, the installation and FASTNN_BLAS alone, never on a measurement,
because another BLAS rounds differently and equal runs are to give equal results. Where both were
measured, MKL was the faster on an Intel CPU and OpenBLAS on an AMD one (bench/results).

MKL is loaded in its sequential form and in a scope of its own (cpu_bundle.py): it starts no threads,
survives a fork, and neither replaces nor reconfigures the MKL of another library, before or later.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import pip_install, unknown_name
from ..kernels.cpu import gemm
from .cpu_bundle import load_together

__all__ = ["INSTALL", "VARIABLE", "Blas", "blas_of_process", "choose_blas"]

VARIABLE = "FASTNN_BLAS"
INSTALL = pip_install("mkl")
# In the order in which a symbol is looked up: the interface with 32-bit integers, one thread, the rest.
PARTS = ("intel_lp64", "sequential", "core")


@dataclass(frozen=True)
class Blas:
    """A BLAS for compiled code.

    Attributes
    ----------
    name : str
        For people: "MKL 2026.2", "SciPy's BLAS".
    why : str
        Why it was taken.
    addresses : (int, int)
        Of sgemm and dgemm, of Fortran's interface.
    library : ctypes library or None
        MKL, whose thread count can be held for one thread alone.
    """

    name: str
    why: str
    addresses: tuple[int, int]
    library: Any = None

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"

    @contextmanager
    def one_thread_here(self) -> Iterator[None]:
        """Products of this thread use no other thread; the setting of no other thread is touched.

        MKL is sequential when fastnn loads it; this is for an MKL of the same files that was in the process
        before, with threads. SciPy's BLAS is held by `cpu_threads.blas_on_one_thread`, for the whole process.
        """
        if self.library is None:
            yield
            return
        before = self.library.MKL_Set_Num_Threads_Local(1)
        try:
            yield
        finally:
            self.library.MKL_Set_Num_Threads_Local(before)


@functools.cache
def blas_of_process() -> Blas:
    """`choose_blas`, once, and from then on what compiled code calls: it cannot change its BLAS once it is loaded."""
    blas = choose_blas()
    gemm.bind(*blas.addresses)
    return blas


def choose_blas() -> Blas:
    """The BLAS that suits machine, installation and FASTNN_BLAS.

    Raises
    ------
    ValueError
        FASTNN_BLAS holds something other than "mkl", "scipy" or "", or asks for an MKL that cannot be used.
    """
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if wanted not in ("", "mkl", "scipy"):
        raise unknown_name(f"environment variable {VARIABLE}", os.environ[VARIABLE], ("mkl", "scipy"))
    if wanted == "scipy":
        return _scipy(f"{VARIABLE}=scipy")
    if not wanted and not _intel_cpu():
        return _scipy("not an Intel CPU, where MKL would be taken if it is installed")
    parts = _find_mkl()
    if parts is None and wanted:
        raise ValueError(
            f"environment variable {VARIABLE}=mkl, but MKL is not installed here. To install it: {INSTALL}"
        )
    if parts is None:
        return _scipy(f"MKL is not installed: {INSTALL}")
    try:
        return _load_mkl(parts, f"{VARIABLE}=mkl" if wanted else "Intel CPU, and MKL is installed")
    except (OSError, AttributeError) as error:
        if wanted:
            raise ValueError(
                f"environment variable {VARIABLE}=mkl, but the MKL in {parts[0].parent} cannot be loaded: {error}"
            ) from error
        warnings.warn(
            f"the MKL in {parts[0].parent} cannot be loaded ({error}), so SciPy's BLAS multiplies; {VARIABLE}=scipy "
            "asks for that without this warning",
            RuntimeWarning,
            stacklevel=2,
        )
        return _scipy("MKL cannot be loaded")


def _scipy(why: str) -> Blas:
    return Blas("SciPy's BLAS", why, gemm.scipy_addresses())


def _load_mkl(parts: list[Path], why: str) -> Blas:
    library = load_together(parts)
    version = ctypes.create_string_buffer(256)
    library.MKL_Get_Version_String(version, len(version))
    number = re.search(r"Version (\d[\d.]*)", version.value.decode(errors="replace"))
    sgemm, dgemm = (ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in ("sgemm_", "dgemm_"))
    assert sgemm is not None
    assert dgemm is not None
    return Blas(f"MKL {number[1] if number else 'of unknown version'}", why, (sgemm, dgemm), library)


def _intel_cpu() -> bool:
    """Whether this is Linux on an Intel CPU of 64 bits, which is where MKL is of use."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        return (
            re.search(
                r"^vendor_id\s*:\s*GenuineIntel$",
                Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"),
                re.MULTILINE,
            )
            is not None
        )
    except OSError:
        return False


def _folders() -> Iterator[Path]:
    """Where pip and conda put MKL's libraries: beside Python's own, or where the distribution says."""
    yield Path(sys.prefix) / "lib"
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return
    yield from {
        Path(str(file.locate())).resolve().parent: None for file in files if file.name.startswith("libmkl_core.so")
    }


def _find_mkl() -> list[Path] | None:
    """Paths of MKL's parts, of the newest version that has them all; None if it is not installed."""
    for folder in _folders():
        versions = [
            int(path.name.rpartition(".")[2])
            for path in folder.glob("libmkl_core.so.*[0-9]")
            if path.name.rpartition(".")[2].isdigit()
        ]
        for version in sorted(versions, reverse=True):
            parts = [folder / f"libmkl_{part}.so.{version}" for part in PARTS]
            if all(path.is_file() for path in parts):
                return parts
    return None
