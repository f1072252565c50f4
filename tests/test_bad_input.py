"""Bad input gets one clear error that names the argument, what was given and what was expected - and changes
nothing.
"""

from __future__ import annotations

import cases
import numpy as np
import pytest
import scipy.sparse
from together import together

import fastnn
from fastnn import optimizers

SIZES, ROWS = (4, 5, 3), 12
INF, NAN = np.inf, np.nan


def good(rows=ROWS):
    return cases.normal((rows, 4), np.float64), np.arange(rows) % 3


def planted(value, row=7, column=2):
    X, _ = good()
    X[row, column] = value
    return X


def fitted(backend, rule, output="softmax", cost="cross_entropy", sizes=SIZES):
    net = fastnn.Network(sizes, output=output, cost=cost, backend=backend)
    rng = np.random.default_rng(0)
    y = (
        rng.integers(0, sizes[-1], ROWS)
        if (output, cost) != ("sigmoid", "cross_entropy")
        else rng.random((ROWS, sizes[-1]))
    )
    net.fit(good()[0], y if cost == "cross_entropy" else np.eye(sizes[-1])[y % sizes[-1]], optimizer=rule, epochs=1)
    return net


def state(net, rule):
    to = net.backend.to_numpy
    return to(net.theta).tobytes(), [to(s).tobytes() for s in rule.state], rule.t, net.epochs_trained, net.scale


def refused(net, rule, call, error, match):
    before = state(net, rule)
    with pytest.raises(error, match=match) as caught:
        call()
    assert type(caught.value) in (TypeError, ValueError), "the plain built-in error, not an accident further down"
    assert "\n" not in str(caught.value), "one sentence"
    assert state(net, rule) == before
    net.fit(*(good()[0], good_targets(net)), optimizer=rule, epochs=1)  # and it still works


def good_targets(net):
    if net.pair.targets == "probabilities":
        return np.full((ROWS, net.sizes[-1]), 0.5)
    return good()[1] if net.pair.targets == "classes" else np.zeros((ROWS, net.sizes[-1]))


# ---- X ----------------------------------------------------------------------------------------------------------

X_CASES = {
    "another width": (lambda: good()[0][:, :3], ValueError, r"X must have 4 columns, one per input unit, got 3"),
    "one example flat": (
        lambda: good()[0][0],
        ValueError,
        r"X must have shape \(rows, 4\), got \(4,\).*reshape\(1, -1\)",
    ),
    "three dimensions": (lambda: good()[0][None], ValueError, r"X must have shape \(rows, 4\), got \(1, 12, 4\)"),
    "a number": (lambda: 3.0, ValueError, r"X must have shape \(rows, 4\), got \(\)"),
    "no rows": (lambda: np.empty((0, 4)), ValueError, r"X must have at least one row"),
    "no columns": (lambda: np.empty((12, 0)), ValueError, r"X must have 4 columns, one per input unit, got 0"),
    "NaN": (lambda: planted(NAN), ValueError, r"X must be finite, got nan at row 7, column 2"),
    "inf": (lambda: planted(INF), ValueError, r"X must be finite, got inf at row 7, column 2"),
    "-inf": (lambda: planted(-INF, 0, 0), ValueError, r"X must be finite, got -inf at row 0, column 0"),
    "NaN in float32": (
        lambda: planted(NAN).astype(np.float32),
        ValueError,
        r"X must be finite, got nan at row 7, column 2",
    ),
    "overflow": (lambda: planted(1e39), ValueError, r"X holds .*1e\+39.* at row 7, column 2, which overflows float32"),
    "strings": (lambda: good()[0].astype(str), TypeError, r"X must hold real numbers, got dtype <U"),
    "objects": (
        lambda: np.array([[1, 2, 3, "x"]] * 12, object),
        TypeError,
        r"X must hold real numbers, got dtype object, for example 'x'",
    ),
    "None inside": (
        lambda: [[1, 2, 3, None]] * 12,
        TypeError,
        r"X must hold real numbers, got dtype object, for example None",
    ),
    "None": (lambda: None, TypeError, r"X must hold real numbers, got None$"),
    "numbers as objects": (
        lambda: good()[0].astype(object),
        TypeError,
        r"X must hold real numbers, got dtype object with numbers in it; convert it with \.astype\(float\)",
    ),
    "a table of bool and float columns": (
        lambda: np.array([[True, 1.5, np.float32(2), np.bool_(0)]] * 12, object),
        TypeError,
        r"convert it with \.astype\(float\)",
    ),
    "complex": (lambda: good()[0].astype(complex), TypeError, r"X must hold real numbers, got dtype complex128"),
    "dates": (lambda: np.zeros((12, 4), "datetime64[s]"), TypeError, r"X must hold real numbers, got dtype datetime64"),
    "ragged": (
        lambda: [[1.0, 2, 3, 4], [1.0, 2]],
        TypeError,
        r"X must be a rectangular array of numbers, got a ragged list",
    ),
    "sparse": (
        lambda: scipy.sparse.csr_matrix(good()[0]),
        TypeError,
        r"X must be dense, got a sparse .*X\.toarray\(\)",
    ),
}


