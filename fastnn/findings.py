"""What keeps an engine from running at its best on this machine, and what to do about it: driver, CuPy, its libraries,
memory, FASTNN_BLAS, FASTNN_AMX, caches.

Every check stands alone, asks the thing itself, and says nothing where all is well - also on a machine without a
GPU, which lacks nothing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .backends import cupy_device, cupy_lt, install_command

__all__ = ["Finding", "caches", "gather", "libraries", "smi"]

LITTLE = 0.05  # of the device's memory: less is found too little
SMI_FIELDS = "name,memory.total,driver_version,compute_cap"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: about what, what it is, what to do."""

    subject: str
    problem: str
    remedy: str


def gather(reason: str | None) -> tuple[list[Finding], dict[str, str], list[dict[str, Any]], list[str]]:
    """(findings, GPU libraries, caches, GPUs that the driver lists); `reason` is why the CuPy engine cannot be
    used, None if it can.
    """
    devices, driver = smi()
    packages = cupy_device._cupy_packages()
    found: list[Finding] = []
    if packages or devices:
        found += [driver] if driver is not None else []
        found += _packages(packages, devices)
    known: dict[str, str] = {}
    if len(packages) == 1:
        if reason is not None and driver is None:
            found.append(
                Finding("the cupy engine", reason, 'the reason says it; then "fastnn doctor" again, in a new process')
            )
        known, missing = libraries(packages[0])
        found += missing
        if reason is None:
            found += memory()
    found += variables()
    places = caches()
    found += [
        Finding("cache", f"{place['name']} cannot be kept in {place['path']}: {place['problem']}", place["remedy"])
        for place in places
        if place["problem"]
    ]
    return found, known, places, devices


def variables() -> list[Finding]:
    """Whether FASTNN_BLAS and FASTNN_AMX ask for what there is. Says nothing where Numba is missing, which needs
    neither.
    """
    try:
        from .backends import cpu_blas, cpu_unit
    except ImportError:
        return []
    found = []
    try:
        cpu_blas.blas_of_process()
    except ValueError as error:
        name = cpu_blas.VARIABLE
        remedy = f"unset {name}, or set it to scipy, or to mkl once it is there: {cpu_blas.INSTALL}"
        found.append(Finding(name, str(error), remedy))
    try:
        cpu_unit.why_no_unit(None)
    except ValueError as error:
        found.append(Finding(cpu_unit.VARIABLE, str(error), f"unset {cpu_unit.VARIABLE}, or set it to on or off"))
    return found


# ---- the driver and CuPy ----------------------------------------------------------------------------


