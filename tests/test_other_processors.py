"""The CPU engine compiled for processors with shorter vectors, as NUMBA_CPU_NAME and NUMBA_CPU_FEATURES ask for: widths
of the kernels, no matrix unit, and numbers against the NumPy engine in float64.
"""

import json
import os
import platform
import subprocess
import sys
import textwrap

import pytest

from fastnn.kernels.cpu import JIT
from fastnn.kernels.cpu.vectors import vector_bytes

HASWELL = (
    "+64bit,+adx,+aes,+avx,+avx2,+bmi,+bmi2,+cmov,+crc32,+cx16,+cx8,+f16c,+fma,+fsgsbase,+fxsr,+invpcid,+lzcnt,+mmx,"
    "+movbe,+pclmul,+popcnt,+rdrnd,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave,+xsaveopt,-avx512f"
)
x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="about x86-64")

# A network whose layers end within vectors, in one form of program on one processor, and in the other on the other.
TRAIN = textwrap.dedent("""
    import json, sys
    import numpy as np
    import fastnn
    from fastnn.kernels.cpu import amx, vectors

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((90, 37)), rng.integers(0, 3, 90)
    far = 0.0
    for batch, wishes in ((30, json.loads(sys.argv[1])),):
        engine = fastnn.get_backend("numba", **wishes)
        nets = [fastnn.Network((37, 33, 18, 3), backend=b, dtype=d, seed=1) for b, d in ((engine, "float32"), ("numpy", "float64"))]
        for net in nets:
            net.fit(X.astype(net.dtype), y, epochs=2, batch_size=batch, optimizer=fastnn.optimizers.Adam(0.001))
        far = max(far, abs(nets[0].theta - nets[1].theta).max(), abs(nets[0].predict_proba(X.astype("float32")) - nets[1].predict_proba(X)).max())
    print(vectors.VECTOR, vectors.WIDE, amx.missing() is None, far)
""")


@pytest.mark.skipif(not JIT, reason="about code that is compiled")
@pytest.mark.slow
@x86
@pytest.mark.parametrize(
    ("name", "features", "vector", "plan"),
    [
        ("haswell", HASWELL, 32, {"threads": 2, "sliced": False, "panels": True}),
        ("generic", None, 16, {"panels": True}),
    ],
    ids=["AVX2", "SSE2"],
)
def test_numba_with_shorter_vectors(tmp_path, name, features, vector, plan):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_CPU_NAME": name}
    environment.pop("NUMBA_CPU_FEATURES", None)
    if features is not None:
        environment["NUMBA_CPU_FEATURES"] = features
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TRAIN, json.dumps(plan)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    width, wide, unit, far = done.stdout.split()
    assert (int(width), wide, unit) == (vector, "False", "False")
    assert float(far) < 2e-5


@pytest.mark.parametrize(
    ("features", "x86_64", "expected"),
    [
        ({"avx512f": True, "avx": True}, True, 64),
        ({"avx512f": False, "avx": True}, True, 32),
        ({"avx": False}, True, 16),
        ({}, True, 16),
        ({"neon": True}, False, 32),
    ],
)
def test_bytes_of_a_vector(features, x86_64, expected):
    assert vector_bytes(features, x86_64) == expected


@pytest.mark.skipif(not JIT, reason="about code that is compiled")
@x86
def test_without_avx_as_numba_is_told():
    code = "from fastnn.kernels.cpu import amx, vectors; print(vectors.VECTOR, amx.missing() is None)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "NUMBA_ENABLE_AVX": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "16 False\n", "")
