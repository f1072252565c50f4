"""When helpers of one row are sent for and when they are dismissed, by a clock and rows as a test wants them."""

import numpy as np
import pytest
from test_shared_row import FOREVER, until

from fastnn.backends import cpu_crew, cpu_row
from fastnn.backends.numba_backend import SHARED_ROW_BYTES
from fastnn.kernels.cpu import JIT, shared_row
from fastnn.kernels.cpu.shared_row import ALONE, AWAY, BUSY, COMING, CROWDED, FREE, HELPED

pytestmark = pytest.mark.skipif(not JIT, reason="helpers work in compiled code")


class Sent:
    """`cpu_row` with a clock and rows as a test wants them: what became of each and how long it took."""

    def __init__(self, monkeypatch, threads=2):
        self.now, self.became, self.seconds, self.sent, self.dismissed = 100.0, ALONE, 1e-4, [], 0
        self.seats = shared_row.new_seats(cpu_row.HELPERS)
        monkeypatch.setattr(cpu_row, "_seats", self.seats)
        monkeypatch.setattr(cpu_row, "send", lambda work: self.sent.append(work) or True)
        monkeypatch.setattr(cpu_row.time, "perf_counter", lambda: self.now)
        self.asked = 0
        self.use(
            cpu_row.SharedRow(np.zeros(1 << 20, np.float32), lambda: setattr(self, "asked", self.asked + 1) or threads)
        )

    def use(self, row):
        self.row = row
        row._lead, row._dismiss = self._lead, self._dismiss

    def _lead(self, *_):
        self.now += self.seconds
        return self.became

    def _dismiss(self, seats):
        self.dismissed += 1

    def rows(self, count, became=ALONE, pause=0.0, seconds=1e-4):
        for _ in range(count):
            self.became, self.seconds = became, seconds
            self.row(None, None, None)
            self.now += pause
        return len(self.sent)


def test_a_helper_is_sent_for_when_rows_follow_one_another_closely(monkeypatch):
    sent = Sent(monkeypatch)
    assert sent.rows(5, pause=0.002) == 0, "rows now and then"
    assert sent.rows(2) == 1
    assert sent.seats[0, 0] == COMING
    assert sent.rows(50) == 1, "it is on its way"
    sent.seats[0, 0] = AWAY
    assert sent.rows(300) == 2, "it has been and gone"


@pytest.mark.parametrize(("threads", "count"), [(1, 0), (2, 1), (3, 2), (8, 3)])
def test_no_more_helpers_than_cores_and_seats(monkeypatch, threads, count):
    assert Sent(monkeypatch, threads).rows(10) == count


def test_a_smaller_network_has_fewer(monkeypatch):
    sent = Sent(monkeypatch, 8)
    sent.use(cpu_row.SharedRow(np.zeros(SHARED_ROW_BYTES // 4, np.float32), lambda: 8))
    assert sent.rows(10) == 1


def test_slow_helpers_are_dismissed_and_sent_for_less_and_less(monkeypatch):
    sent = Sent(monkeypatch)
    sent.rows(10)
    pauses = []
    for _ in range(8):
        sent.seats[0, 0] = AWAY
        sent.rows(1, HELPED, seconds=3e-3)
        slow, before = sent.now, len(sent.sent)
        while sent.rows(1) == before:
            pass
        pauses.append(sent.now - slow)
    assert sent.dismissed == 8
    assert pauses == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0.64, 0.64], abs=2e-3)
    sent.rows(cpu_row.USEFUL + 1, HELPED)
    sent.seats[0, 0] = AWAY
    sent.rows(1, HELPED, seconds=3e-3)
    slow, before = sent.now, len(sent.sent)
    while sent.rows(1) == before:
        pass
    assert sent.now - slow == pytest.approx(cpu_row.LATER, abs=2e-3), "it had been of use"
    assert sent.rows(5, HELPED, seconds=4e-4) == before + 1
    assert sent.dismissed == 9, "somewhat slower is not slow"


def test_without_threads_every_row_is_read_alone(monkeypatch):
    sent = Sent(monkeypatch)

    def refuse(count):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(cpu_row, "send", cpu_crew.send)
    monkeypatch.setattr(cpu_crew, "_take", refuse)
    assert sent.rows(300) == 0
    assert (sent.seats[:, 0] == AWAY).all()


def test_a_signal_while_a_helper_is_sent_for_leaves_the_seat_empty(monkeypatch):
    sent = Sent(monkeypatch)

    def interrupted(work):
        raise KeyboardInterrupt

    monkeypatch.setattr(cpu_row, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sent.rows(3)
    assert (sent.seats[:, 0] == AWAY).all()


def test_a_signal_after_a_helper_was_sent_for_leaves_it_in_its_seat(monkeypatch):
    """A deadline of the user's own, raised by a handler when the helper has come already: it reaches the caller,
    and the seat stays taken by one.
    """
    sent = Sent(monkeypatch)

    class TooLate(RuntimeError):
        pass

    def interrupted(work):
        cpu_crew.send(work)
        until(lambda: sent.seats[0, 0] == FREE)
        raise TooLate

    monkeypatch.setattr(cpu_row, "PATIENCE", FOREVER)
    monkeypatch.setattr(cpu_row, "send", interrupted)
    with pytest.raises(TooLate):
        sent.rows(3)
    assert sent.seats[0, 0] == FREE
    assert sent.rows(300) == 0, "nobody else is sent for"
    until(lambda: shared_row.dismiss()(sent.seats) or sent.seats[0, 0] == AWAY)


def test_who_has_come_is_not_withdrawn_and_who_is_on_the_way_stays_expected(monkeypatch):
    sent = Sent(monkeypatch, 3)
    sent.seats[0, 0] = COMING
    assert sent.rows(2) == 1, "for the other seat"
    assert sent.seats[:2, 0].tolist() == [COMING, COMING]
    withdraw = shared_row.withdraw()
    sent.seats[0, 0] = BUSY
    assert [withdraw(sent.seats, number) for number in range(3)] == [False, True, False]
    assert sent.seats[:3, 0].tolist() == [BUSY, AWAY, AWAY]


def test_others_who_lead_want_the_helpers_core(monkeypatch):
    sent = Sent(monkeypatch)
    assert sent.rows(50, CROWDED) == 0
    assert sent.dismissed == 1
    assert sent.rows(100) == 0, "for 0.02 seconds"
    assert sent.rows(200) == 1


def test_one_core_is_looked_for_seldom(monkeypatch):
    sent = Sent(monkeypatch, threads=1)
    assert sent.rows(6000) == 0
    assert sent.asked == 1, "in 0.6 seconds"
