"""The threads that share a run of the CPU engine: all of it is done once, they stay for the next run, and what goes
wrong reaches the caller.
"""

import os
import signal
import threading
import time
import weakref

import pytest

from fastnn.backends import cpu_crew


@pytest.fixture(autouse=True)
def _no_thread_of_another_test():
    with cpu_crew._lock:
        before = list(cpu_crew._waiting)
        cpu_crew._waiting.clear()
    yield
    with cpu_crew._lock:
        cpu_crew._waiting.extend(before)


def waits_until(true):
    deadline = time.monotonic() + 30
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)
    return true()


def test_team_runs_every_member_and_members_may_wait_for_each_other():
    meeting = threading.Barrier(3, timeout=10)

    def work(me):
        meeting.wait()
        return me * me

    assert cpu_crew.run_team(work, 3) == [0, 1, 4]


def test_an_error_in_a_member_reaches_the_caller():
    def work(me):
        if me == 1:
            raise ValueError("from member 1")
        return me

    with pytest.raises(ValueError, match="from member 1"):
        cpu_crew.run_team(work, 2)


@pytest.mark.parametrize("team", [1, 2, 5])
def test_parts_are_all_done_once_and_in_order(team):
    done = []

    def work(part):
        done.append(part)
        return part * part

    assert cpu_crew.run_parts(work, 30, team) == [part * part for part in range(30)]
    assert sorted(done) == list(range(30))


@pytest.mark.parametrize("team", [1, 2])
def test_an_error_in_a_part_reaches_the_caller_when_all_threads_are_done(team):
    under_way, begun = [], []

    def work(part):
        begun.append(part)
        under_way.append(part)
        time.sleep(0.01)
        under_way.remove(part)
        if part == 3:
            raise ValueError("from part 3")

    with pytest.raises(ValueError, match="from part 3"):
        cpu_crew.run_parts(work, 30, team)
    assert under_way == [], "nobody works on the caller's memory any more"
    assert len(begun) < 30, "no part is begun after an error"


def test_threads_stay_for_the_next_run_and_more_are_started_where_they_are_too_few():
    def names(team):
        meeting = threading.Barrier(team, timeout=10)

        def work(me):
            meeting.wait()
            return threading.get_native_id()

        numbers = cpu_crew.run_team(work, team)
        assert len(set(numbers)) == team
        return set(numbers[1:])

    first = names(3)
    assert names(3) == first
    assert first < names(4), "two are not enough, and both work"
    assert len(cpu_crew._waiting) == 3
    names(6)
    assert len(cpu_crew._waiting) == 5
    assert len(names(2)) == 1


def test_threads_that_wait_too_long_leave_and_others_take_their_place(monkeypatch):
    monkeypatch.setattr(cpu_crew, "IDLE", 0.02)
    cpu_crew.run_team(int, 4)
    assert waits_until(lambda: not cpu_crew._waiting)
    assert cpu_crew.run_team(lambda me: me + 1, 4) == [1, 2, 3, 4]


def test_runs_at_once_have_threads_of_their_own():
    meeting = threading.Barrier(6, timeout=10)
    results = {}

    def run(name):
        results[name] = cpu_crew.run_team(lambda me: meeting.wait() is not None and (name, me), 2)

    others = [threading.Thread(target=run, args=(name,)) for name in "abc"]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert results == {name: [(name, 0), (name, 1)] for name in "abc"}


def test_a_run_within_a_part_of_another_run():
    assert cpu_crew.run_team(lambda me: cpu_crew.run_parts(lambda i: 10 * me + i, 3, 2), 3) == [
        [10 * me + i for i in range(3)] for me in range(3)
    ]


def test_nothing_of_the_caller_is_kept():
    class Data:
        pass

    data = Data()
    gone = weakref.ref(data)
    cpu_crew.run_team(lambda me, data=data: None, 3)
    del data
    assert waits_until(lambda: gone() is None)
    assert len(cpu_crew._waiting) == 2


