"""One library in a process of its own: requests and answers, a JSON object per line each.

`python -m fastnn.bench.worker DRIVER THREADS`, with DRIVER "module:Class". The answers have the
standard output for themselves; whatever a library prints goes to standard error. An exception is
an answer; a crash is an end of file, which the other side tells from an answer.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from . import oracle, problem
from .cases import net_named
from .load import Stopwatch
from .peers.base import Peer

__all__ = ["Worker", "main"]

Reply = dict[str, Any]
WAKING = 0.05  # seconds of steps that are run without the clock before those that are timed


class Worker:
    """The requests, one method each; every one takes and returns plain JSON values."""

    def __init__(self, driver: str, threads: int) -> None:
        self.driver, self.threads = driver, threads
        self._peer: Peer | None = None

    @property
    def peer(self) -> Peer:
        """The library, imported at its first use."""
        if self._peer is None:
            module, _, name = self.driver.partition(":")
            self._peer = getattr(importlib.import_module(module), name)(self.threads)
        return self._peer

    def hello(self) -> Reply:
        """Versions, and the time the import took."""
        start = time.perf_counter()
        peer = self.peer
        return {"versions": peer.versions(), "import_seconds": time.perf_counter() - start}

    # ---- training ---------------------------------------------------------------------------------

    def oracle(
        self,
        path: str,
        rows: int,
        steps: int,
        seed: int,
        library: str = "numpy",
        beginning: int | None = None,
        **case: Any,
    ) -> Reply:
        """The float64 run of a problem, and of its first `beginning` steps, in this array library, to a file for
        those who are compared with it.
        """
        from .peers.base import blas_threads

        blas_threads(self.threads)
        made = problem.make(problem.case_from(case), rows, steps, seed)
        xp = importlib.import_module(library)
        run = oracle.train(made, xp=xp)
        parts = (
            {steps: run}
            if beginning is None
            else {steps: run, beginning: oracle.train(made.beginning(beginning), xp=xp)}
        )
        np.savez(
            path,
            **{
                f"{name}_{count}": getattr(part, name)
                for count, part in parts.items()
                for name in ("theta", "mean_cost")
            },
        )
        return {"digest": made.digest(), "mean_cost": run.mean_cost, "final_cost": self._final_cost(made, run.theta)}

    def pace(self, rows: int, seed: int, least: float, **case: Any) -> Reply:
        """Seconds per step, over enough steps to take `least` seconds."""
        steps = 4
        while True:
            made = problem.make(problem.case_from(case), rows, steps, seed)
            self.peer.load(made)
            seconds = []
            for _ in range(2):
                self.peer.reset(made.theta)
                seconds.append(self._timed(made.steps)[1].sample.seconds)
            best = min(seconds)
            if best >= least or steps * made.batch >= 1 << 22:
                return {"seconds": best / steps}
            steps = math.ceil(steps * min(16.0, max(2.0, 1.2 * least / max(best, 1e-9))))

    def prepare(self, rows: int, steps: int, seed: int, **case: Any) -> Reply:
        """Load a problem; the first run, which includes compilation; a first look at the speed."""
        self.made = problem.make(problem.case_from(case), rows, steps, seed)
        start = time.perf_counter()
        self.peer.load(self.made)
        self._first_run()
        first = time.perf_counter() - start
        return {
            "digest": self.made.digest(),
            "first_seconds": first,
            "probe_seconds": self._probe(),
            "choice": self.peer.describe(),
            "whole": self.peer.whole,
        }

    def _first_run(self) -> None:
        """Run what compiles and warms up: everything where a run is compiled as a whole, else a few steps."""
        self.peer.reset(self.made.theta)
        self.peer.run(0, self.made.steps if self.peer.whole else min(3, self.made.steps))

    def _probe(self, least: float = 0.05) -> float:
        """Seconds that all steps take, estimated from as many as fill `least` seconds: a first look, taken twice."""
        steps = self.made.steps
        count = steps if self.peer.whole else max(1, steps // 64)
        while True:
            seconds = []
            for _ in range(2):
                self.peer.reset(self.made.theta)
                seconds.append(self._timed(count)[1].sample.seconds)
            if count == steps or min(seconds) >= least:
                return min(seconds) * steps / count
            count = min(steps, count * 4)

    def time(self, path: str, compare: bool = True, steps: int | None = None) -> Reply:
        """Run the prepared problem, or its first steps, once from its Theta against the clock, and compare the
        result with the oracle's.
        """
        made = self.made if steps is None else self.made.beginning(steps)
        self._wake()
        self.peer.reset(made.theta)
        mean_cost, watch = self._timed(made.steps)
        if not compare:
            return {"seconds": watch.sample.seconds, "cpu": watch.sample.cpu, "others": watch.sample.others}
        theta = self.peer.theta()
        with np.load(path) as file:
            run = oracle.Run(file[f"theta_{made.steps}"], float(file[f"mean_cost_{made.steps}"]))
        theta_error, cost_error = oracle.differences(made, run, theta, mean_cost)
        return {
            "seconds": watch.sample.seconds,
            "cpu": watch.sample.cpu,
            "others": watch.sample.others,
            "mean_cost": mean_cost,
            "final_cost": self._final_cost(made, theta),
            "theta_error": theta_error,
            "cost_error": cost_error,
        }

    def _wake(self, least: float = WAKING) -> None:
        """Run steps without the clock for about so many seconds, or all: while others were timed this process slept,
        its cores and caches became theirs, and a training of some seconds finds neither so more than once."""
        steps = self.made.steps
        count = steps if self.peer.whole else max(1, steps // 16)
        self.peer.reset(self.made.theta)
        until = time.perf_counter() + least
        for start in range(0, steps, count):
            self.peer.run(start, min(start + count, steps))
            if time.perf_counter() >= until:
                return

    @staticmethod
    def _final_cost(made: problem.Problem, theta: Any) -> float:
        """Cost of theta on a thousand rows, in float64, computed the same way for everyone, and on one
        thread: NumPy's other threads would spin for a tenth of a second afterwards, beside the next to be timed."""
        from .peers.base import blas_threads

        with blas_threads(1):
            return oracle.cost(made.net, np.asarray(theta), made.X[:1000], made.y[:1000])

    def _timed(self, steps: int) -> tuple[float, Stopwatch]:
        """Mean cost and duration of the first steps of the problem that is loaded."""
        with Stopwatch() as watch:
            mean_cost = self.peer.run(0, steps)
        return float(mean_cost), watch

    # ---- inference --------------------------------------------------------------------------------

    def predict(self, net: str, rows: int, seconds: float, seed: int = 0) -> Reply:
        """Load a network and call it for about this long; the outputs are compared with float64."""
        shape = net_named(net)
        theta = problem.initial_theta(shape, seed)
        x = np.random.default_rng([seed, 3]).random((rows, shape.sizes[0]), np.float32) - np.float32(0.5)
        start = time.perf_counter()
        self.peer.load_network(shape, theta, x)
        self.peer.predict()
        first = time.perf_counter() - start
        z = oracle.forward(shape, theta.astype(np.float64), x.astype(np.float64))[-1]
        if shape.classes:
            z = np.exp(z - z.max(axis=1, keepdims=True))
            z /= z.sum(axis=1, keepdims=True)
        error = float(np.abs(self.peer.outputs() - z).max())
        return {"first_seconds": first, "error": error, "probe_seconds": self.calls(seconds)["seconds"]}

    def calls(self, seconds: float) -> Reply:
        """Median seconds of one call of the loaded network, in blocks that the clock resolves."""
        call, block = self.peer.predict, 1
        blocks: list[float] = []
        with Stopwatch() as watch:
            until = time.perf_counter() + seconds
            while time.perf_counter() < until or len(blocks) < 3:
                start = time.perf_counter()
                for _ in range(block):
                    call()
                took = time.perf_counter() - start
                if took < 5e-4 and block < 1 << 14:  # still finding the size
                    block, blocks = block * 2, []
                    continue
                blocks.append(took / block)
        sample = watch.sample
        return {"seconds": float(np.median(blocks)), "wall": sample.seconds, "cpu": sample.cpu, "others": sample.others}

    # ---- other ------------------------------------------------------------------------------------

    def gemm(self, library: str, sizes: list[int], seconds: float) -> Reply:
        """GFLOP/s of float32 squares, the best of as many products as fit into the time."""
        from .ceiling import measure

        return {"gflops": measure(library, self.threads, sizes, seconds)}

    def product(self, library: str, size: int, seconds: float) -> Reply:
        """GFLOP/s of the median product of one size, for the rounds of a cell that is asked for a share of it."""
        from .ceiling import typical

        return {"gflops": typical(library, self.threads, size, seconds)}

    def accuracy(self, folder: str, seed: int, epochs: int, goal: float, rows: int | None = None, **case: Any) -> Reply:
        """Train on MNIST epoch by epoch; test accuracy after each, and the seconds of training alone."""
        from .accuracy import train_to

        return train_to(self.peer, problem.case_from(case), folder, seed, epochs, goal, rows)

    def memory(self) -> Reply:
        """Most resident memory this process has had, in bytes; None where the kernel does not tell."""
        try:
            text = Path("/proc/self/status").read_text(encoding="ascii")
        except OSError:
            return {"peak": None}
        line = next((line for line in text.splitlines() if line.startswith("VmHWM:")), None)
        return {"peak": int(line.split()[1]) * 1024 if line else None}


def serve(worker: Worker, requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end."""
    for line in requests:
        request = json.loads(line)
        try:
            reply = {"ok": True, **getattr(worker, request.pop("op"))(**request)}
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".splitlines()
            reply = {
                "ok": False,
                "error": reason[0] if reason else "",
                "missing": isinstance(error, ImportError) or type(error).__name__ == "BackendUnavailable",
            }
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def main() -> None:
    """Serve on this process's standard input and output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    serve(Worker(sys.argv[1], int(sys.argv[2])), sys.stdin, answers)


if __name__ == "__main__":
    main()
