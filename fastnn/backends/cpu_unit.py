"""Whether Intel's matrix unit (AMX) is used: what the machine has, what the caller says, and FASTNN_AMX for programs
that say nothing. Never a measurement, so that the same seed gives the same bits at any hour.
"""

from __future__ import annotations

import os

from ..errors import unknown_name
from ..kernels.cpu import JIT
from ..kernels.cpu.amx import missing

__all__ = ["VARIABLE", "why_no_unit"]

VARIABLE = "FASTNN_AMX"
VALUES = ("on", "off")


def why_no_unit(amx: bool | None) -> str | None:
    """Why it is not used; None where it may be. amx: as the caller says, for whom FASTNN_AMX means nothing.

    Raises
    ------
    ValueError
        amx=True where there is none that can be used; FASTNN_AMX is neither "on" nor "off" (nor empty).
    """
    value = os.environ.get(VARIABLE, "").strip().lower()
    if value and value not in VALUES:
        raise unknown_name(f"environment variable {VARIABLE}", value, VALUES)
    if amx is False:
        return "amx=False"
    if amx is None and value == "off":
        return f"{VARIABLE}=off"
    reason = missing() if JIT or amx else "NUMBA_DISABLE_JIT is set"
    if amx and reason:
        raise ValueError(f"amx=True asks for a matrix unit that cannot be used: {reason}")
    return reason
