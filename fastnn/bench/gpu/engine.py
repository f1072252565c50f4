"""The CuPy engine's ways to run a program: steps replayed as CUDA graphs, the same kernels launched one by one, or
for narrow nets fused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...backends.cupy_contract import CaptureRefused
from ..client import Absent

__all__ = ["MODES", "forced", "fusing", "mode_of"]

MODES = ("captured", "eager")


def mode_of(program: Any) -> str:
    """How a program ran its last steps."""
    return str(program.mode)


@contextmanager
def forced(backend: Any, mode: str) -> Iterator[None]:
    """Inside, programs of this engine run in this mode: "captured" or "fused", or "eager" because the device refuses to
    capture.

    The engine warns when capture is refused; that warning is what was asked for here.
    """
    if mode != "eager":
        yield
        return

    def refuse(step: Any) -> Any:
        raise CaptureRefused("eager steps were asked for")

    backend.device._capture = refuse
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        del backend.device._capture


@contextmanager
def fusing(backend: Any, fused: bool) -> Iterator[None]:
    """Inside, new programs train narrow nets by the fused kernel, or do not; an error where they cannot."""
    before, backend.fused = backend.fused, fused
    try:
        yield
    finally:
        backend.fused = before


def check(program: Any, mode: str) -> None:
    """Raises Absent if the program, which has run, did so in another mode; "captured" may have been fused where
    that was timed to be faster.
    """
    if mode_of(program) not in (mode, "fused" if mode == "captured" else mode):
        raise Absent(
            f"the engine ran its steps {mode_of(program)}, not "
            f"{mode}{': ' + program.why_eager if program.why_eager else ''}"
        )
