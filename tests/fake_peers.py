"""Competitors that behave and misbehave, for the tests of the comparison; a worker process imports them."""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from fastnn.bench import oracle
from fastnn.bench.peers.base import Peer
from fastnn.bench.problem import Problem


class Good(Peer):
    """Plain float32 NumPy."""

    slower = 1

    def load(self, problem):
        self.problem = problem

    def reset(self, theta):
        self.start = theta.copy()

    def run(self, start, stop):
        p = self.problem
        part = Problem(
            p.net, p.X, p.y, self.start, p.order[start * p.batch : stop * p.batch], p.batch, p.optimizer,
            p.learning_rate,
        )  # fmt: skip
        for _ in range(self.slower):
            self.result = oracle.train(part, np.float32)
        return self.result.mean_cost

    def theta(self):
        return self.result.theta.astype(np.float32)

    def load_network(self, net, theta, x):
        self.net, self.parameters, self.x = net, theta, x

    def predict(self):
        z = oracle.forward(self.net, self.parameters, self.x)[-1]
        if not self.net.classes:
            return z
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


class Slow(Good):
    """The same, many times over."""

    slower = 12


class SlowAsAWhole(Slow):
    """Its runs are compiled for their number of steps."""

    whole = True


class Talkative(Good):
    """Prints to standard output, where the answers go."""

    def run(self, start, stop):
        print("epoch 1: hello")
        os.write(1, b'{"ok": true, "seconds": 0}\n')
        return super().run(start, stop)


class Wrong(Good):
    """Forgets half of its way, and rounds its outputs."""

    def theta(self):
        return (super().theta() + self.start) / 2

    def predict(self):
        return np.round(super().predict(), 1)


class SlowAndWrong(Wrong):
    slower = 12


class NotANumber(Good):
    """Its parameters have become NaN."""

    def theta(self):
        return super().theta() * np.float32(np.nan)


class Raises(Good):
    def load(self, problem):
        raise RuntimeError("no such optimizer")


class Crashes(Good):
    """Dies in the second round: four short runs come before (pace is asked of the first competitor only)."""

    runs = 0

    def run(self, start, stop):
        if (start, stop) == (0, self.problem.steps):
            type(self).runs += 1
        if type(self).runs > 4:
            print("illegal instruction, says the library")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(start, stop)


class DiesAtOnce(Good):
    def load(self, problem):
        os._exit(3)


class Hangs(Good):
    def run(self, start, stop):
        time.sleep(3600)


class Missing(Good):
    def __init__(self, threads):
        super().__init__(threads)
        import a_library_that_is_not_installed  # noqa: F401