@together("method", ["fit", "predict", "forward", "cost_and_gradient"])
@pytest.mark.parametrize("case", X_CASES)
def test_bad_x(backend, case, method):
    make, error, match = X_CASES[case]
    rule = optimizers.Momentum()
    net, y = fitted(backend, rule), good()[1]
    calls = {
        "fit": lambda: net.fit(make(), y, optimizer=rule, epochs=1),
        "predict": lambda: net.predict(make()),
        "forward": lambda: net.forward(make()),
        "cost_and_gradient": lambda: net.cost_and_gradient(make(), y),
    }
    refused(net, rule, calls[method], error, match)


def test_the_first_bad_row_is_named_beyond_the_first_block(backend, monkeypatch):
    monkeypatch.setattr("fastnn.checks.BLOCK", 16)
    net = fastnn.Network(SIZES, backend=backend)
    X = planted(NAN, 9, 3)
    X[10] = INF
    for method in (net.predict, net.forward):
        with pytest.raises(ValueError, match="got nan at row 9, column 3"):
            method(X)


# ---- y ----------------------------------------------------------------------------------------------------------

SOFTMAX, SIGMOID, VALUES = ("softmax", "cross_entropy"), ("sigmoid", "cross_entropy"), ("identity", "squared_error")


def y_with(value, dtype=int):
    y = good()[1].astype(dtype)
    y[5] = value
    return y


def rows_with(value):
    y = np.full((ROWS, 3), 0.5)
    y[5, 1] = value
    return y


