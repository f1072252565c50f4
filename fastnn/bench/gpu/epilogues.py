"""Per hidden layer: cuBLASLt's epilogues against products with kernels of our own; for narrow nets whole steps,
captured and fused. Timed by the engine as it chooses.
"""

from __future__ import annotations

import traceback
import warnings
from typing import Any

from ... import optimizers
from ...network import Network
from ..cases import net_named
from ..client import Absent
from ..statistics import Result
from . import lab as labs
from .cases import MIDDLE, NARROW, NETS, PRECISIONS, WIDE, WIDEST
from .stage import Request, Write

__all__ = ["measure", "problems", "run"]


def problems(mode: str) -> list[tuple[str, int, str]]:
    """(net, batch, precision) in the order of their worth."""
    narrow = [(NARROW, 32, "fp32")]
    if mode == "all":
        return narrow + [(net, batch, precision) for net in NETS for batch in (512, 8192) for precision in PRECISIONS]
    return narrow + [
        (net, batch, precision)
        for precision in ("bf16", "tf32", "fp32")
        for net, batch in ((WIDEST, 8192), (WIDE, 8192), (MIDDLE, 512))
    ]


def measure(backend: Any, name: str, batch: int, precision: str) -> Result:
    """{"layers": [{way: seconds, or None if it is not offered}], "choice", "fused": {way: seconds of a step}, ...}
    of one net at one batch and precision.
    """
    net = net_named(name)
    made = Network(net.sizes, hidden=net.hidden, output=net.output, cost=net.cost, precision=precision, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that steps are not captured is said below
        program = backend.compile(made, optimizers.SGD(0.1), batch)
    if program.why_eager:
        raise Absent(f"cuBLASLt is not used here: {program.why_eager}")
    timed = {"layers": program.timings(), "fused": program.fused_timings()}
    return {
        "net": name,
        "batch": batch,
        "precision": precision,
        "choice": program.describe(),
        **timed,
        "refusals": dict(backend.device.refusals),
    }


def run(request: Request, write: Write) -> Result:
    """The stage; Absent without cuBLASLt."""
    backend = labs.open_lab().backend
    found: list[Result] = []
    left_out: list[str] = []
    failed: list[str] = []
    for name, batch, precision in problems(request.mode):
        if request.left < 3:
            left_out.append(f"{name}, batch {batch}, {precision}")
            continue
        try:
            found.append(measure(backend, name, batch, precision))
        except Absent:
            raise
        except Exception as error:  # of one problem; the others can be measured
            traceback.print_exc()
            failed.append(f"{name}, batch {batch}, {precision}: {type(error).__name__}: {error}".splitlines()[0])
        write({"problems": found, "failures": failed})
    return {"problems": found, "failures": failed, "failed": len(failed), "left_out": left_out}
