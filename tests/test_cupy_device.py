"""Whether there is a device, and the real device layer over a fake CuPy whose kernels run on the stand-in."""

from __future__ import annotations

import gc
import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice
from cuda_on_cpu.cublaslt import StandInLt, without_nvmath
from fake_cupy import DeviceArray, FakeCublas, FakeCupy, WorkingCupy, runtime
from tolerances import assert_close, training

import fastnn
from fastnn import optimizers
from fastnn.backends import cublaslt, cupy_device
from fastnn.backends.cupy_backend import CupyBackend
from fastnn.backends.cupy_contract import CaptureRefused, ForbiddenInCapture
from fastnn.backends.cupy_device import CupyDevice
from fastnn.errors import BackendUnavailable
from fastnn.kernels.cuda import sources

# ---- why there is no device ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (runtime(), None),
        (runtime(driver=0), "no CUDA driver was found"),
        (
            runtime(driver=12040),
            (
                "the driver supports CUDA 12.4, but the installed CuPy is built for CUDA 13.2; update the driver, or "
                "install cupy-cuda12x"
            ),
        ),
        (runtime(devices=0), "no CUDA device is visible; CUDA_VISIBLE_DEVICES is '7'"),
        (
            runtime(error=RuntimeError("cudaErrorNoDevice: no CUDA-capable device\nmore")),
            "no CUDA device can be reached (cudaErrorNoDevice: no CUDA-capable device); CUDA",
        ),
    ],
)
def test_reasons_of_the_device(monkeypatch, given, reason):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    got = cupy_device.device_reason(given)
    assert got is None if reason is None else got.startswith(reason)


@pytest.fixture
def fake(monkeypatch):
    def install(cupy, packages=("cupy-cuda13x",)):
        monkeypatch.setattr(cupy_device.importlib.util, "find_spec", lambda name: cupy)
        monkeypatch.setattr(cupy_device, "_cupy_packages", lambda: list(packages))
        if cupy is not None:
            monkeypatch.setitem(sys.modules, "cupy", cupy)

    return install


def refusal():
    with pytest.raises(BackendUnavailable) as caught:
        CupyBackend()
    return str(caught.value)


def test_cupy_not_installed(fake):
    fake(None)
    assert refusal() == "CuPy is not installed"


def test_two_cupy_packages(fake):
    fake(FakeCupy(), ["cupy-cuda12x", "cupy-cuda13x"])
    assert "2 CuPy packages are installed (cupy-cuda12x, cupy-cuda13x)" in refusal()
    assert "pip uninstall cupy-cuda12x cupy-cuda13x" in refusal()


def test_no_driver_prints_nothing(fake, capfd):
    fake(FakeCupy(driver=0))
    assert "no CUDA driver" in refusal()
    assert capfd.readouterr() == ("", "")


def test_cupy_that_cannot_be_imported(fake, monkeypatch):
    fake(FakeCupy())
    monkeypatch.delitem(sys.modules, "cupy")
    real = cupy_device.importlib.import_module

    def broken(name, *rest):
        if name == "cupy":
            raise ImportError("libcudart.so.13: cannot open shared object file\nlong story")
        return real(name, *rest)

    monkeypatch.setattr(cupy_device.importlib, "import_module", broken)
    assert refusal() == "CuPy cannot be imported (ImportError: libcudart.so.13: cannot open shared object file)"


def test_a_device_that_fails_its_first_kernel(fake, monkeypatch):
    fake(FakeCupy())

    def failing(cupy):
        raise RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED")

    monkeypatch.setattr(cupy_device, "CupyDevice", failing)
    assert "a first kernel and matrix product on it failed (RuntimeError: CUBLAS_STATUS_NOT_INITIALIZED)" in refusal()


def test_the_first_try_compares_numbers():
    cupy_device._try_out(ShimDevice())

    class Wrong(ShimDevice):
        def _gemm(self, *arguments):
            arguments[-2][...] = 0

    with pytest.raises(ArithmeticError, match=r"gave 5\.0 instead of 16"):
        cupy_device._try_out(Wrong())


def test_package_names(monkeypatch):
    names = ["cupy-cuda12x", "CuPy", "cupyx-tools", "cupy-cuda13x", "numpy", None, "cupy-rocm-5-0"]
    found = [SimpleNamespace(metadata={"Name": name}) for name in names]
    monkeypatch.setattr(cupy_device.importlib.metadata, "distributions", lambda: found)
    assert cupy_device._cupy_packages() == ["cupy", "cupy-cuda12x", "cupy-cuda13x", "cupy-rocm-5-0"]


