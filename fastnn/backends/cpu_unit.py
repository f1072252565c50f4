"""Whether Intel's matrix unit (AMX) is used: what the machine has, what the caller says, and FASTNN_AMX for programs
that say nothing. Never a measurement, so that the same seed gives the same bits at any hour.

A core has one unit for both of its hardware threads. A virtual machine that is shown both has it to itself; one that is
shown one thread a core may share it with strangers, and then it is the slower way for numbers of float32: 1.3 to 1.7
times in busy hours of such a machine, where it would be 1.3 times as fast alone (bench/results).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from ..errors import unknown_name
from ..kernels.cpu import JIT
from ..kernels.cpu.amx import missing

__all__ = ["FOR_BYTES", "VARIABLE", "unit_may_be_shared", "why_no_unit"]

VARIABLE = "FASTNN_AMX"
VALUES = ("on", "off")
FOR_BYTES = (
    ", for uint8 data alone: this virtual machine is shown one thread of each core, and whoever has the other may use "
    "the unit too; FASTNN_AMX=on if nobody does"
)
CPUINFO, SIBLINGS = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")


def why_no_unit(amx: bool | None) -> str | None:
    """Why it is not used; None where it may be. amx: as the caller says, for whom FASTNN_AMX means nothing.

    Raises
    ------
    ValueError
        amx=True where there is none that can be used; FASTNN_AMX is neither "on" nor "off" (nor empty).
    """
    value = _value()
    if amx is False:
        return "amx=False"
    if amx is None and value == "off":
        return f"{VARIABLE}=off"
    reason = missing() if JIT or amx else "NUMBA_DISABLE_JIT is set"
    if amx and reason:
        raise ValueError(f"amx=True asks for a matrix unit that cannot be used: {reason}")
    return reason


def unit_may_be_shared(amx: bool | None) -> bool:
    """Whether plans should reckon with others on the unit: where the caller and FASTNN_AMX say nothing, and this
    machine is virtual and does not show the other thread of its cores.
    """
    return amx is None and _value() != "on" and _one_thread_of_a_core()


def _value() -> str:
    value = os.environ.get(VARIABLE, "").strip().lower()
    if value and value not in VALUES:
        raise unknown_name(f"environment variable {VARIABLE}", value, VALUES)
    return value


@functools.cache
def _one_thread_of_a_core() -> bool:
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        siblings = SIBLINGS.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return False
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return "hypervisor" in flags and siblings.isdecimal()  # several are listed as 0-1 or 0,2