Y_CASES = {
    "too large": (SOFTMAX, lambda: y_with(3), ValueError, r"y must hold classes 0\.\.2 .*got 3 at row 5"),
    "negative": (SOFTMAX, lambda: y_with(-1), ValueError, r"y must hold classes 0\.\.2 .*got -1 at row 5"),
    "unsigned too large": (SOFTMAX, lambda: y_with(255, np.uint8), ValueError, r"got 255 at row 5"),
    "huge": (SOFTMAX, lambda: y_with(2**40), ValueError, r"got 1099511627776 at row 5"),
    "float classes": (
        SOFTMAX,
        lambda: good()[1].astype(float),
        TypeError,
        r"y must be integer classes 0\.\.2 of shape \(12,\), got dtype float64; pass y\.astype\(int\) if they are",
    ),
    "floats that are no classes": (
        SOFTMAX,
        lambda: y_with(0.5, float),
        TypeError,
        r"y must be integer classes 0\.\.2 of shape \(12,\), got dtype float64 with 0\.5 at row 5$",
    ),
    "a class is missing": (SOFTMAX, lambda: y_with(np.nan, float), TypeError, r"got dtype float64 with nan at row 5$"),
    "a column of floats": (
        SOFTMAX,
        lambda: good()[1][:, None] * 1.0,
        TypeError,
        r"y must be integer classes.*; pass y\.ravel\(\)\.astype\(int\)$",
    ),
    "None": (SOFTMAX, lambda: None, TypeError, r"y must hold real numbers, got None$"),
    "beyond 64 bits": (
        SOFTMAX,
        lambda: [2**70, *good()[1][1:].tolist()],
        TypeError,
        r"y must hold real numbers, got dtype object with numbers in it; convert it with \.astype\(int\)$",
    ),
    "rows that are no probabilities": (
        SOFTMAX,
        lambda: np.eye(3)[good()[1]] + 0.25,
        ValueError,
        r"y must lie in \[0, 1\] for softmax with cross_entropy, got 1.25 at row 0",
    ),
    "rows of two ones": (
        SOFTMAX,
        lambda: np.eye(3, dtype=int)[good()[1]] + np.eye(3, dtype=int)[(good()[1] + 1) % 3],
        ValueError,
        r"each row of y must sum to 1, as probabilities of the 3 classes do, got 2 at row 0",
    ),
    "rows of another width": (
        SOFTMAX,
        lambda: np.eye(4)[good()[1]],
        TypeError,
        r"y must be integer classes 0\.\.2 of shape \(12,\), or the probability of each, \(12, 3\), got .*\(12, 4\)",
    ),
    "a column": (SOFTMAX, lambda: good()[1][:, None], ValueError, r"y must be integer classes.*y\.ravel\(\)"),
    "strings": (
        SOFTMAX,
        lambda: good()[1].astype(str),
        TypeError,
        r"y must hold real numbers, got dtype <U.*numpy\.unique\(y, return_inverse=True\)",
    ),
    "objects": (
        SOFTMAX,
        lambda: np.array(["cat"] * 12, object),
        TypeError,
        r"y must hold real numbers, got dtype object, for example 'cat'",
    ),
    "too few": (SOFTMAX, lambda: good()[1][:-1], ValueError, r"y must have one entry per row of X \(12\), got 11"),
    "none": (SOFTMAX, lambda: [], ValueError, r"y must have one entry per row of X \(12\), got 0"),
    "a number": (SOFTMAX, lambda: 1, ValueError, r"y must have one or two dimensions, got shape \(\)"),
    "above 1": (SIGMOID, lambda: rows_with(1.5), ValueError, r"y must lie in \[0, 1\] .*got 1\.5 at row 5, column 1"),
    "below 0": (
        SIGMOID,
        lambda: rows_with(-0.1),
        ValueError,
        r"y must lie in \[0, 1\] .*got -0\.1.* at row 5, column 1",
    ),
    "NaN": (SIGMOID, lambda: rows_with(NAN), ValueError, r"y must be finite, got nan at row 5, column 1"),
    "classes for sigmoid": (
        SIGMOID,
        lambda: good()[1],
        ValueError,
        r"y must have shape \(12, 3\), one column per output unit, got \(12,\)",
    ),
    "inf": (VALUES, lambda: rows_with(INF), ValueError, r"y must be finite, got inf at row 5, column 1"),
    "overflow": (
        VALUES,
        lambda: rows_with(1e39),
        ValueError,
        r"y holds .*1e\+39.* at row 5, column 1, which overflows float32",
    ),
    "two columns": (
        VALUES,
        lambda: rows_with(0)[:, :2],
        ValueError,
        r"y must have 3 columns, one per output unit, got 2",
    ),
    "flat floats": (
        VALUES,
        lambda: np.zeros(ROWS),
        ValueError,
        r"y must have shape \(12, 3\), one column per output unit",
    ),
    "class too large": (VALUES, lambda: y_with(3), ValueError, r"y must hold classes 0\.\.2 .*got 3 at row 5"),
    "three dimensions": (
        VALUES,
        lambda: rows_with(0)[None],
        ValueError,
        r"y must have one or two dimensions, got shape \(1, 12, 3\)",
    ),
}


@together("method", ["fit", "score", "cost_and_gradient", "mean_cost"])
@pytest.mark.parametrize("case", Y_CASES)
def test_bad_y(backend, case, method):
    pair, make, error, match = Y_CASES[case]
    rule = optimizers.Momentum()
    net = fitted(backend, rule, *pair)
    if (case, method) == ("overflow", "score"):  # which takes y in float64, whatever the network's dtype
        assert net.score(good()[0], make()) < 1
        return
    options = {"optimizer": rule, "epochs": 1} if method == "fit" else {}
    refused(net, rule, lambda: getattr(net, method)(good()[0], make(), **options), error, match)


