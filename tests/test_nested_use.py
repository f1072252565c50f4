"""Fits beside each other - in a thread pool, under joblib, in processes - share the cores instead of each taking
all of them.
"""

import concurrent.futures
import os
import threading

import joblib
import numpy as np
import pytest

import fastnn
from fastnn.backends import cpu_program, cpu_threads, numba_amx, numba_backend, numba_panels
from fastnn.kernels.cpu import JIT

pytestmark = pytest.mark.skipif(not JIT, reason="without JIT a team has one thread")

RNG = np.random.default_rng(0)
X, y = RNG.standard_normal((4000, 64)), RNG.integers(0, 10, 4000)
SIZES = [64, 256, 10]  # large enough for a team


class Count:
    """Members of teams that run at the same time, the most of them, and the teams of each network."""

    def __init__(self, monkeypatch):
        self.lock, self.now, self.most, self.counting = threading.Lock(), 0, 0, False
        self.teams = []
        run_team = numba_backend.run_team

        def counted(work, team):
            def member(me):
                with self.lock:
                    self.now += 1
                    self.most = max(self.most, self.now) if self.counting else 0
                try:
                    return work(me)
                finally:
                    with self.lock:
                        self.now -= 1

            if self.counting:
                self.teams.append(team)
            return run_team(member, team)

        for module in (numba_amx, numba_backend, numba_panels):
            monkeypatch.setattr(module, "run_team", counted)


def _begin_together(count, fits):
    """A callback after whose first call all fits have begun; from there on members are counted, until the first has
    ended its epochs.
    """
    meeting = threading.Barrier(fits, timeout=60)
    first, last = set(), threading.Barrier(fits, timeout=60)

    def callback(epoch, history, net):
        if id(net) not in first:
            first.add(id(net))
            meeting.wait()
            count.counting = True
        if epoch == 4:
            last.wait()  # nobody leaves while others are counted

    return callback


def _in_threads(count, fits, parallel):
    callback = _begin_together(count, fits)

    def train(seed):
        net = fastnn.Network(SIZES, backend="numba", seed=seed)
        net.fit(X, y, epochs=5, batch_size=512, callbacks=[callback])
        count.counting = False
        return net.plan(512)

    return parallel(train, range(fits))


def _thread_pool(train, seeds):
    with concurrent.futures.ThreadPoolExecutor(len(seeds)) as pool:
        return list(pool.map(train, seeds))


def _joblib_threads(train, seeds):
    return joblib.Parallel(n_jobs=len(seeds), backend="threading")(joblib.delayed(train)(seed) for seed in seeds)


@pytest.mark.parametrize("parallel", [_thread_pool, _joblib_threads])
@pytest.mark.parametrize(("cores", "fits", "each"), [(4, 2, 2), (4, 4, 1), (2, 2, 1), (1, 3, 1)])
def test_fits_in_threads_share_the_cores(monkeypatch, parallel, cores, fits, each):
    monkeypatch.setattr(cpu_threads, "_cores", lambda: cores)
    monkeypatch.setattr(cpu_threads, "_told", lambda: [])  # BLAS itself may know of fewer cores
    count = Count(monkeypatch)
    _in_threads(count, fits, parallel)
    assert set(count.teams) == {each}
    assert 1 <= count.most <= max(cores, fits)
    assert not cpu_threads._busy


def test_a_fit_alone_takes_all_cores_again_afterwards(monkeypatch):
    monkeypatch.setattr(cpu_threads, "_cores", lambda: 2)
    monkeypatch.setattr(cpu_threads, "_told", lambda: [])
    count = Count(monkeypatch)
    _in_threads(count, 2, _thread_pool)
    count.teams, count.counting = [], True
    fastnn.Network(SIZES, backend="numba").fit(X, y, epochs=1, batch_size=512)
    assert set(count.teams) == {2}


