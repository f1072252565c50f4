"""Threads of the CPU engine: the plan, BLAS at one thread meanwhile, forks, and equal results whatever their number."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

import fastnn
from fastnn.backends import cpu_crew, cpu_threads
from fastnn.backends.cpu_plan import Plan, Problem, choose_plan
from fastnn.kernels.cpu import JIT


def _blas_threads():
    return [library.get_num_threads() for library in ThreadpoolController().select(user_api="blas").lib_controllers]


def test_overlapping_uses_leave_blas_as_it_was():
    before = _blas_threads()
    inside, release = threading.Event(), threading.Event()

    def hold():
        with cpu_threads.blas_on_one_thread():
            inside.set()
            release.wait(10)

    other = threading.Thread(target=hold)
    with cpu_threads.blas_on_one_thread():
        other.start()
        assert inside.wait(10)
    assert set(_blas_threads()) == {1}, "the other use is still under way"
    release.set()
    other.join()
    assert _blas_threads() == before


def test_blas_is_restored_after_an_error():
    before = _blas_threads()
    with pytest.raises(ZeroDivisionError), cpu_threads.blas_on_one_thread():
        raise ZeroDivisionError
    assert _blas_threads() == before


def test_a_limit_set_by_the_user_is_respected():
    with ThreadpoolController().limit(limits=1, user_api="blas"):
        assert cpu_threads.usable_threads() == 1


@pytest.mark.parametrize(
    ("content", "cores"),
    [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("250000 100000", 2), ("nonsense", None)],
)
def test_the_quota_of_a_container_counts(monkeypatch, tmp_path, content, cores):
    file = tmp_path / "cpu.max"
    file.write_text(content)
    monkeypatch.setattr(cpu_threads, "QUOTA_FILE", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    assert cpu_threads._cores() == (cores or 4)


@pytest.mark.parametrize(("quota", "cores"), [("-1", 4), ("200000", 2), ("50000", 1), ("x", 4)])
def test_the_quota_of_an_older_container_counts(monkeypatch, tmp_path, quota, cores):
    """cgroup v1."""
    files = tmp_path / "quota", tmp_path / "period"
    for file, content in zip(files, (quota, "100000"), strict=True):
        file.write_text(content)
    monkeypatch.setattr(cpu_threads, "QUOTA_FILE", tmp_path / "there is none")
    monkeypatch.setattr(cpu_threads, "OLD_QUOTA_FILES", files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    assert cpu_threads._cores() == cores


LATE = """
    import random, signal
    from threadpoolctl import ThreadpoolController
    import scipy.linalg.blas
    from fastnn.backends import cpu_threads
    from fastnn.interrupts import interrupt_after

    class LateError(Exception):
        pass

    def late(*_):
        raise LateError

    def threads():
        return [library.get_num_threads() for library in cpu_threads._blas()]

    rng, before, caught = random.Random(0), threads(), 0
    signal.signal(signal.SIGALRM, late)
    for _ in range(1500):
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 2e-4))
            with cpu_threads.sharing(), interrupt_after(), cpu_threads.blas_on_one_thread():
                pass
            signal.setitimer(signal.ITIMER_REAL, 0)
        except LateError:
            caught += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert threads() == before
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert not cpu_threads._busy and not cpu_threads._holders
    print(caught)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_a_handler_that_raises_anywhere_leaves_the_process_as_it_was():
    """As of a time limit by SIGALRM: BLAS has its threads again, Ctrl-C acts, and nobody counts as busy. In a process of
    its own, for it may raise in whatever runs.
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LATE)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 0


def test_runs_under_way_in_other_threads_share_the_cores():
    alone, begun, release = cpu_threads.usable_threads(), threading.Event(), threading.Event()

    def other_run(me):
        begun.set()
        release.wait(10)

    with cpu_threads.sharing(), cpu_threads.blas_on_one_thread():
        assert cpu_threads.usable_threads() == alone, "a thread does not share with itself"
    other = threading.Thread(target=lambda: cpu_crew.run_team(other_run, 1))
    other.start()
    assert begun.wait(10)
    assert cpu_threads.usable_threads() == max(1, alone // 2)
    release.set()
    other.join()
    assert cpu_threads.usable_threads() == alone


@pytest.mark.parametrize(
    ("sizes", "batch", "threads", "sliced"),
    [
        ((4, 3, 2), 1, 1, True),  # a tiny step does not pay for a second thread
        ((784, 16, 16, 10), 8, 1, True),
        ((784, 16, 16, 10), 32, 2, False),
        ((784, 16, 16, 10), 512, 2, True),
        ((784, 300, 100, 10), 32, 2, False),
        ((784, 300, 100, 10), 2048, 2, True),
        ((784, 1024, 1024, 10), 64, 2, False),
        ((784, 1024, 1024, 10), 8192, 2, True),
    ],
    ids=str,
)
def test_plans_follow_the_size_of_the_problem(sizes, batch, threads, sliced):
    plan = choose_plan(Problem(sizes, batch, 4), 2)
    assert (plan.threads, plan.sliced) == (threads, sliced)
    assert 1 <= plan.chunk <= max(batch, plan.threads * -(-batch // plan.threads))
    assert choose_plan(Problem(sizes, batch, 4), 1).threads == 1


def test_many_cores_are_used_only_as_far_as_they_pay():
    teams = [choose_plan(Problem((784, 300, 100, 10), batch, 4), 64).threads for batch in (1, 32, 512, 8192, 65536)]
    assert teams == sorted(teams)
    assert teams[0] == 1
    assert 1 < teams[2] < 64 <= teams[-1]


def test_plans_say_what_they_are():
    assert str(Plan(2, 64)) == "2 threads, 64 rows at a time, products by BLAS"
    assert str(Plan(2, 64, panels=True, split=1)) == (
        "2 threads, sharing the weights of the first layer, 64 rows at a time, products in panels"
    )
    assert str(Plan(3, 64, panels=True, split=2)) == (
        "3 threads, sharing the weights of the first 2 layers, 64 rows at a time, products in panels"
    )
    assert str(Plan(2, 64, sliced=True, panels=True)) == (
        "2 threads, each with a slice of the batch, 32 rows at a time, products in panels"
    )


def _train(plan, *, optimizer, dtype, l2=0.0):
    backend = fastnn.get_backend(
        "numba", threads=plan.threads, chunk=plan.chunk, sliced=plan.sliced, panels=plan.panels
    )
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((333, 37)), rng.integers(0, 5, 333)
    net = fastnn.Network([37, 41, 23, 5], hidden=["tanh", "relu"], backend=backend, dtype=dtype, l2=l2, seed=2)
    assert net.plan(100) == str(plan)
    history = net.fit(X, y, optimizer=optimizer, batch_size=100, epochs=4)
    return net.theta, history


PANELS = [
    Plan(1, 100, False, True),
    Plan(1, 32, True, True),
    Plan(2, 100, True, True),
    Plan(3, 30, True, True),
    *(Plan(team, rows, False, True, 1) for team, rows in ((2, 100), (2, 33), (3, 100))),
]


@pytest.mark.skipif(not JIT, reason="without JIT a team has one thread")
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize(
    "plan",
    [
        Plan(2, 100),
        Plan(3, 100),
        Plan(1, 32),
        Plan(2, 32),
        Plan(1, 32, True),
        Plan(2, 100, True),
        Plan(3, 30, True),
        *PANELS,
    ],
    ids=str,
)
def test_threads_and_chunks_change_nothing_but_the_last_bits(plan, optimizer, dtype):
    alone, history = _train(Plan(1, 100), optimizer=optimizer, dtype=dtype, l2=0.5)
    theta, other = _train(plan, optimizer=optimizer, dtype=dtype, l2=0.5)
    # 16 steps; a split product or sum may round differently, and Adam divides by the root of small
    # second moments, which magnifies a difference of one eps by 1/sqrt(v): 2000 eps covers it.
    np.testing.assert_allclose(theta, alone, rtol=0, atol=2000 * np.finfo(dtype).eps)
    np.testing.assert_allclose(other.cost, history.cost, rtol=100 * np.finfo(dtype).eps)
    assert other.accuracy == history.accuracy
    again, _ = _train(plan, optimizer=optimizer, dtype=dtype, l2=0.5)
    np.testing.assert_array_equal(again, theta)


def test_numba_fits_in_a_thread_pool_equal_fits_one_by_one():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((2000, 64)), rng.integers(0, 10, 2000)

    def train(seed):
        net = fastnn.Network([64, 128, 10], backend="numba", seed=seed)
        net.fit(X, y, epochs=3, batch_size=512)
        return net.theta

    alone = [train(seed) for seed in range(4)]
    before = _blas_threads()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(train, range(4)))
    for one, other in zip(alone, together, strict=True):
        # runs beside each other get fewer threads, so only the last bits may differ
        np.testing.assert_allclose(other, one, rtol=0, atol=2000 * np.finfo(np.float32).eps)
    assert _blas_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_trains_after_its_parent_did():
    code = """
        import os, sys, numpy as np, fastnn
        X, y = np.random.default_rng(0).standard_normal((1000, 64)), np.arange(1000) % 10
        def train():
            net = fastnn.Network([64, 256, 10], backend="numba")
            net.fit(X, y, epochs=2, batch_size=500)
            return net.theta
        mine = train()
        child = os.fork()
        if child == 0:
            os._exit(0 if np.allclose(train(), mine, atol=1e-3) else 3)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_does_not_share_with_runs_of_its_parent():
    code = """
        import os, sys, threading
        from fastnn.backends import cpu_crew, cpu_threads
        cpu_threads._cores, cpu_threads._told = lambda: 8, lambda: []
        begun, release = threading.Event(), threading.Event()
        def hold():
            with cpu_threads.sharing():
                begun.set()
                release.wait()
        threading.Thread(target=hold, daemon=True).start()
        begun.wait()
        child = os.fork()
        if child == 0:
            os._exit(cpu_threads.usable_threads())
        print(cpu_threads.usable_threads(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout.split() == ["4", "8"]


@pytest.mark.parametrize(
    ("order", "y", "words"),
    [
        ([0, 1, 4], [0, 1, 1, 0], "order must hold numbers 0..3, got 0..4"),
        ([0, -1, 2], [0, 1, 1, 0], "order must hold"),
        ([0, 1, 2], [0, 2, 1, 0], "y must hold numbers 0..1"),
    ],
)
def test_numba_program_never_reads_outside_its_arrays(order, y, words):
    net = fastnn.Network([2, 3, 2], backend="numba")
    program = net.backend.compile(net, fastnn.optimizers.SGD(), 3)
    before = net.theta.copy()
    with pytest.raises(ValueError, match=words):
        program.run(np.ones((4, 2), np.float32), np.array(y), np.array(order), 0, 1)
    np.testing.assert_array_equal(net.theta, before)
