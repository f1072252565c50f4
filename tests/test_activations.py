"""Every activation on every engine: the edge values of the table in fastnn/activations.py, and safety far from zero."""

from __future__ import annotations

import copy
import pickle

import cases
import numpy as np
import pytest
import reference
import tolerances
from together import together

from fastnn import activations

INF, NAN = np.inf, np.nan
# name -> g at 0, -inf, +inf, NaN, -1e4, 1e4, written out by hand from the definitions
EDGES = {
    "sigmoid": (0.5, 0.0, 1.0, NAN, 0.0, 1.0),
    "tanh": (0.0, -1.0, 1.0, NAN, -1.0, 1.0),
    "relu": (0.0, 0.0, INF, NAN, 0.0, 1e4),
    "leaky_relu": (0.0, -INF, INF, NAN, -100.0, 1e4),
    "identity": (0.0, -INF, INF, NAN, -1e4, 1e4),
    "silu": (0.0, 0.0, INF, NAN, 0.0, 1e4),
    "gelu": (0.0, 0.0, INF, NAN, 0.0, 1e4),
    "exp": (1.0, 0.0, INF, NAN, 0.0, INF),
}
# g' at the same places; the left one at a kink
SLOPES = {
    "sigmoid": (0.25, 0.0, 0.0, NAN, 0.0, 0.0),
    "tanh": (1.0, 0.0, 0.0, NAN, 0.0, 0.0),
    "relu": (0.0, 0.0, 1.0, NAN, 0.0, 1.0),
    "leaky_relu": (0.01, 0.01, 1.0, NAN, 0.01, 1.0),
    "identity": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "silu": (0.5, 0.0, 1.0, NAN, 0.0, 1.0),
    "gelu": (0.5, 0.0, 1.0, NAN, 0.0, 1.0),
}
POINTS = (0.0, -INF, INF, NAN, -1e4, 1e4)


def at_edges(dtype, columns=6):
    """Rows of the points, rolled, so that each visits every column (a vector loop treats its tail apart)."""
    return np.stack([np.roll(np.resize(POINTS, columns), shift) for shift in range(columns)]).astype(dtype)


def rolled(values, dtype, columns=6):
    return np.stack([np.roll(np.resize(values, columns), shift) for shift in range(columns)]).astype(dtype)


def assert_same(actual, expected):
    """Equal to one unit in the last place (-100 is 0.01 rounded, times 1e4), NaN and infinities where expected."""
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[np.isinf(expected)], expected[np.isinf(expected)])
    tolerances.assert_close(
        actual[finite], expected[finite], tolerances.eps(actual) * np.abs(expected[finite]) + tolerances.tiny(actual)
    )


@together("columns", [6, 18, 67])
@pytest.mark.parametrize("name", [*cases.HIDDEN, "exp"])
def test_values_at_the_edges(backend, dtype, name, columns):
    z = at_edges(dtype, columns)
    assert_same(backend.to_numpy(backend.activate(name, backend.asarray(z))), rolled(EDGES[name], dtype, columns))


@pytest.mark.parametrize("name", cases.HIDDEN)
def test_slopes_at_the_edges(backend, dtype, name):
    """delta = 1 and W = 1 leave g' alone in propagate_delta. One column: NaN times 0 of a wider product would be
    NaN.
    """
    z = at_edges(dtype).reshape(-1, 1)
    a = rolled(EDGES[name], dtype).reshape(-1, 1)
    one, ones = np.ones((1, 1), dtype), np.ones(z.shape, dtype)
    d = backend.propagate_delta(*(backend.asarray(x) for x in (ones, one)), name, *(backend.asarray(x) for x in (z, a)))
    assert_same(backend.to_numpy(d), rolled(SLOPES[name], dtype).reshape(-1, 1))


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_leaky_relu_with_other_slopes_at_the_edges(backend, dtype, slope):
    """Slope 0 is relu, also at -inf, where 0 * -inf would be NaN."""
    expected = EDGES["relu"] if slope == 0 else (0.0, -INF, INF, NAN, -5e3, 1e4)
    assert_same(
        backend.to_numpy(backend.activate(activations.LeakyReLU(slope), backend.asarray(at_edges(dtype)))),
        rolled(expected, dtype),
    )


@pytest.mark.parametrize("name", cases.HIDDEN)
def test_far_from_zero_and_close_to_it(backend, dtype, name):
    """A geometric grid from 1e-7 to 1e4, both signs, against the oracle: no overflow, no warning, no lost digit."""
    z = np.geomspace(1e-7, 1e4, 331)
    z = np.concatenate([-z[::-1], z]).reshape(2, -1).astype(dtype)
    expected = reference.activation(name, z)
    tolerances.assert_close(
        backend.to_numpy(backend.activate(name, backend.asarray(z))),
        expected,
        tolerances.activate(name, z, expected),
        dtype=dtype,
    )


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_monotone_and_within_range(backend, dtype, name):
    """Own polynomial kernels may not overshoot 1 or wiggle where pieces meet, by more than their last bits."""
    z = np.linspace(-20, 20, 4001).astype(dtype).reshape(1, -1)
    a = backend.to_numpy(backend.activate(name, backend.asarray(z)))[0]
    assert a.min() >= (-1 if name == "tanh" else 0)
    assert a.max() <= 1
    assert np.all(np.diff(a) >= -2 * tolerances.eps(dtype))


