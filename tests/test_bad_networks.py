"""A network, a rule or an initializer that cannot be made is refused with one error that says what is expected."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import cases
import numpy as np
import pytest

import fastnn
from fastnn import activations, initializers, optimizers
from fastnn.errors import BackendUnavailable

SIZES, ROWS = (4, 5, 3), 12
INF, NAN = np.inf, np.nan


def good():
    return cases.normal((ROWS, 4), np.float64), np.arange(ROWS) % 3


NETWORK_CASES = [
    ({"sizes": [4]}, ValueError, r"sizes must name at least the input and the output layer, got \[4\]"),
    ({"sizes": []}, ValueError, r"sizes must name at least"),
    ({"sizes": [4, 0, 3]}, ValueError, r"sizes\[1\] must be a positive integer, got 0"),
    ({"sizes": [4, -2, 3]}, ValueError, r"sizes\[1\] must be a positive integer, got -2"),
    ({"sizes": [4, 2.0, 3]}, TypeError, r"sizes\[1\] must be a positive integer, got 2\.0"),
    ({"sizes": [4, True, 3]}, TypeError, r"sizes\[1\] must be a positive integer, got True"),
    ({"sizes": "4,3"}, TypeError, r"sizes must be a sequence of positive integers, got '4,3'"),
    ({"sizes": 4}, TypeError, r"sizes must be a sequence of positive integers, got 4"),
    ({"hidden": "rellu"}, ValueError, r"hidden='rellu' is not known; did you mean 'relu'\?"),
    ({"hidden": ["relu", "relu"]}, ValueError, r"hidden must have one activation per hidden layer \(1\), got 2"),
    ({"hidden": ["tanhh"]}, ValueError, r"hidden\[0\]='tanhh' is not known; did you mean 'tanh'\?"),
    ({"hidden": "abc"}, ValueError, r"hidden='abc' is not known\. Known: (?!.*softmax).*tanh"),
    ({"hidden": "softmax"}, ValueError, r"softmax is for the output layer only"),
    ({"hidden": 3}, TypeError, r"hidden must be a name, an Activation or a list of them, got 3"),
    ({"output": "sofmax"}, ValueError, r"output='sofmax' is not known; did you mean 'softmax'\?"),
    ({"output": None}, TypeError, r"output must be a name or an Activation, got None"),
    (
        {"output": "relu"},
        ValueError,
        r"cost='cross_entropy' needs outputs in \(0, 1\): output='relu' fits cost='squared_error'",
    ),
    ({"cost": "crossentropy"}, ValueError, r"cost='crossentropy' is not known; did you mean 'cross_entropy'\?"),
    ({"sizes": [4, 1]}, ValueError, r"softmax over one output is always 1; use two outputs, or output='sigmoid'"),
    ({"init": "hee"}, ValueError, r"init='hee' is not known; did you mean 'he'\?"),
    ({"init": np.zeros(7)}, ValueError, r"init must be a vector of 43 parameters for these sizes, got shape \(7,\)"),
    ({"init": np.full(43, NAN)}, ValueError, r"init must be finite, got nan at weights\[0\]\[0, 0\]"),
    ({"init": np.r_[np.zeros(24), INF, np.zeros(18)]}, ValueError, r"init must be finite, got inf at biases\[0\]\[4\]"),
    ({"init": np.full(43, 1e39)}, ValueError, r"init .*1e\+39.*float32"),
    (
        {"init": ([np.zeros((5, 4))], [np.zeros(5), np.zeros(3)])},
        ValueError,
        r"init weights must have one array per layer \(2\), got 1",
    ),
    (
        {"init": ([np.zeros((5, 4)), np.zeros((5, 3))], [np.zeros(5), np.zeros(3)])},
        ValueError,
        r"init weights\[1\] must have shape \(3, 5\), got \(5, 3\)",
    ),
    (
        {"init": ([np.zeros((5, 4)), np.zeros((3, 5))], [np.zeros(5), np.zeros(4)])},
        ValueError,
        r"init biases\[1\] must have shape \(3,\), got \(4,\)",
    ),
    ({"init": np.zeros(43, str)}, TypeError, r"init must hold real numbers"),
    ({"init": initializers.He}, TypeError, r"init must "),
    ({"init": None}, TypeError, r"init must "),
    ({"l2": -0.1}, ValueError, r"l2 must be a finite number >= 0, got -0\.1"),
    ({"l2": INF}, ValueError, r"l2 must be a finite number >= 0, got inf"),
    ({"l2": "0"}, TypeError, r"l2 must be a finite number >= 0, got '0' \(str\)"),
    (
        {"dtype": "float16"},
        ValueError,
        r"dtype='float16' is not known; did you mean 'float\d\d'\? Known: float32, float64",
    ),
    ({"dtype": "flaot32"}, ValueError, r"dtype='flaot32' is not known; did you mean 'float32'\?"),
    ({"dtype": int}, ValueError, r"dtype='int64' is not known"),
    ({"precision": "fp16"}, ValueError, r"precision='fp16' is not known.*Known: fp32, tf32, bf16"),
    ({"seed": -1}, ValueError, r"seed must be an integer >= 0, got -1"),
    ({"seed": "0"}, TypeError, r"seed must be an integer >= 0, got '0'"),
    ({"backend": "numab"}, ValueError, r"backend='numab' is not known; did you mean 'numba'\?"),
    ({"backend": 3}, TypeError, r"backend must be a name or a Backend, got 3"),
]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    NETWORK_CASES,
    ids=[", ".join(f"{k}={v!r:.25}" for k, v in case[0].items()) for case in NETWORK_CASES],
)
def test_bad_networks(options, error, match):
    with pytest.raises(error, match=match) as caught:
        fastnn.Network(**({"sizes": SIZES, "backend": "numpy"} | options))
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: optimizers.SGD(0), ValueError, "learning_rate must be a finite number > 0"),
        (lambda: optimizers.Momentum(0.1, 1.0), ValueError, "momentum must be a finite number >= 0 and < 1"),
        (lambda: optimizers.Adam(beta1=-0.1), ValueError, "beta1 must be"),
        (lambda: optimizers.Adam(beta2=1), ValueError, "beta2 must be"),
        (lambda: optimizers.Adam(eps=0), ValueError, "eps must be a finite number > 0"),
        (lambda: optimizers.Adam("0.1"), TypeError, "learning_rate must be"),
        (lambda: initializers.Uniform(0), ValueError, "eps must be"),
        (lambda: initializers.Normal(-1), ValueError, "std must be"),
    ],
)
def test_bad_hyper_parameters(make, error, match):
    with pytest.raises(error, match=re.escape(match)):
        make()


def test_micro_batch_must_be_a_positive_integer(backend):
    net = fastnn.Network(SIZES, backend=backend)
    for value, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="micro_batch must be a positive integer"):
            net.cost_and_gradient(*good(), micro_batch=value)


def test_an_unavailable_engine_says_why_and_what_to_install(monkeypatch):
    """Whatever this machine has: the registry is told that CuPy is missing."""
    from fastnn import backends

    monkeypatch.setattr(backends, "_instances", {"numpy": fastnn.get_backend("numpy")})
    monkeypatch.setattr(backends, "_reasons", {"cupy": "CuPy is not installed", "numba": "numba cannot be imported"})
    for name, package in (("cupy", "cuda1[23]"), ("numba", "cpu")):
        with pytest.raises(
            BackendUnavailable,
            match=rf"backend='{name}' cannot be used: .*pip install \"\.\[{package}\]\"",
        ):
            fastnn.Network(SIZES, backend=name)
    net = fastnn.Network(SIZES)
    assert net.backend.name == "numpy"
    assert "numba not taken: numba cannot be imported" in net.backend_reason
    assert fastnn.available_backends() == {
        "numpy": None,
        "numba": "numba cannot be imported",
        "cupy": "CuPy is not installed",
    }


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"callbacks": None}, TypeError, "callbacks must be a list or tuple"),
        ({"callbacks": print}, TypeError, "callbacks must be a list or tuple"),
        ({"progress": "yes"}, TypeError, "progress must be True, False or an object with start"),
    ],
)
def test_arguments_of_fit_that_would_fail_obscurely(arguments, error, words):
    net = fastnn.Network([2, 3, 2], backend="numpy")
    before = net.theta.copy()
    with pytest.raises(error, match=words):
        net.fit(np.ones((4, 2)), np.array([0, 1, 0, 1]), **arguments)
    np.testing.assert_array_equal(net.theta, before)


def test_masked_arrays_are_refused():
    net = fastnn.Network([2, 3, 2], backend="numpy")
    with pytest.raises(TypeError, match="X must be a plain array, got a masked one"):
        net.predict(np.ma.masked_equal(np.ones((4, 2)), 1))


def test_absurd_sizes_and_no_dtype_are_refused():
    with pytest.raises(ValueError, match="certainly a mistake"):
        fastnn.Network([10**12, 10**12])
    with pytest.raises(ValueError, match="dtype=None"):
        fastnn.Network([2, 2], dtype=None)


def test_a_learning_rate_set_later_is_checked():
    rule = fastnn.optimizers.Adam()
    rule.learning_rate = 0.5
    assert rule.hyper()[0] == 0.5
    with pytest.raises(ValueError, match="learning_rate must be a finite number > 0"):
        rule.learning_rate = -5


class Clipped(optimizers.SGD):
    """Would be SGD without its own step to a compiled engine."""

    def step(self, theta, grad, state, t):
        super().step(theta, np.clip(grad, -1e-3, 1e-3), state, t)


class Bent(activations.ReLU):
    """Would be ReLU to a compiled engine and to a model file."""


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_classes_of_your_own_are_refused_on_every_engine(engine):
    """Where they looked like the class that they come from, compiled engines would take that without a word."""
    X, y = np.random.default_rng(0).random((20, 4)), np.arange(20) % 2
    net = fastnn.Network([4, 3, 2], backend=engine)
    known = r"must be one of fastnn's own rules \(sgd, .*\), got a class of your own, Clipped"
    with pytest.raises(TypeError, match=known):
        net.fit(X, y, optimizer=Clipped(0.1))
    with pytest.raises(TypeError, match=known):
        net.backend.compile(net, Clipped(0.1), 4)
    for named in ({"hidden": Bent()}, {"hidden": [Bent()]}, {"output": Bent(), "cost": "squared_error"}):
        with pytest.raises(
            TypeError, match=r"must be one of fastnn's own activations \(.*\), got a class of your own, Bent"
        ):
            fastnn.Network([4, 3, 2], backend=engine, **named)


def test_a_checkout_does_not_run_the_kernels_of_another(tmp_path):
    """As where PYTHONPATH leads to one, and `pip install -e .` was run in the other."""
    package = Path(fastnn.__file__).parent
    shutil.copytree(package, tmp_path / "fastnn", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    (tmp_path / "pyproject.toml").touch()
    code = """
    import fastnn
    assert fastnn.available_backends()["numpy"] is None
    try:
        fastnn.Network([2, 2], backend="numba")
    except fastnn.BackendUnavailable as error:
        print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    if (package / "kernels").is_dir():  # an installation, which has them inside the package
        assert "another one" not in result.stdout
    else:
        assert f"a checkout in {tmp_path}, would run the kernels of another one" in result.stdout
