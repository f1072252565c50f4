"""R^2 and D^2 against scikit-learn, and what `score` of networks and of regressors makes of a cost."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from sklearn import metrics
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GridSearchCV

import fastnn
from fastnn import d2
from fastnn.estimators import DenseRegressor

COSTS = {"quantile:0.9": 0.9, "quantile": 0.5, "quantile:0.123": 0.123, "absolute_error": 0.5}


def problem(K, rows=57, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.exponential(size=(rows, K)) * 5 - 2
    return y, y + rng.standard_normal((rows, K)), rng.integers(0, 4, rows) + rng.random(rows).round(1)


def flat(values):
    return values[:, 0] if values.shape[1] == 1 else values


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("rows", [2, 57, 200])
def test_they_are_those_of_scikit_learn(rows, K, weighted):
    y, h, weights = problem(K, rows)
    weights = weights + (weights.sum() == 0) if weighted else None
    for alpha in (0.05, 0.123, 0.5, 0.9, 0.995):
        expected = reference.d2_pinball(y, h, alpha, weights)
        assert d2.d2_pinball(flat(y), flat(h), alpha, weights) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    expected = metrics.d2_absolute_error_score(y, h, sample_weight=weights)
    assert d2.score("absolute_error", y, h, weights) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    expected = metrics.r2_score(y, h, sample_weight=weights)
    for cost in ("squared_error", "huber:2"):
        assert d2.score(cost, flat(y), flat(h), weights) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_by_hand():
    """y = 0, 0, 0, 8: the 0.75-quantile lies between 0 and 8, all costs of it 0.75 * 8; h = 4 costs 3 * 0.25 * 4 + 0.75
    * 4 = 6; of the median, 0, the cost is 8 / 2, and h = 1 costs (3 + 7) / 2.
    """
    y = [0.0, 0, 0, 8]
    assert d2.d2_pinball(y, np.full(4, 4.0), 0.75) == 0
    assert d2.d2_pinball(y, np.full(4, 1.0), 0.5) == 1 - 10 / 8
    assert d2.d2_pinball(y, y, 0.75) == 1
    assert d2.d2_pinball(y, np.full(4, 4.0), 0.75, [3.0, 0, 0, 1]) == 0  # a row that counts 3 is as good as three


def test_constant_targets_count_one_if_matched_and_else_zero():
    """Also 0.1, the sum of which is another number than so many times 0.1."""
    y, h, weights = problem(3)
    for constant in (0.1, 7.0, 0.0):
        y[:, 1] = constant
        for matched, at in ((True, constant), (False, constant + 1e-9)):
            h[:, 1] = at
            for w in (None, weights):
                others = [metrics.r2_score(y[:, k], h[:, k], sample_weight=w) for k in (0, 2)]
                assert d2.r2(y, h, w) == pytest.approx((sum(others) + matched) / 3, rel=1e-12)
                expected = reference.d2_pinball(y, h, 0.8, w)
                assert d2.d2_pinball(y, h, 0.8, w) == pytest.approx(expected, rel=1e-12)
    assert d2.r2([3.0], [3.0]) == d2.d2_pinball([3.0], [3.0], 0.5) == 1
    assert d2.r2([3.0], [2.0]) == d2.d2_pinball([3.0], [2.0], 0.5) == 0


def test_rows_that_count_nothing_are_as_if_they_were_not_there():
    y, h, weights = problem(2)
    kept = weights > 1
    for cost in ("squared_error", *COSTS):
        expected = d2.score(cost, y[kept], h[kept])
        y[~kept], h[~kept] = 1e6, -1e6
        assert d2.score(cost, y, h, np.where(kept, 2e308, 0).clip(0, 1.7e308)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (([1.0, 2], [[1.0], [2]]), r"y and predicted must have one shape, .* got \(2,\) and \(2, 1\)"),
        (([], []), "y and predicted"),
        (([1.0, 2], [1.0, 2], [1.0]), r"weights must have one number per row of y, shape \(2,\), got \(1,\)"),
        (([1.0, 2], [1.0, 2], [0.0, 0]), "weights must be >= 0, and > 0 for some row"),
        (([1.0, 2], [1.0, 2], [2.0, -1]), "weights must be >= 0"),
        (([1.0, 2], [1.0, 2], [2.0, np.nan]), "weights must be >= 0"),
    ],
)
def test_what_is_refused(given, words):
    for function in (d2.r2, lambda y, h, w=None: d2.d2_pinball(y, h, 0.5, w)):
        with pytest.raises(ValueError, match=words):
            function(*given)


@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("cost", COSTS)
def test_a_network_is_scored_by_its_cost(backend, cost, K):
    net = fastnn.Network([4, 6, K], hidden="tanh", output="identity", cost=cost, backend=backend, dtype="float64")
    X, (y, *_) = np.random.default_rng(1).standard_normal((57, 4)), problem(K)
    h = net.predict(X).reshape(57, K)
    expected = reference.d2_pinball(y, h, COSTS[cost])
    assert net.score(X, flat(y)) == pytest.approx(expected, rel=1e-12)
    assert net.score(X, y) != pytest.approx(metrics.r2_score(y, h), rel=1e-3)
    assert net.score(X, h) == 1


def test_rows_of_a_network_count_what_they_weigh(backend):
    X, (y, _, weights) = np.random.default_rng(1).standard_normal((57, 4)), problem(3)
    codes = np.random.default_rng(2).integers(0, 3, 57)

    def net(output, cost):
        return fastnn.Network([4, 6, 3], output=output, cost=cost, backend=backend, dtype="float64")

    classes = net("softmax", "cross_entropy")
    answers = classes.predict(X)
    expected = metrics.accuracy_score(codes, answers, sample_weight=weights)
    assert classes.score(X, codes, weights) == pytest.approx(expected, rel=1e-12) != classes.score(X, codes)
    assert classes.score(X, np.eye(3)[codes], weights.tolist()) == pytest.approx(expected, rel=1e-12)
    expected = metrics.balanced_accuracy_score(codes, answers)
    assert classes.score(X, codes, "balanced") == pytest.approx(expected, rel=1e-12)
    labels = net("sigmoid", "cross_entropy")
    several = labels.predict(X)
    several[::3, 1] = 1 - several[::3, 1]
    expected = metrics.accuracy_score(several, labels.predict(X), sample_weight=weights)
    assert labels.score(X, several, weights) == pytest.approx(expected, rel=1e-12)
    for cost in ("squared_error", "quantile:0.9", "absolute_error"):
        numbers = net("identity", cost)
        h = numbers.predict(X)
        expected = (
            reference.d2_pinball(y, h, COSTS[cost], weights)
            if cost in COSTS
            else metrics.r2_score(y, h, sample_weight=weights)
        )
        assert numbers.score(X, y, weights) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (np.ones(5), ValueError, r"sample_weight must have one number per row of X, shape \(57,\), got \(5,\)"),
        (np.zeros(57), ValueError, "sample_weight must be > 0 for some row"),
        (np.full(57, -1.0), ValueError, "sample_weight must be finite and >= 0, got -1 at row 0"),
        ("equal", ValueError, "sample_weight='equal' is not known"),
        ("balanced", ValueError, "sample_weight='balanced' is for classes"),
        (["a"] * 57, TypeError, "sample_weight must"),
    ],
)
def test_weights_that_a_network_refuses_to_score_by(weights, error, words):
    net = fastnn.Network([4, 2], output="identity", cost="squared_error", backend="numpy")
    with pytest.raises(error, match=words):
        net.score(np.ones((57, 4)), np.arange(114.0).reshape(57, 2), sample_weight=weights)


@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("cost", [*COSTS, "squared_error", "huber:1.2"])
def test_a_regressor_is_scored_by_its_cost(cost, K):
    X, (y, _, weights) = np.random.default_rng(1).standard_normal((57, 4)), problem(K)
    model = DenseRegressor((4,), cost=cost, epochs=2, random_state=0, backend="numpy").fit(X, flat(y))
    for w in (None, weights):
        h = model.predict(X)
        if cost in COSTS:
            expected = reference.d2_pinball(y, h, COSTS[cost], w)
        else:
            expected = metrics.r2_score(y, h, sample_weight=w)
        assert model.score(X, flat(y), w) == pytest.approx(expected, rel=1e-12)
        assert model.score(X.tolist(), flat(y).tolist(), sample_weight=w) == pytest.approx(expected, rel=1e-12)


def test_a_search_takes_the_model_of_the_better_quantile():
    """R^2, which asks for the mean, prefers the model that is held back most."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((400, 2))
    y = 3 * np.abs(X[:, 0]) + rng.exponential(size=400) ** 2 * (1 + 2 * (X[:, 1] > 0))
    model = DenseRegressor((8,), cost="quantile:0.9", epochs=60, random_state=0, backend="numpy")
    pinball = metrics.make_scorer(reference.d2_pinball, alpha=0.9)
    found = {name: GridSearchCV(model, {"l2": [0, 300]}, cv=3, scoring=scoring).fit(X, y)
             for name, scoring in {"own": None, "pinball": pinball, "r2": "r2"}.items()}  # fmt: skip
    assert found["own"].cv_results_["mean_test_score"] == pytest.approx(
        found["pinball"].cv_results_["mean_test_score"], rel=1e-12
    )
    assert [found[name].best_params_["l2"] for name in found] == [0, 0, 300]


