"""The estimators pass scikit-learn's own checks, work in its pipelines and searches, and learn what others learn.

The checks want a row to be predicted alone as among others to 1e-7, hence float64.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.ensemble import AdaBoostClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastnn
from fastnn.estimators import DenseClassifier, DenseRegressor


# As they are by default on the engine that is compiled; on the other, which takes ten times as long, smaller ones.
@parametrize_with_checks(
    [
        DenseClassifier(backend="numpy", hidden_layer_sizes=(), learning_rate=0.05, epochs=60, dtype="float64"),
        DenseRegressor(backend="numpy", hidden_layer_sizes=(8,), learning_rate=0.02, epochs=60, dtype="float64"),
    ]
)
def test_scikit_learns_checks(estimator, check):
    if check.func.__name__ in ("check_estimator_sparse_matrix", "check_estimators_dtypes"):
        pytest.skip("takes seconds here, and runs on the Numba engine below; that of sparse arrays runs")
    check(estimator)


@parametrize_with_checks(
    [DenseClassifier(backend="numba", dtype="float64"), DenseRegressor(backend="numba", dtype="float64")]
)
def test_scikit_learns_checks_on_the_numba_engine(estimator, check):
    check(estimator)


def test_iris_in_a_pipeline_by_names():
    flowers = load_iris()
    names = flowers.target_names[flowers.target]
    model = make_pipeline(StandardScaler(), DenseClassifier(random_state=0))
    assert cross_val_score(model, flowers.data, names, cv=5).mean() > 0.93
    model.fit(flowers.data, names)
    assert set(model.predict(flowers.data)) == {"setosa", "versicolor", "virginica"}
    probabilities = model.predict_proba(flowers.data)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (model.classes_[probabilities.argmax(axis=1)] == model.predict(flowers.data)).all()


def test_no_hidden_layer_is_logistic_regression():
    """lambda = 1/C, and both minimise the same function."""
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    found = DenseClassifier(
        hidden_layer_sizes=(), l2=1.0, optimizer="sgd", learning_rate=0.5, batch_size=150, epochs=3000, dtype="float64"
    ).fit(X, y)
    expected = LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-3)


def test_no_hidden_layer_is_linear_regression():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 5))
    y = X @ rng.standard_normal(5) + rng.standard_normal(200)
    targets = np.column_stack([y, 1e7 - 3e6 * y])  # in units far from 1
    found = DenseRegressor(
        hidden_layer_sizes=(), l2=0.0, optimizer="sgd", learning_rate=0.1, batch_size=200, epochs=1000, dtype="float64"
    ).fit(X, targets)
    expected = LinearRegression().fit(X, targets).predict(X)
    np.testing.assert_allclose(found.predict(X) / expected.std(axis=0), expected / expected.std(axis=0), atol=1e-9)


def test_digits_as_well_as_the_network_itself():
    X, y = load_digits(return_X_y=True)
    model = DenseClassifier(hidden_layer_sizes=[64], epochs=60, l2=0.0, random_state=0, validation=0.1, patience=20)
    model.fit(X[::2] / 16, y[::2])
    assert model.score(X[1::2] / 16, y[1::2]) > 0.94
    assert isinstance(model.network_, fastnn.Network)
    assert model.network_.sizes == (64, 64, 10)
    assert len(model.history_.val_cost) == len(model.history_.cost) <= 60


def test_the_unit_of_a_target_changes_nothing():
    X, y = load_diabetes(return_X_y=True)
    few = {"epochs": 3, "random_state": 0, "backend": "numpy", "dtype": "float64"}
    expected = DenseRegressor(**few).fit(X, y).predict(X)
    found = DenseRegressor(**few).fit(X, 1e4 * y - 3e5).predict(X)
    np.testing.assert_allclose((found + 3e5) / 1e4, expected, rtol=1e-9)  # targets differ by rounding, for 42 steps


def test_a_target_that_never_changes_is_predicted():
    X, _ = load_diabetes(return_X_y=True)
    found = DenseRegressor(random_state=0).fit(X, np.full(len(X), 7.0)).predict(X)
    np.testing.assert_allclose(found, 7, atol=0.1)


def test_one_value_and_several_come_back_as_they_were_given():
    X, y = load_diabetes(return_X_y=True)
    few = {"epochs": 2, "backend": "numpy"}
    assert DenseRegressor(**few).fit(X, y).predict(X).shape == (442,)
    assert DenseRegressor(**few).fit(X, y[:, None]).predict(X).shape == (442, 1)
    assert DenseRegressor(**few).fit(X, np.column_stack([y, y, y])).predict(X).shape == (442, 3)
    assert TransformedTargetRegressor(DenseRegressor(**few), func=np.log, inverse_func=np.exp).fit(X, y)


def test_rows_to_watch_are_of_every_class_and_what_is_left_may_be_less_than_a_batch(monkeypatch):
    X, y = load_iris(return_X_y=True)
    keep = np.r_[0:50, 50:60, 100:104]  # 50, 10 and 4 of the classes
    asked, fit = {}, fastnn.Network.fit

    def noted(net, X, y, **options):
        asked.update(options)
        return fit(net, X, y, **options)

    monkeypatch.setattr(fastnn.Network, "fit", noted)
    model = DenseClassifier(validation=0.5, patience=2, batch_size=np.int64(64), epochs=30).fit(X[keep], y[keep])
    assert np.bincount(asked["validation"][1]).tolist() == [25, 5, 2]
    assert asked["batch_size"] == 32
    assert model.history_.best is not None
    with pytest.raises(ValueError, match="validation must be a finite number > 0 and < 1"):
        DenseClassifier(validation=1.5).fit(X, y)
    with pytest.raises(ValueError, match="least populated class"):
        DenseClassifier(validation=0.1).fit(X[:51], y[:51])


def test_a_search_over_hyper_parameters():
    X, y = load_iris(return_X_y=True)
    grid = {"hidden_layer_sizes": [(), (16,)], "optimizer": ["adam", fastnn.optimizers.Momentum(0.1)]}
    search = GridSearchCV(DenseClassifier(epochs=30, random_state=0), grid, cv=3).fit(X / 8, y)
    assert search.best_score_ > 0.9


def test_the_seed_decides_and_fit_begins_anew():
    X, y = load_iris(return_X_y=True)
    rule = fastnn.optimizers.Adam(1e-2)
    model = DenseClassifier(epochs=3, optimizer=rule, random_state=3)
    first = model.fit(X, y).network_.theta.copy()
    assert (model.fit(X, y).network_.theta == first).all()
    assert (clone(model).fit(X, y).network_.theta == first).all()
    assert (model.set_params(random_state=4).fit(X, y).network_.theta != first).any()
    assert (rule.t, rule.state) == (0, [])


def test_pickled_with_what_it_has_learnt():
    X, y = load_iris(return_X_y=True)
    model = DenseClassifier(epochs=3).fit(X, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"hidden_layer_sizes": (0,)}, ValueError, "positive integer"),
        (
            {"hidden_layer_sizes": "64"},
            TypeError,
            r"hidden_layer_sizes must be the units of the hidden layers, such as \(64, 32\), got '64'",
        ),
        ({"hidden_layer_sizes": 1.5}, TypeError, "hidden_layer_sizes must be the units"),
        ({"activation": "rleu"}, ValueError, "did you mean 'relu'"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": "many"}, TypeError, "batch_size"),
        ({"learning_rate": -1}, ValueError, "learning_rate"),
        ({"patience": 3}, ValueError, "validation"),
        ({"backend": "gpu"}, ValueError, "cupy"),
    ],
)
def test_bad_parameters_are_refused_by_fit_as_fastnn_refuses_them(options, error, match):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(error, match=match):
        DenseClassifier(**options).fit(X, y)


def test_one_class_is_none_to_tell_apart():
    with pytest.raises(ValueError, match="at least two classes to tell apart, got one class: 'a'"):
        DenseClassifier().fit(np.eye(3), ["a", "a", "a"])


@pytest.mark.parametrize(("kind", "bad"), [(DenseClassifier, {"batch_size": -1}), (DenseRegressor, {"epochs": 0})])
def test_a_fit_that_fails_leaves_the_one_before(kind, bad):
    """Also with other classes, another unit, and another number of columns."""
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 3)), rng.integers(0, 2, 40)
    model = kind(hidden_layer_sizes=(4,), epochs=2, backend="numpy", random_state=0)
    labels = np.array(["a", "b"])[y] if kind is DenseClassifier else y * 1.0
    expected = model.fit(X, labels).predict(X)
    others = np.array(["left", "right"])[y] if kind is DenseClassifier else 1e6 * y + 1e6
    with pytest.raises(ValueError, match="must be a positive integer"):
        model.set_params(**bad).fit(X[:, :2], others)
    np.testing.assert_array_equal(model.predict(X), expected)
    assert model.n_features_in_ == 3


@pytest.mark.parametrize("weights", [None, "balanced", {"a": 5.0, "b": 1.0, "c": 0.5}])
def test_weights_of_classes_and_rows_are_those_of_logistic_regression(weights):
    """Both together, without hidden layers, against the same function minimised by another library."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((90, 3)), np.array(["a", "b", "c"])[np.repeat([0, 1, 2], [60, 20, 10])]
    of_rows = rng.random(90) * 2
    found = DenseClassifier(
        hidden_layer_sizes=(), l2=2.0, optimizer="sgd", learning_rate=0.5, batch_size=90, epochs=2000, dtype="float64",
        class_weight=weights,
    ).fit(X, y, sample_weight=of_rows)  # fmt: skip
    if weights == "balanced":  # by hand: before 1.7, scikit-learn's counts rows and not their weights
        weights = {name: of_rows.sum() / (3 * of_rows[y == name].sum()) for name in "abc"}
    expected = LogisticRegression(C=0.5, class_weight=weights, tol=1e-10, max_iter=10_000)
    expected.fit(X, y, sample_weight=of_rows)
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-4)


