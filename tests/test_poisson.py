"""Counts: output exp with cost poisson, against scikit-learn's loss, score and linear model; what is refused, and where
training begins. That every engine and program computes them is in the shared tests (cases.PAIRS).
"""

import json

import numpy as np
import pytest
from sklearn import metrics
from sklearn._loss.loss import HalfPoissonLoss
from sklearn.linear_model import PoissonRegressor
from test_cupy_narrow import backend as cupy_backend

import fastnn
from fastnn import counts, d2
from fastnn.estimators import DenseRegressor
from fastnn.robust import is_robust


def problem(rows=400, level=1.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, 3))
    rate = np.exp(X @ np.array([0.5, -0.3, 0.0]) + level)
    return X, rng.poisson(rate).astype(np.float64), rate


def network(sizes=(3, 1), backend="numpy", **named):
    return fastnn.Network(sizes, output="exp", cost="poisson", backend=backend, **{"dtype": "float64", **named})


# SciPy's L-BFGS ends where a step takes off less than 2e-9 of the cost, about 1 here, whose curvature is about 1: at
# parameters that are off by sqrt(2 * 2e-9) = 6e-5 at most. (2e-5 was seen in 40 seeds.)
OFF = 1e-4


# ---- against scikit-learn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_cost_and_gradient_are_those_of_scikit_learn(backend, weighted):
    """Its loss leaves out what depends on y alone, y log y - y."""
    X, y, _ = problem(40)
    net = network((3, 4, 1), backend, hidden="tanh", seed=1)
    weights = np.arange(1.0, 41) if weighted else None
    cost, gradient = net.cost_and_gradient(X, y, sample_weight=weights)
    z = np.ascontiguousarray(np.asarray(net.logits(X))[:, 0], np.float64)
    loss, slopes = HalfPoissonLoss().loss_gradient(y, z)
    loss = loss + np.where(y > 0, y * np.log(np.where(y > 0, y, 1)), 0) - y
    assert cost == pytest.approx(np.average(loss, weights=weights), rel=1e-12)
    of_bias = float(np.asarray(net.backend.to_numpy(gradient))[-1])  # the last one: the mean of delta
    assert of_bias == pytest.approx(np.average(slopes, weights=weights), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_without_a_hidden_layer_it_is_the_linear_model(engine):
    X, y, _ = problem()
    model = PoissonRegressor(alpha=0, tol=1e-10, max_iter=1000).fit(X, y)
    net = network(backend=engine)
    net.fit(X, y, optimizer="lbfgs", epochs=200)
    np.testing.assert_allclose(net.weights[0][0], model.coef_, atol=OFF)
    assert net.biases[0][0] == pytest.approx(model.intercept_, abs=OFF)
    np.testing.assert_allclose(net.predict(X), model.predict(X), rtol=5 * OFF)
    assert net.score(X, y) == pytest.approx(model.score(X, y), abs=1e-8)  # D^2 of the deviance


def test_exposures():
    """Rates with exposures as weights are counts with log exposure as an offset: so says the linear model too."""
    X, _, rate = problem(600)
    exposure = np.random.default_rng(1).uniform(0.1, 5, len(X))
    y = np.random.default_rng(2).poisson(rate * exposure) / exposure
    expected = PoissonRegressor(alpha=0, tol=1e-10, max_iter=1000).fit(X, y, sample_weight=exposure)
    model = DenseRegressor(
        (), cost="poisson", optimizer="lbfgs", l2=0, dtype="float64", backend="numpy", random_state=0
    )
    model.fit(X, y, sample_weight=exposure)
    np.testing.assert_allclose(model.network_.weights[0][0], expected.coef_, atol=OFF)
    assert model.network_.biases[0][0] == pytest.approx(expected.intercept_, abs=OFF)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_score_is_that_of_scikit_learn(weighted):
    _, y, rate = problem(57)
    weights = np.random.default_rng(0).integers(0, 4, 57) * 0.5 if weighted else None
    expected = metrics.d2_tweedie_score(y, rate, sample_weight=weights, power=1)
    assert d2.score("poisson", y, rate, weights) == pytest.approx(expected, rel=1e-12)
    both = np.column_stack([y, y]), np.column_stack([rate, np.full(57, np.average(y, weights=weights))])
    assert d2.score("poisson", *both, weights) == pytest.approx(expected / 2, rel=1e-12)  # the mean as answer scores 0
    assert d2.d2_poisson([0.0, 0.0], [0.0, 0.0]) == 1
    assert d2.d2_poisson([2.0, 2.0], [2.0, 3.0]) == 0
    assert d2.d2_poisson([0.0, 2.0], [0.0, 2.0]) == 1
    assert d2.d2_poisson([0.0, 2.0], [1.0, 0.0]) == -np.inf
    assert d2.d2_poisson([0.0, 2.0], [1.0, np.inf]) == -np.inf


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"output": "exp"}, "output='exp' fits cost='squared_error' or cost='poisson'"),
        ({"output": "identity", "cost": "poisson"}, "cost='poisson' needs output='exp', got output='identity'"),
        ({"output": "exp", "cost": "huber"}, "cost='huber' needs output='identity', got output='exp'"),
        ({"output": "exp", "cost": "poisson:2"}, "poisson takes no parameter"),
        ({"output": "exponential", "cost": "poisson"}, "did you mean 'exp'"),
        ({"output": "exp", "cost": "poisson_nll"}, "did you mean 'poisson'"),
        ({"hidden": "exp"}, "hidden='exp' is not possible: exp is for the output layer only"),
        ({"hidden": ["softmax"]}, "hidden='softmax' is not possible: softmax is for the output layer only"),
    ],
)
def test_pairs_that_are_refused(named, words):
    with pytest.raises(ValueError, match=words):
        fastnn.Network([2, 3, 2], **named)


