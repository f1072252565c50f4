"""Which BLAS compiled code multiplies with; the way to MKL is walked with a stand-in of three libraries that need
each other, as MKL's do.
"""

import json
import os
import platform
import subprocess
import sys
import textwrap

import pytest

import fastnn
from fastnn.backends import cpu_blas
from fastnn.backends.host import ALIGNMENT
from fastnn.kernels.cpu import JIT, gemm

linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="MKL is for Linux on x86-64"
)
compiles = pytest.mark.skipif(not JIT, reason="without JIT NumPy multiplies")

# Each part lacks symbols of the others and names no dependency. Column-major products with plain loops; what
# was called, and whether the thread was held to one thread then, is counted.
INTERFACE = """
#include <cstring>
extern "C" {
void count(int what); int layer();
static thread_local int held = 0;
int MKL_Set_Num_Threads_Local(int n) { int before = held; held = n; return before; }
void MKL_Get_Version_String(char *text, int size) { std::strncpy(text, "A stand-in, Version 9.1-Product", size); }
int interface() { return 32; }
}
template <class T> void product(char ta, char tb, int m, int n, int k, T alpha, const T *a, int lda, const T *b, int ldb, T beta, T *c, int ldc) {
    count(sizeof(T) == 4 ? 0 : 1);
    if (held != 1 || layer() != 1) count(2);
    for (int i = 0; i < m; i++) for (int j = 0; j < n; j++) {
        double sum = 0;
        for (int p = 0; p < k; p++) sum += double(ta == 'N' ? a[i + p * lda] : a[p + i * lda]) * (tb == 'N' ? b[p + j * ldb] : b[j + p * ldb]);
        c[i + j * ldc] = T(alpha * sum + (beta == 0 ? 0 : beta * c[i + j * ldc]));
    }
}
#define GEMM(name, T) extern "C" void name(char *ta, char *tb, int *m, int *n, int *k, T *alpha, T *a, int *lda, T *b, int *ldb, T *beta, T *c, int *ldc) \\
    { product<T>(*ta, *tb, *m, *n, *k, *alpha, a, *lda, b, *ldb, *beta, c, *ldc); }
GEMM(sgemm_, float)
GEMM(dgemm_, double)
"""
SEQUENTIAL = 'extern "C" { int interface(); int layer() { return interface() == 32; } }'
CORE = """
#include <atomic>
static std::atomic<int> counts[3];
extern "C" { int layer(); void count(int what) { counts[what] += layer(); } int counted(int what) { return counts[what]; } }
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A folder with the stand-in's three libraries."""
    folder = tmp_path_factory.mktemp("stand_in_for_mkl")
    for part, source in zip(cpu_blas.PARTS, (INTERFACE, SEQUENTIAL, CORE), strict=True):
        (folder / f"{part}.cpp").write_text(source)
        subprocess.run(
            ["g++", "-O1", "-shared", "-fPIC", "-o", folder / f"libmkl_{part}.so.9", folder / f"{part}.cpp"],
            check=True,
            capture_output=True,
            timeout=120,
        )
    return folder


