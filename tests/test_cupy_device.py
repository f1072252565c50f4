"""Whether there is a device, and the real device layer over a fake CuPy whose kernels run on the stand-in."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice
from tolerances import assert_close, training

import fastnn
from fastnn import optimizers
from fastnn.backends import cupy_device
from fastnn.backends.cupy_backend import CupyBackend
from fastnn.errors import BackendUnavailable
from fastnn.kernels.cuda import sources

# ---- why there is no device ---------------------------------------------------------------------------------------


def runtime(driver=13000, toolkit=13020, devices=1, error=None):
    def count():
        if error:
            raise error
        return devices

    return SimpleNamespace(driverGetVersion=lambda: driver, runtimeGetVersion=lambda: toolkit, getDeviceCount=count)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (runtime(), None),
        (runtime(driver=0), "no CUDA driver was found"),
        (runtime(driver=12040), "the driver supports CUDA 12.4, but the installed CuPy is built for CUDA 13.2; update the driver, or install cupy-cuda12x"),
        (runtime(devices=0), "no CUDA device is visible; CUDA_VISIBLE_DEVICES is '7'"),
        (runtime(error=RuntimeError("cudaErrorNoDevice: no CUDA-capable device\nmore")), "no CUDA device can be reached (cudaErrorNoDevice: no CUDA-capable device); CUDA"),
    ],
)
def test_reasons_of_the_device(monkeypatch, given, reason):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    got = cupy_device.device_reason(given)
    assert got is None if reason is None else got.startswith(reason)


class FakeCupy:
    """Just enough of CuPy to get past the first questions."""

    ndarray = np.ndarray

    def __init__(self, **kw):
        self.cuda = SimpleNamespace(runtime=runtime(**kw))


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


# ---- the real device layer over a fake CuPy ---------------------------------------------------------------------------


class DeviceArray(np.ndarray):
    """What CupyDevice uses of cupy.ndarray."""

    device = SimpleNamespace(id=0)

    @property
    def data(self):
        def memset_async(value, count):
            assert (value, count) == (0, self.nbytes)
            self.view(np.ndarray)[...] = 0

        return SimpleNamespace(ptr=self.ctypes.data, memset_async=memset_async)


class FakeCublas:
    """gemm on raw addresses, as cuBLAS sees it."""

    CUBLAS_DEFAULT_MATH = 0

    def __init__(self):
        self.mode, self.calls = 3, 0  # somebody allowed TF32 on the handle

    def getMathMode(self, handle):
        return self.mode

    def setMathMode(self, handle, mode):
        self.mode = mode

    def _gemm(self, real, handle, op_A, op_B, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        assert self.mode == 0, "TF32 is still allowed"
        assert handle == "the handle"
        self.calls += 1

        def memory(address, count):
            return np.ctypeslib.as_array((real * count).from_address(address))

        arrays = [memory(A, lda * (k if op_A == 0 else m)), memory(B, ldb * (n if op_B == 0 else k)), memory(C, ldc * n)]
        ShimDevice().gemm("NT"[op_A], "NT"[op_B], m, n, k, arrays[0], lda, arrays[1], ldb, arrays[2], ldc, alpha=memory(alpha, 1)[0], beta=memory(beta, 1)[0])

    def sgemm(self, *arguments):
        self._gemm(ctypes.c_float, *arguments)

    def dgemm(self, *arguments):
        self._gemm(ctypes.c_double, *arguments)


class WorkingCupy(FakeCupy):
    ndarray = DeviceArray

    def __init__(self):
        super().__init__()
        self.current, self.modules, self.waits = 0, [], 0
        self.cuda.runtime.getDevice = lambda: self.current
        self.cuda.get_current_stream = lambda: SimpleNamespace(synchronize=self._wait)

    def _wait(self):
        self.waits += 1

    def empty(self, shape, dtype):
        return np.full(shape, -1, dtype).view(DeviceArray)

    def asarray(self, x, dtype=None):
        assert isinstance(x, DeviceArray) or x.dtype.isnative
        return x if isinstance(x, DeviceArray) and dtype in (None, x.dtype) else np.array(x, dtype).view(DeviceArray)

    def ascontiguousarray(self, x):
        return np.ascontiguousarray(x).view(DeviceArray) if not x.flags.c_contiguous else x

    def asnumpy(self, x):
        assert isinstance(x, DeviceArray)
        return np.array(x)

    copyto, may_share_memory = staticmethod(np.copyto), staticmethod(np.may_share_memory)

    def RawModule(self, code, options):
        self.modules.append(options)
        assert "#include" not in code
        real = np.dtype({"-DREAL=float": np.float32, "-DREAL=double": np.float64}[options[0]])

        def get_function(name):
            assert f" {name}(" in code

            def run(grid, block, arguments):
                for x in arguments:
                    assert isinstance(x, (DeviceArray, np.generic))
                ShimDevice()._launch(name, real, grid, block, arguments)

            return run

        return SimpleNamespace(get_function=get_function)


@pytest.fixture
def working(fake, monkeypatch):
    cupy = WorkingCupy()
    fake(cupy)
    cupy.cublas = FakeCublas()
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.cublas", cupy.cublas)
    monkeypatch.setitem(sys.modules, "cupy.cuda.device", SimpleNamespace(get_cublas_handle=lambda: "the handle"))
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
        cost, rows = program.run(net.backend.asarray(X), net.backend.asarray(y), net.backend.asarray(np.arange(10)), 0, 3)
        assert np.isfinite(cost)
        assert rows == 10
        thetas.append(net.backend.to_numpy(net.theta))
    assert_close(*thetas, training(np.dtype(dtype), 30))
    # A module for each file with kernels that were needed, made once; the first try and the classes use float32.
    assert len(working.modules) <= 2 * len(sources.files())
    assert working.cublas.calls > 10


def test_host_arrays_are_refused_and_converted(working):
    backend = CupyBackend()
    net = fastnn.Network([4, 5, 3], backend=backend)
    X, y, order = np.zeros((6, 4), np.float32), np.zeros(6, np.int64), np.arange(6)
    program = backend.compile(net, optimizers.SGD(), 4)
    with pytest.raises(TypeError, match=r"X must be an array of the cupy engine, got numpy\.ndarray; see backend\.asarray"):
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
    with pytest.raises(RuntimeError, match=r"works on CUDA device 0, but device 1 is current here; .*with cupy\.cuda\.Device\(0\)"):
        backend.activate("tanh", x)
    working.current = 0
    elsewhere = type("Elsewhere", (DeviceArray,), {"device": SimpleNamespace(id=1)})
    with pytest.raises(ValueError, match="the array lies on CUDA device 1, the cupy engine works on device 0"):
        backend.activate("tanh", x.view(elsewhere))


def test_waiting_waits_for_the_current_stream(working):
    CupyBackend().synchronize()
    assert working.waits == 1