# ---- the real device layer over a fake CuPy
# ---------------------------------------------------------------------------


@pytest.fixture
def working(fake, monkeypatch, tmp_path):
    cupy = WorkingCupy()
    fake(cupy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(CupyDevice, "workspace_bytes", 4096)
    without_nvmath(monkeypatch)
    cupy.lt = StandInLt(lambda: cupy.recording, aligned=True)
    cupy.lt.noted = cupy.noted
    monkeypatch.setattr(cublaslt, "library", lambda: cublaslt._declared(cupy.lt.library))
    cupy.cublas = cupy.cuda.cublas = FakeCublas(cupy)
    # libcublas is nowhere before CuPy has loaded it, which it does when it is asked for `cupy.cuda.cublas`
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.cublas", None)
    return cupy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_through_the_real_device_layer(working, dtype):
    backend = CupyBackend()
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((10, 4)).astype(dtype), rng.integers(0, 3, 10)
    thetas = []
    for engine in (backend, "numpy"):
        net = fastnn.Network([4, 5, 3], backend=engine, dtype=dtype, l2=0.1)
        program = net.backend.compile(net, optimizers.Adam(0.01), 4)
        data = [net.backend.asarray(x) for x in (X, y, np.arange(10))]
        for _ in range(3):
            cost, rows = program.run(*data, 0, 3)
            assert np.isfinite(cost)
            assert rows == 10
        thetas.append(net.backend.to_numpy(net.theta))
    assert_close(*thetas, training(np.dtype(dtype), 90))
    assert backend.compile(net_on(backend, dtype), optimizers.SGD(), 4).mode == "captured"
    # A module for each file with kernels that were needed, made once; the first try and the classes use float32.
    assert len(working.modules) <= 2 * len(sources.files())
    assert working.lt.calls > 10
    assert working.cublas.calls == 1  # the first try of the device


def net_on(backend, dtype="float32"):
    return fastnn.Network([4, 5, 3], backend=backend, dtype=dtype)


def run_a_little(backend, times=3):
    net = net_on(backend)
    program = backend.compile(net, optimizers.Adam(0.01), 4)
    data = [
        backend.asarray(x)
        for x in (
            np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32),
            np.arange(10) % 3,
            np.arange(10),
        )
    ]
    for _ in range(times):
        program.run(*data, 0, 3)
    return backend.to_numpy(net.theta), program


def test_the_binding_of_cublaslt_is_named(working):
    backend = CupyBackend()
    assert backend.products == "cuBLASLt 130100 through fastnn's own binding, because nvmath-python is not installed"
    assert f"; {backend.products}; epilogues chosen" in net_on(backend).plan(4)
    run_a_little(backend)
    assert working.lt.errors == []


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_captured_program_with_epilogues_goes_through_cublaslt(working, precision):
    """As on the stand-in of the device, bit for bit: descriptors, types and addresses say the same as the products
    they were made of.
    """
    X, y = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32), np.arange(10) % 3
    thetas = []
    for backend in (CupyBackend(), CupyBackend(ShimDevice())):
        net = fastnn.Network([4, 7, 5, 3], hidden="relu", backend=backend, precision=precision)
        program = backend.compile(net, optimizers.Adam(0.01), 4)
        for _ in range(3):
            program.run(*[backend.asarray(x) for x in (X, y, np.arange(10))], 0, 3)
        assert program.mode == "captured"
        thetas.append(backend.to_numpy(net.theta))
    np.testing.assert_array_equal(*thetas)
    assert working.lt.errors == []
    back = "DRELU" if precision == "bf16" else "DRELU_BGRAD"  # sums in bfloat16 would be too coarse
    assert {problem.product().epilogue for problem in working.lt.problems} >= {
        "DEFAULT",
        "RELU_AUX_BIAS",
        back,
        "BGRADB",
    }
    assert {problem.product().compute for problem in working.lt.problems} == {"tf32" if precision == "tf32" else "fp32"}
    assert ({problem.product().inputs for problem in working.lt.problems} == {"bfloat16"}) == (precision == "bf16")


