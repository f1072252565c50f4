"""What goes with the NumPy arrays of the stand-in goes with CuPy's too, which are no arrays of the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu.strict import make_backend

import fastnn

TESTS = Path(__file__).parent


def test_the_arrays_refuse_what_cupy_refuses():
    x, host = make_backend().asarray(np.ones((2, 3))), np.ones((2, 3))
    for mixed in (
        lambda: np.asarray(x),
        lambda: x + host,
        lambda: host * x,
        lambda: np.maximum(x, host),
        lambda: np.may_share_memory(x, host),
        lambda: np.concatenate([x, host]),
    ):
        with pytest.raises(TypeError):
            mixed()
    with pytest.raises(ValueError, match="cannot be used for setitem"):
        x[0] = host[0]
    x[0] = 2
    x[1, :2] = x[0, :2] * np.float64(2)
    np.testing.assert_array_equal(x.get(), [[2, 2, 2], [4, 4, 1]])
    assert float(np.sum(x)) == 15


def test_activations_of_rows_of_the_host():
    X = np.random.default_rng(0).standard_normal((5, 4))
    nets = [fastnn.Network([4, 6, 3], dtype="float64", backend=name, seed=1) for name in (make_backend(), "numpy")]
    for a, expected in zip(*(net.forward(X) for net in nets), strict=True):
        assert type(a) is np.ndarray
        np.testing.assert_allclose(a, expected, rtol=1e-12)


@pytest.mark.parametrize("view", ["transposed", "reversed"])
def test_sums_of_one_row_whose_stride_is_anything(view):
    """CuPy calls (1, n) contiguous whatever lies between its one row and the next."""
    backend, column = make_backend(), np.arange(3.0).reshape(3, 1)
    delta = backend.asarray(column)
    delta = delta.T if view == "transposed" else delta.reshape(1, 3)[::-1]
    assert delta.flags.c_contiguous
    Delta_W, Delta_b = backend.zeros((3, 2), np.dtype(float)), backend.zeros((3,), np.dtype(float))
    backend.accumulate(Delta_W, Delta_b, delta, backend.asarray(np.ones((1, 2))))
    np.testing.assert_array_equal(backend.to_numpy(Delta_b), column.ravel())


@pytest.mark.slow
def test_other_tests_are_good_for_such_arrays_too():
    """Those that run on a device, where they are to find faults of the engine and not their own."""
    files = ("test_network.py", "test_spec_numbers.py", "test_slips.py")
    chosen = ("-k", "cupy-on-cpu and not ten_thousand")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-arrays", *chosen, *files],
        cwd=TESTS, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:]
