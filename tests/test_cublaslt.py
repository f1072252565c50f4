"""fastnn's own binding of cuBLASLt: its numbers against nvmath-python's, its calls against the real library (which
needs no driver for descriptors) and against a stand-in (cuda_on_cpu/cublaslt.cpp), and how the library is found."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_on_cpu.cublaslt import SONAME, StandInLt, build, without_nvmath
from cuda_on_cpu.products import multiply

from fastnn.backends import cublaslt, cupy_lt
from fastnn.backends.cublaslt import (
    CublasLt,
    MatmulDescAttribute,
    MatmulPreferenceAttribute,
    ReductionScheme,
    cuBLASLtError,
)
from fastnn.backends.cupy_products import NotOffered, aux_ld, back, forward, outer

# ---- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ours", [MatmulDescAttribute, MatmulPreferenceAttribute, ReductionScheme], ids=lambda enum: enum.__name__
)
def test_attributes_are_those_of_nvmath(ours):
    theirs = getattr(pytest.importorskip("nvmath.bindings.cublasLt"), ours.__name__)
    assert {member.name: int(member) for member in ours} == {member.name: int(theirs[member.name]) for member in ours}


def test_numbers_and_layouts_are_those_of_nvmath():
    theirs = pytest.importorskip("nvmath.bindings.cublasLt")
    result = theirs.matmul_heuristic_result_dtype
    assert {name: kind[:2] for name, kind in cublaslt.HEURISTIC_RESULT.fields.items()} == {
        name: kind[:2] for name, kind in result.fields.items()
    }
    assert cublaslt.HEURISTIC_RESULT.itemsize == result.itemsize
    epilogues = {name: int(theirs.Epilogue[name]) for name in cupy_lt.EPILOGUES}
    assert epilogues == cupy_lt.EPILOGUES
    cublas = pytest.importorskip("nvmath.bindings.cublas")
    assert {int(status): status.name for status in cublas.Status} == cublaslt.STATUS
    computes = cublas.ComputeType
    assert cupy_lt.COMPUTE_TYPES == {
        "fp32": computes.COMPUTE_32F,
        "fp64": computes.COMPUTE_64F,
        "tf32": computes.COMPUTE_32F_FAST_TF32,
    }


def test_the_heuristics_result_has_the_size_of_the_header():
    assert cublaslt.HEURISTIC_RESULT.itemsize == 96
    assert [
        cublaslt.HEURISTIC_RESULT.fields[name][1]
        for name in ("algo", "workspace_size", "state", "waves_count", "reserved")
    ] == [0, 64, 72, 76, 80]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (15, "f answered CUBLAS_STATUS_NOT_SUPPORTED: the library has no algorithm for this"),
        (7, "f answered CUBLAS_STATUS_INVALID_VALUE"),
        (99, "f answered status 99"),
    ],
)
def test_a_status_has_a_name(status, text):
    error = cuBLASLtError("f", status)
    assert (str(error), error.status) == (text, status)


# ---- the real library ----------------------------------------------------------------------------------------------


@pytest.fixture
def real():
    """The binding over the real library; skipped where there is none."""
    cublaslt.library.cache_clear()
    try:
        lib = cublaslt.library()
    except OSError as error:
        pytest.skip(str(error))
    return lib


def read_back(lib, what, owner, attribute, dtype):
    value, written = np.zeros(1, dtype), ctypes.c_size_t()
    get = getattr(lib, f"cublasLt{what}GetAttribute")
    get.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]
    assert get(owner, int(attribute), value.ctypes.data, value.itemsize, ctypes.byref(written)) == 0
    assert written.value == value.itemsize
    return int(value[0])


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float64"])
def test_the_real_library_keeps_what_a_product_is_told(real, kind):
    compute = "fp64" if kind == "float64" else "fp32"
    desc_of = {"TRANSA": np.int32, "TRANSB": np.int32, "EPILOGUE": np.uint32}
    for product in (
        forward(33, 19, 70, kind, compute, "RELU_AUX_BIAS"),
        back(33, 19, 70, kind, compute, "DRELU"),
        outer(33, 19, 70, kind, compute, "BGRADB"),
    ):
        call = cupy_lt._Call(CublasLt(), product, [256, 512, 1024, 2**40 + 16, 2**41], 2048)
        read = {
            name: read_back(real, "MatmulDesc", call.desc, MatmulDescAttribute[name], dtype)
            for name, dtype in desc_of.items()
        }
        assert read == {
            "TRANSA": "NT".index(product.op_A),
            "TRANSB": "NT".index(product.op_B),
            "EPILOGUE": cupy_lt.EPILOGUES[product.epilogue],
        }
        if product.bias_length:
            assert read_back(real, "MatmulDesc", call.desc, MatmulDescAttribute.BIAS_POINTER, np.uint64) == 2**40 + 16
            assert (
                read_back(real, "MatmulDesc", call.desc, MatmulDescAttribute.BIAS_DATA_TYPE, np.int32)
                == cupy_lt.DATA_TYPES[product.output]
            )
        if product.aux_ld:
            assert (
                read_back(real, "MatmulDesc", call.desc, MatmulDescAttribute.EPILOGUE_AUX_POINTER, np.uint64) == 2**41
            )
            assert (
                read_back(real, "MatmulDesc", call.desc, MatmulDescAttribute.EPILOGUE_AUX_LD, np.int64)
                == product.aux_ld
                == aux_ld(product.m)
            )
        # Type, order, rows, columns, leading dimension: 0, 1, 2, 3, 4 of cublasLtMatrixLayoutAttribute_t.
        layouts = [
            [
                read_back(real, "MatrixLayout", layout, which, dtype)
                for which, dtype in ((0, np.uint32), (2, np.uint64), (3, np.uint64), (4, np.int64))
            ]
            for layout in call.layouts
        ]
        stored = [*product.stored, (product.m, product.n)]
        kinds = [product.inputs, product.inputs, product.output]
        assert layouts == [
            [cupy_lt.DATA_TYPES[k], *s, ld]
            for k, s, ld in zip(kinds, stored, (product.lda, product.ldb, product.ldd), strict=True)
        ]


def test_the_real_library_keeps_a_preference(real):
    preference = cupy_lt._preference(CublasLt(), [256, 16 * 3, 4 * 5, 8, None], 2**33)
    wanted = {
        "MAX_WORKSPACE_BYTES": 2**33,
        "REDUCTION_SCHEME_MASK": 2,
        "MIN_ALIGNMENT_A_BYTES": 256,
        "MIN_ALIGNMENT_B_BYTES": 16,
        "MIN_ALIGNMENT_C_BYTES": 4,
        "MIN_ALIGNMENT_D_BYTES": 4,
    }
    for name, value in wanted.items():
        dtype = np.uint64 if name == "MAX_WORKSPACE_BYTES" else np.uint32
        assert read_back(real, "MatmulPreference", preference, MatmulPreferenceAttribute[name], dtype) == value, name
    CublasLt().matmul_preference_destroy(preference)


def test_the_real_library_answers_without_a_driver(real):
    assert CublasLt().get_version() >= 120000
    one = np.zeros(1, np.int16)
    layout = CublasLt().matrix_layout_create(0, 2**33, 2**34, 2**35)  # every size is passed whole
    assert [read_back(real, "MatrixLayout", layout, which, np.int64) for which in (2, 3, 4)] == [2**33, 2**34, 2**35]
    CublasLt().matrix_layout_destroy(layout)
    desc = CublasLt().matmul_desc_create(68, 0)
    with pytest.raises(cuBLASLtError, match=r"^cublasLtMatmulDescSetAttribute answered CUBLAS_STATUS_INVALID_VALUE$"):
        # 2 bytes for an int32
        CublasLt().matmul_desc_set_attribute(desc, MatmulDescAttribute.TRANSA, one.ctypes.data, one.itemsize)
    CublasLt().matmul_desc_destroy(desc)
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(
            cuBLASLtError,
            match=r"^cublasLtCreate answered CUBLAS_STATUS_NOT_INITIALIZED: the driver or the device does not answer$",
        ):
            CublasLt().create()


# ---- products through the stand-in
# ------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(monkeypatch):
    made = StandInLt()
    lib = cublaslt._declared(made.library)
    monkeypatch.setattr(cublaslt, "library", lambda: lib)
    without_nvmath(monkeypatch)
    return made


def problem(product, seed=0):
    """A, B, D, bias, aux on the host, whose addresses the stand-in takes; D, bias and aux hold what must be
    overwritten.
    """
    rng = np.random.default_rng(seed)
    dtype = np.float64 if product.inputs == "float64" else np.float32
    (rows_A, columns_A), (rows_B, columns_B) = product.stored
    A, B = (
        rng.standard_normal(rows * columns).astype(dtype)
        for rows, columns in ((rows_A, columns_A), (rows_B, columns_B))
    )
    D = rng.standard_normal(product.m * product.n).astype(dtype)
    bias = rng.standard_normal(product.bias_length).astype(dtype) if product.bias_length else None
    aux = rng.integers(0, 256, product.aux_ld // 8 * product.n).astype(np.uint8) if product.aux_ld else None
    return [A, B, D, bias, aux]


STREAM = SimpleNamespace(ptr=7)
WAYS = (
    [(forward, e) for e in ("DEFAULT", "BIAS", "RELU_BIAS", "RELU_AUX_BIAS")]
    + [(back, e) for e in ("DEFAULT", "DRELU", "DRELU_BGRAD")]
    + [(outer, e) for e in ("DEFAULT", "BGRADB")]
)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize(("way", "epilogue"), WAYS, ids=[f"{w.__name__} {e}" for w, e in WAYS])
def test_every_product_arrives_as_it_was_meant(stand_in, way, epilogue, kind):
    product = way(5, 19, 70, kind, "fp64" if kind == "float64" else "tf32", epilogue)
    arrays, wanted = problem(product), problem(product)
    multiply(product, *wanted)
    lt = cupy_lt.Lt()
    first, second = lt.candidates(
        product, [None if x is None else x.ctypes.data for x in arrays], 4096, 1 << 20, lambda: STREAM
    )
    assert first.name != second.name
    for candidate in (first, second):
        for x, y in zip(arrays[2:], problem(product)[2:], strict=True):
            if x is not None:
                x[...] = y
        candidate.call()
        assert stand_in.errors == []
        for x, y in zip(arrays, wanted, strict=True):
            np.testing.assert_array_equal(x, y)
    assert [p.index for p in stand_in.problems] == [0, 2]  # the one between cannot be used, its state says
    assert (stand_in.problems[0].workspace, stand_in.problems[0].workspace_bytes) == (4096, 1 << 20)
    assert stand_in.problems[0].product() == product


def test_a_sum_is_added_to_and_descriptors_are_given_back(stand_in):
    product = outer(5, 19, 70, "float32", "fp32", accumulate=True)
    gc.collect()  # what programs of other tests still hold
    before = stand_in.library.stand_in_living()
    arrays, wanted = problem(product), problem(product)
    multiply(product, *wanted)
    candidates = cupy_lt.Lt().candidates(
        product, [x.ctypes.data if x is not None else None for x in arrays], 4096, 64, lambda: STREAM
    )
    assert stand_in.library.stand_in_living() == before + 4  # the product and its three layouts
    candidates[0].call()
    np.testing.assert_array_equal(arrays[2], wanted[2])
    del candidates
    assert stand_in.library.stand_in_living() == before


def test_the_alignment_of_every_address_is_told(stand_in):
    product = forward(8, 8, 8, "float32", "fp32", "BIAS")
    cupy_lt.Lt().candidates(product, [4096, 16 * 3, 1 << 20, 8 * 5, None], 0, 64, lambda: STREAM)
    told = stand_in.library.stand_in_alignments()
    # A, B, C, D; D no more than the bias
    assert [told >> shift & 0xFFFF for shift in (0, 16, 32, 48)] == [256, 16, 256, 8]


def test_what_the_library_does_not_offer_has_no_candidates(stand_in):
    """Where it says anything but that, it was asked for nonsense, which is kept to be told."""
    product = forward(8, 8, 8, "float32", "fp32", "BIAS")
    for status, refusals in (
        (15, {}),
        (7, {str(product): "cublasLtMatmulAlgoGetHeuristic answered CUBLAS_STATUS_INVALID_VALUE"}),
    ):
        stand_in.library.stand_in_refuses(cupy_lt.EPILOGUES["BIAS"], status)
        lt = cupy_lt.Lt()
        assert lt.candidates(product, [256, 256, 256, 256, None], 0, 64, lambda: STREAM) == []
        assert lt.refusals == refusals


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (15, "NOT_SUPPORTED"),
        (7, "INVALID_VALUE"),
        (8, "ARCH_MISMATCH"),
        (13, "EXECUTION_FAILED"),
        (14, "INTERNAL_ERROR"),
    ],
)
def test_an_algorithm_that_does_not_run_after_all_is_not_offered(stand_in, monkeypatch, status, name):
    """Another may: nothing ends here. It is told, and after a failure on the device the device is asked whether it
    is still there.
    """

    def refuses(*arguments):
        raise cuBLASLtError("cublasLtMatmul", status)

    monkeypatch.setattr(CublasLt, "matmul", refuses)
    product, waits = forward(8, 8, 8, "float32", "fp32"), []
    stream = SimpleNamespace(ptr=7, synchronize=lambda: waits.append(status))
    lt = cupy_lt.Lt()
    call = lt.candidates(product, [256, 256, 256, None, None], 0, 64, lambda: stream)[0].call
    with pytest.raises(
        NotOffered,
        match=rf"for DEFAULT TN 8x8x8 .* that it does not run: cublasLtMatmul answered CUBLAS_STATUS_{name}",
    ):
        call()
    assert waits == ([status] if status in (13, 14) else [])
    assert list(lt.refusals) == ([] if status == 15 else [str(product)])


def test_a_lost_device_is_no_algorithm_that_does_not_run(stand_in, monkeypatch):
    def lost(*arguments):
        raise cuBLASLtError("cublasLtMatmul", 13)

    def wait():
        raise RuntimeError("cudaErrorIllegalAddress")

    monkeypatch.setattr(CublasLt, "matmul", lost)
    call = (
        cupy_lt.Lt()
        .candidates(
            forward(8, 8, 8, "float32", "fp32"),
            [256, 256, 256, None, None],
            0,
            64,
            lambda: SimpleNamespace(ptr=7, synchronize=wait),
        )[0]
        .call
    )
    with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress"):
        call()


def test_a_product_that_fails_says_so(stand_in):
    stand_in.library.stand_in_create_answers(1)
    with pytest.raises(cuBLASLtError, match="cublasLtCreate answered CUBLAS_STATUS_NOT_INITIALIZED"):
        cupy_lt.Lt()
    stand_in.library.stand_in_create_answers(0)
    product = forward(8, 8, 8, "float32", "fp32")
    stream = SimpleNamespace(ptr=8, synchronize=lambda: None)  # another than the stand-in is used to
    call = (
        cupy_lt.Lt()
        .candidates(product, [x.ctypes.data for x in problem(product)[:3]] + [None, None], 0, 64, lambda: stream)[0]
        .call
    )
    with pytest.raises(NotOffered, match="cublasLtMatmul answered CUBLAS_STATUS_EXECUTION_FAILED"):
        call()


# ---- which binding, which library
# --------------------------------------------------------------------------------------


def test_nvmath_is_taken_where_it_works(monkeypatch):
    module = SimpleNamespace(get_version=lambda: 130200)
    for name, stand in (
        ("nvmath", SimpleNamespace()),
        ("nvmath.bindings", SimpleNamespace()),
        ("nvmath.bindings.cublasLt", module),
    ):
        monkeypatch.setitem(sys.modules, name, stand)
    binding = cupy_lt.choose_binding()
    assert binding.module is module
    assert str(binding) == "130200 through nvmath-python"


def test_fastnns_own_is_taken_where_nvmath_is_missing(stand_in):
    binding = cupy_lt.choose_binding()
    assert isinstance(binding.module, CublasLt)
    assert str(binding) == "130100 through fastnn's own binding, because nvmath-python is not installed"


def test_one_binding_can_be_asked_for(stand_in, monkeypatch):
    monkeypatch.setenv("FASTNN_CUBLASLT", "ctypes")
    monkeypatch.setitem(sys.modules, "nvmath.bindings.cublasLt", SimpleNamespace(get_version=lambda: 130200))
    assert str(cupy_lt.choose_binding()) == "130100 through fastnn's own binding, because FASTNN_CUBLASLT asks for it"
    monkeypatch.delitem(sys.modules, "nvmath.bindings.cublasLt")
    monkeypatch.setenv("FASTNN_CUBLASLT", "nvmath")
    with pytest.raises(ImportError, match=r"^FASTNN_CUBLASLT asks for nvmath-python, which is not installed$"):
        cupy_lt.choose_binding()
    monkeypatch.setenv("FASTNN_CUBLASLT", "other")
    with pytest.raises(ValueError, match=r"^FASTNN_CUBLASLT must be 'nvmath' or 'ctypes', or not be set, got 'other'$"):
        cupy_lt.choose_binding()


def fresh(code, system=""):
    """What a process prints that has the stand-in at hand, not loaded yet, and whose system has libraries in a
    folder; fails on any warning.
    """
    before = f"""
        import ctypes, sys
        from fastnn.backends import cublaslt
        stand_in = {str(build(SONAME))!r}
        cublaslt._by_pathfinder = lambda: None
    """
    environment = {**os.environ, "LD_LIBRARY_PATH": str(system)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(before) + textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_library_that_cupy_loaded_is_taken_first():
    assert fresh("""
        mine = ctypes.CDLL(stand_in)
        cublaslt._by_pathfinder = lambda: sys.exit("it is loaded already")
        print(cublaslt.CublasLt().get_version(), cublaslt.library()._handle == mine._handle, cublaslt.library()._name)
    """) == ["130100", "True", SONAME]  # fmt: skip


@pytest.mark.parametrize("wheel", ["cu13/lib", "cublas/lib", None])
def test_the_library_is_found_in_nvidias_wheels_then_in_the_system(tmp_path, wheel):
    folders = [tmp_path / "system", *([tmp_path / "nvidia" / wheel] if wheel else [])]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / SONAME).symlink_to(build(SONAME))
    code = f"""
        sys.path = [{str(tmp_path)!r}, *(path for path in sys.path if "site-packages" not in path)]  # this environment may have the real one
        lib = cublaslt.library()
        print(cublaslt.CublasLt().get_version(), lib._name)
    """
    assert fresh(code, system=folders[0]) == ["130100", str(folders[1] / SONAME) if wheel else SONAME]


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-pathfinder is not installed")
def test_nvidias_own_search_is_asked(real):
    assert SONAME.rsplit(".", 1)[0] in cublaslt._by_pathfinder()


def test_every_place_that_was_looked_at_is_named(monkeypatch, tmp_path):
    broken = tmp_path / "libcublasLt.so.13"
    broken.write_text("not a library")
    monkeypatch.setattr(
        cublaslt,
        "_places",
        lambda: [
            (str(broken), cublaslt.os.RTLD_NOW),
            ("libcublasLt.so.99", cublaslt.os.RTLD_NOW | cublaslt.os.RTLD_NOLOAD),
            ("libcublasLt.so.98", cublaslt.os.RTLD_NOW),
        ],
    )
    with pytest.raises(
        OSError,
        match=r"^libcublasLt cannot be loaded \(.*libcublasLt.so.13: .*; libcublasLt.so.98: cannot open shared object "
        r"file.*\); it comes with the \[ctk\] extra of the CuPy package$",
    ):
        cublaslt.library.__wrapped__()
