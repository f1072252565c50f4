"""`python -m fastnn.bench.firststep DRIVER THREADS`: a fresh process up to its first training step, then one line."""

from __future__ import annotations

import sys

from . import problem
from .cases import NETS, Case
from .worker import Worker

__all__ = ["main"]


def main() -> None:
    """Train one step of 784-300-100-10 on 128 rows."""
    made = problem.make(Case(NETS["784-300-100-10"], 128), rows=256, steps=1)
    peer = Worker(sys.argv[1], int(sys.argv[2])).peer
    peer.load(made)
    peer.reset(made.theta)
    peer.run(0, 1)
    print("done", flush=True)


if __name__ == "__main__":
    main()
