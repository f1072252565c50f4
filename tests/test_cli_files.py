"""Tables as they come from elsewhere: without a header line, in other encodings, with other separators, in the order of
time; each trained on, predicted and evaluated by the command line, beside the same table as fastnn likes it."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

import fastnn
from fastnn import DataFileError
from fastnn.data.splits import last_rows
from fastnn.data.written import written_as
from fastnn.evaluation import evaluate_file
from fastnn.prediction import predict_file

QUICK = ("--epochs", "2", "--hidden", "4", "--no-plot", "--backend", "numpy")


def rows_of(n=60):
    """Target first or last as is wished: a number, a city that ASCII has not, a class."""
    rng = np.random.default_rng(0)
    return [(f"{x:.3f}", ("Zürich", "Köln")[i % 2], "yes" if x > 0 else "no") for i, x in enumerate(rng.normal(size=n))]


def text(rows, header="", mark=","):
    return "".join(mark.join(cells) + "\n" for cells in ([header.split(",")] if header else []) + list(rows))


def trained(cli, table, *words, target="sold"):
    code, out, err = cli("train", table, "--target", target, *QUICK, "--json", "--save", "m", *words)
    assert code == 0, err
    return json.loads(out)


def predicted(cli, table, *words):
    code, out, err = cli("predict", "m", table, "--json", "--backend", "numpy", *words)
    assert code == 0, err
    return json.loads(out)


def refused(answer, *words):
    code, out, err = answer
    assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
    for word in words:
        assert word in err, err


# ---- no header line -------------------------------------------------------------------------------------------------


def test_without_a_header_line_columns_are_told_by_position(cli, tmp_path):
    rows = rows_of()
    (tmp_path / "named.csv").write_text(text(rows, "size,city,sold"))
    (tmp_path / "bare.csv").write_text(text(rows))
    named = trained(cli, "named.csv")
    expected = predicted(cli, "named.csv")["probabilities"]
    found = trained(cli, "bare.csv", "--no-header", target="-1")
    assert found["history"]["cost"] == named["history"]["cost"]
    assert "no header line: the columns are named by their position, 0 to 2" in found["data"]["notes"]
    assert predicted(cli, "bare.csv")["probabilities"] == expected, "all rows, the first one too"
    (tmp_path / "unknown.csv").write_text(text([row[:2] for row in rows]))
    assert predicted(cli, "unknown.csv")["probabilities"] == expected, "the target, which is last, may be left out"
    (tmp_path / "short.csv").write_text(text([row[:1] for row in rows]))
    refused(cli("predict", "m", "short.csv"), "has 1 column, the model was", "give all of them, or all but the last\n")
    found = predicted(cli, "bare.csv", "--keep", "1")
    assert found["kept"] == {"1": [row[1] for row in rows]}
    code, out, err = cli("evaluate", "m", "bare.csv", "--json", "--backend", "numpy")
    assert code == 0, err
    answers = predicted(cli, "bare.csv")["predictions"]
    assert json.loads(out)["accuracy"] == accuracy_score([row[2] for row in rows], answers)
    shown = cli("inspect", "m")[1]
    assert "without a header line: 3 columns, named by their position from 0" in shown
    assert json.loads(cli("inspect", "m", "--json")[1])["positions"] == 3


def test_positions_that_would_shift_are_refused(cli, tmp_path):
    rows = [row[::-1] for row in rows_of()]  # the target comes first
    (tmp_path / "bare.csv").write_text(text(rows))
    trained(cli, "bare.csv", "--no-header", target="0")
    (tmp_path / "less.csv").write_text(text([row[1:] for row in rows]))
    words = "has 2 columns, the model was trained on 3 without a header line"
    refused(cli("predict", "m", "less.csv"), words, "give all of them\n")
    refused(cli("evaluate", "m", "less.csv"), words)
    (tmp_path / "more.csv").write_text(text([("a", *row) for row in rows]))
    refused(cli("predict", "m", "more.csv"), "has 4 columns")
    refused(
        cli("train", "bare.csv", "--no-header", "--target", "0", "--test", "less.csv", *QUICK),
        f"less.csv: {words}",
    )


def test_drop_and_categorical_take_positions(cli, tmp_path):
    rows = [(str(i), str(i % 3), size, sold) for i, (size, _, sold) in enumerate(rows_of())]
    (tmp_path / "bare.csv").write_text(text(rows))
    words = ("--no-header", "--drop", "0", "--categorical", "1", "--test", "bare.csv")
    found = trained(cli, "bare.csv", *words, target="3")
    assert (found["data"]["features"], found["data"]["test_rows"]) == (4, 60)  # three categories and a number
    known = fastnn.load("m").preprocessing
    assert (known["columns"], known["categories"], known["positions"]) == (["1", "2"], {"1": ["0", "1", "2"]}, 4)


def test_a_first_line_of_numbers_is_not_taken_for_names_in_silence(cli, tmp_path):
    (tmp_path / "t.csv").write_text("5.1,3.5,0\n" + "".join(f"{i / 7:.2f},{i % 9},{i % 2}\n" for i in range(60)))
    words = "the first line holds numbers ('5.1'), so it looks like data"
    refused(cli("train", "t.csv", "--target", "-1", *QUICK), words, "; --no-header names columns by their position")
    found = trained(cli, "t.csv", "--no-header", target="-1")
    assert sum(found["data"][f"{part}_rows"] for part in ("train", "validation", "test")) == 61
    (tmp_path / "t.csv").write_text("0,1,2\n" + "".join(f"{i / 7:.2f},{i % 9},{i % 2}\n" for i in range(60)))
    found = trained(cli, "t.csv", target="2")  # as pandas writes columns without names
    assert (
        "the first line, 0, 1, 2, is taken for the names of columns; if it is a row already: --no-header"
        in (found["data"]["notes"])
    )
    (tmp_path / "t.csv").write_text(text([("no", "no"), ("yes", "no")]))
    refused(cli("train", "t.csv", "--target", "1"), "two columns are called 'no'", "--no-header)")
    refused(cli("predict", "m", "t.csv"), "two columns are called 'no'; column names must differ\n")


def test_no_header_is_for_text(cli, tmp_path):
    np.savez(tmp_path / "t.npz", a=np.arange(60), b=np.arange(60) % 2)
    refused(cli("train", "t.npz", "--target", "b", "--no-header"), "--no-header is for text, in .csv and .tsv")
    refused(cli("train", "digits", "--no-header"), "--no-header is for tables")
    (tmp_path / "t.csv").write_text("\n\n")
    refused(cli("train", "t.csv", "--no-header", "--target", "0"), "t.csv: is empty; rows are expected")
    (tmp_path / "t.csv").write_text("1,2\n3\n")
    refused(cli("train", "t.csv", "--no-header", "--target", "0"), "line 2 has 1 field, the first row has 2")


@pytest.mark.parametrize(
    ("positions", "columns"),
    [(2, ["0", "1"]), (True, ["0", "1"]), ("3", ["0", "1"]), (3.0, ["0", "1"]), (3, ["00", "1"]), (3, ["1", "\u0662"]),
     (3, ["a", "1"]), (3, ["0", "3"]), (3, ["0", "9" * 5000]), (0, ["0", "1"])],
)  # fmt: skip
def test_a_crafted_number_of_columns_is_refused(cli, tmp_path, positions, columns):
    (tmp_path / "bare.csv").write_text(text([(size, size, sold) for size, _, sold in rows_of()]))
    trained(cli, "bare.csv", "--no-header", target="-1")
    net = fastnn.load("m", backend="numpy")
    assert (net.preprocessing["columns"], net.preprocessing["positions"]) == (["0", "1"], 3)
    net.preprocessing |= {"positions": positions, "columns": columns}
    net.save("m")
    refused(cli("predict", "m", "bare.csv"), f"preprocessing is damaged: positions={positions!r} is not the number of")


# ---- encodings and separators ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
def test_encodings(cli, tmp_path, encoding, packed):
    rows = rows_of()
    content = text(rows, "größe,city,sold")
    (tmp_path / "utf8.csv").write_text(content)
    expected = trained(cli, "utf8.csv")
    answers = predicted(cli, "utf8.csv")
    name = "other.csv.gz" if packed else "other.csv"
    raw = content.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(raw) if packed else raw)
    if encoding == "utf-8-sig":  # which is read as it is
        words = ()
    else:
        words = ("--encoding", encoding)
        for command in (("train", name, "--target", "sold"), ("predict", "m", name), ("evaluate", "m", name)):
            refused(cli(*command), "not UTF-8 text", "--encoding ")
    found = trained(cli, name, *words, "--test", name)
    assert found["history"]["cost"][0] != expected["history"]["cost"][0], "all rows train"
    assert fastnn.load("m").preprocessing["categories"] == {"city": ["Köln", "Zürich"]}
    assert trained(cli, name, *words)["history"]["cost"] == expected["history"]["cost"]
    found = predicted(cli, name, *words, "--keep", "city")
    assert (found["probabilities"], found["kept"]["city"]) == (answers["probabilities"], [row[1] for row in rows])
    assert predicted(cli, "utf8.csv")["probabilities"] == answers["probabilities"], "the next file is UTF-8 again"
    assert cli("evaluate", "m", name, *words)[1] == cli("evaluate", "m", "utf8.csv")[1]
    net = fastnn.load("m", backend="numpy")
    given = {} if encoding == "utf-8-sig" else {"encoding": encoding}
    assert predict_file(net, tmp_path / name, **given).answers == answers["predictions"]
    assert evaluate_file(net, tmp_path / name, **given).accuracy == evaluate_file(net, tmp_path / "utf8.csv").accuracy


def test_the_byte_and_the_remedy(cli, tmp_path):
    for content, words in (
        (text(rows_of(), "a,b,y").encode("latin-1"), ["byte 0xFC in line 2", "--encoding latin-1 or cp1252"]),
        (b"a,y\r\n1,2\r\n\r\n3,\xe9\r\n", ["byte 0xE9 in line 4"]),
        (text(rows_of(), "a,b,y").encode("utf-16"), ["it begins with 0xFF 0xFE, as UTF-16 does: --encoding utf-16 reads"]),
        ("a,y\n1,2\n".encode("utf-16-le"), ["t.csv: its text holds bytes 0x00", "--encoding utf-16-le reads it"]),
        ("a,y\n1,2\n".encode("utf-16-be"), ["--encoding utf-16-be reads it"]),
    ):  # fmt: skip
        (tmp_path / "t.csv").write_bytes(content)
        refused(cli("train", "t.csv", "--target", "y"), *words)
    for content, encoding, words in (
        (b"a,y\n1,2\n", "utf-16", ["not utf-16 text", "--encoding says"]),
        ("a,y\n1,é\n".encode(), "ascii", ["not ascii text"]),
        ("a,y\n1,2\n".encode("utf-16"), "utf-16-le", ["begins with a byte-order mark", "--encoding utf-16 reads it"]),
        ("a,y\n1,2\n".encode("utf-8-sig"), "latin-1", ["byte-order mark", "leave --encoding out"]),
        (b"a,y\n1,2\n", "latn-1", ["--encoding 'latn-1' is no encoding of text that Python knows; did you mean 'lati"]),
        (b"a,y\n1,2\n", "hex", ["--encoding 'hex' is no encoding of text", "for example utf-16"]),
        (b"a,y\n1,2\n", "", ["--encoding '' is no encoding of text"]),
    ):
        (tmp_path / "t.csv").write_bytes(content)
        refused(cli("train", "t.csv", "--target", "y", "--encoding", encoding), *words)


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar"), (",", "comma")])
def test_separators(cli, tmp_path, mark, name):
    rows = [(size, f'"{city}, or{mark}more"', sold) for size, city, sold in rows_of()]
    (tmp_path / "comma.csv").write_text(text(rows, "size,city,sold"))
    expected = trained(cli, "comma.csv")["history"]["cost"]
    (tmp_path / "t.csv").write_text(text(rows, "size,city,sold", mark))
    found = trained(cli, "t.csv")
    assert found["history"]["cost"] == expected
    assert (f"fields are separated by {name}s" in found["data"]["notes"]) == (mark != ",")
    answers = predicted(cli, "comma.csv")["probabilities"]
    # a comma in the first line, which is no separator there
    (tmp_path / "t.csv").write_text(
        text(rows, "size,city,sold", mark).replace("size", '"size"' if mark == "," else "si,ze")
    )
    for given in (mark, name) if mark != "," else ():
        refused(cli("train", "t.csv", "--target", "sold", *QUICK), "t.csv: ")
        trained(cli, "t.csv", "--separator", given)
        assert predicted(cli, "t.csv", "--separator", given)["probabilities"] == answers
        assert cli("evaluate", "m", "t.csv", "--separator", given)[0] == 0
    refused(
        cli("train", "t.csv", "--target", "y", "--separator", "/"), "--separator must be comma, semicolon, tab, bar"
    )


def test_decimal_commas_without_a_header_are_no_separators(cli, tmp_path):
    rows = [(size.replace(".", ","), sold) for size, _, sold in rows_of()]
    (tmp_path / "t.csv").write_text(text(rows, mark=";"))
    found = trained(cli, "t.csv", "--no-header", "--decimal", "comma", target="1")
    assert "fields are separated by semicolons" in found["data"]["notes"]
    assert fastnn.load("m").preprocessing["feature_mean"][0] == pytest.approx(0, abs=0.4)
    assert len(predicted(cli, "t.csv")["predictions"]) == 60


def test_encodings_and_separators_are_for_tables_in_text(cli, tmp_path):
    np.savez(tmp_path / "t.npz", a=np.arange(60), b=np.arange(60) % 2)
    refused(cli("train", "t.npz", "--target", "b", "--encoding", "utf-16"), "--encoding and --separator are for text")
    trained(cli, "t.npz", target="b")
    refused(cli("predict", "m", "t.npz", "--separator", "tab"), "--encoding and --separator are for text")
    refused(cli("train", "digits", "--encoding", "utf-8"), "--encoding is for tables")
    refused(cli("train", "digits", "--separator", ","), "--separator is for tables")
    net = fastnn.Network([4, 3], backend="numpy")
    net.preprocessing = {"version": 1, "kind": "images", "shape": [2, 2], "classes": [0, 1, 2]}
    with pytest.raises(DataFileError, match="encoding and separator are for tables, and this model takes images"):
        predict_file(net, "t.npz", encoding="latin-1")
    with pytest.raises(TypeError, match="encoding must be a str, got 7"):
        written_as(7, None, option="")


def test_standard_input_in_another_encoding(cli, tmp_path):
    content = text(rows_of(), "size,city,sold")
    (tmp_path / "t.csv").write_text(content)
    trained(cli, "t.csv")
    expected = cli("predict", "m", "t.csv", "--backend", "numpy")[1]
    words = ("--encoding", "cp1252", "--separator", "bar", "--backend", "numpy")
    done = subprocess.run(
        [sys.executable, "-m", "fastnn", "predict", str(tmp_path / "m"), "-", *words],
        input=content.replace(",", "|").encode("cp1252"), capture_output=True, check=True,
    )  # fmt: skip
    assert io.BytesIO(done.stdout).read().decode() == expected


# ---- the order of time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "test", "validation"), [(100, 0.2, 0.1), (7, 0.5, 0.5), (4, 0.9, 0.9), (50, 0.0, 0.2)])
def test_the_last_rows_are_those_of_scikit_learn(n, test, validation):
    found = last_rows(n, test=test, validation=validation)
    rest, last = np.arange(n), []
    for part, share in ((found.test, test), (found.validation, validation)):
        assert (len(part) > 0) == (share > 0)
        if share:
            rest, last = train_test_split(rest, test_size=len(part), shuffle=False)
            assert part.tolist() == last.tolist()
            assert len(part) == round(share * (len(rest) + len(last))) or len(rest) == 1 + (part is found.test)
    assert found.train.tolist() == rest.tolist()


def drifting(n=200):
    """y is x at first and -x in the last fifth: who trains on random rows sees both."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=n)
    return [(f"{v:.4f}", f"{v if i < 0.8 * n else -v:.4f}") for i, v in enumerate(x)]


