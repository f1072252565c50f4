"""The CUDA kernels of silu and gelu (of_z.cu), compiled for the CPU, against extended precision."""

from __future__ import annotations

import cuda_cases
import numpy as np
import pytest
import reference
import test_cuda_step as step
from cuda_cases import OF_Z, Memory, close, floats, normal, shapes

from fastnn.activations import GELU

activations = pytest.mark.parametrize("g", OF_Z, ids=repr)
EDGES = np.array([[0.0, np.inf, -np.inf, 1e30, -1e30, np.nan]])


@pytest.fixture
def memory():
    made = Memory()
    yield made
    made.check()


def ulps(g, z):
    """Of the value: what e^(-z^2/2) loses by the rounding of its exponent too."""
    return 8 + (np.asarray(z, np.longdouble) ** 2 if isinstance(g, GELU) else 0)


@floats
@shapes
@activations
def test_activate(g, shape, dtype, memory):
    z, a = normal(shape, dtype), memory.blank(shape, dtype)
    cuda_cases.kernels().activate(g, memory(z), a)
    expected = reference.activation(g.name, z)
    close(a, expected, expected * ulps(g, z), 1)
    in_place = memory(z)
    cuda_cases.kernels().activate(g, in_place, in_place)
    np.testing.assert_array_equal(in_place, a)


@floats
@shapes
@activations
def test_derivative(g, shape, dtype, memory):
    z, slopes = normal(shape, dtype), memory.blank(shape, dtype)
    cuda_cases.kernels().derivative_of_z(g, memory(z), slopes)
    close(slopes, reference.derivative(g.name, z), np.ones(shape), 8)


@step.kinds
@shapes
@activations
def test_bias_activate(g, shape, kind, memory):
    (a, z), b = step.stored(normal(shape, np.float32), kind), normal(shape[1:], step.real(kind), 1)
    a, beside = memory.apart(a), memory.apart(step.stored(np.full(shape, np.nan), kind)[0])
    step.kernels(kind).bias_activate_of_z(g, a, beside, memory(b))
    z = z.astype(step.real(kind)) + b  # the sum is rounded before g sees it
    value, slope = reference.activation(g.name, z), reference.derivative(g.name, z)
    step.close_in(kind, a, value, value * ulps(g, z), 1)
    step.close_in(kind, beside, slope, np.ones(shape), 8)


@floats
@activations
def test_edges(g, dtype):
    z = EDGES.astype(dtype)
    a, slopes, k = np.empty_like(z), np.empty_like(z), cuda_cases.kernels()
    k.activate(g, z, a)
    k.derivative_of_z(g, z, slopes)
    np.testing.assert_array_equal(a, np.array([[0, np.inf, 0, 1e30, 0, np.nan]], dtype))
    np.testing.assert_array_equal(slopes, np.array([[0.5, 1, 0, 1, 0, np.nan]], dtype))
