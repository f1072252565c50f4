"""Every CUDA kernel in every kind, compiled into CuPy's cache by many processes at once: one after another they take
more than a minute, which the stages behind this one would wait for.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed

from ...kernels.cuda import sources
from ..statistics import Result
from .stage import Request, Write

__all__ = ["compiled", "everything", "run"]

MOST = 16  # processes, each with a context on the device
SLOWEST_FIRST = ("narrow.cu", "update.cu", "layerwise.cu", "output.cu", "cost.cu")


def everything() -> list[tuple[str, str]]:
    """(file, kind), those that take longest first; in bfloat16 the kernels of a training step alone."""
    pairs = [
        (file, kind)
        for file in sources.files()
        for kind in sources.KINDS
        if kind != "bfloat16" or "STORE" in sources.read(file)
    ]
    return sorted(
        pairs, key=lambda pair: SLOWEST_FIRST.index(pair[0]) if pair[0] in SLOWEST_FIRST else len(SLOWEST_FIRST)
    )


def compiled(file: str, kind: str) -> float:
    """Compile one; the seconds that it took."""
    began = time.perf_counter()
    cupy = importlib.import_module("cupy")
    cupy.RawModule(code=sources.text(file), options=sources.options(kind)).compile()
    return time.perf_counter() - began


def run(request: Request, write: Write, pairs: Iterable[tuple[str, str]] | None = None) -> Result:
    """The stage. What cannot be compiled is told, and fails it."""
    wanted = list(everything() if pairs is None else pairs)
    seconds: dict[str, float] = {}
    failures: list[str] = []
    workers = min(MOST, os.cpu_count() or 1, len(wanted))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = {pool.submit(compiled, file, kind): f"{file} {kind}" for file, kind in wanted}
        for done in as_completed(asked):
            try:
                seconds[asked[done]] = round(done.result(), 2)
            except Exception as error:
                failures.append(f"{asked[done]}: {type(error).__name__}: {error}".splitlines()[0])
            write({"seconds": seconds, "failures": failures})
    return {"seconds": seconds, "failures": failures, "failed": len(failures), "processes": workers}