def test_chronological(cli, tmp_path):
    rows = drifting()
    (tmp_path / "t.csv").write_text(text(rows, "x,y"))
    words = ("train", "t.csv", "--target", "y", "--epochs", "60", "--hidden", "8", "--no-plot", "--backend", "numpy")
    found = json.loads(cli(*words, "--chronological", "--json", "--save", "m")[1])
    assert found["configuration"]["chronological"]
    assert [found["data"][f"{part}_rows"] for part in ("train", "validation", "test")] == [144, 16, 40]
    x = np.array([float(a) for a, _ in rows])
    known = fastnn.load("m").preprocessing
    assert known["feature_mean"] == pytest.approx([x[:144].mean()], rel=1e-12), "the first 144 rows train"
    answers, truth = np.array(predicted(cli, "t.csv")["predictions"]), np.array([float(b) for _, b in rows])
    assert found["test_rmse"] == pytest.approx(np.sqrt(np.mean((answers - truth)[160:] ** 2)), rel=1e-5)
    scaled = (answers - truth)[144:160] / known["target_std"]
    assert found["history"]["val_cost"][-1] == pytest.approx(np.mean(scaled**2) / 2, rel=1e-4)
    assert found["test_r2"] < -1 < 0 < json.loads(cli(*words, "--json")[1])["test_r2"]
    shown = cli(*words, "--chronological")[1]
    assert (
        "144 training, 16 validation, 40 test rows; in the order of the file: training, then validation, then test"
        in shown
    )
    (tmp_path / "other.csv").write_text(text(rows[:50], "x,y"))
    shown = cli(*words, "--chronological", "--test", "other.csv", "--validation", "0.25")[1]
    assert "150 training, 50 validation, the set's own 50 test rows; in the order of the file: training, then validation\n" in shown  # fmt: skip


