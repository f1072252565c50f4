"""Compiles the kernels' own sources with g++ into a shared library, once for each kind and set of faults."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

from fastnn.kernels.cuda import sources

HERE = Path(__file__).parent
# _FORTIFY_SOURCE refuses jumps between stacks. No contraction into fused multiply-adds and no fast-math: the arithmetic
# that the source says.
FLAGS = ("-x", "c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-w")


class CompilerMissing(RuntimeError):
    pass


def entry(kernel: sources.Kernel) -> str:
    """A C function that unpacks the arguments (an array of pointers to them, as the CUDA driver takes it) and
    launches.
    """
    values = ", ".join(f"*({p.type}{'*' if p.pointer else ''}*)v[{i}]" for i, p in enumerate(kernel.parameters))
    return (
        f'extern "C" const char* run_{kernel.name}(void** v, const unsigned* grid, const unsigned* block, size_t '
        f"shared, uint64_t seed) {{\n"
        f"    return shim::launch([](void** v) {{ {kernel.name}({values}); }}, v, grid, block, shared, seed);\n}}\n"
    )


def translation_unit() -> str:
    includes = "".join(f'#include "{name}"\n' for name in ("cuda_shim.h", *sources.files()))
    return includes + "".join(entry(kernel) for kernel in sources.kernels().values())


@functools.cache
def library(kind: str, faults: tuple[str, ...] = ()) -> ctypes.PyDLL:
    """The compiled kernels of this kind (`sources.KINDS`), with these FASTNN_FAULT_... planted.

    Raises
    ------
    CompilerMissing
        There is no g++.
    RuntimeError
        The sources do not compile; the message holds what g++ says.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise CompilerMissing(
            "the CUDA kernels are tested on the CPU with g++, which is not installed (Debian, Ubuntu: apt install g++)"
        )
    folder = resources.files(sources.__package__)
    headers = sorted(e.name for e in folder.iterdir() if e.name.endswith((".cu", ".cuh")))
    unit, options = (
        translation_unit(),
        [
            *FLAGS,
            *(option for option in sources.options(kind) if option.startswith("-D")),
            *(f"-D{fault}" for fault in faults),
        ],
    )
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    everything = [
        unit,
        *options,
        version,
        (HERE / "cuda_shim.h").read_text(),
        *(sources.read(name) for name in headers),
    ]
    key = hashlib.sha256("\0".join(everything).encode()).hexdigest()[:24]
    cache = Path(tempfile.gettempdir()) / f"fastnn-cuda-on-cpu-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    built = cache / f"{kind}-{key}.so"
    if not built.exists():
        temporary = cache / f"{key}-{os.getpid()}.tmp"
        command = [compiler, *options, f"-I{HERE}", f"-I{folder}", "-o", str(temporary), "-"]
        result = subprocess.run(command, input=unit, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"g++ refuses the CUDA kernels:\n{result.stderr}")
        temporary.replace(built)  # at once, for other processes that look for it
    # PyDLL keeps the interpreter lock during a call: the scheduler serves one thread at a time.
    return ctypes.PyDLL(str(built))