def smi() -> tuple[list[str], Finding | None]:
    """The GPUs that the driver's own tool lists, and what is wrong if it lists none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [], Finding(
            "driver",
            "there is no nvidia-smi here, so no NVIDIA driver is installed, or the GPU was not passed into this "
            "container",
            "install the NVIDIA driver of your system; in a container: docker run --gpus all",
        )
    try:
        result = subprocess.run(
            [tool, f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [], Finding(
            "driver", "nvidia-smi did not answer within 10 s", "the GPU or its driver hangs; restart the machine"
        )
    except OSError as error:
        return [], Finding("driver", f"nvidia-smi cannot be run ({error.strerror})", "reinstall the NVIDIA driver")
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    if result.returncode == 0 and lines:
        return lines, None
    said = (lines or result.stderr.strip().splitlines() or ["nothing was said"])[0]
    if "lost" in said.lower() or "device handle" in said.lower():
        return [], Finding(
            "driver",
            f"a GPU was lost: {said}",
            "restart the machine; if it happens again, look for Xid in the kernel's log (dmesg) and at power and "
            "cooling",
        )
    if "version mismatch" in said.lower():
        return [], Finding("driver", f"the driver was replaced while it ran: {said}", "restart the machine")
    return [], Finding(
        "driver",
        f"nvidia-smi failed with exit code {result.returncode}: {said}",
        "restart the machine after a driver update; else reinstall the NVIDIA driver",
    )


def _packages(packages: list[str], devices: list[str]) -> list[Finding]:
    if len(packages) > 1:
        keep = "the one for your driver's CUDA version (nvidia-smi shows it)"
        return [
            Finding(
                "CuPy",
                f"{' and '.join(packages)} are installed and overwrite each other's files",
                f"pip uninstall {' '.join(packages)}; then install {keep}",
            )
        ]
    if devices and not packages:
        return [Finding("CuPy", "a GPU is here, and CuPy is not installed", install_command("cupy"))]
    return []


# ---- what CuPy and the engine need --------------------------------------------------------------------


def libraries(package: str) -> tuple[dict[str, str], list[Finding]]:
    """{library: its version or why it cannot be loaded}, and a finding for each that cannot. `package` is CuPy's
    distribution.
    """
    ctk = f'pip install "{package}[ctk]"'
    wanted: list[tuple[str, Callable[[], Any], str, str]] = [
        (
            "NVRTC",
            lambda: ".".join(map(str, _module("cupy").cuda.nvrtc.getVersion())),
            "no kernel can be compiled",
            ctk,
        ),
        (
            "cuBLAS",
            lambda: "loaded" if _module("cupy").cuda.cublas else "",
            "no matrix product can be computed",
            ctk,
        ),
        (
            "cuBLASLt",
            cupy_lt.choose_binding,
            "steps cannot be captured as CUDA graphs and are launched one by one",
            ctk,
        ),
    ]
    known: dict[str, str] = {}
    found: list[Finding] = []
    for name, ask, consequence, remedy in wanted:
        try:
            known[name] = str(ask())
        except Exception as error:  # a broken installation can raise anything
            known[name] = f"not usable ({type(error).__name__}: {error})".splitlines()[0]
            found.append(Finding(name, f"{known[name]}: {consequence}", remedy))
    return known, found


def _module(name: str) -> Any:
    return importlib.import_module(name)


def memory() -> list[Finding]:
    """Whether the present device has memory to work in."""
    try:
        free, total = _module("cupy").cuda.runtime.memGetInfo()
    except Exception as error:
        return [
            Finding(
                "GPU memory",
                (f"the device does not say how much is free ({type(error).__name__}: {error})").splitlines()[0],
                "restart the process; then the machine",
            )
        ]
    if free >= LITTLE * total:
        return []
    return [
        Finding(
            "GPU memory",
            f"only {free / 1e6:,.0f} of {total / 1e6:,.0f} MB are free; other processes hold the rest",
            "nvidia-smi shows them; end what is not needed, or choose another device with CUDA_VISIBLE_DEVICES",
        )
    ]


# ---- caches -------------------------------------------------------------------------------------------


def caches() -> list[dict[str, Any]]:
    """Where compiled code and timed choices are kept: {"name", "path", "problem" or None, "remedy"}. Makes no
    folder.
    """
    home = Path(os.path.expanduser("~"))  # unlike Path.home(), this does not raise where there is none
    user = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    places = []
    if importlib.util.find_spec("numba") is not None:
        places.append(
            ("compiled CPU code", Path(os.environ.get("NUMBA_CACHE_DIR") or user) / "fastnn", "NUMBA_CACHE_DIR")
        )
    if importlib.util.find_spec("cupy") is not None:
        places.append(
            (
                "compiled CUDA kernels",
                Path(os.environ.get("CUPY_CACHE_DIR") or home / ".cupy" / "kernel_cache"),
                "CUPY_CACHE_DIR",
            )
        )
        places.append(("timed choices of matrix products", user / "fastnn", "XDG_CACHE_HOME"))
    return [
        {
            "name": name,
            "path": str(path),
            "problem": _unwritable(path),
            "remedy": f"set {variable} to a folder that can be written; until then it is made anew in each process",
        }
        for name, path, variable in places
    ]


def _unwritable(path: Path) -> str | None:
    """Why a folder cannot be written or made, None if it can."""
    while not path.exists() and path != path.parent:
        path = path.parent
    if not path.is_dir():
        return f"{path} is not a folder"
    return None if os.access(path, os.W_OK | os.X_OK) else f"{path} cannot be written"
