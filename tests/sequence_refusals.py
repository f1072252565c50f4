"""Calls that are refused: (name, what the error names, call(lab, twin))."""

from __future__ import annotations

import numpy as np

import fastnn
from fastnn import optimizers, schedules

GOOD = {"form": "float64", "seed": 1, "m": 5, "of_y": 0, "weights": None}


def fit(**changed):
    def call(lab, twin):
        X, y, _ = lab.rows(GOOD)
        given = {"X": X, "y": y, "optimizer": twin.rule, "epochs": 2} | {
            name: value(lab, twin, X, y) if callable(value) and name not in ("callbacks", "order", "monitor") else value
            for name, value in changed.items()
        }
        return twin.net.fit(given.pop("X"), given.pop("y"), **given)

    return call


def spoilt(value, row=-1, column=-1):
    def make(lab, twin, X, y):
        X = X.copy()
        X[row, column] = value
        return X

    return make


def method(name, *positions, **options):
    def call(lab, twin):
        X, y, _ = lab.rows(GOOD)
        made = [p(lab, twin, X, y) for p in positions]
        return getattr(twin.net, name)(
            *made, **{k: v(lab, twin, X, y) if callable(v) else v for k, v in options.items()}
        )

    return call


def x(lab, twin, X, y):
    return X


def t(lab, twin, X, y):
    return y


def gradient_of(change):
    def make(lab, twin, X, y):
        D = twin.host(twin.net.cost_and_gradient(X, y)[1])
        return change(D)

    return make


