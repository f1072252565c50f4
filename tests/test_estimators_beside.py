"""Estimators (fastnn/estimators.py): costs, initial weights, networks of their own, interruptions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

import fastnn
from fastnn.estimators import DenseClassifier, DenseRegressor


def test_quantiles_of_skewed_targets():
    """Of y = 3 + e^N(0, 1), whatever X is: the share of rows below the answers is the quantile asked for."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((3000, 2)), 3 + np.exp(rng.standard_normal(3000))
    for q in (0.1, 0.5, 0.9):
        model = DenseRegressor((8,), cost=f"quantile:{q}", epochs=20, random_state=0).fit(X, y)
        assert (y < model.predict(X)).mean() == pytest.approx(q, abs=0.03)
    median = DenseRegressor((8,), cost="absolute_error", epochs=20, random_state=0).fit(X, y).predict(X)
    assert np.median(median) == pytest.approx(4, abs=0.1)  # of a log-normal, e^0
    with pytest.raises(ValueError, match="cost='hubert' is not known"):
        DenseRegressor(cost="hubert").fit(X, y)


def test_outliers_move_huber_less():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((400, 1))
    truth = 2 * X[:, 0]
    y = truth + np.where(rng.random(400) < 0.05, 60.0, 0.1 * rng.standard_normal(400))
    errors = [
        np.abs(DenseRegressor((), cost=cost, epochs=200, l2=0, random_state=0).fit(X, y).predict(X) - truth).mean()
        for cost in ("squared_error", "huber:0.1")
    ]
    assert errors[1] < errors[0] / 5


def test_initial_weights_are_a_parameter():
    X, y = load_iris(return_X_y=True)
    found = {
        init: DenseClassifier((5,), init=init, epochs=1, random_state=0).fit(X, y).network_.theta.tobytes()
        for init in ("glorot", "auto", "lecun")
    }
    assert len(set(found.values())) == 3
    assert clone(DenseClassifier(init="lecun")).init == "lecun"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_of_a_regressor_answers_in_the_unit_of_y(tmp_path, dtype):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3)).astype(dtype)
    Y = np.stack([X[:, 0] * 100 + 1000, X[:, 1] * 1e-3], axis=1)
    model = DenseRegressor((8,), epochs=5, dtype=dtype, random_state=0).fit(X, Y)
    before = model.network_.theta.copy()
    model.to_network().save(tmp_path / "m.safetensors")
    answers = fastnn.load(tmp_path / "m.safetensors").predict(X)
    np.testing.assert_allclose(answers, model.predict(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.network_.theta, before)
    if dtype == "float64":
        return
    huge = DenseRegressor((2,), epochs=1, random_state=0).fit(X, Y[:, 0].astype(float) * 1e37)
    with pytest.raises(ValueError, match="do not fit float32; give the estimator dtype='float64'"):
        huge.to_network()


def test_a_network_of_a_classifier_is_a_copy():
    X, y = load_iris(return_X_y=True)
    model = DenseClassifier((5,), epochs=2, random_state=0).fit(X, y)
    net = model.to_network()
    np.testing.assert_array_equal(net.predict_proba(X.astype(np.float32)), model.predict_proba(X))
    net.theta[...] = 0
    assert model.network_.theta.any()


def test_ctrl_c_ends_the_search_and_keeps_what_was_learnt(monkeypatch):
    """A score of half a training is none: `fit` raises, as code around it expects, and the estimator can be used."""
    X, y = load_iris(return_X_y=True)
    fit = fastnn.Network.fit

    def interrupted(self, *args, **named):
        history = fit(self, *args, **{**named, "epochs": 1})
        history.interrupted = True
        return history

    monkeypatch.setattr(fastnn.Network, "fit", interrupted)
    model = DenseClassifier((5,), random_state=0)
    with pytest.raises(KeyboardInterrupt, match="keeps what it has learnt"):
        model.fit(X, y)
    assert model.predict(X).shape == (150,)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X, y)
    model.partial_fit(X, y, sample_weight=np.zeros(len(y)))  # nothing to interrupt
    DenseClassifier().partial_fit(X, y, classes=[0, 1, 2], sample_weight=np.zeros(len(y)))
    with pytest.raises(KeyboardInterrupt):
        cross_val_score(DenseRegressor((5,)), X, y.astype(float))


