"""silu and gelu: the kernels of the CPU and NumPy's against oracles, and the same numbers as PyTorch's."""

import numba
import numpy as np
import pytest
import reference
import scipy.special

import fastnn
from fastnn.activations import GELU, SiLU
from fastnn.kernels.cpu import JIT, compiled, elementary, smooth
from fastnn.kernels.cpu.vectors import FEATURES
from fastnn.normal import DENSITY_AT_0, POLYNOMIAL, cdf_and_density


def _apply(function):
    def loop(z, a, slopes):
        elementary.wide_vectors()
        for i in range(z.size):
            a[i], slopes[i] = function(z[i])

    return compiled(loop)


FUNCTIONS = {"silu": _apply(smooth.silu), "gelu": _apply(smooth.gelu)}


def both(name, z):
    a, slopes = np.empty_like(z), np.empty_like(z)
    FUNCTIONS[name](z, a, slopes)
    return a, slopes


def points(dtype):
    count = 50_000 if JIT else 500
    rng = np.random.default_rng(0)
    tiny = 10.0 ** -rng.uniform(0, 30, count)
    return np.concatenate([np.linspace(-45, 45, count), 2 * rng.standard_normal(count), tiny, -tiny]).astype(dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numba_error_over_the_whole_range(name, dtype):
    """As the module's head promises; the oracle is extended precision."""
    z, eps = points(dtype), np.finfo(dtype).eps
    a, slopes = both(name, z)
    assert np.all(np.abs(a - reference.activation(name, z)) <= 3 * eps * np.abs(z))
    assert np.all(np.abs(slopes - reference.derivative(name, z)) <= 4 * eps)


def test_numba_small_values_of_gelu_keep_their_digits():
    """From 1 - erf nothing would be left of them."""
    z = np.linspace(-30, -5, 500)
    np.testing.assert_allclose(both("gelu", z)[0], z * scipy.special.ndtr(z), rtol=3e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numba_edges(name, dtype):
    z = np.array([0, np.inf, -np.inf, 1e30, -1e30, np.nan], dtype)
    a, slopes = both(name, z)
    np.testing.assert_array_equal(a, np.array([0, np.inf, 0, 1e30, 0, np.nan], dtype))
    np.testing.assert_allclose(slopes, [0.5, 1, 0, 1, 0, np.nan], rtol=np.finfo(dtype).eps, atol=0)


@pytest.mark.skipif(not JIT or not FEATURES.get("avx512f"), reason="needs compiled code and AVX-512")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_numba_compiles_to_vectors(name, dtype):
    function = numba.njit(error_model="numpy")(FUNCTIONS[name].py_func)
    function(*(np.ones(4, dtype) for _ in range(3)))
    assert function.inspect_asm(function.signatures[0]).count("%zmm") > 30


def test_numba_has_numpys_polynomial():
    assert smooth._Q64 == POLYNOMIAL
    assert smooth._DENSITY64 == DENSITY_AT_0
    assert np.float32(DENSITY_AT_0) == smooth._DENSITY32


def test_the_normal_distribution():
    z = np.concatenate([np.linspace(-38, 38, 10_001), [-1e150, 1e150]])
    cdf, density = cdf_and_density(z)
    np.testing.assert_allclose(cdf, scipy.special.ndtr(z), rtol=3e-13, atol=1e-300)
    np.testing.assert_allclose(density, np.exp(-z * z / 2) / np.sqrt(2 * np.pi), rtol=1e-12, atol=1e-300)


def test_the_numbers_of_pytorch():
    """torch.nn.functional.silu and gelu of float64 (2.13), and their gradients."""
    z = np.array([-3.0, -1.0, -0.5, 0.25, 1.0, 4.0])
    for g, values, slopes in (
        (SiLU(),
         [-0.14227761953270035, -0.2689414213699951, -0.1887703343990727, 0.14054412522144952, 0.7310585786300049,
          3.928055160151634],
         [-0.08810410601516962, 0.07232948812851325, 0.2600388126973482, 0.6237100215701977, 0.9276705118714869,
          1.0526646148910728]),
        (GELU(),
         [-0.00404969409489031, -0.15865525393145702, -0.15426876936299344, 0.14967658142073093, 0.841344746068543,
          3.9998733150326675],
         [-0.01194564720418392, -0.08331547058768635, 0.13250487534383712, 0.695373354883636, 1.0833154705876864,
          1.0005036496612265]),
    ):  # fmt: skip
        np.testing.assert_allclose(g.value(z), values, rtol=1e-14)
        np.testing.assert_allclose(g.derivative(z, g.value(z)), slopes, rtol=1e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_outputs_are_refused(name):
    with pytest.raises(ValueError, match=rf"output='{name}' is for hidden layers alone"):
        fastnn.Network([2, 3, 1], output=name, cost="squared_error")