def test_without_cublaslt_products_go_through_cublas_and_steps_are_not_captured(working, monkeypatch):
    with_lt, _ = run_a_little(CupyBackend())

    def missing():
        raise OSError("libcublasLt.so.13: cannot open shared object file")

    monkeypatch.setattr(cublaslt, "library", missing)
    with pytest.warns(
        RuntimeWarning,
        match=r"not captured as a CUDA graph, .* cuBLASLt cannot be used \(OSError: libcublasLt.so.13: cannot open",
    ):
        theta, program = run_a_little(CupyBackend())
    assert program.why_eager.startswith("cuBLASLt cannot be used")
    assert CupyBackend().products.startswith("cuBLAS, because cuBLASLt cannot be used (OSError")
    np.testing.assert_array_equal(theta, with_lt)


def test_what_the_driver_refuses_to_capture_runs_eagerly(working):
    captured, _ = run_a_little(CupyBackend())
    working.refuses = True
    with pytest.warns(
        RuntimeWarning,
        match="not captured as a CUDA graph, .*: RuntimeError: cudaErrorStreamCaptureUnsupported: operation not "
        "permitted$",
    ):
        theta, program = run_a_little(CupyBackend())
    assert program.why_eager == "RuntimeError: cudaErrorStreamCaptureUnsupported: operation not permitted"
    np.testing.assert_array_equal(theta, captured)


def test_no_garbage_such_as_other_graphs_is_collected_during_a_capture(working):
    device, seen = CupyBackend().device, []
    try:
        for enabled, fails in ((True, False), (True, True), (False, False)):
            (gc.enable if enabled else gc.disable)()
            working.refuses = fails
            with device.work(), pytest.raises(CaptureRefused) if fails else nullcontext():
                device.capture(lambda: seen.append(gc.isenabled()))
            assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert seen == [False, False]


def test_cublas_in_a_capture_ends_it(working):
    device = CupyBackend().device
    x = device.empty((2, 2), np.float32)
    with (
        device.work(),
        pytest.raises(CaptureRefused, match="NotImplementedError: calling cuBLAS API during stream capture"),
    ):
        device.capture(lambda: device.gemm("N", "N", 2, 2, 2, x, 2, x, 2, x, 2))
    assert working.recording is None  # the stream can be used again
    with device.work(), pytest.raises(ForbiddenInCapture, match="may not allocate memory"):
        device.capture(lambda: device.empty((2,), np.float32))
    assert working.recording is None


def test_work_is_ordered_with_the_callers_stream(working):
    device = CupyBackend().device
    working.log.clear()
    with device.work():
        assert working.streams[-1].name == "own True"
        working.log.append("work")
    assert working.log == [
        ("record", "the caller's"),
        ("wait", "own True"),
        "work",
        ("record", "own True"),
        ("wait", "the caller's"),
    ]
    working.log.clear()
    with device.copying():
        mark = device.mark()
    mark.wait()
    mark.synchronize()
    assert working.log == [("record", "own True"), ("wait", "the caller's"), ("wait for event",)]
    calls = []
    # 40 ms by the fake clock: once to load, once to record, once to see, thrice to time
    assert device.seconds(lambda: calls.append(1), recorded=False) == 40e-3
    assert len(calls) == 6
    working.cuda.get_elapsed_time = lambda begin, end: 0.1
    assert device.seconds(lambda: calls.append(1), recorded=False) == 0.1e-3 / 20
    assert len(calls) == 6 + 63


@pytest.mark.parametrize("refuses", [False, True])
def test_what_is_timed_is_recorded_and_repeated_as_a_graph_where_that_is_possible(working, refuses):
    """So that the time between two events is the device's, and not that of the host, which asks for one launch
    after another.
    """
    device = CupyBackend().device
    working.refuses = refuses
    working.cuda.get_elapsed_time = lambda begin, end: 0.1
    x, ones = device.empty((4,), np.float32), device.asarray(np.ones(4, np.float32))
    done = []

    def work():
        recording = working.recording is not None
        (working.recording if recording else done).append(1 if not recording else (lambda: done.append(20)))

    with device.work():
        device.copy(x, ones)
        assert device.seconds(work) == 0.1e-3 / 20
    assert done == ([1] * 63 if refuses else [1] * 3 + [20] * 80)  # as a graph: once to warm up, thrice to time
    assert device.paced_by_host is refuses


