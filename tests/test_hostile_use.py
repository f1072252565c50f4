"""What an adversary found: interrupts at the worst moment, streams that are closed, NumPy's integers, tables that
are odd, numbers that are extreme.
"""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from numba.core.caching import NullCache

import fastnn
from fastnn.backends import cpu_crew
from fastnn.data import preprocessing, tables
from fastnn.errors import DataFileError
from fastnn.kernels import cpu
from fastnn.schedules import Constant, WarmUp

INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


def data(rows=300):
    return np.random.default_rng(0).random((rows, 4), np.float32), np.arange(rows) % 3


# ---- interrupts -----------------------------------------------------------------------------------------------------


class Late(Exception):
    pass


class RaisesAfterwards:
    """A lock whose second acquisition succeeds, and then a signal's handler raises before the caller knows."""

    def __init__(self):
        self._lock, self._times = threading.Lock(), 0

    def acquire(self, *arguments, **options):
        got = self._lock.acquire(*arguments, **options)
        self._times += 1
        if self._times == 2:
            raise Late
        return got

    def release(self):
        self._lock.release()


def test_a_signal_as_the_wait_for_another_thread_ends_is_heard_and_nothing_hangs(monkeypatch):
    """The lock is taken then, and waiting for it once more would be for ever."""
    done, heard = [], []
    cpu_crew.run_team(lambda me: me, 2)  # a thread of the crew waits now: to start one takes locks, too

    def run():
        try:
            cpu_crew.run_team(done.append, 2)
        except Late:
            heard.append(True)

    monkeypatch.setattr(cpu_crew._thread, "allocate_lock", RaisesAfterwards)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=20)
    monkeypatch.undo()
    assert not thread.is_alive()
    assert sorted(done) == [0, 1]
    assert heard == [True]