def test_hidden_layers_do_not_propagate_through_it(backend):
    x = backend.asarray(np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match="activation='exp' is for the output layer only"):
        backend.propagate_delta(x, x, "exp", x, x)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([[1.0, 2], [0, -0.5], [3, 4]], r"y must be >= 0 for poisson, got -0\.5 at row 1, column 1"),
        ([[1.0, 2], [0, np.nan], [3, 4]], r"y must be finite"),
        ([[1.0, 0], [0, 0], [3, 0]], "y must have a number above 0 in every column for poisson"),
        ([1, 0, 1], r"y must have shape \(3, 2\)"),
    ],
)
def test_targets_that_are_refused(backend, y, words):
    net = network((2, 2), backend)
    before = np.array(net.backend.to_numpy(net.theta))
    with pytest.raises(ValueError, match=words):
        net.fit(np.ones((3, 2)), np.array(y), epochs=1)
    np.testing.assert_array_equal(net.backend.to_numpy(net.theta), before)


def test_who_goes_on_may_do_so_with_zeros():
    """A part of the rows may be all 0 later: there is a mean already."""
    X, y, _ = problem(64)
    net = network()
    net.fit(X, y, epochs=1)
    before = float(np.mean(net.predict(X)))
    net.fit(X, 0 * y, epochs=1)
    assert np.mean(net.predict(X)) < before
    model = DenseRegressor((4,), cost="poisson", random_state=0).partial_fit(X, y).partial_fit(X, 0 * y)
    assert model.predict(X).min() > 0
    for weights in (None, np.where(y > 0, 0.0, 1.0)):  # of what counts
        with pytest.raises(ValueError, match="y must have a number above 0 in every column"):
            DenseRegressor((4,), cost="poisson").fit(X, 0 * y if weights is None else y, sample_weight=weights)