@pytest.mark.parametrize("case", ["too large", "strings", "too few"])
def test_bad_validation_targets_are_named_as_such(backend, case):
    _, make, error, match = Y_CASES[case]
    rule = optimizers.Momentum()
    net = fitted(backend, rule)
    refused(
        net,
        rule,
        lambda: net.fit(*good(), optimizer=rule, validation=(good()[0], make())),
        error,
        match.replace("y must", "validation y must"),
    )


# ---- the other arguments of fit --------------------------------------------------------------------------------

FIT_CASES = [
    ({"batch_size": 13}, ValueError, r"batch_size=13 is larger than the 12 training rows"),
    ({"batch_size": 11, "validation": 0.25}, ValueError, r"batch_size=11 is larger than the 9 training rows"),
    ({"batch_size": 0}, ValueError, r"batch_size must be a positive integer, got 0"),
    ({"batch_size": -4}, ValueError, r"batch_size must be a positive integer, got -4"),
    ({"batch_size": 2.0}, TypeError, r"batch_size must be a positive integer, got 2\.0 \(float\)"),
    ({"batch_size": "32"}, TypeError, r"batch_size must be a positive integer, got '32'"),
    ({"epochs": 0}, ValueError, r"epochs must be a positive integer, got 0"),
    ({"epochs": 1.5}, TypeError, r"epochs must be a positive integer, got 1\.5"),
    ({"epochs": True}, TypeError, r"epochs must be a positive integer, got True"),
    ({"seed": -1}, ValueError, r"seed must be an integer >= 0, got -1"),
    ({"seed": 0.5}, TypeError, r"seed must be an integer >= 0, got 0\.5"),
    ({"validation": 0}, ValueError, r"validation must be a finite number > 0 and < 1, got 0"),
    ({"validation": 1.0}, ValueError, r"validation must be .* < 1, got 1\.0"),
    ({"validation": 0.01}, ValueError, r"validation=0\.01 of 12 rows is 0; at least one row must be left on each side"),
    ({"validation": 0.99}, ValueError, r"validation=0\.99 of 12 rows is 12"),
    ({"validation": "20%"}, TypeError, r"validation must be .*got '20%'"),
    (
        {"validation": [1, 2, 3, 4]},
        TypeError,
        r"validation must be a pair \(X, y\), with weights \(X, y, weights\), or a fraction",
    ),
    (
        {"validation": (np.ones((2, 3)), [0, 1])},
        ValueError,
        r"validation X must have 4 columns, one per input unit, got 3",
    ),
    (
        {"validation": (planted(NAN)[:8], [0] * 8)},
        ValueError,
        r"validation X must be finite, got nan at row 7, column 2",
    ),
    ({"order": np.arange(12)}, TypeError, r"order must be a callable epoch -> row numbers, got ndarray"),
    ({"order": lambda epoch: [0, 12]}, ValueError, r"order\(1\) must give row numbers 0\.\.11, got 0\.\.12"),
    ({"order": lambda epoch: [-1, 3]}, ValueError, r"order\(1\) must give row numbers 0\.\.11, got -1\.\.3"),
    ({"order": lambda epoch: []}, ValueError, r"order\(1\) must give a one-dimensional, non-empty array"),
    ({"order": lambda epoch: [0.0, 1.0]}, ValueError, r"order\(1\) must give .*float64"),
    ({"callbacks": [print, 3]}, TypeError, r"callbacks\[1\] must be callable f\(epoch, history, net\), got int"),
    ({"scale": 0.5}, ValueError, r"scale=0\.5 is for integer data, X is float64"),
    ({"scale": -1}, ValueError, r"scale must be a finite number > 0, got -1"),
    ({"optimizer": "adma"}, ValueError, r"optimizer='adma' is not known; did you mean 'adam'\?"),
    ({"optimizer": "lbfgs++"}, ValueError, r"optimizer='lbfgs\+\+' is not known.*Known: sgd, momentum, adam"),
    ({"optimizer": optimizers.Adam}, TypeError, r"optimizer must be a name or an Optimizer"),
    (
        {"optimizer": "sgd", "learning_rate": 0},
        ValueError,
        r"learning_rate must be a finite number > 0 or a schedule \(fastnn\.schedules\) or .*, got 0",
    ),
    (
        {"optimizer": "sgd", "learning_rate": -0.1},
        ValueError,
        r"learning_rate must be a finite number > 0 or a schedule \(fastnn\.schedules\) or .*, got -0\.1",
    ),
    (
        {"optimizer": "sgd", "learning_rate": NAN},
        ValueError,
        r"learning_rate must be a finite number > 0 or a schedule \(fastnn\.schedules\) or .*, got nan",
    ),
    (
        {"optimizer": "sgd", "learning_rate": "0.1"},
        TypeError,
        r"learning_rate must be a finite number > 0 or a schedule \(fastnn\.schedules\) or .*, got '0\.1' \(str\)",
    ),
]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    FIT_CASES,
    ids=[", ".join(f"{k}={v!r:.20}" for k, v in case[0].items()) for case in FIT_CASES],
)
def test_bad_arguments_of_fit(backend, options, error, match):
    rule = optimizers.Momentum()
    net = fitted(backend, rule)
    refused(net, rule, lambda: net.fit(*good(), **({"optimizer": rule} | options)), error, match)


