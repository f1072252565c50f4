"""Estimators (fastnn/estimators.py): costs, initial weights, networks of their own, interruptions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_score

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
        np.abs(DenseRegressor((), cost=cost, epochs=60, l2=0, random_state=0).fit(X, y).predict(X) - truth).mean()
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


def test_logarithms_of_probabilities():
    X, y = load_iris(return_X_y=True)
    model = DenseClassifier((5,), epochs=5, random_state=0).fit(X, y)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X), rtol=1e-6)
    assert (model.predict_log_proba(X * 1e6) == -np.inf).any()


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
