"""Which rows `fastnn train` tests on, and what it and `fastnn evaluate` say of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fastnn

QUIET = "--no-plot --backend numpy --save m"
HOMES = f"train homes.csv --target sold --drop id --missing mean {QUIET}"


def test_a_fraction_of_the_rows_for_the_test(cli, households):
    words = f"{HOMES} --epochs 2".split()
    rows, parts = {}, {}
    for share in ("0.1", "0.2", None):
        code, out, err = cli(*words, "--json", *(("--test", share) if share else ()))
        assert code == 0, err
        found = json.loads(out)
        rows[share] = found["data"]["test_rows"]
        assert sum(map(sum, found["confusion"])) == rows[share] == 300 * float(share or 0.2)
        assert sum(found["data"][f"{part}_rows"] for part in ("train", "validation", "test")) == 300
        parts[share] = (found["history"]["cost"], found["confusion"])
    assert parts["0.2"] == parts[None] != parts["0.1"]
    assert "homes.csv, target 'sold': 300 rows" in cli(*words, "--test", "0.1")[1]


def test_no_test(cli, households):
    """Every row trains: the constants of the scaling are those of the whole file."""
    words = f"{HOMES} --epochs 2 --test 0".split()
    code, out, err = cli(*words)
    assert code == 0, err
    assert "270 training, 30 validation, no test rows" in out
    assert "test       none: with --test 0 no rows were set apart" in out
    assert "accuracy" not in out
    code, out, err = cli(*words, "--json", "--validation", "0")
    found = json.loads(out)
    assert found["data"]["train_rows"] == 300
    names = ("cost", "accuracy", "balanced_accuracy", "f1", "roc_auc")
    assert [found[f"test_{name}"] for name in names] == [None] * 5
    assert (found["confusion"], found["majority_accuracy"]) == (None, None)
    sizes = np.genfromtxt("homes.csv", delimiter=",", skip_header=1)[:, 1]
    assert fastnn.load("m").preprocessing["feature_mean"][0] == pytest.approx(np.nanmean(sizes))


def test_no_test_of_quantities_and_of_digits(cli, tmp_path):
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{i},{i / 7}\n" for i in range(60)))
    words = ("--test", "0", "--epochs", "1", "--hidden", "4", "--no-plot", "--json", "--backend", "numpy")
    found = json.loads(cli("train", "t.csv", "--target", "y", *words)[1])
    assert (found["test_r2"], found["test_rmse"], found["test_cost"], found["data"]["test_rows"]) == (None,) * 3 + (0,)
    found = json.loads(cli("train", "digits", *words, "--validation", "0")[1])
    assert (found["data"]["train_rows"], found["test_accuracy"]) == (1797, None)


@pytest.mark.parametrize("given", ["1", "1.5", "-0.1", "nan", "a fifth", "other.txt", ""])
def test_a_test_that_is_none(cli, given):
    code, out, err = cli("train", "t.csv", "--target", "y", f"--test={given}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"--test must be a table (.csv, .tsv, .csv.gz, .tsv.gz, .npz), or a fraction of the rows >= 0 and < 1 (0 for no test), got {given!r}" in err  # fmt: skip


def test_mnist_has_test_rows_of_its_own(cli):
    code, _, err = cli("train", "mnist", "--test", "0.1")
    assert (code, "--test 0.1 is not for 'mnist', which has test rows of its own" in err) == (2, True)


@pytest.mark.parametrize("learnt", [True, False])
def test_the_most_frequent_class_is_told_always(cli, tmp_path, learnt):
    """Of three classes none of which is the half; and where the model is no better, that is told too."""
    rng = np.random.default_rng(1)
    x, kinds = rng.standard_normal(600), np.repeat(["a", "b", "c"], [240, 200, 160])
    x = x if not learnt else x + np.repeat([0, 5, 10], [240, 200, 160])
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{v:.4f},{k}\n" for v, k in zip(x, kinds, strict=True)))
    words = f"train t.csv --target y --epochs 30 --hidden 16 {QUIET}".split()
    code, out, err = cli(*words)
    assert code == 0, err
    assert "baseline: always a, accuracy 40.00 %" in out
    assert ("by accuracy this model is not better than the baseline" in out) is not learnt
    code, out, _ = cli("evaluate", "m", "t.csv")
    assert "baseline: always a, accuracy 40.00 %" in out
    assert json.loads(cli(*words, "--json")[1])["better_than_baseline"] is learnt


def test_the_baseline_has_a_balanced_accuracy_too(cli, tmp_path):
    rng = np.random.default_rng(0)
    rare = np.arange(800) % 20 == 0
    x = rng.standard_normal(800) + 1.5 * rare
    (tmp_path / "t.csv").write_text(
        "x,y\n" + "".join(f"{v:.4f},{'ny'[int(r)]}\n" for v, r in zip(x, rare, strict=True))
    )
    code, out, err = cli(*f"train t.csv --target y --epochs 20 --balanced {QUIET}".split())
    assert code == 0, err
    assert "by more than the standard error (-" in out
    assert "baseline: always n, accuracy 95.00 %, balanced accuracy 50.00 %" in out


@pytest.mark.parametrize("learnt", [True, False])
def test_quantities_that_are_not_better_known_than_by_their_mean(cli, tmp_path, learnt):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 300))
    y = y + 3 * x if learnt else y
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{a:.4f},{b:.4f}\n" for a, b in zip(x, y, strict=True)))
    words = f"train t.csv --target y --epochs 30 {QUIET}".split()
    code, out, err = cli(*words)
    assert code == 0, err
    assert ("not better than always answering the mean" in out) is not learnt
    assert json.loads(cli(*words, "--json")[1])["better_than_baseline"] is learnt
    (tmp_path / "one.csv").write_text("x,y\n1,2\n")
    assert json.loads(cli("evaluate", "m", "one.csv", "--json")[1])["better_than_baseline"] is None


def test_a_file_without_answers_is_for_predict(cli, tmp_path):
    rows = "".join(f"{i % 7},{i},{i / 3}\n" for i in range(40))
    (tmp_path / "t.csv").write_text("age,size,target\n" + rows)
    assert cli(*f"train t.csv --target target --epochs 1 {QUIET}".split())[0] == 0
    for header, said in (
        ("age,size,x", "; rows without answers test no model: they are for `fastnn predict`\n"),
        ("age,size,traget", "; did you mean 'traget'?\n"),
        ("age,size,Target", "; did you mean 'Target'?\n"),
    ):
        (tmp_path / "new.csv").write_text(f"{header}\n{rows}")
        code, out, err = cli("evaluate", "m", "new.csv")
        assert (code, out) == (2, "")
        assert err.endswith(f"new.csv: has no column 'target', the target{said}")
        assert cli("predict", "m", "new.csv")[0] == 0