def test_ctrl_c_while_a_kernel_is_loaded_waits_for_its_end(monkeypatch):
    """In the middle of it the compiler would free memory twice."""
    loaded = []

    def kept(function):
        signal.raise_signal(signal.SIGINT)
        loaded.append(function)
        return NullCache()

    fastnn.get_backend("numba")
    monkeypatch.setattr(cpu, "_kept", kept)
    with pytest.raises(KeyboardInterrupt):
        cpu.compiled(lambda x: x, "float32(float32)")
    assert len(loaded) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_an_engine_is_imported_waits_for_its_end_and_the_engine_works(tmp_path):
    """A Numba that was half imported would fail in this process for ever."""
    code = """
import signal, sys
import fastnn
class Hook:
    def find_spec(self, name, path, target=None):
        if name == "numba.core.typing":
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Hook())
try:
    fastnn.get_backend("numba")
except KeyboardInterrupt:
    print(fastnn.get_backend("numba").name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("numba\n", "")


# ---- streams that whoever started us has closed ---------------------------------------------------------------------


def shell(command, folder):
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "FASTNN": sys.executable},
    )


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "t.csv").write_text(
        "a,b,t\n" + "".join(f"{a},{b},{i % 2}\n" for i, (a, b) in enumerate(rng.random((60, 2))))
    )
    return tmp_path


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_training_whose_streams_are_closed_is_done_all_the_same(table, closed):
    done = shell(
        f'exec "$FASTNN" -m fastnn train t.csv --target t --epochs 2 --backend numpy --no-plot --save m {closed}',
        table,
    )
    assert (done.returncode, "Traceback" in done.stderr + done.stdout) == (0, False)
    assert (table / "m").is_file() or (table / "m.safetensors").is_file()


def test_remarks_never_get_into_the_answers(table):
    shell('"$FASTNN" -m fastnn train t.csv --target t --epochs 1 --backend numpy --no-plot --save m.safetensors', table)
    open_ = shell('"$FASTNN" -m fastnn predict m.safetensors t.csv --backend numpy', table)
    assert "fastnn: " in open_.stderr
    closed = shell('exec "$FASTNN" -m fastnn predict m.safetensors t.csv --backend numpy 2>&-', table)
    assert closed.stdout == open_.stdout


# ---- NumPy's integers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", INTEGERS)
def test_sizes_may_be_of_any_kind_of_integer(backend, kind):
    X, y = data()
    thetas = []
    for number in (int, kind):
        net = fastnn.Network([4, 6, 3], backend=backend, seed=0)
        net.fit(X, y, batch_size=number(100), micro_batch=number(64), epochs=number(2))
        net.plan(number(100), micro_batch=number(64), training_rows=number(127))
        thetas.append(net.backend.to_numpy(net.theta))
    np.testing.assert_array_equal(*thetas)


@pytest.mark.parametrize("kind", INTEGERS)
def test_so_may_what_is_fixed_of_a_plan(kind):
    X, y = data()
    net = fastnn.Network([4, 6, 3], backend=fastnn.get_backend("numba", threads=kind(1), chunk=kind(64)), seed=0)
    net.fit(X, y, batch_size=100, epochs=1)
    assert net.plan(100).startswith("1 thread, 64 rows at a time")


def test_a_fit_of_a_billion_epochs_that_something_ends_takes_no_memory_for_them():
    X, y = data()
    net = fastnn.Network([4, 6, 3], backend="numpy", seed=0)
    history = net.fit(X, y, epochs=10**9, learning_rate=WarmUp(Constant(0.01), 2), callbacks=[lambda *_: True])
    assert len(history.cost) == 1


# ---- what is refused, and how ---------------------------------------------------------------------------------------


def test_an_order_that_is_no_array_is_named():
    X, y = data()
    with pytest.raises(
        ValueError,
        match=r"order\(0\) must give a one-dimensional, non-empty array of row numbers, got something else",
    ):
        fastnn.Network([4, 3], backend="numpy").fit(X, y, order=lambda epoch: [[1], [1, 2]])


def test_a_scale_that_overflows_is_named():
    X, y = np.full((8, 4), 200, np.uint8), np.arange(8) % 3
    with pytest.raises(
        ValueError,
        match=r"X holds 200 at .* which times scale=1e\+300 overflows float32; give a smaller scale",
    ):
        fastnn.Network([4, 3], backend="numpy").fit(X, y, scale=1e300)


def test_the_plan_refuses_what_fit_refuses():
    net = fastnn.Network([4, 3], backend="numpy")
    with pytest.raises(ValueError, match="micro_batch=20 is larger than batch_size=10"):
        net.plan(10, micro_batch=20)
    with pytest.raises(TypeError, match="data_dtype must be a NumPy dtype of integers, floats or bool"):
        net.plan(10, data_dtype="complex64")


def test_a_divergence_by_l2_is_called_that():
    X, y = data()
    with pytest.raises(fastnn.Diverged, match=r"l2=1e\+30 is too large for this learning rate"):
        fastnn.Network([4, 6, 3], backend="numpy", l2=1e30).fit(X, y, epochs=9, optimizer="sgd")


# ---- tables ---------------------------------------------------------------------------------------------------------


def read(folder, text, target="t"):
    (folder / "odd.csv").write_text(text)
    return tables.load(folder / "odd.csv", target)


ROWS = "".join(f"{i};{i * i};{i % 2}\n" for i in range(30))


@pytest.mark.parametrize(
    "text",
    ["\n\nx;y;t\n" + ROWS, '"x, a";y;t\n' + ROWS, "x;y;t\n" + ROWS + "   \n", "  \nx;y;t\n" + ROWS],
    ids=["blank before", "a comma in a name", "spaces at the end", "spaces before"],
)
def test_separators_are_found_in_the_header_and_blank_lines_are_none(tmp_path, text):
    assert read(tmp_path, text).X.shape == (30, 2)


def test_in_a_table_of_one_column_a_blank_line_is_a_missing_value(tmp_path):
    from fastnn.data.csv_file import read_csv

    path = tmp_path / "one.csv"
    path.write_text("x\n1\n\n3\n")
    with pytest.raises(DataFileError, match="line 3 is blank, which in a table of one column is a missing value"):
        read_csv(path, lambda names: (names, None))
    path.write_text("x\n1\n3\n\n")
    assert read_csv(path, lambda names: (names, None)).features["x"].tolist() == [1.0, 3.0]


def test_tiny_numbers_are_not_constant():
    tiny = np.arange(1.0, 9.0)[:, None] * 1e-300
    scaling = preprocessing.fit_scaling(["x"], tiny, tiny[:, 0], notes := [])
    assert notes == []
    assert scaling["target_std"] == pytest.approx(1e-300 * np.arange(1.0, 9.0).std())
    np.testing.assert_allclose(
        (tiny[:, 0] - scaling["feature_mean"]) * scaling["feature_factor"], (np.arange(8) - 3.5) / np.arange(8.0).std()
    )
    with pytest.raises(DataFileError, match="column 'x' holds values too small to standardise"):
        preprocessing.fit_scaling(["x"], tiny * 1e-18, None, [])
