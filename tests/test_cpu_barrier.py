"""The barrier of a team's compiled code (kernels/cpu/team.py): nobody goes on before all have come, and who waits
long does so asleep.
"""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fastnn.backends.cpu_crew import run_team
from fastnn.kernels.cpu import JIT, compiled
from fastnn.kernels.cpu.team import barrier, new_barrier

pytestmark = pytest.mark.skipif(not JIT, reason="without JIT a team has one thread")


def _rounds(meeting, me, team, counts, rounds):
    """Counts its own rounds and returns how often another's count differed from its own between two barriers."""
    wrong = 0
    for _ in range(rounds):
        counts[16 * me] += 1
        barrier(meeting, me, team)
        for other in range(team):
            wrong += counts[16 * other] != counts[16 * me]
        barrier(meeting, me, team)
    return wrong


_rounds = compiled(_rounds)


@pytest.mark.parametrize("team", [1, 2, 3, 5])
def test_nobody_goes_on_before_all_have_come(team):
    """Also where there are more of them than cores."""
    meeting, counts = new_barrier(team), np.zeros(16 * team, np.int64)
    assert run_team(lambda me: _rounds(meeting, me, team, counts, 300), team) == [0] * team
    assert list(counts[::16]) == [300] * team


def test_beside_processes_that_want_every_core():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        test_nobody_goes_on_before_all_have_come(2)
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="counts a thread's waits as Linux does")
def test_who_waits_long_sleeps():
    """A yield is no voluntary wait, and beside a busy process it costs that one's whole time slice."""
    import resource

    meeting, counts, come = new_barrier(2), np.zeros(32, np.int64), threading.Event()
    _rounds(new_barrier(1), 0, 1, counts.copy(), 1)  # compiled before

    def waits():
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        come.set()
        _rounds(meeting, 0, 2, counts, 1)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    def comes_late():
        come.wait()
        time.sleep(0.2)
        _rounds(meeting, 1, 2, counts, 1)
        return 0

    naps = run_team(lambda me: comes_late() if me else waits(), 2)[0]
    assert naps > 100
