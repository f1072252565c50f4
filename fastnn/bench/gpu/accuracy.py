"""Seconds of training to 98 % of MNIST's test rows, for everyone, from the same parameters in the same order."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import DataFileError
from ..client import Absent, Client, PeerError
from ..peers import Spec
from ..statistics import Result
from .cases import MNIST_CASE, MNIST_EPOCHS, MNIST_GOAL, MNIST_SECONDS
from .peers import PEERS
from .stage import Request, Write

__all__ = ["measure", "run"]


def measure(
    folder: str,
    peers: dict[str, Spec],
    seeds: int,
    left: object,
    write: Write,
    rows: int | None = None,
    timeout: float = 100.0,
) -> Result:
    """{"runs": {peer: [...]}, "goal", "asked", "verdict"}; the verdict is about fastnn's captured program."""
    runs: dict[str, list[Result]] = {}
    labels = {name: spec.label for name, spec in peers.items()}
    asked = {
        "net": MNIST_CASE.net.name,
        "batch": MNIST_CASE.batch,
        "optimizer": MNIST_CASE.optimizer,
        "precision": MNIST_CASE.precision,
    }
    left_out: list[str] = []
    for name, spec in peers.items():
        with Client(spec.driver, 1) as client:
            for seed in range(seeds):
                remaining = float(left()) if callable(left) else timeout
                if remaining < 5:
                    left_out.append(f"{name}, seed {seed}")
                    continue
                try:
                    result = client.ask(
                        "accuracy",
                        min(timeout, remaining - 2),
                        folder=folder,
                        seed=seed,
                        epochs=MNIST_EPOCHS,
                        goal=MNIST_GOAL,
                        rows=rows,
                        **asked,
                    )
                except PeerError as error:
                    result = {"status": error.kind, "note": error.reason}
                runs.setdefault(name, []).append(result)
                write({"runs": runs, "labels": labels})
                if "status" in result:
                    break
    ours = [run for name, spec in peers.items() if spec.own for run in runs.get(name, []) if "curve" in run][:seeds]
    times = sorted(run["reached"] if run["reached"] is not None else float("inf") for run in ours)
    median = times[len(times) // 2] if times else None
    verdict = None if median is None else "PASS" if median < MNIST_SECONDS else "MISS"
    return {
        "runs": runs,
        "labels": labels,
        "goal": MNIST_GOAL,
        "asked": MNIST_SECONDS,
        "median": median,
        "verdict": verdict,
        "left_out": left_out,
    }


def run(request: Request, write: Write) -> Result:
    """The stage; Absent without the data."""
    from ...data import mnist

    try:
        mnist.find(request.data)
    except DataFileError as error:
        raise Absent(str(error)) from None
    folder = str(Path(request.data or os.environ[mnist.VARIABLE]).resolve())
    peers = {name: spec for name, spec in PEERS.items() if name in ("captured", "eager", "torch", "jax")}
    return measure(folder, peers, 1 if request.mode == "quick" else 3, lambda: request.left, write)
