"""A thousand steps replayed as CUDA graphs give the bits of the same steps launched one by one, and give them
again; fused steps give theirs again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import optimizers
from ...errors import BackendUnavailable
from ...network import Network
from ..client import Absent
from ..statistics import Result
from . import engine
from . import lab as labs
from .stage import Request, Write

__all__ = ["PROBLEMS", "Problem", "compare", "run"]

STEPS = 1000


@dataclass(frozen=True)
class Problem:
    """One thing to repeat: a net, a rule, rows per step; the rows do not divide into batches."""

    sizes: tuple[int, ...]
    hidden: str = "relu"
    output: str = "softmax"
    cost: str = "cross_entropy"
    rule: str = "adam"
    batch: int = 64
    dtype: str = "float32"
    precision: str = "fp32"
    fused: bool = False  # in place of captured; its sums run in another order than those of eager steps
    dropout: float = 0.0

    @property
    def title(self) -> str:
        precision = self.precision if self.dtype == "float32" else self.dtype
        return (
            f"{'-'.join(map(str, self.sizes))} {self.hidden}, {self.output} {self.cost}, {self.rule}, "
            f"batch {self.batch}, {precision}{', fused' if self.fused else ''}"
            f"{f', dropout {self.dropout:g}' if self.dropout else ''}"
        )


PROBLEMS = (
    Problem((20, 33, 17, 4), "tanh"),
    Problem((784, 300, 100, 10), batch=512),
    Problem((784, 300, 100, 10), batch=512, precision="tf32"),
    Problem((784, 300, 100, 10), batch=512, precision="bf16"),
    Problem((20, 33, 1), "leaky_relu", "identity", "squared_error", "momentum", 37),
    Problem((20, 40, 3), "sigmoid", "sigmoid", "cross_entropy", "sgd", 31, "float64"),
    Problem((784, 512, 512, 10), batch=128, precision="bf16", dropout=0.2),
    Problem((20, 33, 17, 4), "tanh", fused=True),
    Problem((20, 40, 3), "sigmoid", "sigmoid", "cross_entropy", "sgd", 31, "float64", fused=True),
)


def train(backend: Any, problem: Problem, mode: str, steps: int) -> tuple[np.ndarray[Any, Any], float]:
    """Theta and the optimizer's state as bytes, and the cost, after so many steps in this mode."""
    rng = np.random.default_rng(5)
    rows, sizes = 501, problem.sizes
    X = rng.standard_normal((rows, sizes[0])).astype(problem.dtype)
    y = (
        rng.integers(0, sizes[-1], rows)
        if problem.output == "softmax"
        else rng.uniform(0.1, 0.9, (rows, sizes[-1])).astype(problem.dtype)
    )
    count = steps * problem.batch
    # the last batch is short
    order = np.concatenate([rng.permutation(rows) for _ in range(-(-count // rows))])[: count - problem.batch // 2]
    with engine.fusing(backend, mode == "fused"):
        options: dict[str, Any] = {"precision": problem.precision} if problem.precision != "fp32" else {}
        net = Network(
            sizes,
            hidden=problem.hidden,
            output=problem.output,
            cost=problem.cost,
            l2=0.01,
            dtype=problem.dtype,
            backend=backend,
            seed=3,
            dropout=problem.dropout,
            **options,
        )
        rule = optimizers.get(problem.rule, 0.01)
        program = backend.compile(net, rule, problem.batch)
        program.training_rows = rows
        if mode == "eager":  # not before: what is timed where nothing is recorded is the host
            program.mode = "eager"
        cost, _ = program.run(
            backend.asarray(X), backend.asarray(y), backend.asarray(order), 0, program.steps(len(order))
        )
    engine.check(program, mode)
    parts = [np.ascontiguousarray(backend.to_numpy(x)).view(np.uint8) for x in (net.theta, *rule.state)]
    return np.concatenate(parts), float(cost)


def compare(backend: Any, problem: Problem, steps: int = STEPS) -> Result:
    """Eager once, captured twice, or fused twice: {"status", "note", ...}."""
    entry: Result = {"title": problem.title, "steps": steps, "status": "ok", "note": ""}
    try:
        modes = ("fused", "fused", "fused") if problem.fused else ("eager", "captured", "captured")
        eager, captured, again = (train(backend, problem, mode, steps) for mode in modes)
    except Exception as error:
        # a mode that is not the one asked for is no comparison, and a fault where the device could have had it
        missing = isinstance(error, (Absent, BackendUnavailable, ValueError)) and backend.device.no_products is not None
        kind = "absent" if missing else "failed"
        return {**entry, "status": kind, "note": f"{type(error).__name__}: {error}".splitlines()[0]}
    for name, (theta, cost), (other, other_cost) in (
        (f"{modes[1]} against {modes[0]}", captured, eager),
        (f"{modes[1]} twice", captured, again),
    ):
        different = int((theta != other).sum())
        if different or cost != other_cost:
            entry |= {
                "status": "failed",
                "note": f"{name}: {different} of {len(theta)} bytes differ, cost {cost!r} and {other_cost!r}",
            }
            break
    return entry | {"bytes": len(eager[0]), "cost": eager[1]}


def run(request: Request, write: Write) -> Result:
    """The stage."""
    backend = labs.open_lab().backend
    found: list[Result] = []
    left_out: list[str] = []
    for problem in PROBLEMS if request.mode != "quick" else PROBLEMS[:2]:
        if request.left < 3:
            left_out.append(problem.title)
            continue
        found.append(compare(backend, problem))
        print(found[-1])
        write({"problems": found})
    return {"problems": found, "failed": sum(entry["status"] == "failed" for entry in found), "left_out": left_out}
