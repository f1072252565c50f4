"""exp, tanh and sigmoid of the CPU kernels against extended precision, and their edges."""

import numba
import numpy as np
import pytest

from fastnn.kernels.cpu import JIT, compiled, elementary
from fastnn.kernels.cpu.vectors import FEATURES

# Bounds in units in the last place, as the module's head promises them; the measured maxima are 1.07, 1.93, 1.46.
FUSED = not JIT or not FEATURES.get("sse2") or FEATURES.get("fma", False)
BOUNDS = {"numba-exp": 1.5, **dict.fromkeys(("numba-tanh", "numba-sigmoid"), 2 if FUSED else 2.5)}
ORACLES = {"numba-exp": np.exp, "numba-tanh": np.tanh, "numba-sigmoid": lambda x: 1 / (1 + np.exp(-x))}
# Where exp leaves the normal numbers of each dtype.
NORMAL = {"float32": (-87.33, 88.72), "float64": (-708.39, 709.78)}


def _apply(function):
    def loop(x, out):
        elementary.wide_vectors()
        for i in range(x.size):
            out[i] = function(x[i])

    return compiled(loop)


FUNCTIONS = {
    "numba-exp": _apply(elementary.exp),
    "numba-tanh": _apply(elementary.tanh),
    "numba-sigmoid": _apply(elementary.sigmoid),
}


def _values(name, x):
    out = np.empty_like(x)
    FUNCTIONS[name](x, out)
    return out


@pytest.mark.parametrize("name", BOUNDS)
def test_error_over_the_whole_range(name, dtype):
    low, high = NORMAL[np.dtype(dtype).name]
    rng = np.random.default_rng(0)
    count = 100_000 if JIT else 500
    tiny = 10.0 ** -rng.uniform(1, -np.log10(np.finfo(dtype).tiny), count)
    x = np.concatenate(
        [np.linspace(low, high, count), np.linspace(-20, 20, count), 2 * rng.standard_normal(4 * count), tiny, -tiny]
    ).astype(dtype)
    x = x[(x > low) & (x < high)]
    if name == "numba-sigmoid":
        x = x[x > low + 2]  # below, the result is no normal number
    expected = ORACLES[name](x.astype(np.longdouble))
    error = np.abs(_values(name, x) - expected)
    assert np.all(error <= BOUNDS[name] * np.spacing(np.abs(expected).astype(dtype)))


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
    # NaN of any sign and payload: its bits must not be taken for a number's
    kind, quiet, sign = (np.uint32, 0x7FC00000, 31) if dtype == np.float32 else (np.uint64, 0x7FF8000000000000, 63)
    nans = np.array([quiet + payload for payload in (0, 1, 0x1FF, 0x100, 0xFF)], kind)
    assert np.isnan(_values(name, np.concatenate([nans, nans | kind(1 << sign)]).view(dtype))).all()


def test_numba_tanh_is_odd_and_keeps_tiny_numbers(dtype):
    x = np.array([1e-30, 1e-10, 0.3, 0.625, 0.7, 5], dtype)
    np.testing.assert_array_equal(_values("numba-tanh", -x), -_values("numba-tanh", x))
    np.testing.assert_array_equal(_values("numba-tanh", x[:1]), x[:1])
    smallest = np.finfo(dtype).smallest_subnormal
    np.testing.assert_array_equal(_values("numba-tanh", np.array([smallest, -smallest], dtype)), [smallest, -smallest])
    assert np.signbit(_values("numba-tanh", np.array([0.0, -0.0], dtype))).tolist() == [False, True]


def test_numba_exp_ends_where_the_numbers_end(dtype):
    """The largest x whose e^x is finite, and the next one."""
    top = np.log(np.finfo(dtype).max.astype(np.longdouble)).astype(dtype)
    while np.exp(top.astype(np.longdouble)) > np.finfo(dtype).max:
        top = np.nextafter(top, -np.inf, dtype=dtype)
    inside, outside = _values(
        "numba-exp", np.array([top, np.nextafter(np.nextafter(top, np.inf, dtype=dtype), np.inf, dtype=dtype)], dtype)
    )
    np.testing.assert_allclose(inside, np.exp(top.astype(np.longdouble)), rtol=2 * np.finfo(dtype).eps)
    assert np.isinf(outside)


@pytest.mark.parametrize(
    "row",
    [[1, 3, 2], [-5, -2, -9], [0, -0.0], [-np.inf, -1], [-np.inf, np.inf], [-np.inf] * 3, [1e-40, -1e-40, 0], [7]],
    ids=str,
)
def test_numba_largest_of_a_row(row, dtype):
    largest = compiled(lambda x: elementary.largest(x))
    assert largest(np.array(row, dtype)) == max(np.array(row, dtype))
    x = np.random.default_rng(1).standard_normal(77).astype(dtype)
    assert largest(x) == x.max()


@pytest.mark.skipif(not JIT or not FEATURES.get("avx512f"), reason="needs compiled code and AVX-512")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_compiler_uses_its_widest_vectors(name, dtype):
    # what comes from the disk cache cannot be looked at
    function = numba.njit(error_model="numpy")(FUNCTIONS[name].py_func)
    function(np.ones(4, dtype), np.empty(4, dtype))
    code = function.inspect_asm(function.signatures[0])
    assert code.count("%zmm") > 30
