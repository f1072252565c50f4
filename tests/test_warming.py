"""What predictions need is compiled beforehand, once for all processes, and not by all of them at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from typer.testing import CliRunner

import fastnn
from fastnn.backends import numba_backend, numba_panels
from fastnn.cli.app import app
from fastnn.kernels import cpu
from fastnn.kernels.cpu import JIT


def test_every_way_to_predict_is_taken(monkeypatch):
    """One row, few, those that are packed, those on the matrix unit, in every dtype."""
    net = fastnn.Network([7, 300, 3], backend="numba")
    taken = []
    outputs = type(net.backend).outputs
    monkeypatch.setattr(
        type(net.backend), "outputs", lambda self, net, x, *rest: taken.append((len(x), x.dtype.name)) or outputs(self, net, x, *rest)
    )  # fmt: skip
    seconds = fastnn.warm_up(net)
    assert seconds > 0
    rows = net.backend.warming_rows(net)
    assert {1, 2, numba_panels.PACKING_ROWS} <= set(rows)
    if net.backend.no_matrix_unit is None:
        assert max(rows) * 300 >= numba_backend.UNIT_OUTPUTS
    assert set(taken) == {(m, kind) for m in rows for kind in ("float32", "float64", "int64", "uint8")}
    taken.clear()
    fastnn.warm_up(net, rows=[3], dtypes=[np.float64])
    assert taken == [(3, "float64")]


@pytest.mark.parametrize(
    ("sizes", "most"), [((100, 64, 5000), 4096), ((784, 2048, 2048, 10), 1024), ((4096, 4096, 4096, 10), 1024), ((5, 3, 2), 1024)]
)  # fmt: skip
def test_numba_rows_are_no_more_than_a_way_wants(sizes, most):
    """Of layers that panels never predict not so many as packing them would want, and of hidden layers the widest."""
    net = fastnn.Network(sizes, backend="numba", init="zeros", hidden="tanh")
    rows = net.backend.warming_rows(net)
    assert max(rows) == (most if net.backend.no_matrix_unit is None else max(2, *rows))
    assert max(rows) <= 4096


def test_on_every_engine(backend, dtype):
    net = fastnn.Network([3, 4, 2], backend=backend, dtype=dtype, seed=1)
    theta = np.array(backend.to_numpy(net.theta))
    fastnn.warm_up(net)
    np.testing.assert_array_equal(backend.to_numpy(net.theta), theta)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"rows": [0]}, ValueError, "rows"),
        ({"rows": [1.5]}, TypeError, "rows"),
        ({"dtypes": ["abc"]}, TypeError, "dtypes must be NumPy dtypes, got 'abc'"),
        ({"dtypes": ["complex64"]}, ValueError, "dtypes must be of numbers, got complex64"),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        fastnn.warm_up(fastnn.Network([3, 4, 2], backend="numpy"), **options)


def test_the_command(tmp_path):
    fastnn.Network([3, 4, 2], seed=1).save(tmp_path / "m.safetensors")
    words = ["warm-up", str(tmp_path / "m.safetensors")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "predictions by this model are ready (" in result.stdout
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["command"] == "warm-up"


def test_numba_functions_are_compiled_by_one_process_at_a_time(monkeypatch, tmp_path):
    """Who finds another at it waits, and for one that does not go on no longer than PATIENCE."""
    monkeypatch.setattr(cpu, "CACHE_FOLDER", tmp_path)
    code = f"""
        import fcntl, sys, time
        file = open({str(tmp_path / "locks" / f"{__name__}._something")!r}, "a")
        fcntl.flock(file, fcntl.LOCK_EX)
        print("locked", flush=True)
        time.sleep(float(sys.argv[1]))
    """
    monkeypatch.setattr(cpu, "KEEPS", True)

    def wait(function):
        began = time.monotonic()
        with cpu._in_turn(function):
            cpu._turns[-1].wait()
            with cpu._in_turn(function):  # of itself a process does not wait
                cpu._turns[-1].wait()
        assert not cpu._turns
        return time.monotonic() - began

    assert wait(_something) < 1.5
    for holds, patience in ((2.5, 30.0), (30.0, 0.5)):
        monkeypatch.setattr(cpu, "PATIENCE", patience)
        other = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(holds)], stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        assert wait(test_on_every_engine) < 1.5  # another function
        with cpu._in_turn(_something):  # who finds it on disk does not wait
            pass
        assert 0.3 < wait(_something) < 20
        other.kill()
        other.communicate()


def _something():
    """Stands for a function that is compiled."""


def saved_and_loaded(processes):
    """What Numba says of its cache (NUMBA_DEBUG_CACHE) in all of them: files written, and read; and the answers."""
    said = [process.communicate(timeout=300)[0] for process in processes]
    lines = "".join(said).splitlines()
    answers = {line for line in lines if line.startswith("[[")}
    return sum("data saved to" in line for line in lines), sum("data loaded from" in line for line in lines), answers


def predicting(tmp_path, count, before=""):
    """Processes that predict one row by a model."""
    fastnn.Network([5, 6, 2], seed=1).save(tmp_path / "m.safetensors")
    code = f"""
        {before}
        import sys, warnings
        warnings.simplefilter("error")
        import fastnn, numpy as np
        print(fastnn.load(sys.argv[1], backend="numba").predict_proba(np.ones((1, 5), "f4")).tolist())
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "NUMBA_DEBUG_CACHE": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "m.safetensors")],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]


@pytest.mark.slow
@pytest.mark.skipif(not JIT, reason="nothing is compiled")
def test_what_one_process_compiles_the_others_read(tmp_path):
    """Three at once with nothing on disk write each function once; and a folder that cannot be written is read."""
    saved, loaded, answers = saved_and_loaded(predicting(tmp_path, 3))
    assert len(answers) == 1
    (folder,) = (tmp_path / "cache" / "fastnn").iterdir()
    assert saved == len(list(folder.rglob("*.nbc"))) > 0
    assert loaded > 0  # by those who waited; what a function calls comes with it
    unwritable = """
        import errno, tempfile
        def refuse(*arguments, **options):
            raise OSError(errno.EROFS, "Read-only file system")
        tempfile.TemporaryFile = refuse
    """
    again, found, same = saved_and_loaded(
        predicting(tmp_path, 1, textwrap.dedent(unwritable).replace("\n", "\n        "))
    )
    assert (again, same) == (0, answers)
    assert found > 0
