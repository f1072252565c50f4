"""exp, tanh and sigmoid of the CPU kernels against extended precision, and their edges."""

import numpy as np
import pytest

from fastnn.kernels.cpu import JIT, compiled, elementary

# Bounds in units of eps, as the module's head promises them; the measured maxima are 0.71, 1.23, 1.48.
BOUNDS = {"numba-exp": 2, "numba-tanh": 4, "numba-sigmoid": 3}
ORACLES = {"numba-exp": np.exp, "numba-tanh": np.tanh, "numba-sigmoid": lambda x: 1 / (1 + np.exp(-x))}
# Where exp leaves the normal numbers of each dtype.
NORMAL = {"float32": (-87.33, 88.72), "float64": (-708.39, 709.78)}


def _apply(function):
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    return compiled(loop)


FUNCTIONS = {"numba-exp": _apply(elementary.exp), "numba-tanh": _apply(elementary.tanh), "numba-sigmoid": _apply(elementary.sigmoid)}


def _values(name, x):
    out = np.empty_like(x)
    FUNCTIONS[name](x, out)
    return out


@pytest.mark.parametrize("name", BOUNDS)
def test_relative_error_over_the_whole_range(name, dtype):
    low, high = NORMAL[np.dtype(dtype).name]
    rng = np.random.default_rng(0)
    count = 100_000 if JIT else 500
    x = np.concatenate([np.linspace(low, high, count), 3 * rng.standard_normal(count), 1e-4 * rng.standard_normal(count)]).astype(dtype)
    x = x[(x > low) & (x < high)]
    if name == "numba-sigmoid":
        x = x[x > low + 2]  # below, the result is no normal number
    expected = ORACLES[name](x.astype(np.longdouble))
    error = np.abs(_values(name, x) - expected)
    assert np.all(error <= BOUNDS[name] * np.finfo(dtype).eps * np.abs(expected))


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("numba-exp", [0, np.inf, -np.inf, 1e4, -1e4], [1, np.inf, 0, np.inf, 0]),
        ("numba-tanh", [0, np.inf, -np.inf, 1e4, -1e4], [0, 1, -1, 1, -1]),
        ("numba-sigmoid", [0, np.inf, -np.inf, 1e4, -1e4], [0.5, 1, 0, 1, 0]),
    ],
)
def test_edges(name, x, expected, dtype):
    np.testing.assert_array_equal(_values(name, np.array(x, dtype)), np.array(expected, dtype))
    assert np.isnan(_values(name, np.array([np.nan], dtype))).all()


def test_numba_tanh_is_odd_and_keeps_tiny_numbers(dtype):
    x = np.array([1e-30, 1e-10, 0.3, 0.625, 0.7, 5], dtype)
    np.testing.assert_array_equal(_values("numba-tanh", -x), -_values("numba-tanh", x))
    np.testing.assert_array_equal(_values("numba-tanh", x[:1]), x[:1])