def test_weights_of_rows_in_a_regression_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    y, weights = X @ [1.0, -2.0, 3.0] + rng.standard_normal(60) + 100, rng.random(60) * 3
    found = DenseRegressor(
        hidden_layer_sizes=(), l2=0.0, optimizer="sgd", learning_rate=0.3, batch_size=60, epochs=1000, dtype="float64"
    ).fit(X, y, sample_weight=weights)
    expected = LinearRegression().fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(found.predict(X), expected.predict(X), rtol=1e-7)
    assert found.mean_[0] == pytest.approx(np.average(y, weights=weights))


def test_balanced_classes_find_the_rare_one():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((1000, 4)), np.zeros(1000, int)
    y[:30] = 1
    X[:30, 0] += 1.5
    recall = {}
    for weights in (None, "balanced"):
        model = DenseClassifier(hidden_layer_sizes=(16,), class_weight=weights, epochs=30, random_state=0).fit(X, y)
        recall[weights] = (model.predict(X[:30]) == 1).mean()
    assert recall[None] < 0.4
    assert recall["balanced"] > 0.7


def test_boosting_hands_weights_on():
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    # its weights sum to 1, which lambda is divided by
    model = AdaBoostClassifier(
        DenseClassifier(hidden_layer_sizes=(16,), l2=0.02, epochs=60, random_state=0), n_estimators=3, random_state=0
    )
    assert model.fit(X, y).score(X, y) > 0.8


