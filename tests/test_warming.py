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
from fastnn.backends import numba_backend
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
    assert {1, 2, numba_backend.PACKING_ROWS} < set(rows)
    assert max(rows) * 300 >= numba_backend.UNIT_OUTPUTS
    assert set(taken) == {(m, kind) for m in rows for kind in ("float32", "float64", "int64", "uint8")}
    taken.clear()
    fastnn.warm_up(net, rows=[3], dtypes=[np.float64])
    assert taken == [(3, "float64")]


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
    assert "predictions by models of float32 are ready (" in result.stdout
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
    with cpu._one_process(_something), cpu._one_process(_something):  # of itself a process does not wait
        assert (tmp_path / "locks" / f"{__name__}._something").exists()
    for holds, patience, least, most in ((0.7, 30.0, 0.3, 20.0), (30.0, 0.5, 0.3, 20.0)):
        monkeypatch.setattr(cpu, "PATIENCE", patience)
        other = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(holds)], stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        began = time.monotonic()
        with cpu._one_process(test_on_every_engine):  # of another function
            assert time.monotonic() - began < 0.2
        with cpu._one_process(_something):
            assert least < time.monotonic() - began < most
        other.kill()
        other.communicate()


def _something():
    """Stands for a function that is compiled."""


@pytest.mark.slow
@pytest.mark.skipif(not JIT, reason="nothing is compiled")
def test_what_one_process_compiles_the_others_read(tmp_path):
    """Three at once with nothing on disk take hardly longer than one, where each compiling for itself they take thrice."""
    fastnn.Network([5, 6, 2], seed=1).save(tmp_path / "m.safetensors")
    code = (
        "import sys, fastnn, numpy as np; print(fastnn.load(sys.argv[1]).predict_proba(np.ones((1, 5), 'f4')).tolist())"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "m.safetensors")],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=300)[0] for process in processes]
    assert len(set(answers)) == 1
    assert answers[0].startswith("[[")
    (folder,) = (tmp_path / "cache" / "fastnn").iterdir()
    files = [path.name for path in folder.rglob("*.nbc")]
    assert len(files) == len(set(files))
