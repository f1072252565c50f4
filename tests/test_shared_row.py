"""One row that helpers share: the same numbers as alone, nobody at a seat twice, nobody who stays; in the kernel
and in the engine.
"""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastnn
from fastnn.backends import cpu_row
from fastnn.backends.numba_backend import SHARED_ROW_BYTES, _Predictor
from fastnn.kernels.cpu import JIT, shared_row
from fastnn.kernels.cpu.one_row import one_row
from fastnn.kernels.cpu.shared_row import ALONE, AWAY, COMING, CROWDED, FREE, HELPED, NOT_FINITE

pytestmark = pytest.mark.skipif(not JIT, reason="helpers work in compiled code")
FOREVER = 1 << 40
LARGE = [784, 500, 400, 10]  # 2.3 MiB of float32


class Table:
    """A network's row, led by this thread, with helpers at seats of its own."""

    def __init__(self, sizes, dtype="float32", helpers=1, seed=0):
        self.net = fastnn.Network(sizes, backend="numba", dtype=dtype, seed=seed)
        self.net.theta[:] = np.random.default_rng(seed).standard_normal(self.net.theta.size) / 8
        self.known = _Predictor(self.net, lambda: 1, None)
        self.seats, self.threads, self.served = shared_row.new_seats(helpers), [], []
        self.dtype = self.net.dtype

    def sit(self, number, patience=FOREVER, rows=FOREVER):
        self.seats[number, 0] = COMING
        self.threads.append(
            threading.Thread(target=lambda: self.served.append(shared_row.attend()(self.seats, number, patience, rows)))
        )
        self.threads[-1].start()
        until(lambda: self.seats[number, 0] != COMING)

    def lead(self, x, h=None, helpers=None):
        h = np.empty(self.known.shape, self.dtype) if h is None else h
        return shared_row.lead(h.dtype)(
            x, self.known.layers, h, self.seats, len(self.seats) - 1 if helpers is None else helpers
        ), h

    def alone(self, x):
        h = np.empty(self.known.shape, self.dtype)
        assert one_row(h.dtype)(x, self.known.layers, h)
        return h

    def __enter__(self):
        return self

    def __exit__(self, *_):
        until(lambda: shared_row.dismiss()(self.seats) or (self.seats[:-1, 0] == AWAY).all())
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        assert self.seats[-1, 0] == 0, "nobody leads any more"


def until(true):
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("helpers", [1, 3])
@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_same_numbers_with_helpers_as_alone(dtype, helpers, sizes, seed):
    with Table([*sizes, 3], dtype, helpers, seed) as table:
        for number in range(helpers):
            table.sit(number)
        rng = np.random.default_rng(seed)
        for _ in range(5):
            x = rng.standard_normal((1, sizes[0])).astype(dtype)
            became, h = table.lead(x)
            assert became == HELPED
            assert np.array_equal(h, table.alone(x))


def test_a_helper_serves_row_after_row():
    with Table(LARGE) as table:
        table.sit(0)
        x = np.random.default_rng(1).random((1, 784), np.float32)
        expected = table.alone(x)
        for _ in range(300):
            became, h = table.lead(x)
            assert became == HELPED
            assert np.array_equal(h, expected)
    assert table.served == [300]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_leaves_the_outputs_alone_and_the_helper_in_its_seat(bad):
    with Table(LARGE) as table:
        table.sit(0)
        x = np.random.default_rng(1).random((1, 784), np.float32)
        fine = x.copy()
        x[0, 700] = bad
        became, h = table.lead(x, np.full((1, 10), 7, np.float32))
        assert became == NOT_FINITE
        assert (h == 7).all()
        assert table.seats[0, 0] == FREE
        became, h = table.lead(fine)
        assert became == HELPED
        assert np.array_equal(h, table.alone(fine))


def test_a_helper_serves_rows_of_both_dtypes():
    with Table(LARGE) as table, Table(LARGE, "float64") as other:
        table.sit(0)
        seats, other.seats = other.seats, table.seats
        for at in (table, other, table):
            x = np.random.default_rng(1).random((1, 784)).astype(at.dtype)
            became, h = at.lead(x)
            assert became == HELPED
            assert np.array_equal(h, at.alone(x))
        other.seats = seats


def test_two_who_lead_at_once_have_no_helper_but_are_right():
    with Table(LARGE) as table:
        table.sit(0)
        x = np.random.default_rng(1).random((1, 784), np.float32)
        table.seats[-1, 0] = 1  # another one
        became, h = table.lead(x)
        assert became == CROWDED
        assert np.array_equal(h, table.alone(x))
        table.seats[-1, 0] = 0
        assert table.lead(x)[0] == HELPED