@pytest.mark.parametrize("kind", [DenseClassifier, DenseRegressor])
def test_watched_rows_keep_their_weights(kind):
    """Rows of no weight among them would change nothing: the cost is that of the others."""
    rng = np.random.default_rng(0)
    X, y, weights = rng.random((80, 3)), rng.integers(0, 2, 80), rng.integers(0, 3, 80) * 1.0
    model = kind(
        hidden_layer_sizes=(4,), epochs=2, validation=0.25, patience=2, random_state=0, dtype="float64", backend="numpy"
    )
    model.fit(X, y, sample_weight=weights)
    assert len(model.history_.val_cost) == 2
    assert model.history_.val_cost != kind(**model.get_params()).fit(X, y).history_.val_cost
    with pytest.raises(ValueError, match=r"patience=2 waits .* give validation=0\.1, or fit"):
        kind(patience=2).fit(X, y)
    with pytest.raises(ValueError, match=r"sample_weight is 0 for every row|at least one non-zero"):
        kind().fit(X, y, sample_weight=np.zeros(80))


# ---- a part after the other -----------------------------------------------------------------------------------------


def test_parts_one_after_another_are_what_a_network_makes_of_them():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    names = np.array(list("abcdefghij"))[y]
    model = DenseClassifier(hidden_layer_sizes=(32,), random_state=0, l2=0.0)
    for epoch in range(10):
        for begin in range(0, 1600, 200):
            part = slice(begin, begin + 200)
            model.partial_fit(X[part], names[part], classes=list("jihgfedcba") if epoch == begin == 0 else None)
    assert model.score(X[1600:], names[1600:]) > 0.85
    assert model.network_.epochs_trained == 80
    assert model.optimizer_.t == 80 * 7, "its state goes on"
    net = fastnn.Network([64, 32, 10], seed=model._seed, init="glorot")
    rule = fastnn.optimizers.Adam()
    for _ in range(10):
        for begin in range(0, 1600, 200):
            part = slice(begin, begin + 200)
            net.fit(X[part], y[part], optimizer=rule, batch_size=32, epochs=1, seed=model._seed)
    np.testing.assert_array_equal(net.theta, model.network_.theta)