def test_what_chronological_contradicts(cli, tmp_path):
    (tmp_path / "t.csv").write_text(text(drifting(), "x,y"))
    for test in ("0", "t.csv"):
        refused(
            cli("train", "t.csv", "--target", "y", "--chronological", "--validation", "0", "--test", test),
            "--chronological takes the last rows for test and validation, and none are to be set apart for either",
        )
    refused(cli("train", "digits", "--chronological"), "--chronological is for tables")
    rows = [(x, "late" if i > 70 else "ab"[i % 2]) for i, (x, _) in enumerate(drifting(100))]
    (tmp_path / "t.csv").write_text(text(rows, "x,y"))
    refused(
        cli("train", "t.csv", "--target", "y", "--chronological", "--validation", "0.25"),
        "class 'late' first occurs in row 72, and the first 60 rows train",
    )
    found = trained(cli, "t.csv", "--chronological", "--validation", "0", "--balanced", target="y")
    assert (found["data"]["train_rows"], np.sum(found["confusion"][:2])) == (80, 0), "test rows of one class alone"


# ---- one bad row among many -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "said"), [
    ("", "missing value (empty); a model that was trained with --missing mean takes the mean for it\n"),
    ("n/a", "missing value ('n/a'); a model that was trained with --missing mean"),
    ("12;5", "text '12;5' where a number is expected"),
    ("1e999", "1e999 is not a finite number"),
])  # fmt: skip
def test_the_bad_row_of_many_is_named(cli, tmp_path, cell, said):
    (tmp_path / "t.csv").write_text(text(rows_of(), "size,city,sold"))
    trained(cli, "t.csv")
    lines = ["size,city", *["0.5,Köln"] * 20_000, f"{cell},Köln", *["0.25,Köln"] * 10]
    (tmp_path / "new.csv").write_text("\n".join(lines))
    for keep in ((), ("--keep", "city")):
        refused(cli("predict", "m", "new.csv", *keep), f"new.csv: row 20001 (line 20002), column 'size': {said}")
    trained(cli, "t.csv", "--missing", "mean")
    assert (cli("predict", "m", "new.csv")[0] == 0) == (cell in ("", "n/a"))