def test_a_validation_share_that_cannot_be_dealt_is_named():
    with pytest.raises(ValueError, match=r"validation=0.1 of 5 rows cannot be set apart, every class in both parts"):
        DenseClassifier(validation=0.1).fit(np.eye(5), [0, 1, 0, 1, 0])


def labelled(rows=1200):
    """Three labels a row, each a half-space with a blurred border."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, 5))
    scores = X @ rng.standard_normal((5, 3)) + rng.logistic(size=(rows, 3)) / 4
    return X, (scores > [0, 0.5, 2]).astype(int)


def test_several_labels_a_row():
    X, Y = labelled()
    options = {
        "hidden_layer_sizes": (),
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "batch_size": 1200,
        "epochs": 3000,
        "l2": 1.0,
    }
    model = DenseClassifier(**options, dtype="float64", random_state=0).fit(X, Y)
    for k in range(3):  # without a hidden layer it is a logistic regression of each label
        alone = LogisticRegression(C=1.0, tol=1e-8).fit(X, Y[:, k])
        np.testing.assert_allclose(model.predict_proba(X)[:, k], alone.predict_proba(X)[:, 1], atol=6e-3)
    answers = model.predict(X)
    assert answers.shape == Y.shape
    np.testing.assert_array_equal(answers, model.predict_proba(X) >= 0.5)
    assert model.score(X, Y) == (answers == Y).all(axis=1).mean() > 0.7
    assert model.classes_.tolist() == [0, 1, 2]
    again = DenseClassifier(**options, dtype="float64", random_state=0).fit(X, csr_matrix(Y))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    hidden = DenseClassifier((16,), epochs=30, validation=0.2, patience=5, random_state=0).fit(X, Y)
    assert hidden.score(X, Y) > 0.7
    assert cross_val_score(clone(hidden), X, Y, cv=3).mean() > 0.65


def test_several_labels_in_parts():
    X, Y = labelled()
    model = DenseClassifier((), batch_size=100, learning_rate=0.02, random_state=0)
    for _ in range(30):
        model.partial_fit(X[:600], Y[:600]).partial_fit(X[600:], Y[600:])
    assert model.score(X, Y) > 0.7
    with pytest.raises(ValueError, match="y has one label a row, where there were several before"):
        model.partial_fit(X, Y[:, 0])
    with pytest.raises(ValueError, match="are not those of before"):
        model.partial_fit(X, Y[:, :2])
    one = DenseClassifier(()).partial_fit(X, Y[:, 0], classes=[0, 1, 2])
    with pytest.raises(ValueError, match="y has several labels a row, where there was one before"):
        one.partial_fit(X, Y)


@pytest.mark.parametrize(
    ("y", "options", "words"),
    [
        (lambda Y: 2 * Y - 1, {}, r"y of several labels a row must be 0 and 1, got \[-1, 1\]"),
        (lambda Y: Y + np.arange(len(Y))[:, None] % 2, {}, "holds several classes a row.*MultiOutputClassifier"),
        (lambda Y: Y, {"class_weight": "balanced"}, "class_weight='balanced' is for one label a row, y has 3"),
    ],
)
def test_several_labels_that_are_refused(y, options, words):
    X, Y = labelled(60)
    with pytest.raises(ValueError, match=words):
        DenseClassifier(**options).fit(X, y(Y))


def test_messages_name_the_estimators_own_parameters():
    X, y = load_iris(return_X_y=True)
    for options, words in (
        ({"activation": "rlu"}, "activation='rlu' is not known"),
        ({"activation": ["relu"]}, r"activation must have one activation per hidden layer \(2\), got 1"),
        ({"hidden_layer_sizes": (8, 0)}, r"hidden_layer_sizes\[1\] must be a positive integer, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            DenseClassifier(**options).fit(X, y)
    with pytest.raises(TypeError, match=r"the units of hidden layers belong in sizes: Network\(\[inputs, 64, 32, out"):
        fastnn.Network([4, 2], hidden=(64, 32))


def circles(rows, seed=0):
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * np.pi, rows), np.arange(rows) % 2 / 2 + 0.5
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]), np.arange(rows) % 2


def test_few_rows_are_learnt_by_default():
    """lambda = 3 over so few rows left networks that say the same of every row: 0.5 and R^2 0.03."""
    X, y = circles(50)
    assert DenseClassifier(random_state=0).fit(X, y).score(*circles(1000, 1)) > 0.9
    x = np.linspace(-2, 2, 30)[:, None]
    assert DenseRegressor(random_state=0).fit(x, np.sin(3 * x[:, 0])).score(x, np.sin(3 * x[:, 0])) > 0.8


@pytest.mark.parametrize(("rows", "expected"), [(50, 0.5), (299, 2.99), (300, 3.0), (5000, 3.0)])
def test_lambda_by_default(rows, expected):
    X, y = np.random.default_rng(0).standard_normal((rows, 2)), np.arange(rows) % 2
    assert DenseClassifier((2,), epochs=1).fit(X, y).network_.l2 == pytest.approx(expected)
    doubled = DenseClassifier((2,), epochs=1).fit(X, y, sample_weight=np.full(rows, 0.5)).network_.l2
    assert doubled == pytest.approx(min(3, expected / 2 if rows < 300 else rows / 200))
    assert DenseClassifier((2,), l2=0.25, epochs=1).fit(X, y).network_.l2 == 0.25
    with pytest.raises(TypeError, match="l2 must be a finite number >= 0 or 'auto', got 'much'"):
        DenseClassifier(l2="much").fit(X, y)


def test_lambda_is_spread_over_all_parts_of_the_rows():
    """The last of ten parts of 32 rows takes a tenth of lambda, so its step is that of `fit` on all."""
    X, y = np.random.default_rng(0).standard_normal((320, 2)), np.arange(320) % 2
    model = DenseClassifier((2,), l2=2.0)
    for k in range(10):
        part = slice(32 * k, 32 * k + 32)
        model.partial_fit(X[part], y[part], classes=[0, 1])
        assert model.network_.l2 == pytest.approx(2.0 / (k + 1))
    model.fit(X, y).partial_fit(X[:64], y[:64])
    assert model.network_.l2 == pytest.approx(2.0 * 64 / 384)


def test_rows_of_ones_own_are_watched():
    X, y = circles(300)
    Xv, yv = circles(100, 1)
    names, seen = np.array(["in", "out"]), []
    model = DenseClassifier(
        (16,), epochs=40, patience=5, random_state=0, callbacks=[lambda epoch, history, net: seen.append(epoch)]
    ).fit(X, names[y], X_val=Xv, y_val=names[yv])
    history = model.history_
    assert seen == list(range(len(history.cost)))
    assert history.best is not None
    assert history.val_accuracy[history.best] == pytest.approx(model.score(Xv, names[yv]))
    regressor = DenseRegressor((16,), epochs=3, random_state=0)
    regressor.fit(X, 1e6 + 1e5 * y, X_val=Xv, y_val=1e6 + 1e5 * yv, sample_weight_val=np.ones(100))
    residual = (regressor.predict(Xv) - (1e6 + 1e5 * yv)) / regressor.spread_
    assert regressor.history_.val_cost[-1] == pytest.approx((residual**2).mean() / 2, rel=1e-4)
    marks = np.column_stack([y, 1 - y])
    several = DenseClassifier((16,), epochs=3, random_state=0).fit(X, marks, X_val=Xv, y_val=csr_matrix(marks[:100]))
    assert len(several.history_.val_cost) == 3
    assert DenseClassifier((2,), validation=0, callbacks=None, epochs=1).fit(X, y).history_.val_cost == []


def test_rows_that_are_watched_count_as_their_class_does():
    """As a share of the rows does that is set apart: patience would wait for another cost otherwise."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((300, 3)), (np.arange(300) % 10 == 0).astype(int)
    model = DenseClassifier((4,), epochs=1, class_weight="balanced", random_state=0)
    model.fit(X, y, X_val=X[:50], y_val=y[:50], sample_weight_val=np.arange(50) % 3)
    weights = np.where(y[:50] == 1, 5.0, 5 / 9) * (np.arange(50) % 3)
    expected = model.network_.mean_cost(X[:50], y[:50], l2=False, sample_weight=weights)
    assert model.history_.val_cost[-1] == pytest.approx(expected, rel=1e-5)


