"""The stand-in with arrays that refuse what those of CuPy refuse.

`ShimDevice` hands out NumPy arrays, with which everything goes that goes on the host: `np.asarray(net.theta)`, a host
array assigned to a part of one of the device, both in one call. CuPy 14 raises TypeError or ValueError (ndarray.__array__,
__array_ufunc__, __array_function__ and __setitem__ in cupy/_core/core.pyx). With `pytest --strict-arrays` the engine
"cupy-on-cpu" is this one.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np

from fastnn.backends.cupy_backend import CupyBackend

from .device import ShimDevice

__all__ = ["DeviceArray", "StrictDevice", "make_backend"]

IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)


def _host(x):
    """The memory behind an array of the device; tuples of them too, and anything else as it is."""
    if isinstance(x, (tuple, list)):
        return type(x)(map(_host, x))
    return x.memory if isinstance(x, DeviceArray) else x


def _refuse_host_arrays(x):
    """Arrays of the host do not meet those of the device; numbers do."""
    for part in x if isinstance(x, (tuple, list)) else (x,):
        if isinstance(part, np.ndarray) and part.ndim:
            raise TypeError(f"Unsupported type {type(part)}")


def _on_device(x):
    return DeviceArray(np.asarray(x)) if isinstance(x, (np.ndarray, np.generic)) else x


class DeviceArray:
    """What cupy.ndarray lets be done, on `memory`."""

    __cuda_array_interface__ = {"version": 3}  # noqa: RUF012 - CuPy has it, and fastnn looks for it
    device = SimpleNamespace(id=0)
    __hash__ = None

    def __init__(self, memory):
        self.memory = memory

    def __dlpack_device__(self):
        return (2, 0)

    def __array__(self, *_, **__):
        raise TypeError(IMPLICIT)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        _refuse_host_arrays((*inputs, *options.get("out", ())))
        return _on_device(getattr(ufunc, method)(*map(_host, inputs), **{k: _host(v) for k, v in options.items()}))

    def __array_function__(self, function, types, arguments, options):
        if function.__module__ != "numpy":
            return NotImplemented
        for x in (*arguments, *options.values()):
            _refuse_host_arrays(x)
        return _on_device(function(*map(_host, arguments), **{k: _host(v) for k, v in options.items()}))

    def __getitem__(self, key):
        return DeviceArray(np.asarray(self.memory[_host(key)]))

    def __setitem__(self, key, value):
        if isinstance(value, np.ndarray) and value.size != 1:
            raise ValueError("non-scalar numpy.ndarray cannot be used for setitem")
        self.memory[_host(key)] = _host(value)

    @property
    def T(self):
        return DeviceArray(self.memory.T)

    def get(self):
        """A copy on the host."""
        return np.array(self.memory)


def _attribute(name):
    return property(lambda self: getattr(self.memory, name))


def _method(name):
    def call(self, *arguments, **options):
        _refuse_host_arrays(arguments)
        found = getattr(self.memory, name)(*map(_host, arguments), **options)
        return self if found is self.memory else _on_device(found)

    return call


for _name in ("shape", "dtype", "ndim", "size", "nbytes", "strides", "flags", "itemsize"):
    setattr(DeviceArray, _name, _attribute(_name))
METHODS = """view reshape ravel copy astype fill item tolist sum mean max min all any argmax __len__ __float__ __int__
__bool__ __neg__ __abs__ __invert__ __lt__ __le__ __gt__ __ge__ __eq__ __ne__"""
OPERATORS = ("add", "sub", "mul", "truediv", "pow", "matmul", "and", "or")
for _name in (*METHODS.split(), *(f"__{way}{name}__" for way in ("", "r", "i") for name in OPERATORS)):
    setattr(DeviceArray, _name, _method(_name))


class StrictDevice(ShimDevice):
    """The stand-in over such arrays."""

    def is_array(self, x):
        return isinstance(x, DeviceArray)

    def adopt(self, x):
        return x if self.is_array(x) else DeviceArray(super().adopt(x))

    def _empty(self, shape, dtype):
        return DeviceArray(super()._empty(shape, dtype))

    def clear(self, x):
        super().clear(_host(x))

    def _asarray(self, x, dtype):
        made = super()._asarray(_host(x), dtype)
        if self.is_array(x) and made is x.memory:
            return x
        copy = np.empty(made.shape, made.dtype)
        copy[...] = made
        return DeviceArray(copy)

    def _to_numpy(self, x):
        return np.array(super()._to_numpy(_host(x)))

    def _upload(self, target, source):
        super()._upload(_host(target), source)

    def copy(self, target, source):
        super().copy(target.memory, source.memory)

    def overlap(self, x, y):
        return super().overlap(_host(x), _host(y))

    def address(self, x):
        return super().address(_host(x))

    def _launch(self, kernel, kind, grid, block, shared, arguments):
        super()._launch(kernel, kind, grid, block, shared, [_host(x) for x in arguments])

    def _gemm(self, *arguments):
        super()._gemm(*map(_host, arguments))

    def _prepare(self, product, *arrays):
        return super()._prepare(product, *map(_host, arrays))


@functools.cache
def make_backend() -> CupyBackend:
    """The engine over it; one in a process."""
    return CupyBackend(StrictDevice(shared_bytes=100 << 10), fused=False)