def _with_stand_in(folder, code):
    """Run code in a fresh process that finds the stand-in as the MKL of an Intel CPU; what its `result` is."""
    before = f"""
        import ctypes, json, os, threading
        from pathlib import Path
        import numpy as np
        import fastnn
        from fastnn.backends import cpu_blas
        cpu_blas._folders, cpu_blas._intel_cpu = lambda: [Path({str(folder)!r})], lambda: True
        engine = fastnn.get_backend("numba", panels=False)
        library = engine.blas.library
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((300, 64)), rng.integers(0, 10, 300)
        def train(backend, dtype="float32"):
            net = fastnn.Network([64, 257, 10], backend=engine if backend == "numba" else backend, dtype=dtype)
            net.fit(X, y, epochs=2, batch_size=100, optimizer="sgd")
            return net
    """
    program = f"{textwrap.dedent(before)}{textwrap.dedent(code)}\nprint(json.dumps(result))"
    environment = {name: value for name, value in os.environ.items() if name != cpu_blas.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@linux
@compiles
def test_operations_programs_and_predictions_multiply_with_mkl(stand_in):
    result = _with_stand_in(
        stand_in,
        """
        difference = {}
        for dtype in ("float32", "float64"):
            nets = [train(backend, dtype) for backend in ("numba", "numpy")]
            outputs = [net.predict_proba(X) for net in nets]
            gradients = [net.cost_and_gradient(X, y)[1] for net in nets]
            difference[dtype] = max(float(np.abs(a - b).max()) for a, b in ([net.theta for net in nets], outputs, gradients))
        counts = [library.counted(what) for what in range(3)]
        outside = library.MKL_Set_Num_Threads_Local(0)
        everywhere = [name for name in ("sgemm_", "count", "layer", "interface") if hasattr(ctypes.CDLL(None), name)]
        result = [engine.products, fastnn.Network([64, 10], backend="numba").plan(8, explain=True), difference, counts, outside, everywhere]
    """,
    )
    products, plan, difference, (single, double, not_held), outside, everywhere = result
    assert products == "MKL 9.1 (Intel CPU, and MKL is installed)"
    assert plan.endswith("\nBLAS: MKL 9.1 (Intel CPU, and MKL is installed)")
    assert difference["float32"] < 1e-4
    assert difference["float64"] < 1e-12
    assert single > 50
    assert double > 50
    # The probes alone: one product in each precision, before an engine stands; the one with options is a second engine.
    assert not_held == 4
    assert outside == 0, "the calling thread's setting was not restored"
    assert everywhere == [], "the stand-in's symbols must not reach libraries that are loaded later"


@linux
@compiles
def test_members_of_a_team_are_held_too(stand_in):
    result = _with_stand_in(stand_in, """
        from fastnn.backends.cpu_plan import Plan
        from fastnn.backends import numba_backend
        numba_backend.choose_plan = lambda *sizes: Plan(3, 99)
        engine.blas.library.MKL_Set_Num_Threads_Local(7)  # somebody's own setting
        before = library.counted(2)
        train("numba")
        result = [library.counted(2) - before, library.MKL_Set_Num_Threads_Local(0)]
    """)  # fmt: skip
    assert result == [0, 7]


@linux
@compiles
def test_a_forked_child_multiplies_with_mkl_after_its_parent_did(stand_in):
    result = _with_stand_in(stand_in, """
        mine = train("numba").theta
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(train("numba").theta, mine) else 3)
        result = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    """)  # fmt: skip
    assert result == 0


# ---- the choice ---------------------------------------------------------------------------------------------------


def _machine(monkeypatch, *, intel=True, folders=(), variable=None):
    monkeypatch.setattr(cpu_blas, "_intel_cpu", lambda: intel)
    monkeypatch.setattr(cpu_blas, "_folders", lambda: iter(folders))
    monkeypatch.delenv(cpu_blas.VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(cpu_blas.VARIABLE, variable)


@linux
@pytest.mark.parametrize(
    ("intel", "installed", "variable", "name", "why"),
    [
        (True, True, None, "MKL 9.1", "Intel CPU, and MKL is installed"),
        (True, True, "", "MKL 9.1", "Intel CPU"),
        (False, True, None, "SciPy's BLAS", "not an Intel CPU"),
        (
            True,
            False,
            None,
            "SciPy's BLAS",
            'MKL is not installed: pip install ".[mkl]" in the folder of a clone of fastnn',
        ),
        (True, True, "scipy", "SciPy's BLAS", "FASTNN_BLAS=scipy"),
        (False, True, " MKL ", "MKL 9.1", "FASTNN_BLAS=mkl"),
    ],
)
def test_the_choice_follows_machine_installation_and_variable(
    monkeypatch, stand_in, intel, installed, variable, name, why
):
    _machine(monkeypatch, intel=intel, folders=[stand_in] if installed else [], variable=variable)
    blas = cpu_blas.choose_blas()
    assert blas.name == name
    assert why in blas.why
    assert (blas.addresses == gemm.scipy_addresses()) == (name == "SciPy's BLAS")


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("openblas", "FASTNN_BLAS='openblas' is not known. Known: mkl, scipy."),
        ("mkl", 'not installed here. To install it: pip install "\\.\\[mkl]"'),
    ],
)
def test_a_variable_that_cannot_be_followed_is_refused(monkeypatch, variable, words):
    _machine(monkeypatch, variable=variable)
    with pytest.raises(ValueError, match=words):
        cpu_blas.choose_blas()


def test_a_refused_variable_stops_every_way_to_an_engine():
    code = "import fastnn; fastnn.Network([2, 2])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, cpu_blas.VARIABLE: "nonsense"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "ValueError: environment variable FASTNN_BLAS='nonsense' is not known. Known: mkl, scipy."
    )


@linux
def test_a_damaged_mkl_is_said_once_and_scipy_multiplies(monkeypatch, tmp_path):
    for part in cpu_blas.PARTS:
        (tmp_path / f"libmkl_{part}.so.2").write_text("not a library")
    _machine(monkeypatch, folders=[tmp_path])
    with pytest.warns(
        RuntimeWarning,
        match=r"cannot be loaded \(.*libmkl_intel_lp64.so.2: .*\), so SciPy's BLAS multiplies",
    ) as said:
        blas = cpu_blas.choose_blas()
    assert len(said) == 1
    assert (blas.name, blas.addresses) == ("SciPy's BLAS", gemm.scipy_addresses())
    _machine(monkeypatch, folders=[tmp_path], variable="mkl")
    with pytest.raises(ValueError, match=r"FASTNN_BLAS=mkl, but the MKL in .* cannot be loaded"):
        cpu_blas.choose_blas()