def test_a_fused_program_asks_for_its_shared_memory(working):
    """More than 48 KiB of it only where the kernel was allowed that; a module for each dtype."""
    working.cuda.runtime.getDeviceProperties = lambda device: {"name": b"Fake GPU", "sharedMemPerBlockOptin": 100 << 10}
    X, y, thetas = np.random.default_rng(0).standard_normal((30, 200)).astype(np.float32), np.arange(30) % 3, []
    for backend in (CupyBackend(fused=True), fastnn.get_backend("numpy")):
        net = fastnn.Network([200, 60, 3], backend=backend)
        program = backend.compile(net, optimizers.Adam(0.01), 20)
        program.run(*[backend.asarray(x) for x in (X, y, np.arange(30))], 0, 2)
        thetas.append(backend.to_numpy(net.theta))
        assert backend.name == "numpy" or (program.mode, program._fused.part) == ("fused", 20)
    assert_close(*thetas, 10 * training(np.dtype(np.float32), 2))
    assert CupyBackend().device.shared_bytes == 100 << 10
    working.cuda.runtime.getDeviceProperties = lambda device: {"name": b"Fake GPU"}
    assert CupyBackend().device.shared_bytes == 0


def test_memory_of_the_device(working):
    device = CupyBackend().device
    assert device.memory() == (10**9 + 24, 2 * 10**9)
    with pytest.raises(MemoryError, match=r"the GPU has 1 GB of 2 GB free, 80 GB were asked for"):
        device.empty((2 * 10**10,), np.float32)
    x = device.empty((6,), np.uint8)
    device.upload(x, np.arange(6, dtype=np.uint8))
    np.testing.assert_array_equal(device.view(x, 2, (2,), np.uint16), [2 + 3 * 256, 4 + 5 * 256])
    assert device.address(x) % 256 == 0
    pinned = device.pinned((3, 2), np.float32)
    pinned[...] = 1
    assert pinned.shape == (3, 2)
    with pytest.raises(ValueError, match="upload of float64"):
        device.upload(x, np.zeros(6))
    for bad in ((4, (2,), np.float32), (-1, (1,), np.uint8), (1, (1,), np.uint16)):
        with pytest.raises(ValueError, match="does not fit into uint8 memory"):
            device.view(x, *bad)


def test_choices_are_kept_for_this_device(working, tmp_path):
    run_a_little(CupyBackend())
    content = json.loads((tmp_path / "fastnn" / "cuda-choices.json").read_text())
    (machine,) = content["devices"]
    assert machine == "Fake GPU, driver 13000, cublasLt 130100"
    assert content["devices"][machine]


def test_choices_made_at_the_hosts_pace_are_not_kept(working, tmp_path):
    """Where nothing can be recorded, a kernel may end before the next one is asked for, and the host is timed."""
    working.refuses = True
    with pytest.warns(RuntimeWarning, match="not captured as a CUDA graph"):
        run_a_little(CupyBackend())
    assert not (tmp_path / "fastnn" / "cuda-choices.json").exists()


def test_host_arrays_are_refused_and_converted(working):
    backend = CupyBackend()
    net = fastnn.Network([4, 5, 3], backend=backend)
    X, y, order = np.zeros((6, 4), np.float32), np.zeros(6, np.int64), np.arange(6)
    program = backend.compile(net, optimizers.SGD(), 4)
    with pytest.raises(
        TypeError,
        match=r"X must be an array of the cupy engine, got numpy\.ndarray; see backend\.asarray",
    ):
        program.run(X, backend.asarray(y), order, 0, 1)
    with pytest.raises(TypeError, match=r"y must be an array of the cupy engine, got numpy\.ndarray"):
        program.run(backend.asarray(X), y, order, 0, 1)
    assert program.run(backend.asarray(X), backend.asarray(y), order, 0, 2)[1] == 6  # the order may come from the host
    assert isinstance(net.predict(X), np.ndarray)
    assert isinstance(backend.activate("tanh", backend.asarray(X)), DeviceArray)
    assert backend.asarray(np.array([1, 2], ">f4")).dtype.isnative
    assert backend.asarray([[1, 2]], np.float64).shape == (1, 2)
    assert backend.asarray(np.float32(3)).shape == ()


def test_another_device_is_refused(working):
    backend = CupyBackend()
    x = backend.zeros((2, 2), np.float32)
    working.current = 1
    with pytest.raises(
        RuntimeError,
        match=r"works on CUDA device 0, but device 1 is current here; .*with cupy\.cuda\.Device\(0\)",
    ):
        backend.activate("tanh", x)
    working.current = 0
    elsewhere = type("Elsewhere", (DeviceArray,), {"device": SimpleNamespace(id=1)})
    with pytest.raises(ValueError, match="the array lies on CUDA device 1, the cupy engine works on device 0"):
        backend.activate("tanh", x.view(elsewhere))


def test_waiting_waits_for_the_current_stream(working):
    CupyBackend().synchronize()
    assert working.waits == 1
