"""Columns of categories, missing cells, columns left out, test rows of their own: read, encoded, repeated in prediction."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import fastnn
from fastnn import DataFileError
from fastnn.data import preprocessing, tables
from fastnn.data.columns import Reading
from fastnn.data.dataset import deal
from fastnn.data.features import encoded, feature_names, from_arrays
from fastnn.prediction import predict_file, predict_table

CITIES = ["Oslo", "Paris", "Rome"]


def people(rows=60, seed=0, cities=CITIES):
    rng = np.random.default_rng(seed)
    return {
        "age": rng.integers(18, 80, rows).astype(float),
        "city": np.array(cities)[rng.integers(0, len(cities), rows)],
        "zip": rng.integers(1, 4, rows) * 1000,
    }


def written(path, columns, **more):
    columns = {**columns, **more}
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def income(columns):
    worth = {"Oslo": 8000.0, "Paris": 5000.0, "Rome": 2000.0}
    return columns["age"] * 100 + np.array([worth.get(city, 0.0) for city in columns["city"]])


def test_text_becomes_an_input_for_each_name_as_scikit_learn_has_it(tmp_path):
    columns = people()
    path = written(tmp_path / "t.csv", columns, income=income(columns))
    data = tables.load(path, "income", choice=tables.Choice(categorical=("zip",)))
    assert data.preprocessing["columns"] == ["age", "city", "zip"]
    assert data.preprocessing["categories"] == {"city": CITIES, "zip": ["1000", "2000", "3000"]}
    assert any("columns of categories: 'city' (3), 'zip' (3)" in note for note in data.notes)
    table = np.column_stack([columns["city"], columns["zip"].astype(str)])
    expected = OneHotEncoder(sparse_output=False).fit_transform(table)
    np.testing.assert_array_equal(data.X, np.column_stack([columns["age"], expected]))
    parts = deal(data, validation=0.0, seed=0)
    rows = np.concatenate([parts.train[0], parts.test[0]])
    assert rows.shape == (60, 7)
    scaler = StandardScaler().fit(parts.train[0])
    np.testing.assert_allclose(scaler.mean_, 0, atol=1e-12)
    np.testing.assert_allclose(scaler.scale_, 1, rtol=1e-12)
    assert feature_names(["age", "city"], {"city": CITIES}) == ["age", "city=Oslo", "city=Paris", "city=Rome"]


def test_a_slip_in_a_column_of_numbers_stays_an_error(tmp_path):
    columns = people()
    cells = [*columns["zip"][:-1].astype(str), "200O"]
    path = written(tmp_path / "t.csv", {**columns, "zip": cells}, y=np.arange(60) % 2)
    with pytest.raises(
        DataFileError, match=r"row 60 .*'zip': text '200O' .*; if these are categories: --categorical zip"
    ):
        tables.load(path, "y")
    assert (
        "200O" in tables.load(path, "y", choice=tables.Choice(categorical=("zip",))).preprocessing["categories"]["zip"]
    )


def test_a_column_that_turns_to_text_far_down_is_read_again_from_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr("fastnn.data.csv_file.BLOCK", 10)
    cells = ["007"] * 20 + ["a"] * 20
    path = written(tmp_path / "t.csv", {"code": cells, "x": np.arange(40)}, y=np.arange(40) % 2)
    assert tables.load(path, "y").preprocessing["categories"] == {"code": ["007", "a"]}


def test_texts_that_tell_rows_apart_are_refused(tmp_path):
    path = written(tmp_path / "t.csv", {"id": [f"p{i}" for i in range(60)], **people()}, y=np.arange(60) % 2)
    with pytest.raises(DataFileError, match=r"'id' holds 60 different texts in 60 rows .*leave it out: --drop id"):
        tables.load(path, "y")
    data = tables.load(path, "y", choice=tables.Choice(drop=("id", "-2")))
    assert data.preprocessing["columns"] == ["age", "city"]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"drop": ("agee",)}, "has no column 'agee'; did you mean 'age'"),
        ({"drop": ("y",)}, "column 'y' is to be dropped, and is the target"),
        (
            {"drop": ("age",), "categorical": ("age",)},
            "column 'age' is to be dropped, and is the target or categorical",
        ),
        ({"categorical": ("y",)}, "column 'y' is the target; --task classification"),
        ({"categorical": ("town",)}, "has no column 'town'"),
        ({"drop": ("age", "city", "zip")}, "has no column besides the target 'y'"),
    ],
)
def test_choices_that_do_not_fit_are_refused(tmp_path, choice, words):
    path = written(tmp_path / "t.csv", people(), y=np.arange(60) % 2)
    with pytest.raises(DataFileError, match=words):
        tables.load(path, "y", choice=tables.Choice(**choice))


def test_missing_cells_are_refused_or_taken_for_the_mean(tmp_path):
    columns = people()
    age, city = columns["age"].astype(object), columns["city"].astype(object)
    age[[3, 9]], city[5] = ["", "NA"], "?"
    path = written(tmp_path / "t.csv", {**columns, "age": age, "city": city}, income=income(columns))
    with pytest.raises(DataFileError, match=r"row 4 .*'age': missing value \(empty\); --missing mean takes the mean"):
        tables.load(path, "income")
    data = tables.load(path, "income", choice=tables.Choice(missing="mean"))
    assert any("3 missing cells" in note and "'age' (2), 'city' (1)" in note for note in data.notes)
    assert np.isnan(data.X[[3, 9], 0]).all()
    assert data.X[5, 1:4].sum() == 0
    parts = deal(data, validation=0.0, seed=0)
    train = np.isnan(data.X).any(axis=1)
    known = parts.preprocessing
    scaled = preprocessing.scale_features(known, data.X)
    assert (scaled[train, 0] == 0).all(), "the mean"
    expected = np.nanmean(data.X, axis=0)[0]
    assert known["feature_mean"][0] == pytest.approx(expected, rel=0.1)
    with pytest.raises(ValueError, match="missing='median' is not known"):
        tables.load(path, "income", choice=tables.Choice(missing="median"))


def test_a_column_without_any_value(tmp_path):
    path = written(tmp_path / "t.csv", {"x": np.arange(9), "gone": [""] * 9}, y=np.arange(9) * 1.5)
    data = tables.load(path, "y", choice=tables.Choice(missing="mean"))
    parts = deal(data, validation=0.0, seed=0)
    assert any("'gone'" in note and "without influence" in note for note in data.notes)
    assert np.isfinite(parts.train[0]).all()


def trained(tmp_path, cli=None, **columns):
    table = people(200)
    path = written(tmp_path / "people.csv", {**table, **columns}, income=income(table))
    data = tables.load(path, "income", choice=tables.Choice(categorical=("zip",), missing="mean"))
    parts = deal(data, validation=0.0, seed=0)
    net = fastnn.Network([7, 1], output="identity", cost="squared_error", dtype="float64", backend="numpy")
    net.preprocessing = parts.preprocessing
    net.fit(*parts.train, optimizer="sgd", learning_rate=0.1, epochs=300, batch_size=32)
    net.save(tmp_path / "people.safetensors")
    return fastnn.load(tmp_path / "people.safetensors", backend="numpy")


def test_predictions_repeat_categories_and_missing_cells(tmp_path):
    net, new = trained(tmp_path), people(30, seed=5)
    path = written(tmp_path / "new.csv", dict(reversed(new.items())))
    answers = predict_file(net, path).answers
    np.testing.assert_allclose(answers, income(new), rtol=0.01)
    rows = [{name: np.asarray(new[name])[i].item() for name in new} for i in range(len(answers))]
    assert predict_table(net, rows).answers == answers, "as a web service has them"
    assert predict_table(net, rows[1]).answers == answers[1:2]
    lacking = [rows[0], {name: value for name, value in rows[1].items() if name != "age"}]
    with pytest.raises(DataFileError, match="row 2 has no 'age', which the model needs"):
        predict_table(net, lacking)
    assert predict_table(net, new).answers == answers
    assert (
        predict_table(net, {**new, "zip": [str(v) for v in new["zip"]], "age": new["age"].tolist()}).answers == answers
    )
    new["city"] = new["city"].astype(object)
    new["city"][0], new["city"][1], new["age"][2] = "Bern", None, np.nan
    with pytest.warns(fastnn.UnknownCategory, match="column 'city' that did not occur in training"):
        found = predict_table(net, new)
    assert found.answers[3:] == answers[3:]
    assert len(found.notes) == 1
    assert "1 row with a value of column 'city' that did not occur in training ('Bern')" in found.notes[0]
    mean = net.preprocessing["feature_mean"][0]
    assert found.answers[2] == pytest.approx(answers[2] + 100 * (mean - people(30, seed=5)["age"][2]), rel=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"age": None}, "column 'age', which the model needs, is missing"),
        ({"age": np.ones(29)}, r"column 'city' must be one value per row, got shape \(30,\)"),
        ({"age": np.ones((30, 1))}, r"column 'age' must be one value per row, got shape \(30, 1\)"),
        ({"age": ["x"] * 30}, "row 1, column 'age': text 'x' where a number is expected"),
        ({"age": np.r_[np.ones(29), np.inf]}, "row 30, column 'age': inf is not a finite number"),
    ],
)
def test_tables_in_memory_that_do_not_fit_are_refused(tmp_path, change, words):
    net, new = trained(tmp_path), people(30)
    new = {name: values for name, values in {**new, **change}.items() if values is not None}
    with pytest.raises(DataFileError, match=words):
        predict_table(net, new)


def test_missing_cells_are_refused_by_a_model_that_never_saw_any(tmp_path):
    columns = people()
    data = tables.load(written(tmp_path / "t.csv", columns, income=income(columns)), "income")
    parts = deal(data, validation=0.0, seed=0)
    net = fastnn.Network([5, 1], output="identity", cost="squared_error", backend="numpy")
    net.preprocessing = parts.preprocessing
    for column, cells in (("age", [1.0] * 59 + [np.nan]), ("city", ["Rome"] * 59 + [""])):
        with pytest.raises(DataFileError, match=rf"row 60, column '{column}': (missing value|nan is not)"):
            predict_table(net, {**columns, column: cells})
        with pytest.raises(DataFileError, match=rf"row 60 .*column '{column}': missing value"):
            predict_file(net, written(tmp_path / "new.csv", {**columns, column: [*cells[:-1], ""]}))
    with pytest.raises(fastnn.ModelFileError, match="not trained by `fastnn train`"):
        predict_table(fastnn.Network([2, 2]), columns)


def test_test_rows_of_their_own(tmp_path):
    columns, other = people(80), people(20, seed=9)
    path = written(tmp_path / "t.csv", columns, kind=np.where(columns["age"] > 50, "old", "young"))
    data = tables.load(path, "kind")
    file = written(
        tmp_path / "test.csv", dict(reversed(other.items())), kind=np.where(other["age"] > 50, "old", "young")
    )
    data.test = tables.load_test(file, data.preprocessing, data.notes)
    np.testing.assert_array_equal(data.test[0][:, 0], other["age"])
    np.testing.assert_array_equal(data.test[1], (other["age"] <= 50).astype(int))
    parts = deal(data, validation=0.0, seed=0)
    assert (len(parts.train[1]), len(parts.test[1])) == (80, 20)
    for bad, words in (
        ({"kind": ["old"] * 19 + ["middle"]}, r"row 20 .*column 'kind': class 'middle' does not occur in the training"),
        ({"sort": ["old"] * 20}, "has no column 'kind', the target"),
    ):
        with pytest.raises(DataFileError, match=words):
            tables.load_test(written(tmp_path / "test.csv", other, **bad), data.preprocessing, [])
    # classes that are numbers, and names made of digits
    for cells, classes in ((np.arange(80) % 2 * 3, [0, 3]), ([f"00{i % 2}" for i in range(80)], ["000", "001"])):
        data = tables.load(written(tmp_path / "t.csv", columns, kind=cells), "kind")
        assert data.classes == classes
        _, codes = tables.load_test(written(tmp_path / "test.csv", other, kind=cells[:20]), data.preprocessing, [])
        np.testing.assert_array_equal(codes, np.arange(20) % 2)


def test_arrays_of_text_in_npz_are_categories(tmp_path):
    columns = people()
    np.savez(tmp_path / "t.npz", y=np.arange(60) % 2, **columns)
    data = tables.load(tmp_path / "t.npz", "y")
    assert data.preprocessing["categories"] == {"city": CITIES}
    as_csv = tables.load(written(tmp_path / "t.csv", columns, y=np.arange(60) % 2), "y")
    np.testing.assert_array_equal(
        data.X, as_csv.X[:, [0, 1, 2, 3, 4]] if list(columns) == ["age", "city", "zip"] else 0
    )
    columns["age"][7] = np.nan
    np.savez(tmp_path / "t.npz", y=np.arange(60) % 2, **columns)
    with pytest.raises(DataFileError, match=r"row 7 .*column 'age': nan is not a finite number"):
        tables.load(tmp_path / "t.npz", "y")
    assert np.isnan(tables.load(tmp_path / "t.npz", "y", choice=tables.Choice(missing="mean")).X[7, 0])


def test_a_name_that_is_none_of_them_is_zero_everywhere():
    X = encoded({"c": ["a", "z", ""]}, ["c"], {"c": ["a", "b"]}, notes := [])
    assert X.tolist() == [[1, 0], [0, 0], [0, 0]]
    assert len(notes) == 1


def test_what_is_kept_is_plain_json(tmp_path):
    net = trained(tmp_path)
    assert json.loads(json.dumps(net.preprocessing)) == net.preprocessing


def test_rows_that_are_not_scaled_are_warned_of_once(tmp_path):
    """They would be answered without a word as if they were."""
    net = trained(tmp_path)
    with pytest.warns(fastnn.UnscaledInput, match=r"takes rows that are scaled; fastnn\.prediction\.predict_table"):
        net.predict(np.zeros((1, 7)))
    net.predict(np.zeros((1, 7)))
    images = fastnn.Network([4, 2])
    images.preprocessing = {"kind": "images"}
    images.predict(np.zeros((1, 4)))


def test_what_a_column_holds_is_decided_by_all_of_it(tmp_path, monkeypatch):
    """A slip in a short last block, where it is half of what there is, does not make names of numbers."""
    monkeypatch.setattr("fastnn.data.csv_file.BLOCK", 20)
    for last in (["TOTAL"], ["TOTAL", "5"]):
        path = written(
            tmp_path / "t.csv", {"grade": [*(i % 10 for i in range(40)), *last]}, y=np.arange(40 + len(last))
        )
        with pytest.raises(DataFileError, match=r"row 41 .*'grade': text 'TOTAL' where a number is expected"):
            tables.load(path, "y")
    cells = ["1", "", *["a"] * 18, *["2"] * 20, *["b"] * 3]  # 21 of 42
    path = written(tmp_path / "t.csv", {"x": cells}, y=np.arange(43) * 0.5)
    found = tables.load(path, "y", choice=tables.Choice(missing="mean"))
    assert found.preprocessing["categories"] == {"x": ["1", "2", "a", "b"]}


def test_words_for_nothing_are_names_where_that_is_said(tmp_path):
    cells = ["none", "mild", "?", "severe"] * 5
    path = written(tmp_path / "t.csv", {"pain": cells}, y=np.arange(20) * 0.5)
    with pytest.raises(
        DataFileError, match=r"'pain': missing value \('none'\); --missing mean takes the mean for it \(none of the"
    ):
        tables.load(path, "y")
    data = tables.load(path, "y", choice=tables.Choice(categorical=("pain",)))
    assert data.preprocessing["categories"] == {"pain": ["?", "mild", "none", "severe"]}
    X, _ = tables.read_columns(path, data.preprocessing, notes := [])
    np.testing.assert_array_equal(X, data.X)
    assert notes == []
    with pytest.raises(DataFileError, match="has no column '0'"):
        tables.load(path, "y", choice=tables.Choice(categorical=("0",)))


class NAType:
    """As pandas has it: neither equal nor different, and neither true nor false."""

    def __eq__(self, other):
        return self

    def __ne__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None


def test_cells_as_pandas_has_them(tmp_path):
    """Whole numbers beside a missing one are floats there, and what is missing may be NA."""
    net, new = trained(tmp_path), people(6, seed=5)
    expected = predict_table(net, new).answers
    zips = [float(v) for v in new["zip"]]
    assert predict_table(net, {**new, "zip": zips}).answers == expected
    assert predict_table(net, {**new, "city": [city.encode() for city in new["city"]]}).answers == expected
    gone = NAType()
    found = predict_table(net, {**new, "zip": [*zips[:5], gone], "age": [*new["age"][:4].tolist(), gone, 30.0]})
    assert found.notes == []
    assert found.answers[:4] == expected[:4]
    np.savez(tmp_path / "t.npz", y=np.arange(60.0), zip=people()["zip"].astype(float))
    data = tables.load(tmp_path / "t.npz", "y", choice=tables.Choice(categorical=("zip",)))
    assert data.preprocessing["categories"] == {"zip": ["1000", "2000", "3000"]}


def test_test_rows_of_a_regression_that_are_text_are_named(tmp_path):
    columns = people()
    data = tables.load(written(tmp_path / "t.csv", columns, income=income(columns)), "income")
    path = written(tmp_path / "test.csv", columns, income=["abc"] * 60)
    with pytest.raises(DataFileError, match=r"row 1 .*'income': text 'abc', but regression needs numbers"):
        tables.load_test(path, data.preprocessing, [])


def spelled(tmp_path, rows=120):
    """A model of a truth value, a version and a number with leading zeros, none of which comes through pandas as it is
    written."""
    rng = np.random.default_rng(0)
    flags, versions, codes = (
        np.array(names)[rng.integers(0, len(names), rows)]
        for names in (["true", "false"], ["1.10", "1.2", "2.0"], ["007", "010", "100"])
    )
    answers = np.where((flags == "true") ^ (versions == "1.10"), "yes", "no")
    path = written(tmp_path / "s.csv", {"flag": flags, "version": versions, "code": codes, "y": answers})
    data = tables.load(path, "y", choice=tables.Choice(categorical=("version", "code")))
    parts = deal(data, validation=0.0, seed=0)
    net = fastnn.Network([data.X.shape[1], 8, 2], seed=0, backend="numpy")
    net.fit(*parts.train, epochs=200, batch_size=16, learning_rate=0.01)
    net.preprocessing = parts.preprocessing
    return net, path, {"flag": flags, "version": versions, "code": codes}


def test_names_are_known_however_a_reader_of_tables_spells_them(tmp_path):
    net, path, columns = spelled(tmp_path)
    answers = predict_file(net, path).answers
    assert len(set(answers)) == 2
    read = {
        "flag": columns["flag"] == "true",
        "version": columns["version"].astype(float),
        "code": columns["code"].astype(int),
    }
    halves = {**columns, "code": [f"{int(code)}.0" for code in columns["code"]]}  # beside a missing one they are floats
    shouted = {**columns, "flag": np.char.upper(columns["flag"])}
    for table in (
        columns,
        read,
        shouted,
        halves,
        [dict(zip(read, row, strict=True)) for row in zip(*read.values(), strict=True)],
    ):
        found = predict_table(net, table)
        assert (found.answers, found.notes) == (answers, [])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_table_that_was_read_by_a_library_is_that_of_the_file(tmp_path, library):
    read = pytest.importorskip(library).read_csv
    net, path, _ = spelled(tmp_path)
    found = predict_table(net, read(path))
    assert found.answers == predict_file(net, path).answers


def test_names_that_could_mean_two_are_taken_as_they_are_written(tmp_path):
    places = {"1.0": 0, "1": 1, "2": 2}  # 1.0 and 1 would be one number
    assert encoded({"c": ["2_0"]}, ["c"], {"c": ["20", "3"]}, []).tolist() == [[0, 0]]
    X = encoded({"c": ["1.0", "1", "1.00", "2.0"]}, ["c"], {"c": list(places)}, notes := [])
    np.testing.assert_array_equal(X, [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert "2 rows with a value of column 'c' that did not occur in training ('1.00', '2.0')" in notes[0]


def test_unknown_names_are_warned_of_where_nobody_reads_notes(tmp_path):
    net, _, columns = spelled(tmp_path)
    strange = written(tmp_path / "n.csv", {**columns, "flag": ["maybe"] * 120})
    with pytest.warns(fastnn.UnknownCategory, match=r"120 rows with a value of column 'flag' .*\('maybe'\)"):
        predict_file(net, strange)
    with pytest.warns(fastnn.UnknownCategory, match="1 row with"):
        predict_table(net, {"flag": "maybe", "version": 1.1, "code": 7})


@pytest.mark.parametrize("kind", ["datetime64[ns]", "timedelta64[s]"])
def test_times_are_no_numbers(tmp_path, kind):
    net = trained(tmp_path)
    table = {**people(30), "age": np.arange(30).astype(kind)}
    with pytest.raises(DataFileError, match=r"column 'age' holds times \(.*\), where the training had numbers"):
        predict_table(net, table)


def test_one_column_to_keep_is_a_sequence_of_one(tmp_path):
    net, path, _ = spelled(tmp_path)
    with pytest.raises(TypeError, match=r"keep must be a sequence of columns, got 'flag'; for one give \['flag'\]"):
        predict_file(net, path, keep="flag")


def test_a_float_that_several_integers_round_to_is_none_of_the_categories(tmp_path):
    accounts = [10**18 + i for i in (1, 200, 400)]  # float64 rounds the first to 10**18
    path = written(tmp_path / "t.csv", {"acct": [accounts[i % 3] for i in range(60)]}, y=np.arange(60) % 3 * 1.5)
    names = tables.load(path, "y", choice=tables.Choice(categorical=("acct",))).preprocessing["categories"]
    places = np.eye(3)
    for given in (accounts, np.array(accounts), [f"{name}" for name in accounts], [f"0{name}" for name in accounts]):
        columns = from_arrays({"acct": given}, ["acct"], Reading(frozenset(names)))
        np.testing.assert_array_equal(encoded(columns, ["acct"], names, notes := []), places)
        assert notes == []
    rounded = from_arrays({"acct": np.array(accounts, np.float64)}, ["acct"], Reading(frozenset(names)))
    np.testing.assert_array_equal(encoded(rounded, ["acct"], names, notes := []), np.zeros((3, 3)))
    assert "3 rows with a value of column 'acct' that did not occur in training ('1.0000000000000003e+18', " in notes[0]
    written_out = encoded({"acct": ["1000000000000000001.0"]}, ["acct"], names, [])
    np.testing.assert_array_equal(written_out, np.zeros((1, 3)))