def test_the_fused_kernel_declines():
    X, y, _ = problem(8)
    with pytest.raises(ValueError, match="it knows cross_entropy and squared_error, not poisson"):
        network(backend=cupy_backend(fused=True)).fit(X, y, epochs=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_an_overflow_is_named(engine, dtype):
    """The first step throws z beyond log of the largest number."""
    X, y, _ = problem(64)
    net, most = network((3, 1), engine, dtype=dtype), {"float32": "88.72", "float64": "709.78"}[dtype]
    with pytest.raises(fastnn.Diverged, match=rf"an output e\^z is beyond {dtype} there \(z > {most}\)") as caught:
        net.fit(X, 1e4 * y, optimizer="sgd", learning_rate=1.0, batch_size=64, epochs=3)
    assert caught.value.layer == 2
    assert np.isfinite(net.theta).all()
    net, largest = network((3, 1), engine, dtype=dtype), np.finfo(dtype).max
    with np.errstate(over="ignore"), pytest.raises(fastnn.Diverged) as caught:  # sums of such targets overflow, not e^z
        net.fit(X, np.full(64, largest / 4), optimizer="sgd", batch_size=64, epochs=1)
    assert "e^z" not in str(caught.value)


# ---- estimators, files and the command line -------------------------------------------------------------------------


def test_training_begins_at_the_mean():
    """Of weighted rows, each column; targets are in their own unit."""
    X, y, _ = problem(200, level=6.0)  # counts of about 500
    both, weights = np.column_stack([y, 3 * y]), np.arange(200.0)
    net = network((3, 2))
    counts.start_at_mean(net, both, weights)
    np.testing.assert_allclose(net.biases[0], np.log(np.average(both, axis=0, weights=weights)), rtol=1e-12)
    assert not is_robust("poisson")
    model = DenseRegressor((8,), cost="poisson", random_state=0, backend="numpy").fit(X, y)
    assert model.mean_ == [0]
    assert model.spread_ == [1]
    assert model.network_.output.name == "exp"
    assert model.score(X, y) == pytest.approx(metrics.d2_tweedie_score(y, model.predict(X), power=1), rel=1e-9)
    assert model.score(X, y) > 0.5
    np.testing.assert_allclose(model.to_network().predict(X), model.predict(X), rtol=1e-6)
    given = DenseRegressor((), cost="poisson", init=np.zeros(4), epochs=1, optimizer="sgd", learning_rate=1e-12)
    assert abs(given.fit(X, y).network_.biases[0][0]) < 1e-6  # whoever gives all parameters gives the biases too


def test_a_fit_in_parts_follows_no_unit():
    X, y, _ = problem(200, level=3.0)
    model = DenseRegressor((8,), cost="poisson", random_state=0, backend="numpy")
    model.partial_fit(X[:100], y[:100])
    for _ in range(100):
        model.partial_fit(X[:100], y[:100]).partial_fit(X[100:], 2 * y[100:])
    assert model.mean_ == [0]
    assert model.spread_ == [1]
    assert 0.5 < model.score(X, np.where(np.arange(200) < 100, 1, 2) * y) < 1


def test_it_is_kept_in_files(tmp_path):
    X, y, _ = problem(50)
    net = network((3, 4, 1), hidden="tanh")
    net.fit(X, y, epochs=2)
    net.save(tmp_path / "m.safetensors")
    again = fastnn.load(tmp_path / "m.safetensors", backend="numpy")
    assert (again.output.name, again.cost) == ("exp", "poisson")
    np.testing.assert_array_equal(again.predict(X), net.predict(X))


def test_the_command_line(cli, tmp_path):
    X, y, _ = problem(600, level=3.0)
    path = tmp_path / "t.csv"
    np.savetxt(path, np.column_stack([X, y]), delimiter=",", header="a,b,c,y", comments="", fmt="%.9g")
    words = ("train", "t.csv", "--target", "y", "--task", "regression", "--hidden", "8", "--cost", "poisson")
    code, out, err = cli(*words, "--epochs", "100", "--no-plot", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["configuration"]["output"], found["configuration"]["cost"]) == ("exp", "poisson")
    assert found["test_d2"] > 0.6
    assert found["better_than_baseline"] is True
    code, out, err = cli("predict", found["model"], "t.csv")
    answers = np.array(out.split()[1:], float)
    assert code == 0, err
    np.testing.assert_allclose(answers.sum() / y.sum(), 1, atol=0.05)  # counts, in their own unit
    code, out, err = cli("evaluate", found["model"], "t.csv", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["d2"] == pytest.approx(metrics.d2_tweedie_score(y, answers, power=1), abs=1e-4)
    half = metrics.mean_poisson_deviance(y, answers) / 2
    assert told["cost"] == pytest.approx(half, rel=1e-4)
    code, out, _ = cli(*words, "--epochs", "2", "--no-plot")
    assert (code, "exp output with poisson" in out, "D2 " in out) == (0, True, True), out
    code, out, _ = cli("inspect", found["model"])
    assert (code, "exp output with poisson" in out, "target 'y', learnt as it is" in out) == (0, True, True), out
    y[3] = -1
    np.savetxt(path, np.column_stack([X, y]), delimiter=",", header="a,b,c,y", comments="")
    code, _, err = cli(*words, "--epochs", "2", "--no-plot")
    assert (code, "the target must be >= 0 for poisson, which is for counts, and one is -1" in err) == (2, True), err
