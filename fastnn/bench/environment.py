"""What a result was measured on: machine, versions, BLAS, threads, load. Names no user and no machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from .load import cores, load_average

__all__ = ["describe", "installed_bytes", "now", "requirements"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "FASTNN_BLAS",
    "FASTNN_AMX",
)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _cpu() -> tuple[str, list[str]]:
    """Model name and the vector extensions that matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), []
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    return (model[1] if model else platform.machine()), [
        name for name in ("sse4_2", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile") if name in known
    ]


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _blas() -> list[dict[str, Any]]:
    import threadpoolctl

    found = threadpoolctl.threadpool_info()
    return [
        {key: library.get(key) for key in ("internal_api", "version", "architecture", "num_threads", "prefix")}
        for library in found
    ]


def describe() -> dict[str, Any]:
    """Everything that a reader needs to judge a time."""
    model, flags = _cpu()
    return {
        "date": now(),
        "cpu": model,
        "flags": flags,
        "cores": cores(),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "fastnn": __version__,
        "numpy": np.__version__,
        "blas": _blas(),
        "load": load_average(),
        "variables": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }


# ---- installed size -----------------------------------------------------------------------------------------------


def requirements(names: tuple[str, ...]) -> set[str]:
    """These distributions and what they need without extras, as far as it is installed here; normalised names."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for need in needs:
            requirement, _, marker = need.partition(";")
            if "extra" not in marker and (match := re.match(r"[A-Za-z0-9._-]+", requirement)):
                waiting.append(match[0])
    return found


def installed_bytes(names: tuple[str, ...]) -> dict[str, int]:
    """Bytes on disk per distribution that these need, themselves included. fastnn's own are counted where they lie."""
    sizes = {}
    for name in sorted(requirements(names)):
        distribution = importlib.metadata.distribution(name)
        paths = {Path(str(distribution.locate_file(file))) for file in distribution.files or []}
        if name == "fastnn-backends":  # installed in editable mode it lists no files of its own
            from .. import kernels

            for root in (Path(__file__).parents[1], Path(str(kernels.__file__)).parent):
                paths |= {path for path in root.rglob("*") if "__pycache__" not in path.parts}
        sizes[name] = sum(path.stat().st_size for path in paths if path.is_file())
    return sizes