def test_an_override_of_the_threads_holds_beside_others(monkeypatch):
    monkeypatch.setattr(cpu_threads, "_busy", {object(): -1})  # as if another thread fitted
    count = Count(monkeypatch)
    count.counting = True
    for options, team in (({"threads": 2}, 2), ({"chunk": 64}, cpu_threads.usable_threads())):
        count.teams.clear()
        fastnn.Network(SIZES, backend=fastnn.get_backend("numba", **options)).fit(X, y, epochs=1, batch_size=512)
        assert set(count.teams) == {team}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lamb"])
@pytest.mark.parametrize("sliced", [True, False])
@pytest.mark.parametrize("members", [1, 2])
def test_fewer_members_than_planned_compute_the_same(monkeypatch, members, sliced, optimizer):
    theta, sums = [], []
    for now in (3, members):
        net = fastnn.Network(
            [64, 40, 10], backend=fastnn.get_backend("numba", threads=3, chunk=60, sliced=sliced), l2=0.5, seed=1
        )
        program = net.backend.compile(net, fastnn.optimizers.get(optimizer, 0.01), 100)
        order = np.arange(1000)
        program.run(X.astype(np.float32), y, order, 0, 5)  # with all three
        program._fixed = False
        monkeypatch.setattr(cpu_program, "usable_threads", lambda now=now: now)
        assert program._team() == now
        sums.append((*program.run(X.astype(np.float32), y, order, 5, 10), program.hits))
        theta.append(net.theta)
    np.testing.assert_allclose(theta[1], theta[0], rtol=0, atol=2000 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(sums[1], sums[0], rtol=1e-5)


def test_a_fit_that_fails_gives_its_cores_back():
    net = fastnn.Network(SIZES, backend="numba")
    with pytest.raises(fastnn.Diverged):
        net.fit(1e6 * X, y, optimizer="sgd", learning_rate=1e6)
    assert not cpu_threads._busy
    # on a slow machine the last finite slice has left the other with parameters that overflow at once
    net = fastnn.Network(SIZES, backend="numba")
    with pytest.raises(ZeroDivisionError):
        net.fit(X, y, callbacks=[lambda *_: 1 / 0])
    assert not cpu_threads._busy


@pytest.mark.slow
def test_processes_of_joblib_share_the_cores():
    """loky tells each worker's BLAS how many threads it may use; fastnn asks it."""

    def in_a_worker(seed):
        """Its process, the threads it may use, its largest team."""
        teams, run_team = [], numba_backend.run_team

        def counted(work, team):
            teams.append(team)
            return run_team(work, team)

        numba_backend.run_team = numba_panels.run_team = counted  # in the worker: nothing of the test's own process
        try:
            fastnn.Network(SIZES, backend="numba", seed=seed).fit(X, y, epochs=2, batch_size=512)
        finally:
            numba_backend.run_team = numba_panels.run_team = run_team
        return os.getpid(), cpu_threads.usable_threads(), max(teams)

    cores = cpu_threads._cores()
    for workers in (2, cores + 1):
        found = joblib.Parallel(n_jobs=workers, backend="loky")(
            joblib.delayed(in_a_worker)(seed) for seed in range(2 * workers)
        )
        allowed = max(1, cores // workers)
        assert {usable for _, usable, _ in found} == {allowed}
        assert max(team for *_, team in found) <= allowed
        assert os.getpid() not in {process for process, *_ in found}


@pytest.mark.slow
def test_a_fit_in_a_process_of_joblib_gives_the_same_network():
    """To the last bits that fewer threads may change."""

    def theta(seed):
        net = fastnn.Network(SIZES, backend="numba", seed=seed)
        net.fit(X, y, epochs=2, batch_size=512)
        return net.theta

    apart = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(theta)(seed) for seed in range(2))
    for seed in range(2):
        np.testing.assert_allclose(apart[seed], theta(seed), rtol=0, atol=2000 * np.finfo(np.float32).eps)
