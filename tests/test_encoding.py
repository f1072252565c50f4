"""The encoder that a network keeps, beside one cell at a time, scikit-learn's scaling, and tables of other libraries."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest

import fastnn
from fastnn import DataFileError
from fastnn.data import encoding
from fastnn.prediction import predict_table

NAMES = {"city": ["Oslo", "Rome"], "code": ["007", "010", "100"], "flag": ["false", "true"]}
NUMBERS = ["a", "b", "c"]
COLUMNS = ["a", "city", "b", "code", "flag", "c"]


def network(missing=True):
    rng = np.random.default_rng(0)
    inputs = len(NUMBERS) + sum(map(len, NAMES.values()))
    net = fastnn.Network([inputs, 1], output="identity", cost="squared_error", dtype="float64", backend="numpy", seed=0)
    net.preprocessing = {
        "version": 1, "kind": "table", "task": "regression", "target": "y", "columns": COLUMNS, "classes": None,
        "categories": NAMES, "feature_mean": rng.normal(size=inputs).tolist(),
        "feature_factor": rng.random(inputs).tolist(), "target_mean": 3.0, "target_std": 2.0,
    } | ({"missing": "mean"} if missing else {})  # fmt: skip
    return net


def category(column, cell):
    """Which one a cell of Python means."""
    if column == "flag" and str(cell).lower() in ("true", "false"):
        return str(cell).lower()
    if column == "code":
        for name in NAMES["code"]:
            try:
                if float(cell) == float(name):
                    return name
            except (TypeError, ValueError):
                pass
    return cell


def expected(net, rows):
    """The answers, one cell after another."""
    known, answers = net.preprocessing, []
    W, b = net.weights[0], net.biases[0]
    for row in rows:
        x = []
        for column in COLUMNS:
            if column in NAMES:
                x += [float(category(column, row[column]) == name) for name in NAMES[column]]
            else:
                gone = row[column] is None or row[column] == "NA" or float(row[column]) != float(row[column])
                x.append(math.nan if gone else float(row[column]))
        z = [
            0.0 if v != v else (v - m) * f
            for v, m, f in zip(x, known["feature_mean"], known["feature_factor"], strict=True)
        ]
        answers.append(float((np.asarray(W) @ z + np.asarray(b)).item()) * 2 + 3)
    return answers


def rows_of(rng, count, cells):
    return [{column: cells[column][rng.integers(len(cells[column]))] for column in COLUMNS} for _ in range(count)]


MIXED = {
    "a": [1.5, -2, "3.25", None, "NA", math.nan],
    "b": [0.25, 7],
    "c": [np.float32(0.5), np.int64(9), 1e3],
    "city": ["Oslo", "Rome", "Bonn", None, ""],
    "code": ["007", "7", 7, 7.0, 100, "010", "10.0", "0100", 55],
    "flag": [True, False, "true", "FALSE", "maybe"],
}


@pytest.mark.parametrize("count", [1, 30, 250])
def test_rows_of_mixed_cells_are_what_each_cell_is(count):
    net, rng = network(), np.random.default_rng(count)
    for _ in range(40 if count == 1 else 3):
        rows = rows_of(rng, count, MIXED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fastnn.UnknownCategory)
            found = predict_table(net, rows)
            np.testing.assert_allclose(found.answers, expected(net, rows), rtol=1e-12)
            for column in NAMES:
                unknown = [row[column] for row in rows if row[column] not in (None, "")]
                unknown = [cell for cell in unknown if category(column, cell) not in NAMES[column]]
                notes = [note for note in found.notes if f"column {column!r}" in note]
                assert [int(note.split(" ")[0]) for note in notes] == ([len(unknown)] if unknown else [])
            by_column = {column: [row[column] for row in rows] for column in COLUMNS if column not in ("a", "c")}
            by_column |= {name: np.array([row[name] for row in rows], object) for name in ("a", "c")}
            assert predict_table(net, by_column).answers == found.answers


@pytest.mark.parametrize("library", ["pandas", "nullable", "categorical", "polars"])
def test_tables_of_other_libraries(library):
    frames = pytest.importorskip("polars" if library == "polars" else "pandas")
    net, rng = network(), np.random.default_rng(3)
    rows = rows_of(rng, 200, {"a": [1.5, None, -2.0], "b": [0.25, 7.0], "c": [1.0, 2.0], "city": ["Oslo", "Rome", None],
                              "code": [7, 10, 100], "flag": [True, False]})  # fmt: skip
    frame = frames.DataFrame(rows)
    if library == "nullable":
        frame = frame.convert_dtypes()
        assert str(frame["code"].dtype) == "Int64"
    if library == "categorical":
        frame = frame.astype({"city": "category", "code": "category"})
    np.testing.assert_allclose(predict_table(net, frame).answers, expected(net, rows), rtol=1e-12)
    np.testing.assert_allclose(predict_table(net, frame[:1]).answers, expected(net, rows[:1]), rtol=1e-12)


def test_an_encoder_is_kept_until_the_preprocessing_changes(monkeypatch):
    made = []
    original = encoding.Encoder.__init__
    monkeypatch.setattr(encoding.Encoder, "__init__", lambda self, *a, **k: made.append(1) or original(self, *a, **k))
    net = network()
    net.preprocessing = copy.deepcopy(net.preprocessing)
    row = {"a": 1.0, "b": 2.0, "c": 3.0, "city": "Oslo", "code": 7, "flag": True}
    for change, anew in (
        (lambda known: None, True),  # the first time
        (lambda known: known["feature_mean"].__setitem__(0, 5.0), True),
        (lambda known: known["categories"]["city"].reverse(), True),
        (lambda known: known.pop("missing"), True),
        (lambda known: known.__setitem__("target_mean", 3.0), False),  # as before
    ):
        change(net.preprocessing)
        made.clear()
        answer = predict_table(net, row).answers
        assert predict_table(net, row).answers == answer
        assert len(made) == anew
        fresh = network()
        fresh.preprocessing = copy.deepcopy(net.preprocessing)
        assert predict_table(fresh, row).answers == answer
    with pytest.raises(DataFileError, match="row 1, column 'a': missing value"):
        predict_table(net, {**row, "a": None})  # since "missing" went
    net.preprocessing["columns"] = ["a"]
    with pytest.raises(fastnn.ModelFileError, match="columns"):
        predict_table(net, row)


def test_a_number_that_the_dtype_does_not_hold_is_named():
    net = network()
    rows = [{"a": 1.0, "b": 2.0, "c": 3.0, "city": "Oslo", "code": 7, "flag": True}] * 2
    narrow = fastnn.Network(net.sizes, output="identity", cost="squared_error", dtype="float32", backend="numpy")
    narrow.preprocessing = net.preprocessing
    for many in (1, 60):
        with pytest.raises(DataFileError, match=rf"row {2 * many}, column 'b': the value is too large for float32"):
            predict_table(narrow, [*(rows * many)[:-1], {**rows[0], "b": 1e300}])


def test_one_value_beside_columns_of_more_is_refused():
    table = {"a": [1.0, 2.0], "b": [1.0], "c": [1.0, 2.0], "city": ["Oslo"] * 2, "code": [7, 7], "flag": [True] * 2}
    with pytest.raises(DataFileError, match=r"column 'b' must be one value per row, got shape \(1,\)"):
        predict_table(network(), table)
