"""Arrays of other libraries on the device, over a fake CuPy."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cupy import DeviceArray, Tensor
from test_cupy_device import fake, net_on, working  # noqa: F401 - fixtures

from fastnn.backends.cupy_backend import CupyBackend


def test_arrays_of_other_libraries_are_used_where_they_lie(working):  # noqa: F811
    backend = CupyBackend()
    net, X = net_on(backend), np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    y = np.arange(6) % 3
    adopted = backend.adopt("X", Tensor(X))
    assert isinstance(adopted, DeviceArray)
    assert np.may_share_memory(adopted, X)
    h = net.predict_proba(Tensor(X))
    assert isinstance(h, DeviceArray)  # results stay where the input was
    assert isinstance(net.forward(Tensor(X))[-1], DeviceArray)
    np.testing.assert_array_equal(np.asarray(h), net.predict_proba(X))
    assert type(net.predict_proba(X)) is np.ndarray
    # a tensor on the host is an array like any other
    assert type(net.predict_proba(Tensor(X, place=(1, 0)))) is np.ndarray
    other = net_on(backend)
    net.fit(Tensor(X), Tensor(y), epochs=2, batch_size=3)
    other.fit(X, y, epochs=2, batch_size=3)
    np.testing.assert_array_equal(np.asarray(net.theta), np.asarray(other.theta))


def test_the_cuda_array_interface_alone_is_enough(working):  # noqa: F811
    class Old:
        __cuda_array_interface__ = {"version": 2}  # noqa: RUF012

    backend, x = CupyBackend(), np.ones((2, 4), np.float32).view(DeviceArray)
    working.asarray = lambda given, dtype=None: x
    assert backend.adopt("X", Old()) is x


def test_device_arrays_that_cannot_be_used(working):  # noqa: F811
    backend = CupyBackend()
    net, X = net_on(backend), np.ones((6, 4), np.float32)
    with pytest.raises(
        ValueError,
        match=r"X: the array lies on CUDA device 3, the cupy engine works on device 0; copy it there first",
    ):
        net.predict(Tensor(X, place=(2, 3)))
    with pytest.raises(
        ValueError,
        match=r"X must be C-contiguous on the GPU, got shape \(6, 4\) with strides \(4, 24\); pass "
        r"cupy\.ascontiguousarray\(X\)",
    ):
        net.predict(Tensor(np.asfortranarray(X)))
    with pytest.raises(ValueError, match="y must be C-contiguous on the GPU"):
        net.fit(X, Tensor((np.arange(12) % 3)[::2]), batch_size=2)
    with pytest.raises(
        TypeError,
        match=r"X lies on a GPU but cannot be used from there \(BufferError: bfloat16 is not known\); copy it to the "
        r"host",
    ):
        net.predict(Tensor("bfloat16 is not known"))
    working.current = 1
    with pytest.raises(RuntimeError, match="works on CUDA device 0, but device 1 is current here"):
        net.predict(Tensor(X))


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_the_cpu_engines_refuse_device_arrays(engine):
    with pytest.raises(
        TypeError,
        match=rf"X lies on a GPU \(fake_cupy\.Tensor\), the {engine} engine computes in the host's memory; pass a "
        r"host array, or use backend='cupy'",
    ):
        net_on(engine).predict(Tensor(np.ones((6, 4), np.float32)))
