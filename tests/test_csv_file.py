"""The reader of CSV files beside Python's own csv module and float, block after block."""

from __future__ import annotations

import csv
import math
import random

import numpy as np
import pytest

from fastnn import DataFileError
from fastnn.data import csv_file, tables
from fastnn.data.columns import Names, Reading, numbers, otherwise_written, texts_among, with_point, with_points

MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-", "."}
ODD = ["1_000", "nan", "NaN", " inf", "-inf", "1e5", "1E-3", "\u0663", "", "NA", "n/a", "?", "-", " 7 ", "\t8", "007", "0",
       "-0", "+3", "1,5", "1.234,5", "12 %", "x", "yes", "1e400", "0x10", "1__0", "\u00e9", "1.5.2", "--3", "1 2"]  # fmt: skip


def number(cell):
    """The rules of a table, one cell at a time: a float, None where it is missing, or else a word for what is wrong."""
    text = cell.strip()
    if text.lower() in MISSING:
        return None
    try:
        value = float(text)
    except ValueError:
        return "text"
    return "text" if "_" in text else value if math.isfinite(value) else "not finite"


@pytest.mark.parametrize("missing", [False, True])
def test_columns_of_odd_cells_are_what_each_cell_is(missing):
    r = random.Random(0)
    for _ in range(600):
        few = r.sample(ODD, r.randrange(1, 5)) if r.random() < 0.7 else []
        cells = [r.choice([f"{r.gauss(0, 9):.3f}", str(r.randrange(99)), *few]) for _ in range(r.randrange(1, 40))]
        each = [number(cell) for cell in cells]
        bad = [row for row, value in enumerate(each) if isinstance(value, str) or (value is None and not missing)]
        found = numbers(cells, missing=missing)
        if bad:
            assert found.row == bad[0]
            assert found.reason.startswith("missing value") == (each[bad[0]] is None)
        else:
            np.testing.assert_array_equal(found, [math.nan if value is None else value for value in each])
        present = [value for value in each if value is not None]
        assert texts_among(cells) == (present.count("text"), len(present))
        kept = Names().of(cells, missing=True)
        assert kept == ["" if value is None else cell.strip() for cell, value in zip(cells, each, strict=True)]


def test_many_decimal_commas_are_read_as_each_of_them_is():
    r = random.Random(1)
    plain = [f"{r.gauss(0, 4000):,.3f}".translate(str.maketrans(",.", ".,")) for _ in range(300)]
    assert [float(cell) for cell in with_points(plain)] == [
        float(cell.replace(".", "").replace(",", ".")) for cell in plain
    ]
    for _ in range(300):
        cells = [r.choice([*plain, *ODD]) if r.random() < 0.2 else r.choice(plain) for _ in range(12)]
        assert list(with_points(cells)) == [with_point(cell) for cell in cells]


def test_the_first_number_that_is_otherwise_written_is_shown():
    assert otherwise_written(["5 %", "7 %", "5 %", "1"], comma=False) == "5 %"
    assert otherwise_written(["1", "5 %", "x", "x", "x"], comma=False) == ""