def test_a_thread_that_cannot_start_runs_nothing(monkeypatch):
    cpu_crew.run_team(int, 2)
    (mate,) = cpu_crew._waiting
    begun, start = [], cpu_crew._thread.start_new_thread

    def failing(function, arguments):
        if begun:
            raise RuntimeError("can't start new thread")
        begun.append(function)
        return start(function, arguments)

    monkeypatch.setattr(cpu_crew._thread, "start_new_thread", failing)
    done = []
    for run in (cpu_crew.run_team, lambda work, team: cpu_crew.run_parts(work, 10, team)):
        with pytest.raises(RuntimeError, match="can't start"):
            run(done.append, 4)
        assert done == []
        assert mate in cpu_crew._waiting
        assert len(cpu_crew._waiting) == 2, "the one that did start waits"
    assert cpu_crew.run_parts(lambda part: part, 3, 1) == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not Linux")
def test_threads_may_run_where_the_caller_may():
    allowed = os.sched_getaffinity(0)
    assert cpu_crew.run_team(lambda me: os.sched_getaffinity(0), 3) == [allowed] * 3
    one = {min(allowed)}
    try:
        os.sched_setaffinity(0, one)
        assert cpu_crew.run_team(lambda me: os.sched_getaffinity(0), 3) == [one] * 3
    finally:
        os.sched_setaffinity(0, allowed)
    assert cpu_crew.run_team(lambda me: os.sched_getaffinity(0), 3) == [allowed] * 3


def test_where_threads_may_not_be_sent_to_cores_they_work_all_the_same(monkeypatch):
    def forbidden(thread, cores):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden, raising=False)
    assert cpu_crew.run_team(lambda me: me, 3) == [0, 1, 2]


class Stop(Exception):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals on this system")
@pytest.mark.parametrize("where", ["own share", "waiting"])
def test_a_handler_that_raises_is_heard_when_nobody_works_on_the_memory_any_more(where):
    def handler(signum, frame):
        raise Stop

    under_way, release = [], threading.Event()

    def work(me):
        if me:
            under_way.append(me)
            release.wait(10)
            time.sleep(0.05)
            under_way.remove(me)
        elif where == "own share":
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                time.sleep(0.001)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        threading.Timer(0.1, release.set).start()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Stop):
            cpu_crew.run_team(work, 2)
        assert under_way == []
    finally:
        signal.signal(signal.SIGALRM, before)


def test_who_waits_for_a_member_that_failed_is_given_up(monkeypatch):
    monkeypatch.setattr(cpu_crew, "GIVEN_UP", 0.05)
    never = threading.Event()

    def work(me):
        if me == 0:
            raise ZeroDivisionError
        never.wait(30)

    with pytest.raises(ZeroDivisionError):
        cpu_crew.run_team(work, 3)
    assert cpu_crew._waiting == []
    assert cpu_crew.run_team(lambda me: me, 3) == [0, 1, 2], "with other threads"
    never.set()
    assert waits_until(lambda: len(cpu_crew._waiting) == 4)


def test_a_job_handed_over_twice_is_done_once():
    done = []
    mate = cpu_crew._Mate()
    job = cpu_crew._Job(lambda: done.append(1), None)
    mate.jobs.put(job)
    mate.jobs.put(job)
    assert job.done.acquire(timeout=10)
    assert waits_until(mate.jobs.empty)
    assert done == [1]
    assert cpu_crew._waiting == [mate]
    assert cpu_crew.run_team(lambda me: me, 2) == [0, 1]


def test_a_thread_that_ends_as_it_begins_is_an_error_and_no_wait(monkeypatch):
    def nothing_left():
        raise MemoryError

    monkeypatch.setattr(cpu_crew, "_waiting", [])
    monkeypatch.setattr(cpu_crew.threading, "get_native_id", nothing_left)
    with pytest.raises(RuntimeError, match="a thread ended as it began; is there memory for more"):
        cpu_crew.run_parts(lambda part: part, 4, 2)
    monkeypatch.undo()
    assert cpu_crew.run_parts(lambda part: part, 4, 2) == [0, 1, 2, 3]