def test_in_a_pipeline_the_rows_to_watch_are_transformed_with_the_others():
    X, y = circles(300)
    Xv, yv = circles(100, 1)
    with config_context(enable_metadata_routing=True):
        final = DenseClassifier((16,), epochs=5, random_state=0).set_fit_request(X_val=True, y_val=True)
        pipeline = Pipeline([("scale", StandardScaler()), ("net", final)], transform_input=["X_val"])
        pipeline.fit(1000 * X, y, X_val=1000 * Xv, y_val=yv)
    by_hand = StandardScaler().fit(1000 * X)
    alone = DenseClassifier((16,), epochs=5, random_state=0)
    alone.fit(by_hand.transform(1000 * X), y, X_val=by_hand.transform(1000 * Xv), y_val=yv)
    np.testing.assert_allclose(pipeline[-1].history_.val_cost, alone.history_.val_cost, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        (DenseClassifier(), {"X_val": [[0, 0]]}, ValueError, "give both, or neither"),
        (DenseClassifier(), {"sample_weight_val": [1]}, ValueError, "give both, or neither"),
        (DenseClassifier(), {"X_val": [[0, 0]], "y_val": [7]}, ValueError, "y_val: y holds the label 7, which is none"),
        (DenseClassifier(), {"X_val": [[0, 0]], "y_val": [0, 1]}, ValueError, r"y_val must have one entry per row .*1"),
        (
            DenseRegressor(),
            {"X_val": [[0, 0]], "y_val": [[0, 1]]},
            ValueError,
            "y_val: y has 2 columns, the rows before",
        ),
        (
            DenseClassifier(validation=([[0]], [0])),
            {},
            TypeError,
            r"rows of your own are fit\(X, y, X_val=..., y_val=...\)",
        ),
        (DenseClassifier(), {"X_val": [[0]], "y_val": [0]}, ValueError, "X_val: X has 1 features"),
        (
            DenseRegressor(),
            {"X_val": [[0, 0]], "y_val": [0], "sample_weight_val": [1, 2]},
            ValueError,
            "sample_weight_val: ",
        ),
        (DenseClassifier(validation=np.ones(3)), {}, TypeError, "validation must be a fraction of the rows"),
    ],
)
def test_rows_to_watch_that_are_refused(model, options, error, words):
    X, y = circles(60)
    with pytest.raises(error, match=words):
        model.fit(X, y, **options)


