"""`monitor` of the estimators and of `fastnn train`: the best epoch by accuracy, beside a training without patience."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score

import fastnn
from fastnn.estimators import DenseClassifier, DenseRegressor

EPOCHS = 40


def noisy(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3))
    return X, np.array(["no", "yes"])[(X[:, 0] * X[:, 1] + 0.7 * rng.standard_normal(n) > 0).astype(int)]


X, Y = noisy(120, 0)
V, W = noisy(80, 1)
GIVEN = {"hidden_layer_sizes": (8,), "epochs": EPOCHS, "learning_rate": 0.03, "random_state": 0, "backend": "numpy"}


def written_down(monitor_of):
    """What is monitored, after each epoch of a training without patience, and the accuracies and costs."""
    found = []
    model = DenseClassifier(**GIVEN, callbacks=[lambda epoch, history, net: found.append(monitor_of(net))])
    model.fit(X, Y, X_val=V, y_val=W)
    return found, model.history_


def accuracy_of(net):
    return accuracy_score(W, np.array(["no", "yes"])[net.predict(V)])


@pytest.mark.parametrize("patience", [6, 10])
def test_a_classifier_goes_back_to_the_epoch_of_the_highest_accuracy(patience):
    accuracies, history = written_down(accuracy_of)
    assert history.val_accuracy == pytest.approx(accuracies)
    end = next(e for e in range(EPOCHS) if e - int(np.argmax(accuracies[: e + 1])) == patience)
    best = int(np.argmax(accuracies[: end + 1]))
    assert best != int(np.argmin(history.val_cost[: end + 1])), "or the cost would do"
    model = DenseClassifier(**GIVEN, patience=patience, monitor="val_accuracy").fit(X, Y, X_val=V, y_val=W)
    assert (model.history_.best, len(model.history_.cost)) == (best, end + 1)
    assert model.score(V, W) == accuracies[best] == max(accuracies[: end + 1])
    by_cost = DenseClassifier(**GIVEN, patience=patience).fit(X, Y, X_val=V, y_val=W)
    assert by_cost.history_.best == int(np.argmin(by_cost.history_.val_cost)), "the default is the cost"


def test_rows_that_are_set_apart_and_a_function_of_ones_own():
    model = DenseClassifier(**GIVEN, validation=0.3, patience=3, monitor="val_accuracy").fit(X, Y)
    assert model.history_.best == int(np.argmax(model.history_.val_accuracy))
    least = DenseRegressor(**GIVEN, patience=3, monitor=lambda net: -abs(float(np.linalg.norm(net.theta)) - 5))
    least.fit(X, X[:, 0])  # needs no rows apart
    assert least.history_.best == int(np.argmax(least.history_.monitored))
    marks = np.column_stack([Y == "yes", X[:, 0] > 0]).astype(int)
    several = DenseClassifier(**GIVEN, validation=0.3, patience=3, monitor="val_accuracy").fit(X, marks)
    assert several.history_.best == int(np.argmax(several.history_.val_accuracy))


@pytest.mark.parametrize(
    ("kind", "options", "error", "words"),
    [
        (DenseClassifier, {"monitor": "val_accuracy"}, ValueError, "monitor='val_accuracy' is what patience waits for"),
        (DenseClassifier, {"monitor": "accuracy", "patience": 3, "validation": 0.2}, ValueError, "did you mean 'val_acc"),
        (DenseClassifier, {"monitor": None, "patience": 3, "validation": 0.2}, TypeError, "monitor must be 'val_cost'"),
        (DenseClassifier, {"monitor": "val_accuracy", "patience": 3}, ValueError, "waits for a higher accuracy of rows"),
        (DenseRegressor, {"monitor": "val_accuracy", "patience": 3, "validation": 0.2}, ValueError, "is for classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_monitored(kind, options, error, words):
    y = Y if kind is DenseClassifier else X[:, 0]
    with pytest.raises(error, match=words):
        kind(**GIVEN, **options).fit(X, y)


def test_it_is_a_parameter_as_others_are():
    model = DenseClassifier(**GIVEN, monitor="val_accuracy", patience=3, validation=0.2)
    assert clone(model).get_params()["monitor"] == "val_accuracy"
    fitted = model.fit(X, Y)
    state = pickle.loads(pickle.dumps(fitted)).__dict__
    assert state["monitor"] == "val_accuracy"
    old = DenseClassifier(**GIVEN)
    kept = old.__getstate__()
    del kept["monitor"]  # as in a pickle of an older version
    again = DenseClassifier.__new__(DenseClassifier)
    again.__setstate__(kept)
    assert again.monitor == "val_cost"


def test_fastnn_train_monitor(cli, tmp_path):
    A, y = noisy(300, 4)
    rows = "".join(",".join([*(f"{v:.5f}" for v in row), name]) + "\n" for row, name in zip(A, y, strict=True))
    (tmp_path / "t.csv").write_text("a,b,c,y\n" + rows)
    words = ("train", "t.csv", "--target", "y", "--backend", "numpy", "--learning-rate", "0.02", "--no-plot", "--validation", "0.3", "--epochs", EPOCHS)  # fmt: skip
    whole = json.loads(cli(*words, "--json")[1])["history"]
    patience = 6
    found = json.loads(cli(*words, "--patience", patience, "--monitor", "val_accuracy", "--json", "--save", "m")[1])
    accuracies = whole["val_accuracy"]
    end = next(e for e in range(EPOCHS) if e - int(np.argmax(accuracies[: e + 1])) == patience)
    best = int(np.argmax(accuracies[: end + 1]))
    assert best != int(np.argmin(whole["val_cost"][: end + 1])), "or the cost would do"
    assert (found["history"]["best"], found["history"]["val_accuracy"]) == (best, accuracies[: end + 1])
    cli(*words[:-1], best + 1, "--save", "until")
    assert fastnn.load("m").theta.tobytes() == fastnn.load("until").theta.tobytes()
    shown = cli(*words, "--patience", patience, "--monitor", "val_accuracy")[1]
    assert f"{best + 1} of {end + 1}, validation accuracy {100 * accuracies[best]:.2f} %, cost " in shown
    by_cost = json.loads(cli(*words, "--patience", patience, "--monitor", "val_cost", "--json")[1])["history"]
    assert by_cost == json.loads(cli(*words, "--patience", patience, "--json")[1])["history"] | {
        "seconds": by_cost["seconds"]
    }
    for more, said in (
        (("--monitor", "val_accuracy"), "--monitor val_accuracy is what --patience waits for; give that too"),
        (
            ("--monitor", "accuracy", "--patience", "3"),
            "--monitor 'accuracy' is not known; did you mean 'val_accuracy'",
        ),
        (("--monitor", "val_accuracy", "--patience", "3", "--target", "a"), "--monitor val_accuracy is for classes"),
    ):
        given = words if "--target" not in more else (*words[:2], *words[4:])
        code, out, err = cli(*given, *more)
        assert (code, out, said in err, err.count("\n")) == (2, "", True, 1), err
