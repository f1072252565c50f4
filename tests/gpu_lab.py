"""The lab of the GPU run without a GPU: the CuPy engine over the stand-in, NumPy, and a clock that is told what to
show.
"""

from __future__ import annotations

import numpy as np
from cuda_on_cpu import make_backend

from fastnn.bench.gpu.lab import Lab
from fastnn.bench.gpu.peers import fastnn_peer
from fastnn.bench.gpu.timer import Timer

RATES = {"fp32": 50e12, "tf32": 400e12, "bf16": 800e12}


class ToldTimer(Timer):
    """Shows the seconds that the work itself names, a little more each time; counts what was run."""

    def __init__(self):
        self.count = 0

    def once(self, work):
        self.count += 1
        return work() * (1 + 0.01 * (self.count % 3))

    def sustained(self, work, times):
        assert times > 1
        return 1.25 * work()


class StandInLab(Lab):
    xp = np

    def __init__(self):
        self.backend, self.timer = make_backend(), ToldTimer()

    def product(self, precision, m, n, k):
        large = min(m, n, k) >= 64  # small products do not reach the rate
        return lambda: 2 * m * n * k / (RATES[precision] * (1.0 if large else 0.1))

    def copy(self, count):
        return lambda: 2 * count / 4e12


class Captured(fastnn_peer.Captured):
    """fastnn's peer over the stand-in; a worker process imports it."""

    def _backend(self):
        return make_backend()


class Eager(Captured):
    mode = "eager"