def test_the_best_constant_scores_zero():
    y = problem(1)[0][:, 0]
    constant = DummyRegressor(strategy="quantile", quantile=0.9).fit(y[:, None], y).predict(y[:, None])
    assert abs(d2.d2_pinball(y, constant, 0.9)) < 0.01


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"y": np.ones(56)}, ValueError, "inconsistent numbers of samples"),
        ({"y": np.ones((57, 2))}, ValueError, "y has 2 columns, the rows before had 1"),
        ({"y": np.full(57, np.nan)}, ValueError, "y contains NaN"),
        ({"sample_weight": np.ones(5)}, ValueError, r"sample_weight must have one number per row of X, shape \(57,\)"),
        ({"sample_weight": np.zeros(57)}, ValueError, "sample_weight is 0 for every row"),
        ({"y": np.ma.masked_array(np.ones(57))}, TypeError, "y must be a plain array, got a masked one"),
    ],
)
def test_what_a_regressor_refuses_to_score(change, error, words):
    X, (y, *_) = np.random.default_rng(1).standard_normal((57, 4)), problem(1)
    model = DenseRegressor((4,), cost="quantile:0.9", epochs=1, random_state=0, backend="numpy").fit(X, y[:, 0])
    with pytest.raises(error, match=words):
        model.score(**({"X": X, "y": y[:, 0]} | change))
