"""The card and the libraries that a result was measured with. Names no user, no machine and no other process."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

from ...backends.cupy_lt import choose_binding
from ..client import Absent
from ..statistics import Result
from .stage import Request, Write

__all__ = ["card", "libraries", "others", "run"]

FIELDS = (
    "name",
    "driver_version",
    "memory.total",
    "memory.used",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "temperature.gpu",
    "power.limit",
    "utilization.gpu",
    "compute_cap",
)
DISTRIBUTIONS = (
    "numpy",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "nvmath-python",
    "nvidia-cublas",
    "nvidia-cuda-nvrtc",
    "torch",
    "triton",
    "jax",
    "jaxlib",
    "numba",
    "scipy",
)
TOOLS = ("nvidia-smi", "nvcc", "compute-sanitizer", "g++", "ruff", "mypy")


def _query(what: str, fields: tuple[str, ...]) -> list[list[str]]:
    """Rows of `nvidia-smi --query-WHAT`; [] where the tool is missing or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        result = subprocess.run(
            [tool, f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return (
        [[part.strip() for part in line.split(",")] for line in result.stdout.splitlines() if line.strip()]
        if result.returncode == 0
        else []
    )


def card() -> Result:
    """What the driver's tool says of the first card: {} where it says nothing."""
    rows = _query("gpu", FIELDS)
    return dict(zip(FIELDS, rows[0], strict=False)) if rows else {}


def others() -> Result:
    """How many processes compute on the card, and the memory they take in MiB."""
    rows = _query("compute-apps", ("used_memory",))
    return {"processes": len(rows), "memory": sum(int(row[0]) for row in rows if row[0].isdecimal())}


def libraries() -> Result:
    """{library: version, or why it cannot be used}: what CuPy runs on."""

    def asked(ask: Callable[[], Any]) -> str:
        try:
            return str(ask())
        except Exception as error:
            return f"not usable: {type(error).__name__}: {error}".splitlines()[0]

    def module(name: str) -> Any:
        return importlib.import_module(name)

    return {
        "CuPy": asked(lambda: module("cupy").__version__),
        "CUDA driver": asked(lambda: module("cupy").cuda.runtime.driverGetVersion()),
        "CUDA runtime": asked(lambda: module("cupy").cuda.runtime.runtimeGetVersion()),
        "NVRTC": asked(lambda: ".".join(map(str, module("cupy").cuda.nvrtc.getVersion()))),
        "cuBLAS": asked(lambda: module("cupy").cuda.cublas.getVersion(module("cupy").cuda.get_cublas_handle())),
        "cuBLASLt": asked(choose_binding),
    }


def _device() -> Result:
    cupy = importlib.import_module("cupy")
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    free, total = cupy.cuda.runtime.memGetInfo()
    name = properties["name"]
    return {
        "name": name.decode() if isinstance(name, bytes) else str(name),
        "compute": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "l2_bytes": properties.get("l2CacheSize"),
        "memory_free": free,
        "memory_total": total,
    }


def run(request: Request, write: Write) -> Result:
    """The stage; Absent if no CUDA device answers."""
    versions: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    write(
        {
            "card": card(),
            "others": others(),
            "versions": versions,
            "tools": {name: shutil.which(name) is not None for name in TOOLS},
            "libraries": libraries(),
        }
    )
    try:
        return {"device": _device()}
    except Exception as error:
        raise Absent(f"no CUDA device answers ({type(error).__name__}: {error})") from error