@linux
def test_an_mkl_without_what_is_needed_is_not_taken(monkeypatch, tmp_path):
    (tmp_path / "empty.cpp").write_text("")
    for part in cpu_blas.PARTS:
        subprocess.run(
            ["g++", "-shared", "-fPIC", "-o", tmp_path / f"libmkl_{part}.so.2", tmp_path / "empty.cpp"],
            check=True,
            timeout=60,
        )
    _machine(monkeypatch, folders=[tmp_path])
    with pytest.warns(RuntimeWarning, match="undefined symbol: MKL_Get_Version_String"):
        assert cpu_blas.choose_blas().library is None


def test_the_newest_complete_mkl_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu_blas, "_folders", lambda: iter([tmp_path / "missing", tmp_path]))
    assert cpu_blas._find_mkl() is None
    for part, version in [(part, v) for v in (2, 10) for part in cpu_blas.PARTS] + [("core", 11), ("core", "2.old")]:
        (tmp_path / f"libmkl_{part}.so.{version}").write_text("")
    assert cpu_blas._find_mkl() == [tmp_path / f"libmkl_{part}.so.10" for part in cpu_blas.PARTS]


def test_folders_are_pythons_own_and_the_distributions(monkeypatch, tmp_path):
    assert next(cpu_blas._folders()) == cpu_blas.Path(sys.prefix) / "lib"

    class File:
        name = "libmkl_core.so.2"

        def locate(self):
            return tmp_path / "site-packages" / ".." / "lib" / self.name

    monkeypatch.setattr(cpu_blas.importlib.metadata, "files", lambda name: [File()])
    assert list(cpu_blas._folders())[1:] == [tmp_path / "lib"]


def test_an_intel_cpu_is_told_by_the_kernel(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for text, intel in (("processor\t: 0\nvendor_id\t: GenuineIntel\n", True), ("vendor_id\t: AuthenticAMD\n", False)):
        monkeypatch.setattr(cpu_blas.Path, "read_text", lambda self, text=text, **_: text)
        assert cpu_blas._intel_cpu() is intel
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert cpu_blas._intel_cpu() is False


# ---- equal results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_blas_is_given_begins_at_a_cache_line(dtype, optimizer):
    net = fastnn.Network([37, 41, 5], backend=fastnn.get_backend("numba", panels=False), dtype=dtype)
    rule = fastnn.optimizers.get(optimizer, 0.1)
    program = net.backend.compile(net, rule, 33)
    packed = fastnn.Network([37, 41, 5], backend=fastnn.get_backend("numba", panels=True), dtype=dtype)
    panels = packed.backend.compile(packed, fastnn.optimizers.get(optimizer, 0.1), 33)
    # of which no product reads a vector
    unaligned = ("classes", "costs", "hits", "squares", "places", "firsts", "ones")
    arrays = [
        net.theta,
        *(buffer for name, buffer in program._memory._asdict().items() if buffer.size and name not in unaligned),
        *rule.state,
        *(buffer for name, buffer in panels._memory._asdict().items() if buffer.size and name not in unaligned),
        net.backend.zeros((3, 5), dtype),
        net.backend.empty((2, 4), dtype),
    ]
    assert [array.__array_interface__["data"][0] % ALIGNMENT for array in arrays] == [0] * len(arrays)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in arrays)


@pytest.mark.slow
@pytest.mark.parametrize("blas", ["scipy", "mkl"])
def test_fresh_processes_give_equal_bits(blas):
    if blas == "mkl" and cpu_blas._find_mkl() is None:
        pytest.skip("MKL is not installed")
    code = """
        import hashlib, sys, numpy as np, fastnn
        taken = [bytes(n) for n in range(int(sys.argv[1]) * 1001)]  # another heap in each process
        rng = np.random.default_rng(1)
        X, y = rng.standard_normal((515, 131)), rng.integers(0, 7, 515)
        digest = hashlib.sha256()
        for dtype in ("float32", "float64"):
            net = fastnn.Network([131, 67, 301, 7], backend="numba", dtype=dtype, l2=0.1)
            net.fit(X, y, epochs=3, batch_size=97)
            digest.update(net.theta.tobytes())
            digest.update(net.predict_proba(X).tobytes())
            digest.update(net.cost_and_gradient(X, y)[1].tobytes())
        print(digest.hexdigest())
    """
    environment = {**os.environ, cpu_blas.VARIABLE: blas}
    outputs = {
        subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(k)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for k in range(5)
    }
    assert len(outputs) == 1
