"""`fit(patience=..., monitor=...)`: what the best epoch is told by, against a fit without it that is written down."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score
from test_early_stopping import EPOCHS, data, net_of, state_of

import fastnn
from fastnn import optimizers
from fastnn.errors import TrainingInterrupted


@pytest.fixture(scope="module")
def written_down(backend):
    """(validation accuracy, values of `figure`, state) of each of many epochs without patience."""
    net, rule, figures, states = net_of(backend), optimizers.Adam(0.05), [], []
    X, y, validation = data()

    def write(*_):
        states.append(state_of(net, rule))
        figures.append(figure(net))

    history = net.fit(X, y, optimizer=rule, epochs=EPOCHS, batch_size=8, validation=validation, callbacks=[write])
    assert history.monitored == []
    return history.val_accuracy, figures, states


def figure(net):
    """Something that has its highest value somewhere in the middle."""
    return -abs(float(np.linalg.norm(net.backend.to_numpy(net.theta))) - 7)


def fit(backend, **options):
    net, rule = net_of(backend), optimizers.Adam(0.05)
    X, y, validation = data()
    given = {"optimizer": rule, "epochs": EPOCHS, "batch_size": 8, "validation": validation} | options
    return net, rule, net.fit(X, y, **given)


def end_and_best(values, patience):
    """The last epoch, and the first of the highest value until then."""
    end = next((e for e in range(EPOCHS) if e - int(np.argmax(values[: e + 1])) == patience), EPOCHS - 1)
    return end, int(np.argmax(values[: end + 1]))


@pytest.mark.parametrize("patience", [1, 4, 1000])
def test_the_accuracy(backend, written_down, patience):
    accuracies, _, states = written_down
    end, best = end_and_best(accuracies, patience)
    net, rule, history = fit(backend, patience=patience, monitor="val_accuracy")
    assert (history.val_accuracy, history.best, history.monitored) == (accuracies[: end + 1], best, [])
    assert (state_of(net, rule), net.epochs_trained) == (states[best], end + 1)
    V, w = data()[2]
    assert accuracy_score(w, net.predict(V)) == accuracies[best]


@pytest.mark.parametrize("patience", [1, 4, 1000])
def test_a_function_of_ones_own(backend, written_down, patience):
    _, figures, states = written_down
    end, best = end_and_best(figures, patience)
    assert 0 < int(np.argmax(figures)) < EPOCHS - 1
    seen = []
    net, rule, history = fit(
        backend, patience=patience, monitor=figure, validation=None,
        callbacks=[lambda epoch, history, net: seen.append((history.monitored[-1], len(history.monitored)))],
    )  # fmt: skip
    assert (history.monitored, history.best, history.val_cost) == (figures[: end + 1], best, [])
    assert (state_of(net, rule), net.epochs_trained) == (states[best], end + 1)
    assert seen == list(zip(figures[: end + 1], range(1, end + 2), strict=True))  # callbacks come after it


@pytest.mark.parametrize("value", [3, np.float32(3), np.array(3.0)])
def test_numbers_of_any_kind(value):
    _, _, history = fit("numpy", patience=2, monitor=lambda net: value)
    assert history.monitored == [3.0] * 3  # not better than the first
    assert all(type(x) is float for x in history.monitored)
    assert history.best == 0


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (None, TypeError),
        ("0.5", TypeError),
        (True, TypeError),
        (np.zeros(2), TypeError),
    ],
)
def test_what_is_no_finite_number_ends_the_fit(backend, value, error):
    net, rule = net_of(backend), optimizers.Adam(0.05)
    X, y, _ = data()
    values = iter([1.0, 2.0, value])

    def odd(net):
        return next(values)

    with pytest.raises(
        error, match=r"the value of monitor=<function .*odd.*> after epoch 2 must be a finite number, got"
    ):
        net.fit(X, y, optimizer=rule, epochs=9, batch_size=8, patience=5, monitor=odd)
    assert net.epochs_trained == 3
    alike, same_rule = net_of(backend), optimizers.Adam(0.05)
    alike.fit(X, y, optimizer=same_rule, epochs=3, batch_size=8)
    assert state_of(net, rule) == state_of(alike, same_rule)
    net.fit(X, y, optimizer=rule, epochs=1)  # and it goes on


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"monitor": figure}, ValueError, r"monitor=<function figure .*> is what patience waits for; give that too"),
        ({"monitor": "val_accuracy"}, ValueError, "monitor='val_accuracy' is what patience waits for"),
        ({"monitor": "accuracy", "patience": 3}, ValueError, "monitor='accuracy' is not known; did you mean 'val_acc"),
        ({"monitor": None, "patience": 3}, TypeError, "monitor must be 'val_cost', 'val_accuracy' or a callable"),
        ({"monitor": "val_accuracy", "patience": 3, "validation": None}, ValueError, "waits for a higher accuracy of"),
        ({"monitor": figure, "patience": 0}, ValueError, "patience must be a positive integer"),
    ],
)
def test_what_is_refused(options, error, words):
    net = net_of("numpy")
    X, y, validation = data()
    before = net.theta.tobytes()
    with pytest.raises(error, match=words):
        net.fit(X, y, **{"validation": validation} | options)
    assert (net.epochs_trained, net.theta.tobytes()) == (0, before)


@pytest.mark.parametrize(("output", "cost"), [("identity", "squared_error"), ("sigmoid", "cross_entropy")])
def test_the_accuracy_of_values_and_of_fractions_is_refused(output, cost):
    net = fastnn.Network([4, 1], output=output, cost=cost, backend="numpy")
    X, y = data()[0], np.linspace(0, 1, 30)
    for optimizer in ("adam", "lbfgs"):
        with pytest.raises(ValueError, match="monitor='val_accuracy' is for classes and for 0 and 1, and these"):
            net.fit(X, y, optimizer=optimizer, validation=0.2, patience=2, monitor="val_accuracy")


@pytest.mark.parametrize("monitor", [figure, "val_accuracy"])
def test_with_lbfgs(backend, monitor):
    X, y, validation = data()
    net, thetas, figures = net_of(backend), [], []

    def write(epoch, history, net):
        thetas.append(net.backend.to_numpy(net.theta).tobytes())
        figures.append(figure(net) if monitor is figure else history.val_accuracy[-1])

    net.fit(X, y, optimizer="lbfgs", epochs=EPOCHS, validation=validation, callbacks=[write])
    best = int(np.argmax(figures))
    assert best < len(figures) - 1
    again = net_of(backend)
    history = again.fit(X, y, optimizer="lbfgs", epochs=EPOCHS, validation=validation, patience=1000, monitor=monitor)
    assert history.best == best
    assert history.monitored == (figures if monitor is figure else [])
    assert again.backend.to_numpy(again.theta).tobytes() == thetas[best]


def test_ctrl_c_in_the_function_keeps_lists_of_one_length():
    values = iter([1.0, 2.0])

    def interrupted(net):
        for value in values:
            return value
        raise KeyboardInterrupt

    with pytest.warns(TrainingInterrupted, match="the parameters go back to those of the best epoch"):
        _, _, history = fit("numpy", patience=5, monitor=interrupted)
    assert history.interrupted
    assert (len(history.cost), history.best) == (3, 1)
    assert history.monitored == pytest.approx([1.0, 2.0, np.nan], nan_ok=True)


def test_it_may_not_train():
    X, y, _ = data()
    with pytest.raises(RuntimeError, match="being trained by the fit that called this one"):
        fit("numpy", patience=2, monitor=lambda net: net.fit(X, y, epochs=1).cost[-1])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["cost", "accuracy", "seconds", "learning_rate"]),
        ({"validation": 0.2}, ["cost", "accuracy", "val_cost", "val_accuracy", "seconds", "learning_rate"]),
        ({"optimizer": "lbfgs", "batch_size": None}, ["cost", "accuracy", "seconds"]),
        (
            {"patience": 9, "monitor": figure},
            ["cost", "accuracy", "seconds", "learning_rate", "monitored"],
        ),
    ],
)
def test_a_history_as_a_table(options, names):
    pandas = pytest.importorskip("pandas")
    _, _, history = fit("numpy", **{"validation": None, "epochs": 4} | options)
    table = pandas.DataFrame(history.to_dict())
    assert list(table) == names
    assert len(table) == len(history.cost)
    for name in names:
        assert table[name].tolist() == getattr(history, name)
    history.to_dict()["cost"].clear()
    assert len(history.cost) == len(table)
    assert fastnn.History().to_dict() == {}