def test_it_goes_on_where_fit_ended():
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    options = {"hidden_layer_sizes": (8,), "random_state": 0, "batch_size": 50}
    whole = DenseClassifier(epochs=6, **options).fit(X, y)
    parts = DenseClassifier(epochs=5, **options).fit(X, y).partial_fit(X, y)
    np.testing.assert_array_equal(whole.network_.theta, parts.network_.theta)
    again = pickle.loads(pickle.dumps(parts)).partial_fit(X, y)
    assert again.network_.epochs_trained == 7
    y7 = X[:, 3] * 7 + 100
    boston = DenseRegressor(epochs=5, **options).fit(X[:, :3], y7)
    before = boston.mean_
    boston.partial_fit(X[:50, :3], y7[:50])
    np.testing.assert_allclose(boston.mean_, np.r_[y7, y7[:50]].mean(), rtol=1e-12)
    np.testing.assert_allclose(boston.spread_, np.r_[y7, y7[:50]].std(), rtol=1e-12)
    assert boston.mean_ != before, "the unit is that of all rows there have been"


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda m, X, y: DenseClassifier().partial_fit(X, y), "classes must be given in the first call"),
        (lambda m, X, y: m.partial_fit(X, y + 1), r"y holds the label 2, which is none of \[0, 1\]"),
        (lambda m, X, y: m.partial_fit(X, y, classes=[0, 1, 2]), "are not those of before"),
        (lambda m, X, y: m.partial_fit(X[:, :2], y), "X has 2 features"),
        (lambda m, X, y: m.set_params(class_weight="balanced").partial_fit(X, y), "cannot be known from a part"),
        (lambda m, X, y: m.partial_fit(X, y, sample_weight=np.full(20, -1.0)), "must be finite and >= 0, got -1"),
        (lambda m, X, y: DenseRegressor().fit(X, y).partial_fit(X, X[:, :2]), "y has 2 columns, the rows before had 1"),
    ],
)
def test_parts_that_do_not_fit_change_nothing(use, words):
    rng = np.random.default_rng(0)
    X, y = rng.random((20, 3)), np.arange(20) % 2
    model = DenseClassifier(hidden_layer_sizes=(4,), epochs=1, random_state=0, backend="numpy").partial_fit(
        X, y, classes=[0, 1]
    )
    before = model.network_.theta.copy()
    with pytest.raises(ValueError, match=words):
        use(model, X, y)
    np.testing.assert_array_equal(model.network_.theta, before)
    assert model.network_.epochs_trained == 1


def test_weights_of_a_part_are_taken_as_they_are():
    """Divided by the mean of their part, those of a stream in which a part holds one class would do nothing."""
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 3)), np.repeat(["a", "b"], 20)
    options = {
        "hidden_layer_sizes": (4,),
        "optimizer": "sgd",
        "random_state": 0,
        "backend": "numpy",
        "l2": 0.0,
        "batch_size": 20,
    }
    moved = []
    for class_weight in (None, {"c": 3.0, "b": 3.0}):
        model = DenseClassifier(class_weight=class_weight, **options).partial_fit(X[:20], y[:20], classes=list("abc"))
        before = model.network_.theta.copy()
        model.partial_fit(X[20:], y[20:])  # no "c" among them
        moved.append(model.network_.theta - before)
    np.testing.assert_allclose(moved[1], 3 * moved[0], rtol=1e-4, atol=1e-6)
    twice = DenseClassifier(**options).partial_fit(X[:20], y[:20], classes=list("abc"), sample_weight=np.full(20, 2.0))
    once = DenseClassifier(**options).partial_fit(X[:20], y[:20], classes=list("abc"))
    start = fastnn.Network([3, 4, 3], seed=once._seed, backend="numpy", init="glorot").theta
    np.testing.assert_allclose(twice.network_.theta - start, 2 * (once.network_.theta - start), rtol=1e-4, atol=1e-6)
    before = once.network_.theta.copy()
    once.partial_fit(X, y, sample_weight=np.zeros(40))  # a part that counts nothing is passed over
    np.testing.assert_array_equal(once.network_.theta, before)