# ---- softmax --------------------------------------------------------------------------------------------


def test_worked_softmax(backend, dtype):
    """The lecture: z = (5.1, 3.2, -1.7, -2.0), e^z = (164.0, 24.5, 0.18, 0.13), h = (0.87, 0.13, 0.00, 0.00)."""
    z = np.array([[5.1, 3.2, -1.7, -2.0]], dtype)
    np.testing.assert_allclose(np.exp(z[0].astype(np.float64)), (164.0, 24.5, 0.18, 0.13), atol=0.05)
    h = backend.to_numpy(backend.activate("softmax", backend.asarray(z)))
    assert h.dtype == dtype
    np.testing.assert_array_equal(np.round(h[0].astype(np.float64), 2), (0.87, 0.13, 0.0, 0.0))
    # e^5.1 / (e^5.1 + e^3.2 + e^-1.7 + e^-2) = 0.8680..., by hand from the exact values
    e = [164.02190729990174, 24.532530197109352, 0.18268352405273466, 0.1353352832366127]
    tolerances.assert_close(h[0], np.array(e) / sum(e), 10 * tolerances.eps(dtype), dtype=dtype)


@together("shift", [1e4, -1e4, 512.0, -3.0])
def test_softmax_is_invariant_to_a_shift_of_its_row(backend, dtype, shift):
    """Small multiples of 1/8 stay exact under these shifts, so the two results must agree to rounding of the sums
    alone.
    """
    z = (np.random.default_rng(0).integers(-40, 40, (9, 13)) / 8).astype(dtype)
    h = [backend.to_numpy(backend.activate("softmax", backend.asarray(x))) for x in (z, z + dtype.type(shift))]
    tolerances.assert_close(h[1], h[0], 4 * tolerances.eps(dtype) * h[0], dtype=dtype)


@together("K", [2, 10, 33, 200])
def test_softmax_rows_are_distributions(backend, dtype, K):
    z = cases.normal((21, K), dtype, scale=1e4)
    h = backend.to_numpy(backend.activate("softmax", backend.asarray(z))).astype(np.float64)
    assert np.isfinite(h).all()
    assert h.min() >= 0
    np.testing.assert_allclose(h.sum(axis=1), 1, atol=(K + 2) * tolerances.eps(dtype))
    np.testing.assert_array_equal(h.argmax(axis=1), z.argmax(axis=1))


def test_softmax_at_the_edges(backend, dtype):
    """1/n for equal entries, 0 beside -inf; NaN, +inf or a row of -inf give a row of NaN, and the other rows stay."""
    z = np.array(
        [
            [0, 0, 0, 0],
            [-INF, 0, 0, -INF],
            [1e4, -1e4, -1e4, -1e4],
            [NAN, 0, 0, 0],
            [0, INF, 0, 0],
            [-INF] * 4,
            [1, 1, 1, 1],
        ],
        dtype,
    )
    h = backend.to_numpy(backend.activate("softmax", backend.asarray(z)))
    expected = np.array(
        [[0.25] * 4, [0, 0.5, 0.5, 0], [1, 0, 0, 0], [NAN] * 4, [NAN] * 4, [NAN] * 4, [0.25] * 4], dtype
    )
    assert_same(h, expected)


# ---- the table ------------------------------------------------------------------------------------------


def test_names_codes_and_configs():
    table = activations.ACTIVATIONS
    assert set(table) == {"sigmoid", "tanh", "relu", "leaky_relu", "identity", "softmax", "silu", "gelu", "exp"}
    assert len({cls.code for cls in table.values()}) == len(table), "compiled kernels select by code"
    for name, cls in table.items():
        assert activations.get(name) == cls()
        assert activations.from_config(cls().config()) == cls()
    assert activations.from_config({"name": "leaky_relu", "slope": 0.3}) == activations.LeakyReLU(0.3)
    assert activations.LeakyReLU(0.3) != activations.LeakyReLU()
    assert len({activations.LeakyReLU(0.3), activations.LeakyReLU(0.3), activations.ReLU()}) == 2


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"name": "os.system"}, "not known"),
        ({"name": "relu", "slope": 1.0}, "no parameters"),
        ({"name": "leaky_relu"}, "slope"),
        ({}, "not known"),
    ],
)
def test_configs_that_are_refused(config, match):
    with pytest.raises(ValueError, match=match):
        activations.from_config(config)


@pytest.mark.parametrize(
    ("slope", "error"),
    [
        (-0.1, ValueError),
        (NAN, ValueError),
        (INF, ValueError),
        ("0.1", TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_slopes_that_are_refused(slope, error):
    with pytest.raises(error, match="slope must be a finite number >= 0"):
        activations.LeakyReLU(slope)


def test_an_activation_cannot_be_changed():
    """A network that has it, compiled, would not notice."""
    g = activations.LeakyReLU(0.3)
    for name in ("parameter", "slope", "code"):
        with pytest.raises(AttributeError, match="cannot be changed; make another LeakyReLU"):
            setattr(g, name, 0.5)
    for copied in (copy.deepcopy(g), pickle.loads(pickle.dumps(g))):
        assert copied == g
        assert copied.slope == 0.3


def test_softmax_has_no_elementwise_derivative():
    with pytest.raises(TypeError, match="no elementwise derivative"):
        activations.Softmax().derivative(np.zeros((1, 2)), np.zeros((1, 2)))