def planted(D, value):
    D[len(D) // 2] = value
    return D


def strange(lab, twin):
    other = fastnn.optimizers.Adam()
    net = fastnn.Network(
        twin.net.sizes, hidden=list(twin.net.hidden), output=twin.net.output, cost=twin.net.cost, backend="numpy"
    )
    X, y, _ = lab.rows(GOOD)
    net.fit(X, y, optimizer=other, epochs=1)
    return other, net


def of_another(lab, twin):
    other, _net = strange(lab, twin)
    X, y, _ = lab.rows(GOOD)
    return twin.net.fit(X, y, optimizer=other)


def setting(name, value):
    return lambda lab, twin: setattr(twin.net, name, value)


def of_rule(name, value):
    return lambda lab, twin: setattr(twin.rule, name, value)


def bad_order(answer):
    return fit(order=lambda epoch: answer, epochs=2)


CALLS = [
    ("X nan", "X must be finite", fit(X=spoilt(np.nan))),
    ("X inf", "X must be finite", fit(X=spoilt(-np.inf, 0, 0))),
    ("X 1e300 in a list", "X", fit(X=lambda lab, twin, X, y: [[None] * X.shape[1]] * 5)),
    ("X flat", "X must have shape", fit(X=lambda lab, twin, X, y: X[0])),
    ("X wide", "X must have", fit(X=lambda lab, twin, X, y: np.hstack([X, X]))),
    ("X none", "X must have at least one row", fit(X=lambda lab, twin, X, y: X[:0], y=lambda lab, twin, X, y: y[:0])),
    ("X complex", "X must hold real", fit(X=lambda lab, twin, X, y: X * 1j)),
    ("y short", "y must have one entry per row", fit(y=lambda lab, twin, X, y: y[:-1])),
    ("y text", "y must hold real", fit(y=lambda lab, twin, X, y: ["a"] * 5)),
    ("y nan", "y", fit(y=lambda lab, twin, X, y: np.full((5, lab.K), np.nan))),
    ("y three", "y must have one or two dimensions", fit(y=lambda lab, twin, X, y: np.zeros((5, lab.K, 1)))),
    ("y many columns", "y must", fit(y=lambda lab, twin, X, y: np.full((5, lab.K + 1), 1 / (lab.K + 1)))),
    ("epochs 0", "epochs", fit(epochs=0)),
    ("epochs 1.5", "epochs", fit(epochs=1.5)),
    ("epochs true", "epochs", fit(epochs=True)),
    ("batch 6", "batch_size", fit(batch_size=6)),
    ("batch 0", "batch_size", fit(batch_size=0)),
    ("micro 0", "micro_batch", fit(micro_batch=0)),
    ("micro 4 of 3", "micro_batch", fit(batch_size=3, micro_batch=4)),
    ("seed -1", "seed", fit(seed=-1)),
    ("seed 0.5", "seed", fit(seed=0.5)),
    ("shuffle 1", "shuffle", fit(shuffle=1)),
    ("order list", "order", fit(order=[0, 1])),
    ("order out", "order(", bad_order([0, 5])),
    ("order empty", "order(", bad_order([])),
    ("order floats", "order(", bad_order([0.0])),
    ("order ragged", "order(", bad_order([[0], [1, 2]])),
    ("validation 1", "validation", fit(validation=1.0)),
    ("validation tiny", "validation", fit(validation=0.01)),
    ("validation y", "validation y", fit(validation=lambda lab, twin, X, y: (X, y[:-1]))),
    ("validation X", "validation X", fit(validation=lambda lab, twin, X, y: (X[:, :-1], y))),
    ("validation X nan", "validation X", fit(validation=lambda lab, twin, X, y: (spoilt(np.nan)(lab, twin, X, y), y))),
    ("validation of four", "validation", fit(validation=lambda lab, twin, X, y: (X, y, None, None))),
    ("validation weights", "validation weights", fit(validation=lambda lab, twin, X, y: (X, y, -np.ones(5)))),
    ("validation weights 0", "validation weights", fit(validation=lambda lab, twin, X, y: (X, y, np.zeros(5)))),
    ("callbacks one", "callbacks", fit(callbacks=print)),
    ("callbacks text", "callbacks[1]", fit(callbacks=[print, "x"])),
    ("progress 1", "progress", fit(progress=1)),
    ("scale 0", "scale", fit(scale=0)),
    ("scale of floats", "scale", fit(scale=0.5)),
    ("patience", "patience", fit(patience=2)),
    ("patience 0", "patience", fit(patience=0, validation=0.4)),
    ("monitor", "monitor", fit(monitor="cost", patience=1, validation=0.4)),
    ("monitor alone", "monitor", fit(monitor="val_accuracy")),
    ("weights short", "sample_weight", fit(sample_weight=[1.0, 2])),
    ("weights negative", "sample_weight", fit(sample_weight=[1.0, 2, -1, 1, 1])),
    ("weights 0", "sample_weight", fit(sample_weight=[0.0] * 5)),
    ("weights nan", "sample_weight", fit(sample_weight=[np.nan] * 5)),
    ("weights text", "sample_weight", fit(sample_weight="equal")),
    ("optimizer", "optimizer", fit(optimizer="rmsprop")),
    ("optimizer class", "optimizer", fit(optimizer=lambda lab, twin, X, y: optimizers.Adam)),
    ("optimizer of another", "carries the state of another network", of_another),
    ("rate and instance", "learning_rate", fit(learning_rate=0.1)),
    ("rate", "learning_rate", fit(optimizer="sgd", learning_rate=-1.0)),
    ("lbfgs rate", "learning_rate", fit(optimizer="lbfgs", learning_rate=0.1)),
    ("lbfgs batch", "batch_size", fit(optimizer="lbfgs", batch_size=2)),
    ("spent", "learning_rate", fit(optimizer="sgd", epochs=9, learning_rate=lambda *_: schedules.Cosine(0.1, 2))),
    (
        "function of nan",
        "learning",
        fit(optimizer="sgd", learning_rate=lambda *_: lambda epoch: float("nan") if epoch else 1.0),
    ),
    ("predict flat", "X must have shape", method("predict", lambda lab, twin, X, y: X[0])),
    ("predict nan", "X must be finite", method("predict", spoilt(np.nan))),
    ("predict one nan", "X must be finite", method("logits", lambda *a: spoilt(np.nan)(*a)[-1:])),
    ("predict none", "X must have at least one row", method("logits", lambda lab, twin, X, y: X[:0])),
    ("score", "y must", method("score", x, lambda lab, twin, X, y: y[:-1])),
    ("score weights", "sample_weight", method("score", x, t, sample_weight=lambda *_: [1.0])),
    (
        "mean_cost",
        "X must",
        method("mean_cost", lambda lab, twin, X, y: X.T[:, :-1] if X.T.shape[1] - 1 != X.shape[1] else X[None], t),
    ),
    ("gradient micro", "micro_batch", method("cost_and_gradient", x, t, micro_batch=0)),
    ("gradient rows", "training_rows", method("cost_and_gradient", x, t, training_rows=0)),
    ("step by name", "optimizer", method("step", gradient_of(lambda D: D), lambda *_: "adam")),
    (
        "step nan",
        "gradient",
        method("step", gradient_of(lambda D: planted(D, np.nan)), lambda lab, twin, X, y: twin.rule),
    ),
    ("step short", "gradient", method("step", gradient_of(lambda D: D[:-1]), lambda lab, twin, X, y: twin.rule)),
    (
        "step dtype",
        "gradient",
        method("step", gradient_of(lambda D: D.astype(np.float16)), lambda lab, twin, X, y: twin.rule),
    ),
    ("step theta", "theta", method("step", lambda lab, twin, X, y: twin.net.theta, lambda lab, twin, X, y: twin.rule)),
    ("split", "", lambda lab, twin: twin.net.split(np.zeros(2))),
    ("l2", "l2", setting("l2", -1)),
    ("dropout", "dropout", setting("dropout", 1.0)),
    ("scale", "scale", setting("scale", -1)),
    ("epochs_trained", "epochs_trained", setting("epochs_trained", -1)),
    ("theta", "theta", setting("theta", np.zeros(3))),
    ("weights", "weights", setting("weights", [])),
    ("sizes", "sizes", setting("sizes", (1, 2))),
    ("a slip", "lr", setting("lr", 3)),
    ("rule rate", "learning_rate", of_rule("learning_rate", 0)),
    ("rule clip", "clip_norm", of_rule("clip_norm", -1.0)),
    ("rule slip", "lr", of_rule("lr", 3)),
    ("save folder", "path", lambda lab, twin: twin.net.save("x.npz")),
    ("save rule", "optimizer", lambda lab, twin: twin.net.save("x", optimizer="adam")),
    (
        "save rule of another",
        "carries the state of another",
        lambda lab, twin: twin.net.save("x", optimizer=strange(lab, twin)[0]),
    ),
]
