"""The matrix products of compiled code against NumPy, and the code on disk, which holds BLAS' name and not its
address.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

import fastnn
from fastnn.kernels.cpu import JIT, gemm

SHAPES = [(1, 1, 1), (2, 3, 5), (7, 1, 9), (33, 20, 17), (64, 48, 80)]


@pytest.mark.parametrize("alpha_beta", [(1.0, 0.0), (1.0, 1.0), (-0.3, 0.7)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_equal_float64_numpy(shape, alpha_beta, dtype):
    (m, n, k), (alpha, beta) = shape, alpha_beta
    rng = np.random.default_rng(3)
    a, b, before = (rng.uniform(-1, 1, s).astype(dtype) for s in ((m, k), (k, n), (m, n)))
    wanted = alpha * (a.astype(float) @ b.astype(float)) + beta * before
    # A sum of k products and one more, of factors at most 1, alpha and beta rounded to dtype.
    bound = (k + 4) * np.finfo(dtype).eps * (np.abs(a).astype(float) @ np.abs(b).astype(float) + 1)
    for product, left, right in ((gemm.gemm_nn, a, b), (gemm.gemm_nt, a, b.T), (gemm.gemm_tn, a.T, b)):
        out = before.copy()
        product(np.ascontiguousarray(left), np.ascontiguousarray(right), out, alpha, beta)
        assert (np.abs(out - wanted) <= bound).all(), product


def test_some_columns_leave_the_other_rows_alone(dtype):
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((6, 5)).astype(dtype), rng.standard_normal((6, 4)).astype(dtype)
    out = np.full((5, 4), 9, dtype)
    gemm.gemm_tn_columns(a, 1, 3, b, out, 2.0, 0.0)
    np.testing.assert_allclose(out[1:3], 2 * a.T[1:3].astype(float) @ b, rtol=0, atol=50 * np.finfo(dtype).eps)
    assert (out[[0, 3, 4]] == 9).all()


def test_beta_of_zero_ignores_what_was_there(dtype):
    a, out = np.ones((3, 3), dtype), np.full((3, 3), np.nan, dtype)
    gemm.gemm_nn(a, a, out, 1.0, 0.0)
    np.testing.assert_array_equal(out, np.full((3, 3), 3))


def test_a_matrix_too_long_for_blas_is_refused(monkeypatch):
    backend = fastnn.get_backend("numba")
    monkeypatch.setattr("fastnn.backends.numba_program.MOST", 5)
    a, W, delta = np.ones((6, 2)), np.ones((3, 2)), np.ones((6, 3))
    for refused in (
        lambda: backend.dense_forward(a, W, np.ones(3)),
        lambda: backend.propagate_delta(delta, W, "relu", a, a),
        lambda: backend.accumulate(np.zeros((3, 2)), np.zeros(3), delta, a),
        lambda: fastnn.Network([6, 2], backend="numba").predict(np.ones((2, 6), np.float32)),
    ):
        with pytest.raises(ValueError, match=r"at most 5 rows or columns, got 6"):
            refused()


@pytest.mark.slow
@pytest.mark.skipif(not JIT, reason="compiles nothing")
def test_code_on_disk_serves_another_process(tmp_path):
    """The library lies elsewhere in each process (address space randomisation): an address in the code would miss
    it.
    """
    code = (
        "import sys; from fastnn.kernels.cpu import gemm; print(gemm.scipy_addresses()[0], gemm.probe(), "
        "sum(gemm.gemm_nt.stats.cache_hits.values()))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    outputs = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout.split()
        for _ in range(2)
    ]
    assert [output[1:] for output in outputs] == [["None", "0"], ["None", "2"]]
    assert any(b"fastnn_sgemm" in file.read_bytes() for file in tmp_path.rglob("gemm._nt-*.nbc"))