def test_the_largest_weights_do_not_overflow():
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 3)), rng.random(40)
    huge, plain = (
        DenseRegressor(hidden_layer_sizes=(4,), epochs=2, l2=0.0, random_state=0).fit(X, y, sample_weight=w)
        for w in (np.full(40, 1e308), None)
    )
    np.testing.assert_allclose(huge.predict(X), plain.predict(X), rtol=1e-5)


def test_a_word_for_weights_of_rows_names_the_other_parameter():
    with pytest.raises(TypeError, match="got 'balanced'; classes that count the same are class_weight='balanced'"):
        DenseClassifier().fit(np.eye(4), [0, 1, 0, 1], sample_weight="balanced")


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_a_weight_of_a_class_is_refused_in_its_own_name(weight):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 3)), np.arange(20) % 2
    with pytest.raises(ValueError, match=r"class_weight must be finite and >= 0, got .* for the label 0"):
        DenseClassifier(class_weight={0: weight}, epochs=1).fit(X, y)


@pytest.mark.parametrize("unit", [1e-300, 1e-170, 1e155, 1e300])
def test_targets_of_any_unit_give_the_same_fit(unit):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    y, weights = X @ np.array([1.0, 2, 3]), rng.random(100)
    plain, scaled = (
        DenseRegressor((16,), epochs=20, random_state=0).fit(X, y * factor, sample_weight=weights)
        for factor in (1, unit)
    )
    np.testing.assert_allclose(scaled.predict(X) / unit, plain.predict(X), rtol=1e-4, atol=1e-5)
    part = DenseRegressor((16,), random_state=0).partial_fit(X, y * unit, sample_weight=weights)
    np.testing.assert_allclose([part.mean_, part.spread_], [scaled.mean_, scaled.spread_])
    mean = np.average(y, weights=weights)
    spread = np.sqrt(np.average((y - mean) ** 2, weights=weights))
    np.testing.assert_allclose([part.mean_ / unit, part.spread_ / unit], [[mean], [spread]], rtol=1e-10)


@pytest.mark.parametrize("kind", [DenseClassifier, DenseRegressor])
def test_an_unpickled_estimator_trains_on_as_the_original_would(kind):
    """As nightly training does, a part of the data at a time."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 4)), np.arange(120) % 3
    more = {"classes": [0, 1, 2]} if kind is DenseClassifier else {}
    model = kind((16,), random_state=0).partial_fit(X, y, **more)
    others = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    for other in (model, *others):
        for _ in range(3):
            other.partial_fit(X[:60], y[:60])
    for other in others:
        np.testing.assert_array_equal(other.network_.theta, model.network_.theta)
        assert other.optimizer_.t == model.optimizer_.t


def test_weights_that_sum_to_one_are_warned_of_where_l2_would_kill_the_network():
    X, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 3
    with pytest.warns(UserWarning, match=r"sample_weight sums to 1 over 60 rows.*l2=3 acts as l2=180"):
        DenseClassifier(epochs=1, l2=3).fit(X, y, sample_weight=np.full(60, 1 / 60))
    DenseClassifier(epochs=1, l2=3).fit(X, y, sample_weight=np.full(60, 0.2))
    DenseClassifier(epochs=1).fit(X, y, sample_weight=np.full(60, 1 / 60))


@pytest.mark.parametrize(
    ("rows", "batch", "epochs"), [(60, 32, 500), (30, 32, 1000), (400, 32, 100), (400, 1000, 1000)]
)
def test_few_rows_are_passed_over_more_often(rows, batch, epochs):
    """A hundred epochs of two steps would teach little."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(rows, 2)), np.arange(rows) % 2
    model = DenseClassifier((2,), batch_size=batch, random_state=0).fit(X, y)
    assert len(model.history_.cost) == epochs
    assert len(DenseClassifier((2,), batch_size=batch, epochs=3).fit(X, y).history_.cost) == 3


def test_labels_that_cannot_be_sorted_are_refused():
    y = np.array(["a", None, "b", "a"], dtype=object)
    with pytest.raises(TypeError, match=r"y must hold labels of one kind, which can be sorted, got NoneType, str"):
        DenseClassifier().fit(np.eye(4), y)