def test_a_refused_fit_keeps_no_scale(backend):
    """Everything is checked before anything is changed, the order callable's first answer included."""
    rule = optimizers.Momentum()
    net = fitted(backend, rule)
    pixels = np.ones((ROWS, 4), np.uint8)
    refused(
        net,
        rule,
        lambda: net.fit(pixels, good()[1], optimizer=rule, scale=0.5, batch_size=99),
        ValueError,
        "batch_size=99",
    )
    refused(
        net,
        rule,
        lambda: net.fit(pixels, good()[1], optimizer=rule, scale=0.5, order=lambda epoch: [99]),
        ValueError,
        "row numbers",
    )


def test_another_scale_than_before_is_refused():
    net = fastnn.Network(SIZES, backend="numpy")
    net.fit(np.ones((ROWS, 4), np.uint8), good()[1], epochs=1, scale=0.5)
    with pytest.raises(ValueError, match=r"scale=0\.25 differs from 0\.5"):
        net.fit(np.ones((ROWS, 4), np.uint8), good()[1], epochs=1, scale=0.25)


@pytest.mark.parametrize("shuffle", [None, "no", 0, np.arange(ROWS)], ids=["None", "text", "number", "order"])
def test_shuffle_is_true_or_false(shuffle):
    rule = optimizers.Momentum()
    net = fitted("numpy", rule)
    refused(
        net,
        rule,
        lambda: net.fit(*good(), optimizer=rule, shuffle=shuffle),
        TypeError,
        r"shuffle must be True or False, got .*order=f, epoch -> row numbers$",
    )
    net.fit(*good(), optimizer=rule, shuffle=np.bool_(False), epochs=1)


class Tensor:
    """As one of PyTorch that has a gradient."""

    shape = (12, 4)

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


def test_what_another_library_does_not_hand_over_is_named():
    net = fastnn.Network([4, 3], backend="numpy")
    with pytest.raises(
        TypeError, match=r"X, a Tensor, cannot become an array of NumPy: Can't call numpy\(\) on Tensor"
    ):
        net.predict(Tensor())


def test_bytes_seen_as_bool_are_refused(backend):
    """True that is 255: NumPy takes it for 1, who reads the memory for 255."""
    odd = np.where(np.eye(6, 4, dtype=bool), np.uint8(255), np.uint8(0)).view(bool)
    net = fastnn.Network([4, 3, 2], backend=backend)
    with pytest.raises(ValueError, match=r"X holds bool that are neither 0 nor 1.*use `X != 0` for true booleans"):
        net.fit(odd, np.arange(6) % 2)
    net.fit(odd != 0, np.arange(6) % 2, epochs=1)
    for rows in (odd, odd[:1]):
        with pytest.raises(ValueError, match=r"X holds bool that are neither 0 nor 1"):
            net.predict_proba(rows)
    np.testing.assert_array_equal(net.predict(odd != 0), net.predict((odd != 0).astype(net.dtype)))