def test_logarithms_of_probabilities_that_are_too_small_for_the_dtype():
    X, y = load_iris(return_X_y=True)
    model = DenseClassifier(random_state=0, epochs=20).fit(X, y)
    far = X[:3] * 1e3
    logs = model.predict_log_proba(far)
    assert np.isfinite(logs).all()
    assert logs.min() < -200
    z = np.asarray(model.network_.logits(far), np.float64)
    np.testing.assert_allclose(logs, z - np.logaddexp.reduce(z, axis=1)[:, None], rtol=1e-12)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X), rtol=1e-4, atol=1e-7)
    marks = np.column_stack([y == 0, y == 1]).astype(int)
    several = DenseClassifier(random_state=0, epochs=20).fit(X, marks)
    logs = several.predict_log_proba(far)
    assert np.isfinite(logs).all()
    np.testing.assert_allclose(logs, -np.logaddexp(0, -np.asarray(several.network_.logits(far), np.float64)))


def test_a_network_of_targets_with_a_large_offset_is_refused_where_the_dtype_is_too_coarse():
    """float32 cannot say 1e8 + 1: the network's answers were all alike."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 2))
    for offset, dtype, fits in ((1e3, "float32", True), (1e6, "float32", False), (1e8, "float64", True)):
        y = offset + X[:, 0]
        model = DenseRegressor((8,), epochs=30, random_state=0, dtype=dtype).fit(X, y)
        assert model.score(X, y) > 0.9
        if fits:
            assert model.to_network().score(X, y) == pytest.approx(model.score(X, y), abs=1e-4)
        else:
            with pytest.raises(ValueError, match=r"targets of 1e\+06 \+- 0.\d+ do not fit float32; .* dtype='float64'"):
                model.to_network()


def test_a_constant_target_does_not_keep_a_network_from_being_made():
    X = np.random.default_rng(0).standard_normal((50, 2))
    y = np.column_stack([X[:, 0], np.full(50, 20_000.0)])
    net = DenseRegressor((4,), epochs=30, random_state=0).fit(X, y).to_network()
    np.testing.assert_allclose(net.predict(X)[:, 1], 20_000, rtol=1e-3)


def test_a_rule_that_has_moved_elsewhere_may_be_a_parameter():
    """Every fit takes a fresh copy, as is said: no warning."""
    X, y = circles(40)
    rule = fastnn.optimizers.Adam()
    fastnn.Network([2, 2], backend="numpy").fit(X, y, optimizer=rule, epochs=1)
    model = DenseClassifier((2,), optimizer=rule, epochs=2).fit(X, y)
    assert (rule.t, model.optimizer_.t) == (1, 4)
