"""Tables: what is read, what is guessed and said, what is refused with row and column, and the scaling."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastnn import DataFileError, ModelFileError
from fastnn.data import columns, digits, features, preprocessing, tables
from fastnn.data.dataset import deal

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def csv_file(tmp_path, text, name="t.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def numeric_table(tmp_path, rows=60, target=lambda i: i % 3, name="t.csv"):
    rng = np.random.default_rng(1)
    lines = [f"{a:.4f},{b:.4f},{target(i)}" for i, (a, b) in enumerate(rng.normal(size=(rows, 2)))]
    return csv_file(tmp_path, "\n".join(["a,b,y", *lines]) + "\n", name)


# ---- reading ----------------------------------------------------------------------------------------


def test_text_targets_become_sorted_classes(tmp_path):
    path = csv_file(tmp_path, "x,kind,z\n1.5,setosa,2\n-3,virginica ,4e2\n0,setosa,.5\n")
    data = tables.load(path, "kind")
    np.testing.assert_array_equal(data.X, [[1.5, 2], [-3, 400], [0, 0.5]])
    assert data.classes == ["setosa", "virginica"]
    assert data.y.tolist() == [0, 1, 0]
    assert data.preprocessing["columns"] == ["x", "z"]
    assert any("classification, guessed" in note for note in data.notes)


@pytest.mark.parametrize(("target", "task"), [
    (lambda i: i % 3, "classification"),
    (lambda i: i % 2, "classification"),
    (lambda i: i, "regression"),
    (lambda i: i % 21, "regression"),
    (lambda i: i % 15, "regression"),  # 60 rows: 4 of each
    (lambda i: i + 0.5, "regression"),
    (lambda i: "ab"[i % 2], "classification"),
])  # fmt: skip
def test_the_task_is_guessed_and_said(tmp_path, target, task):
    data = tables.load(numeric_table(tmp_path, target=target), "y")
    assert data.task == task
    assert any(f"task: {task}, guessed" in note for note in data.notes)


def test_the_task_given_is_taken_without_a_remark(tmp_path):
    data = tables.load(numeric_table(tmp_path), "y", task="regression")
    assert data.task == "regression"
    assert data.classes is None
    assert data.notes == []
    assert tables.load(numeric_table(tmp_path, target=lambda i: (i % 2) / 2), "y", task="classification").classes == [
        0,
        0.5,
    ]
    with pytest.raises(ValueError, match="did you mean 'regression'"):
        tables.load(numeric_table(tmp_path), "y", task="regresion")


def test_target_by_position(tmp_path):
    for target in ("2", "-1"):
        data = tables.load(numeric_table(tmp_path), target)
        assert data.preprocessing["target"] == "y"
        assert any("'y', at position" in note for note in data.notes)


def test_separators_quotes_and_a_byte_order_mark(tmp_path):
    data = tables.load(csv_file(tmp_path, "a;b;y\r\n1;2;0\r\n3;4;1\r\n", encoding="utf-8-sig"), "y")
    assert data.X.tolist() == [[1, 2], [3, 4]]
    assert any("semicolons" in note for note in data.notes)
    data = tables.load(csv_file(tmp_path, 'a,"b, wide",y\n1, 2,"x, y"\n\n3,4,z\n'), "y")
    assert data.preprocessing["columns"] == ["a", "b, wide"]
    assert data.classes == ["x, y", "z"]


def test_more_rows_than_a_block(tmp_path):
    path = csv_file(tmp_path, "a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(25_001)))
    data = tables.load(path, "y")
    np.testing.assert_array_equal(data.X[:, 0], np.arange(25_001))
    path.write_text(path.read_text() + "x,1\n")
    refused(path, r"row 25002 \(line 25003\), column 'a'")


# ---- refusals ---------------------------------------------------------------------------------------


def refused(path, match, target="y", task=None):
    with pytest.raises(DataFileError, match=match) as caught:
        tables.load(path, target, task=task)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "match"), [
    ("", "is empty; a header"),
    ("\n\n", "is empty; a header"),
    ("a,b,y\n", "a header but no rows"),
    ("a,a,y\n1,2,3\n", "two columns are called 'a'"),
    ("a,,y\n1,2,3\n", "column 2 of the header has no name"),
    ("5.1,3.5,setosa\n4.9,3,setosa\n", "looks like data"),
    ("1,2,7,y\n4.9,3,1,1\n", "looks like data"),
    ("a,b,y\n1,2,0\n1,2\n", "line 3 has 2 fields, the header has 3"),
    ("a,b,y\n1,2,0,4\n", "line 2 has 4 fields"),
    ("a,b,y\n1,2,0\n1,,0\n", r"row 2 \(line 3\), column 'b': missing value \(empty\)"),
    ("a,b,y\n1,2,0\n1,NA,0\n", r"column 'b': missing value \('NA'\)"),
    ("a,b,y\n\n\n1,NaN,0\n", r"row 1 \(line 4\), column 'b': missing value"),
    ("a,b,y\n1,2,0\n3,4,1\nred,2,0\n", r"column 'a': text 'red' where a number is expected; if these are"),
    ("a,b,y\n1,2,0\n1,x,0\nx,2,0\n", r"row 2 \(line 3\), column 'b'"),
    ("a,b,y\n1,2,0\n3,4,1\n1_000,2,0\n", "text '1_000'"),
    ("a,b,y\n1,inf,0\n", "inf is not a finite number"),
    ("a,b,y\n1,1e999,0\n", "1e999 is not a finite number"),
    ("a,b,y\n1,2,\n", r"column 'y': missing value \(empty\) in the target"),
    ("a,b,y\n1,2,0\n1,2,1\n3,4,one\n", r"row 3 .*'y': text 'one' where a number is expected; if these are classes"),
    ("a,b,y\n1,2,0\n1,2,1\n3,4,inf\n", r"row 3 .*'y': inf is not a finite"),
    ("a,b,y\n1,2,k\n1,3,k\n", r"same value in every row \(k\)"),
    ("a,b,y\n1,2,0\n", r"same value in every row \(0\)"),
    ("y\n1\n2\n", "no column besides the target"),
    ("a,b,kind\n1,2,3\n", "has no column 'y'. Columns: a, b, kind"),
    ('a,b,y\n1,2,"0\n', "not a CSV file"),
])  # fmt: skip
def test_bad_csv(tmp_path, text, match):
    refused(csv_file(tmp_path, text), match)


def test_the_nearest_column_is_suggested(tmp_path):
    refused(csv_file(tmp_path, "a,b,species\n1,2,x\n"), "did you mean 'species'", target="specie")
    refused(csv_file(tmp_path, "a,b,y\n1,2,x\n"), "has no column '7'", target="7")


def test_files_that_are_no_tables(tmp_path):
    refused(tmp_path / "none.csv", "no such file")
    refused(tmp_path / "none.npz", "no such file")
    refused(tmp_path / "table.xlsx", "ends in .csv, .tsv or .npz")
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "folder.csv", "is a folder")
    refused(csv_file(tmp_path, "a,b,y\n1,2,é\n", encoding="latin-1"), "not UTF-8 text.*0xE9")
    refused(csv_file(tmp_path, "a,b,y\n1,2,3\n", encoding="utf-16"), "not UTF-8 text")
    refused(csv_file(tmp_path, "a,b,y\n1,2,z\n3,4,w\n"), "text 'z', but regression needs numbers", task="regression")


@QUICK
@given(content=st.binary(max_size=120), ending=st.sampled_from([".csv", ".npz"]))
def test_any_bytes_are_a_table_or_a_data_file_error(tmp_path, content, ending):
    path = tmp_path / f"t{ending}"
    path.write_bytes(content)
    with pytest.raises(DataFileError):
        tables.load(path, "a column nobody has")


# ---- npz --------------------------------------------------------------------------------------------


def npz_file(tmp_path, **arrays):
    np.savez(tmp_path / "t.npz", **arrays)
    return tmp_path / "t.npz"


def test_npz_arrays_become_columns(tmp_path):
    path = npz_file(tmp_path, X=np.arange(12).reshape(6, 2), age=np.arange(6.0), y=np.array(["a", "b"] * 3))
    data = tables.load(path, "y")
    assert data.preprocessing["columns"] == ["X[0]", "X[1]", "age"]
    assert data.X[2].tolist() == [4, 5, 2]
    assert data.classes == ["a", "b"]
    assert (
        tables.load(npz_file(tmp_path, X=np.ones((4, 2)), y=np.array([[0.5], [1.5], [2.5], [3.5]])), "y").task
        == "regression"
    )
    assert tables.load(npz_file(tmp_path, X=np.ones((4, 2)), y=np.array([b"u", b"v"] * 2)), "y").classes == ["u", "v"]


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(("arrays", "match"), [
    ({"X": np.ones((4, 2)), "y": np.arange(3)}, r"array 'y' does not have one entry per row .*X \(4, 2\), y \(3,\)"),
    ({"X": np.ones((4, 2)), "y": np.float64(3)}, "array 'y' does not have"),
    ({"X": np.ones((0, 2)), "y": np.ones(0)}, "no rows"),
    ({"X": np.array([[1, 2], [np.nan, 4]]), "y": np.arange(2)}, r"row 1 \(counted from 0\), column 'X\[0\]': nan"),
    ({"X": np.ones((4, 2), complex), "y": np.arange(4)}, "array 'X' holds complex128, numbers are expected"),
    ({"X": np.ones((4, 2)), "y": np.ones(4, complex)}, "a target is numbers or text"),
    ({"X": np.ones((4, 2)), "y": np.array([0, 1, np.inf, 1])}, r"row 2 .*'y': inf"),
    ({"X": np.ones((4, 2)), "y": np.array([b"\xff", b"v"] * 2)}, "bytes that are not UTF-8"),
    ({"X": np.ones((4, 2)), "y": np.array([Trap()] * 4)}, "Python objects, which fastnn does not unpickle"),
    ({}, "holds no arrays"),
])  # fmt: skip
def test_bad_npz(tmp_path, arrays, match):
    refused(npz_file(tmp_path, **arrays), match)


def test_damaged_npz(tmp_path):
    path = npz_file(tmp_path, X=np.ones((40, 2)), y=np.arange(40) % 2)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, "not an npz file")
    buffer = io.BytesIO()
    np.save(buffer, np.ones((40, 2)))
    for name, member in (("X.npy", buffer.getvalue()[:-100]), ("X.txt", b"hello")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, member)
        refused(path, "damaged npz|not an array")
    np.save(tmp_path / "plain.npy", np.ones(3))
    (tmp_path / "plain.npy").rename(path)
    refused(path, "not an npz file")


def test_npz_that_would_unpack_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr("fastnn.data.npz_file.LIMIT", 100)
    refused(npz_file(tmp_path, X=np.ones((40, 2)), y=np.arange(40)), "would unpack to")


# ---- scaling ----------------------------------------------------------------------------------------


def test_scaling_is_fitted_on_the_training_rows_only(tmp_path):
    data = tables.load(numeric_table(tmp_path, target=lambda i: 3.25 * i + 100), "y")
    parts = deal(data, validation=0.1, seed=5)
    X, y = parts.train
    np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(X.std(axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-14)
    assert abs(parts.test[0].mean(axis=0)).min() > 1e-6  # which fitting on all rows would not leave
    back = preprocessing.unscale_target(parts.preprocessing, np.concatenate([y, parts.validation[1], parts.test[1]]))
    np.testing.assert_allclose(np.sort(back), np.sort(data.y), rtol=1e-13)


def test_a_shift_of_the_test_rows_does_not_change_the_training_rows(tmp_path):
    data = tables.load(numeric_table(tmp_path), "y")
    before = deal(data, validation=0.1, seed=5)
    from fastnn.data.splits import split_rows

    rows = split_rows(len(data.X), test=0.2, validation=0.1, seed=5, classes=data.y)
    data.X[rows.test] += 1000
    data.X[rows.validation] -= 1000
    after = deal(data, validation=0.1, seed=5)
    np.testing.assert_array_equal(before.train[0], after.train[0])
    assert before.preprocessing == after.preprocessing


def test_constant_columns_have_no_influence_and_are_named(tmp_path):
    path = csv_file(tmp_path, "a,c,y\n" + "".join(f"{i},0.1,{i % 2}\n" for i in range(30)))
    data = tables.load(path, "y")
    parts = deal(data, validation=0.1, seed=0)
    assert any("1 column constant" in note and "'c'" in note for note in data.notes)
    assert (parts.train[0][:, 1] == 0).all()
    moved = preprocessing.scale_features(parts.preprocessing, np.array([[1.0, 5e6]]))
    assert moved[0, 1] == 0


def test_values_that_cannot_be_standardised(tmp_path):
    path = csv_file(tmp_path, "a,b,y\n" + "".join(f"{i},{(-1) ** i}e308,{i}\n" for i in range(30)))
    with pytest.raises(DataFileError, match="column 'b' holds values too large"):
        deal(tables.load(path, "y"), validation=0.1, seed=0)
    path = csv_file(tmp_path, "a,y\n" + "".join(f"{i},7.5\n" for i in range(30)))
    with pytest.raises(DataFileError, match="target is constant"):
        deal(tables.load(path, "y"), validation=0.1, seed=0)


def test_columns_are_found_in_any_order(tmp_path):
    path = csv_file(tmp_path, "note,b,a\nhello,2,1\nworld,4,3\n")
    X, extra = tables.read_columns(path, {"columns": ["a", "b"]}, notes := [])
    assert notes == []
    assert X.tolist() == [[1, 2], [3, 4]]
    assert extra == ["note"]
    with pytest.raises(
        DataFileError,
        match=r"column 'aa' \(and 1 more\), which the model needs, is missing; did you mean 'a'",
    ):
        tables.read_columns(path, {"columns": ["aa", "q", "b"]}, [])


# ---- what a model file may hold ---------------------------------------------------------------------

IMAGES = {"version": 1, "kind": "images", "shape": [2, 3], "classes": [0, 1]}
TABLE = {
    "version": 1, "kind": "table", "task": "regression", "target": "y", "columns": ["a", "b"], "classes": None,
    "feature_mean": [0.0, 1.0], "feature_factor": [1, 2.0], "target_mean": 0.0, "target_std": 2.0,
}  # fmt: skip


def test_valid_preprocessing_passes():
    assert preprocessing.check(IMAGES, inputs=6, outputs=2) is IMAGES
    assert preprocessing.check(TABLE, inputs=2, outputs=1) is TABLE


@pytest.mark.parametrize(("content", "match"), [
    (None, "not trained by `fastnn train`"),
    ([], "a kind this version does not know"),
    ({"kind": "sound"}, "a kind this version"),
    ({**IMAGES, "version": 2}, "version 2, this fastnn knows 1"),
    ({**IMAGES, "shape": [3, 3]}, "images of 6 pixels"),
    ({**IMAGES, "classes": [0]}, "not 2 names"),
])  # fmt: skip
def test_damaged_image_preprocessing(content, match):
    with pytest.raises(ModelFileError, match=match):
        preprocessing.check(content, inputs=6, outputs=2)


@pytest.mark.parametrize(("change", "match"), [
    ({"columns": ["a", "a"]}, "columns are not different names"),
    ({"columns": []}, "columns are not different names"),
    ({"columns": ["a"]}, "columns and categories do not make 2 inputs"),
    ({"categories": {"b": ["u", "v"]}}, "columns and categories do not make 2 inputs"),
    ({"columns": ["b"], "categories": {"b": ["u", "u"]}}, "categories are not different names"),
    ({"categories": {"c": ["u"]}}, "categories are not different names"),
    ({"categories": {"b": []}}, "categories are not different names"),
    ({"categories": ["b"]}, "categories are not different names"),
    ({"missing": "median"}, "missing='median' is not known"),
    ({"task": "both"}, "task 'both'"),
    ({"feature_mean": [0.0]}, "feature_mean is not 2"),
    ({"feature_factor": [0.0, float("nan")]}, "feature_factor is not 2 finite"),
    ({"target_std": 0.0}, "target_std"),
    ({"task": "classification"}, "classes are not"),
])  # fmt: skip
def test_damaged_table_preprocessing(change, match):
    with pytest.raises(ModelFileError, match=match):
        preprocessing.check({**TABLE, **change}, inputs=2, outputs=1)
    with pytest.raises(ModelFileError, match="has 1 output"):
        preprocessing.check(TABLE, inputs=2, outputs=3)


# ---- the embedded digits ----------------------------------------------------------------------------


def test_digits():
    data = digits.load()
    assert data.X.shape == (1797, 64)
    assert data.X.dtype == np.uint8
    assert data.X.max() == 16
    assert data.scale == 1 / 16
    parts = deal(data, validation=0.1, seed=0)
    assert [len(part[1]) for part in (parts.train, parts.validation, parts.test)] == [1294, 144, 359]


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(DataFileError, match=r"pip install \"\.\[sklearn\]\""):
        digits.load()


@pytest.mark.parametrize(
    ("cell", "commas"),
    [("1,5", True), ("-0,01", True), ("1.234,5", True), ("1,234,567.8", True), ("1,001", True), ("a,b", False), ("1.5", False), ("x", False)],
)  # fmt: skip
def test_numbers_with_commas_are_told_from_other_text(cell, commas):
    hint = (
        "; numbers are read with a decimal point and nothing between thousands, as 1234.5, or by --decimal comma with a "
        "comma"
    )
    assert columns.commas_in(cell) == (hint if commas else "")


def test_what_is_said_of_decimal_commas_and_of_a_category_called_none(tmp_path):
    few, many = tmp_path / "few.csv", tmp_path / "many.csv"
    few.write_text("x;y\n" + "".join(f"{i};{i % 2}\n" for i in range(30)) + "1,5;0\n")
    many.write_text("x;y\n" + "".join(f"{i},{i % 7};{i % 2}\n" for i in range(90)))
    for path, words in (
        (few, "text '1,5' where a number is expected; numbers are read with a decimal point"),
        (many, "column 'x' holds numbers that are not written as 1234.5 .*--decimal comma reads a decimal comma"),
    ):
        with pytest.raises(DataFileError, match=words):
            tables.load(path, "y")
    garage = tmp_path / "garage.csv"
    garage.write_text("g,y\n" + "".join(f"{('None', 'Attached')[i % 2]},{i}\n" for i in range(40)))
    with pytest.raises(DataFileError, match=r"missing value \('None'\).*--categorical g takes such texts for names"):
        tables.load(garage, "y")


POINTS = [(f"{i / 8:.3f}", f"{1000 + i * 7.25:.2f}", f"{i / 4 - 9:.2f}") for i in range(60)]


def table_with(path, write):
    lines = [";".join("xzy"), *(";".join(map(write, row)) for row in POINTS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def with_comma(number, decimals=3):
    """1,234.500 as 1.234,500."""
    return f"{float(number):,.{decimals}f}".translate(str.maketrans(",.", ".,"))


@pytest.mark.parametrize("task", [None, "regression"])
@pytest.mark.parametrize("decimals", [1, 2, 3, 4])
def test_numbers_with_any_count_of_decimals_are_read_with_a_comma(tmp_path, decimals, task):
    """In targets too; three decimals look as thousands do."""
    path = table_with(tmp_path / "t.csv", lambda number: with_comma(number, decimals))
    found = tables.load(path, "y", task=task, choice=tables.Choice(decimal="comma"))
    expected = np.array(POINTS, float).round(decimals)
    np.testing.assert_allclose(found.X, expected[:, :2], atol=0.6 * 10.0**-decimals)
    np.testing.assert_allclose(found.y, expected[:, 2], atol=0.6 * 10.0**-decimals)


def test_classes_stay_as_they_are_written_beside_a_decimal_comma(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x;y\n" + "".join(f"{i},5;{('1.5', '1.250')[i % 2]}\n" for i in range(40)))
    found = tables.load(path, "y", task="classification", choice=tables.Choice(decimal="comma"))
    assert found.classes == [1.25, 1.5]
    np.testing.assert_array_equal(found.X[:, 0], np.arange(40) + 0.5)
    with pytest.raises(ValueError, match=r"--decimal comma is for text, in \.csv and \.tsv"):
        tables.load(tmp_path / "t.npz", "y", choice=tables.Choice(decimal="comma"))


def test_a_decimal_comma_is_read_where_it_is_asked_for(tmp_path):
    """The same numbers as with a point, in features and target; in rows to predict too."""
    plain = tables.load(table_with(tmp_path / "points.csv", str), "y")
    commas = table_with(tmp_path / "commas.csv", with_comma)
    found = tables.load(commas, "y", choice=tables.Choice(decimal="comma"))
    assert found.task == plain.task == "regression"
    np.testing.assert_array_equal(found.X, plain.X)
    np.testing.assert_array_equal(found.y, plain.y)
    assert (found.preprocessing.pop("decimal"), found.preprocessing) == ("comma", plain.preprocessing)
    known = found.preprocessing | {"decimal": "comma", "feature_mean": [0, 0], "feature_factor": [1, 1]}
    np.testing.assert_array_equal(tables.read_columns(commas, known, [])[0], plain.X)
    of_memory = features.from_arrays({"x": ["1,5", "2"], "z": [1.5, 2.0]}, ["x", "z"], tables.reading_of(known))
    assert [of_memory[name].tolist() for name in "xz"] == [[1.5, 2.0]] * 2  # what is a number already stays one
    points = tmp_path / "points.csv"  # that cannot stand between thousands
    points.write_text("x;y\n" + "".join(f"{i / 8 + 0.125:.4f};{i}\n" for i in range(40)))
    with pytest.raises(
        DataFileError, match=r"numbers that are not written as 1234,5 .such as '0\.1250'.; --categorical x"
    ):
        tables.load(points, "y", choice=tables.Choice(decimal="comma"))


@pytest.mark.parametrize(
    ("write", "shown", "comma"),
    [
        (with_comma, "'0,000'", True),
        (lambda number: f"{float(number):.1f}%", "'0.0%'", False),
        (lambda number: f"$ {float(number):,.2f}", r"'\$ 0.00'", False),
        (lambda number: f"{float(number) + 1234567:,.0f}".replace(",", " "), "'1 234 567'", False),
    ],
)
def test_numbers_that_are_otherwise_written_are_not_taken_for_categories(tmp_path, write, shown, comma):
    path = table_with(tmp_path / "t.csv", write)
    advice = "--decimal comma reads a decimal comma, " if comma else ""
    words = f"column 'x' holds numbers that are not written as 1234.5 .such as {shown}.; {advice}--categorical x takes"
    with pytest.raises(DataFileError, match=words):
        tables.load(path, "y")
    with pytest.raises(DataFileError, match=r"column 'y' holds numbers .* --task classification takes such texts"):
        tables.load(path, "y", choice=tables.Choice(categorical=("x", "z")))


def test_digits_with_leading_zeros_are_names_while_they_are_few(tmp_path):
    """As in a target: 01234 is no quantity."""
    path = tmp_path / "t.csv"
    codes = ["01234", "10001", "90210"]
    path.write_text("zip,n,y\n" + "".join(f"{codes[i % 3]},{i:03},{i / 2}\n" for i in range(90)))
    found = tables.load(path, "y")
    assert found.preprocessing["categories"] == {"zip": codes}
    np.testing.assert_array_equal(found.X[:, :3], np.eye(3)[np.arange(90) % 3])
    np.testing.assert_array_equal(found.X[:, 3], np.arange(90))  # as many as rows: they count something
    as_numbers = tables.load(path, "y", choice=tables.Choice(numeric=("zip",)))
    np.testing.assert_array_equal(as_numbers.X[:, 0], [float(codes[i % 3]) for i in range(90)])
    with pytest.raises(DataFileError, match="column 'zip' is to be categorical and numeric"):
        tables.load(path, "y", choice=tables.Choice(numeric=("zip",), categorical=("zip",)))
    # a table that pandas has read has no zeros left
    columns_ = features.from_arrays(
        {"zip": [1234, 90210], "n": [1, 2]}, ["zip", "n"], tables.reading_of(found.preprocessing)
    )
    notes = []
    encoded = features.encoded(columns_, ["zip", "n"], found.preprocessing["categories"], notes)
    np.testing.assert_array_equal(encoded[:, :3], [[1, 0, 0], [0, 0, 1]])
    assert notes == []


def test_a_column_that_counts_the_rows_is_remarked(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "id": np.arange(7, 57),
        "back": np.arange(50, 0, -1),
        "half": np.arange(50) / 2,
        "n": rng.integers(0, 9, 50),
    }
    path = tmp_path / "t.csv"
    body = "\n".join(",".join(map(str, row)) for row in zip(*columns.values(), rng.random(50), strict=True))
    path.write_text(",".join([*columns, "y"]) + "\n" + body + "\n")
    remarks = [note for note in tables.load(path, "y").notes if "counts the rows" in note]
    assert [note.split("'")[1] for note in remarks] == ["id", "back"]
    assert "--drop id" in remarks[0]
    assert not [n for n in tables.load(path, "y", choice=tables.Choice(drop=("id", "back"))).notes if "counts" in n]