def table(r, path, rows):
    """A file with quotes, blank lines, and cells of several lines; its rows as the csv module reads them, with the line
    each ends on."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        quoting = r.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        writer = csv.writer(file, quoting=quoting, lineterminator=r.choice(["\n", "\r\n"]))
        writer.writerow(["n", "word", "code", "free", "gap"])
        for _ in range(rows):
            if r.random() < 0.05:
                file.write("\n")
            free = r.choice(["a, b", 'say "so"', "two\nlines", " c", "d"])
            writer.writerow(
                [f"{r.gauss(0, 1):.4f}", r.choice("uvw"), f"{r.randrange(9):03}", free, r.choice(["", "2.5", "NA"])]
            )
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file, skipinitialspace=True)
        return [(row, reader.line_num) for row in reader if row][1:]


@pytest.mark.parametrize("block", [4, 10, 10_000])
def test_a_file_is_what_the_csv_module_reads_in_blocks_of_any_size(tmp_path, monkeypatch, block):
    monkeypatch.setattr(csv_file, "BLOCK", block)
    monkeypatch.setattr(csv_file, "PART", 7)
    passes = []
    read = csv_file._read
    monkeypatch.setattr(csv_file, "_read", lambda *given: passes.append(1) or read(*given))
    for seed in range(20):
        rows = table(random.Random(seed), tmp_path / "t.csv", 60)
        found = csv_file.read_csv(
            tmp_path / "t.csv", lambda names: (names[:3] + names[4:], "free"), Reading(decide=True, missing=True)
        )
        cells = list(zip(*(row for row, _ in rows), strict=True))
        np.testing.assert_array_equal(found.features["n"], [float(cell) for cell in cells[0]])
        assert found.features["word"] == list(cells[1])
        assert found.features["code"] == list(cells[2])
        expected = [math.nan if cell in ("", "NA") else float(cell) for cell in cells[4]]
        np.testing.assert_array_equal(found.features["gap"], expected)
        assert found.target == [cell.strip() for cell in cells[3]]
        assert [found.where(i) for i in (0, 59)] == [f"row {i + 1} (line {rows[i][1]})" for i in (0, 59)]
    assert len(passes) == 20, "columns of text at the top are read once"


def test_names_without_a_value_are_refused_where_the_first_is(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "BLOCK", 10)
    words = [["a", "b"][i % 2] for i in range(40)]
    for row, cell, reason in ((3, "", "empty"), (25, "NA", "'NA'")):
        cells = [*words[:row], cell, *words[row:]]
        path = tmp_path / "t.csv"
        path.write_text("w,z,y\n" + "".join(f"{cell},{'?' if i == 30 else 'c'},{i}\n" for i, cell in enumerate(cells)))
        with pytest.raises(
            DataFileError, match=rf"row {row + 1} \(line {row + 2}\), column 'w': missing value .{reason}"
        ):
            tables.load(path, "y")


# ---- integers that float64 does not hold ------------------------------------------------------------


def accounts(path, integers, more="x", write=str):
    rows = "".join(f"{write(value)},{i % 7},{i % 2}\n" for i, value in enumerate(integers))
    path.write_text(f"acct,{more},y\n" + rows)
    return path


LARGE = [10**18 + i % 3 for i in range(60)]


@pytest.mark.parametrize("block", [10, 10_000])
@pytest.mark.parametrize("at", [0, 45])
def test_integers_beyond_2_53_are_no_numbers_unless_that_is_said(tmp_path, monkeypatch, block, at):
    monkeypatch.setattr(csv_file, "BLOCK", block)
    path = accounts(tmp_path / "t.csv", [*range(at), *(value if i % 2 else -value for i, value in enumerate(LARGE))])
    words = (
        rf"row {at + 1} \(line {at + 2}\), column 'acct': the integer -10{{18}} is beyond 2\^53, .*; --categorical acct "
        "takes them for names, --drop acct leaves the column out, --numeric acct takes them rounded"
    )
    with pytest.raises(DataFileError, match=words):
        tables.load(path, "y")
    rounded = tables.load(path, "y", choice=tables.Choice(numeric=("acct",)))
    np.testing.assert_array_equal(np.abs(rounded.X[at:, 0]), np.full(60, 1e18))
    assert tables.load(path, "y", choice=tables.Choice(drop=("acct",))).preprocessing["columns"] == ["x"]
    names = tables.load(accounts(path, LARGE), "y", choice=tables.Choice(categorical=("acct",)))
    assert names.preprocessing["categories"] == {"acct": sorted(map(str, set(LARGE)))}
    np.testing.assert_array_equal(names.X[:, :3], np.eye(3)[np.arange(60) % 3])


def test_what_float64_holds_stays_a_number(tmp_path):
    for cells in ([2**53 - i for i in range(60)], [f"{i + 1}e20" for i in range(60)], [0.5, *LARGE]):
        found = tables.load(accounts(tmp_path / "t.csv", cells), "y")
        np.testing.assert_array_equal(found.X[:, 0], [float(cell) for cell in cells])


def test_arrays_of_integers_beyond_2_53(tmp_path):
    path = tmp_path / "t.npz"
    for dtype in (np.int64, np.uint64):
        np.savez(path, acct=np.array(LARGE, dtype), x=np.arange(60) % 7, y=np.arange(60) % 2)
        with pytest.raises(DataFileError, match=r"row 0 .*column 'acct': the integer 10{18} is beyond 2\^53"):
            tables.load(path, "y")
        assert tables.load(path, "y", choice=tables.Choice(numeric=("acct",))).X[0, 0] == 1e18
        np.savez(path, up=np.arange(60).astype(dtype) + dtype(2**53 + 1), y=np.arange(60) % 2)
        (note,) = [n for n in tables.load(path, "y", choice=tables.Choice(numeric=("up",))).notes if "counts" in n]
        assert note.startswith("column 'up' counts the rows")


@pytest.mark.parametrize("step", [1, -1, 2])
def test_a_count_of_rows_beyond_2_53_is_remarked_as_any_other(tmp_path, monkeypatch, step):
    monkeypatch.setattr(csv_file, "BLOCK", 8)
    path = accounts(tmp_path / "t.csv", [9007199254740993 + 100 + step * i for i in range(60)])
    notes = tables.load(path, "y", choice=tables.Choice(numeric=("acct",))).notes
    assert sum("column 'acct' counts the rows" in note for note in notes) == (abs(step) == 1)


def test_a_target_of_large_integers_says_why_it_is_taken_for_classes(tmp_path):
    found = tables.load(accounts(tmp_path / "t.csv", LARGE), "acct")
    assert found.classes == sorted(map(str, set(LARGE)))
    guess = "task: classification, guessed because 'acct' holds integers beyond 2^53, which are taken for names; --task"
    assert any(note.startswith(guess) for note in found.notes)
    found = tables.load(accounts(tmp_path / "t.csv", LARGE, write=lambda v: f"a{v}"), "acct")
    assert any("'acct' holds text" in note for note in found.notes)