def test_many_threads_lead_rows_of_their_own():
    with Table(LARGE, helpers=2) as table:
        table.sit(0)
        table.sit(1)
        rows = np.random.default_rng(1).random((4, 1, 784), np.float32)
        expected = [table.alone(x) for x in rows]
        wrong = []

        def work(me):
            for _ in range(100):
                wrong.extend([me] * (not np.array_equal(table.lead(rows[me])[1], expected[me])))

        threads = [threading.Thread(target=work, args=(me,)) for me in range(len(rows))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_helper_leaves_when_nobody_comes_and_when_it_has_done_its_rows():
    with Table([784, 20, 10]) as table:
        x = np.zeros((1, 784), np.float32)
        table.sit(0, patience=1000)
        until(lambda: table.served == [0])  # its thread notes that after it has left the seat
        assert table.seats[0, 0] == AWAY
        assert table.lead(x)[0] == ALONE
        table.sit(0, rows=3)
        assert [table.lead(x)[0] for _ in range(3)] == [HELPED] * 3
        until(lambda: table.served == [0, 3])
        assert table.seats[0, 0] == AWAY


def test_a_seat_has_one_helper():
    with Table([784, 20, 10]) as table:
        table.sit(0)
        attend = shared_row.attend()
        assert attend(table.seats, 0, 1000, FOREVER) == 0, "the seat is taken"
        assert table.seats[0, 0] == FREE, "by the first"
        assert table.lead(np.zeros((1, 784), np.float32))[0] == HELPED
        shared_row.dismiss()(table.seats)
        until(lambda: table.seats[0, 0] == AWAY)
        assert attend(table.seats, 0, 1000, FOREVER) == 0, "nobody was sent for"


# ---- in the engine ------------------------------------------------------------------------------------


def test_rows_of_a_large_network_one_at_a_time_with_helpers(monkeypatch):
    monkeypatch.setattr(cpu_row, "PATIENCE", FOREVER)
    net = fastnn.Network(LARGE, backend=fastnn.get_backend("numba", threads=2), seed=0)
    exact = fastnn.Network(LARGE, backend="numpy", dtype="float64", seed=0)
    exact.theta[:] = net.theta
    X = np.random.default_rng(0).random((200, 784), np.float32)
    expected, became = exact.predict_proba(X), []
    net.predict_proba(X[:1])
    assert isinstance(net._predictor.one_row, cpu_row.SharedRow)
    lead = net._predictor.one_row._lead
    monkeypatch.setattr(net._predictor.one_row, "_lead", lambda *given: became.append(lead(*given)) or became[-1])
    try:
        until(lambda: [net.predict_proba(X[i : i + 1]) for i in range(50)] and HELPED in became)
        np.testing.assert_allclose(
            np.concatenate([net.predict_proba(X[i : i + 1]) for i in range(200)]), expected, rtol=2e-5, atol=1e-6
        )
        with pytest.raises(ValueError, match="X"):
            net.predict_proba(np.full((1, 784), np.nan, np.float32))
    finally:
        until(lambda: shared_row.dismiss()(cpu_row._seats) or (cpu_row._seats[:-1, 0] == AWAY).all())


def test_helpers_of_another_network_are_not_asked_beyond_what_is_wished():
    with Table([784, 20, 10], helpers=2) as table:
        x = np.zeros((1, 784), np.float32)
        table.sit(1)
        assert [table.lead(x, helpers=helpers)[0] for helpers in (0, 1, 2)] == [ALONE, ALONE, HELPED]
    theta = np.zeros(1 << 20, np.float32)
    assert [cpu_row.SharedRow(theta, lambda: 8, most)._most for most in (None, 2, 3, 8)] == [4, 2, 3, 4]


def test_one_thread_is_wished_and_one_it_is(monkeypatch):
    def send(work):
        raise AssertionError("nobody may be sent for")

    monkeypatch.setattr(cpu_row, "send", send)
    net = fastnn.Network(LARGE, backend=fastnn.get_backend("numba", threads=1), seed=0)
    x = np.zeros((1, 784), np.float32)
    for _ in range(200):
        net.predict_proba(x)
    assert not isinstance(net._predictor.one_row, cpu_row.SharedRow), "it would take the helpers of another network"


def test_a_network_that_stays_in_the_cache_has_no_seats():
    net = fastnn.Network([784, 300, 100, 10], backend="numba")
    net.predict_proba(np.zeros((1, 784), np.float32))
    assert net.theta.nbytes < SHARED_ROW_BYTES
    assert not isinstance(net._predictor.one_row, cpu_row.SharedRow)


def test_no_memory_is_used_after_it_was_freed():
    """glibc overwrites what is freed if told so; elsewhere this test tells nothing."""
    script = """if True:
        import sys, numpy as np, fastnn
        net = fastnn.Network([784, 500, 400, 10], backend=fastnn.get_backend("numba", threads=2), seed=0)
        X = np.random.default_rng(0).random((50, 784), np.float32)
        expected = net.predict_proba(X)
        from fastnn.backends import cpu_row
        cpu_row.PATIENCE, became = 1 << 40, set()
        net.predict_proba(X[:1])
        row = net._predictor.one_row
        lead, row._lead = row._lead, lambda *given: became.add(result := lead(*given)) or result
        while len(became) < 2:
            rows = np.concatenate([net.predict_proba(X[i : i + 1]) for i in range(50)])
            np.testing.assert_allclose(rows, expected, rtol=2e-5, atol=1e-6)
        for _ in range(20):
            rows = np.concatenate([net.predict_proba(X[i : i + 1]) for i in range(50)])
            np.testing.assert_allclose(rows, expected, rtol=2e-5, atol=1e-6)
        row._dismiss(cpu_row._seats)
        """
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "MALLOC_PERTURB_": "165"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
