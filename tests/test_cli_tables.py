"""`fastnn train` and `predict` on tables as they are: categories, missing cells, columns left out, rare classes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.metrics import r2_score

import fastnn
from fastnn.data import tables
from fastnn.data.dataset import deal


def test_a_table_with_categories_missing_cells_and_test_rows_of_its_own(cli, households, tmp_path):
    words = ("train", "homes.csv", "--target", "sold", "--drop", "id", "--missing", "mean", "--test", "others.csv")
    code, out, err = cli(*words, "--balanced", "--epochs", "40", "--json", "--no-plot")
    assert code == 0, err
    found = json.loads(out)
    assert found["configuration"]["drop"] == ["id"]
    assert found["configuration"]["balanced"]
    assert (found["data"]["features"], found["data"]["test_rows"], found["data"]["train_rows"]) == (3, 60, 270)
    _, yes = found["confusion"]
    assert yes[1] >= 0.7 * sum(yes), "the rare class is found"
    code, out, _ = cli("predict", found["model"], "others.csv", "--all-classes")
    header, *rows = out.splitlines()
    assert (code, header, len(rows)) == (0, "prediction,probability,p(no),p(yes)", 60)
    for row in rows:
        answer, probability, *each = row.split(",")
        assert float(probability) == max(map(float, each))
        assert answer == ("no", "yes")[int(float(each[1]) > float(each[0]))]
    code, out, _ = cli("predict", found["model"], "others.csv", "--all-classes", "--json")
    found = json.loads(out)
    assert found["classes"] == ["no", "yes"]
    np.testing.assert_allclose(np.sum(found["all_probabilities"], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--target", "size", "--drop", "id"), "missing value (empty) in the target"),
        (("--target", "sold", "--target", "size"), "--target is given 2 times (sold, size); one is expected"),
        (("--target", "sold", "--drop", "id"), "missing value (empty); --missing mean takes the mean for it"),
        (("--target", "sold", "--missing", "mean"), "too many to be categories; leave it out: --drop id"),
        (("--target", "sold", "--missing", "median"), "--missing"),
        (("--target", "sold", "--drop", "id", "--missing", "mean", "--test", "nobody.csv"), "nobody.csv: no such file"),
    ],
)  # fmt: skip
def test_what_a_table_cannot_be_asked_is_one_line(cli, households, words, expected):
    code, out, err = cli("train", "homes.csv", *words)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


def test_options_of_tables_are_refused_for_images(cli):
    for words in (("--drop", "x"), ("--categorical", "x"), ("--missing", "mean"), ("--test", "x.csv")):
        code, _, err = cli("train", "digits", *words)
        assert code == 2
        assert f"{words[0]} is for tables" in err


def test_a_regression_has_no_classes_to_give(cli, households):
    words = ("--target", "size", "--drop", "id", "--epochs", "1", "--no-plot", "--missing", "mean")
    code, _, err = cli("train", "homes.csv", *words)
    assert code == 2, "a target may not be missing"
    assert "missing value (empty) in the target" in err


def test_all_classes_is_for_classes_and_balanced_too(cli, tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{a:.3f},{b:.3f},{a - b:.3f}" for a, b in rng.random((80, 2))]
    (tmp_path / "t.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
    code, _, err = cli("train", "t.csv", "--target", "y", "--epochs", "2", "--no-plot")
    assert code == 0, err
    code, out, err = cli("predict", "runs/t.safetensors", "t.csv", "--all-classes")
    assert (code, out) == (2, "")
    assert "--all-classes is for models that tell classes apart" in err
    code, _, err = cli("train", "t.csv", "--target", "y", "--balanced")
    assert code == 2
    assert "--balanced is for classes, and column 'y' is taken for quantities" in err


def test_balanced_counts_the_rows_that_are_watched_too(cli, tmp_path):
    """The cost by which --patience stops: as that of the rows, each times its class's weight in training."""
    rng = np.random.default_rng(0)
    rare = rng.random(400) < 0.08
    lines = [f"{a:.3f},{'yes' if r else 'no'}" for a, r in zip(rng.standard_normal(400) + rare, rare, strict=True)]
    (tmp_path / "t.csv").write_text("a,y\n" + "\n".join(lines) + "\n")
    words = ("train", "t.csv", "--target", "y", "--hidden", "none", "--epochs", "1", "--no-plot", "--json")
    code, out, err = cli(*words, "--balanced", "--learning-rate", "1e-12", "--seed", "3")
    assert code == 0, err
    found = json.loads(out)
    net, data = fastnn.load(found["model"]), tables.load("t.csv", "y")
    parts = deal(data, validation=0.1, seed=3)
    (_, codes), (X, y) = parts.train, parts.validation
    with pytest.warns(fastnn.UnscaledInput):  # rows of parts are scaled
        h = net.predict_proba(X.astype(np.float32)).astype(np.float64)
    weights = (len(codes) / (2 * np.bincount(codes)))[y]
    assert len(set(weights)) == 2
    expected = (weights * -np.log(h[np.arange(len(y)), y])).sum() / weights.sum()
    assert found["history"]["val_cost"][0] == pytest.approx(expected, rel=1e-5)


def test_costs_of_quantities(cli, tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{a:.3f},{np.exp(b):.4f}" for a, b in rng.standard_normal((600, 2))]
    (tmp_path / "t.csv").write_text("a,y\n" + "\n".join(lines) + "\n")
    words = ("train", "t.csv", "--target", "y", "--epochs", "20", "--no-plot", "--json")
    code, out, err = cli(*words, "--cost", "quantile:0.9", "--hidden", "8")
    assert code == 0, err
    found = json.loads(out)
    assert found["configuration"]["cost"] == "quantile:0.9"
    code, out, _ = cli("predict", found["model"], "t.csv")
    answers = np.array(out.split()[1:], float)
    wanted = np.array([line.split(",")[1] for line in lines], float)
    assert (code, (wanted < answers).mean()) == (0, pytest.approx(0.9, abs=0.04))
    for cost, words_ in (
        ("quantile:9", "cost='quantile:9': the quantile must lie between 0 and 1"),
        ("cross_entropy", "--cost cross_entropy is that of classes"),
    ):
        code, _, err = cli(*words, "--cost", cost)
        assert (code, words_ in err) == (2, True), err
    code, _, err = cli("train", "digits", "--cost", "huber")
    assert (code, "--cost is for tables" in err) == (2, True), err
    (tmp_path / "c.csv").write_text("a,y\n" + "\n".join(f"{i},{'ab'[i % 2]}" for i in range(40)) + "\n")
    code, _, err = cli("train", "c.csv", "--target", "y", "--cost", "huber")
    assert (code, "column 'y': text 'a', but regression needs numbers" in err) == (2, True), err
    code, _, err = cli("train", "c.csv", "--target", "y", "--cost", "huber", "--task", "classification")
    assert (code, "--cost huber is for quantities, and --task classification for classes" in err) == (2, True), err
    rows = "".join(f"{i % 7},{i % 3}\n" for i in range(200))  # few distinct integers, which alone mean classes
    (tmp_path / "few.csv").write_text("a,y\n" + rows)
    code, out, err = cli(
        "train", "few.csv", "--target", "y", "--cost", "poisson", "--epochs", "1", "--no-plot", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["configuration"]["task"] == "regression"
    assert "task: regression, as --cost poisson is for quantities" in json.loads(out)["data"]["notes"]


def as_in_a_terminal():
    """In the child: the suite may run under nohup, or in the background, where signals are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM here")
@pytest.mark.parametrize("ending", ["SIGTERM", "SIGHUP"])
def test_a_batch_system_whose_time_is_up_keeps_what_was_trained(tmp_path, ending):
    """SIGTERM, as docker stop, Slurm and timeout send it, ends a training as Ctrl-C does; SIGHUP of a terminal that is
    closed too.
    """
    rng = np.random.default_rng(0)
    lines = [f"{a:.3f},{b:.3f},{int(a > b)}" for a, b in rng.random((400, 2))]
    (tmp_path / "t.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
    words = ["train", "t.csv", "--target", "y", "--epochs", "100000", "--no-plot", "--backend", "numpy"]
    with subprocess.Popen(
        [sys.executable, "-m", "fastnn", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=as_in_a_terminal,
    ) as process:
        for line in process.stderr:
            if line.startswith("epoch"):
                break
        time.sleep(0.2)
        process.send_signal(getattr(signal, ending))
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()  # where it did not heed the signal
    assert process.returncode == 130
    net = fastnn.load(tmp_path / "runs" / "t.safetensors", backend="numpy")
    assert net.epochs_trained > 0


def test_a_model_is_exported_for_other_runtimes(cli, households, tmp_path):
    words = (
        "train",
        "homes.csv",
        "--target",
        "sold",
        "--drop",
        "id",
        "--missing",
        "mean",
        "--epochs",
        "2",
        "--no-plot",
    )
    assert cli(*words)[0] == 0
    code, out, err = cli("export", "runs/homes.safetensors", "homes.onnx")
    assert (code, out) == (0, "")
    assert "written to homes.onnx" in err
    assert "(an earlier file was overwritten)" in cli("export", "runs/homes.safetensors", "homes.onnx")[2]
    code, _, err = cli("export", "runs/homes.safetensors", "homes.pt")
    assert code == 2
    assert "must end in '.onnx'" in err
    assert cli("export", "nobody.safetensors", "homes.onnx")[0] == 2


def test_export_without_onnx_is_one_sentence(cli, tmp_path, monkeypatch):
    fastnn.Network([2, 2], backend="numpy").save(tmp_path / "m")
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, out, err = cli("export", "m", "m.onnx")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "export_onnx needs onnx" in err
    code, _, err = cli("train", "t.csv", "--target", "y", "--test", "a.csv", "--test", "b.csv")
    assert code == 2
    assert "--test is given 2 times (a.csv, b.csv); one is expected" in err


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM here")
def test_sigterm_ends_what_ignores_ctrl_c(tmp_path):
    """As in the background of a shell script: it must not live on."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import fastnn.cli.app, time\n"
        "fastnn.cli.app.app = lambda: (print('on', flush=True), time.sleep(60))\n"
        "fastnn.cli.main()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path) as process:
        process.stdout.readline()
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM


def test_weight_decay_is_adamw_and_refused_for_others(cli, tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{a:.3f},{b:.3f},{int(a > b)}" for a, b in rng.random((80, 2))]
    (tmp_path / "t.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
    words = ("train", "t.csv", "--target", "y", "--epochs", "5", "--no-plot", "--l2", "0", "--save")
    sizes = []
    for name, more in (("plain", ()), ("decayed", ("--weight-decay", "5"))):
        code, _, err = cli(*words, name, *more)
        assert code == 0, err
        net = fastnn.load(tmp_path / name, backend="numpy")
        sizes.append(sum(float((W**2).sum()) for W in net.weights))
    assert sizes[1] < 0.95 * sizes[0]
    code, _, err = cli(*words, "x", "--optimizer", "sgd", "--weight-decay", "5")
    assert code == 2
    assert "--weight-decay is for adam, lars, lamb, not for sgd" in err


def test_dropout_is_passed_on_and_refused_without_hidden_layers(cli, tmp_path):
    code, out, _ = cli(
        "train",
        "digits",
        "--hidden",
        "32",
        "--dropout",
        "0.4",
        "--epochs",
        "1",
        "--save",
        tmp_path / "net",
        "--no-plot",
    )
    assert code == 0
    assert "dropout 0.4" in out
    assert fastnn.load(tmp_path / "net").dropout == (0.4,)
    for given, message in (("1", "--dropout must be a finite number >= 0 and < 1"), ("much", "--dropout must be")):
        code, _, err = cli("train", "digits", "--dropout", given)
        assert code == 2
        assert message in err
    code, _, err = cli("train", "digits", "--hidden", "none", "--dropout", "0.4")
    assert code == 2
    assert "--dropout 0.4 leaves hidden units out, and --hidden none makes none" in err


@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes here")
@pytest.mark.parametrize("reader", ["goes", "disk full"])
def test_a_log_that_cannot_be_written_costs_no_training(tmp_path, reader):
    rng = np.random.default_rng(0)
    lines = [f"{a:.3f},{b:.3f},{int(a > b)}" for a, b in rng.random((400, 2))]
    (tmp_path / "t.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
    words = ["train", "t.csv", "--target", "y", "--epochs", "60", "--no-plot", "--backend", "numpy"]
    if reader == "disk full" and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full" if reader == "disk full" else os.devnull, "w") as full:
        log = full if reader == "disk full" else subprocess.PIPE
        with subprocess.Popen(
            [sys.executable, "-m", "fastnn", *words], cwd=tmp_path, stderr=log, stdout=subprocess.DEVNULL
        ) as process:
            if process.stderr is not None:
                process.stderr.readline()
                process.stderr.close()
            assert process.wait(60) == 0
    assert fastnn.load(tmp_path / "runs" / "t.safetensors", backend="numpy").epochs_trained == 60


def test_a_guess_is_named_where_it_ends_in_an_error(cli, tmp_path):
    """Counts, which were taken for classes."""
    path = tmp_path / "counts.csv"
    counts = [0, 1, 2] * 30 + [8, 8]
    path.write_text("x,y\n" + "".join(f"{i / 7},{count}\n" for i, count in enumerate(counts)))
    code, _, said = cli("train", path, "--target", "y", "--no-plot")
    assert code != 0
    assert "class '8' has 2 rows" in said or "class 8 has 2 rows" in said
    assert "task: classification, guessed because 'y' holds 4 distinct integers; --task overrides this" in said


def test_evaluate_says_of_a_file_what_train_says_of_its_test_rows(cli, households, tmp_path):
    words = ("train", "homes.csv", "--target", "sold", "--drop", "id", "--missing", "mean", "--epochs", "20")
    code, out, _ = cli(*words, "--test", "others.csv", "--no-plot", "--json", "--save", "m.safetensors")
    trained = json.loads(out)
    code, out, err = cli("evaluate", "m.safetensors", "others.csv", "--json")
    found = json.loads(out)
    assert (code, found["rows"], found["confusion"]) == (0, 60, trained["confusion"])
    assert found["accuracy"] == trained["test_accuracy"]
    assert found["cost"] == pytest.approx(trained["test_cost"], rel=1e-6)
    assert found["classes"] == ["no", "yes"]
    code, out, _ = cli("evaluate", "m.safetensors", "others.csv")
    assert code == 0
    assert f"accuracy {100 * found['accuracy']:.2f} %" in out
    assert " wrong of 60 rows)" in out
    assert "confusion matrix: rows are the truth" in out
    (tmp_path / "no_target.csv").write_text("id,size,city\n1,30,Oslo\n")
    code, _, err = cli("evaluate", "m.safetensors", "no_target.csv")
    assert (code, "has no column 'sold', the target" in err) == (2, True)


def test_evaluate_of_quantities(cli, tmp_path):
    """R2 and RMSE are scikit-learn's, of answers in the unit of the file."""
    rng = np.random.default_rng(0)
    for name in ("train", "more"):
        x = rng.standard_normal((200, 2))
        y = 1e4 + 500 * x[:, 0] - 100 * x[:, 1] + 50 * rng.standard_normal(200)
        rows = "".join(f"{a:.6f},{b:.6f},{c:.4f}\n" for (a, b), c in zip(x, y, strict=True))
        (tmp_path / f"{name}.csv").write_text("a,b,y\n" + rows)
    assert cli("train", "train.csv", "--target", "y", "--epochs", "20", "--no-plot", "--save", "m")[0] == 0
    found = json.loads(cli("evaluate", "m", "more.csv", "--json")[1])
    predicted = json.loads(cli("predict", "m", "more.csv", "--json")[1])["predictions"]
    assert found["r2"] == pytest.approx(r2_score(y, predicted), abs=1e-6)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((y - predicted) ** 2)), rel=1e-6)
    assert f"R2 {found['r2']:.4f}, root mean square error" in cli("evaluate", "m", "more.csv")[1]


def test_evaluate_is_for_tables(cli):
    assert cli("train", "digits", "--epochs", "1", "--no-plot", "--save", "m")[0] == 0
    code, _, err = cli("evaluate", "m", "x.csv")
    assert (code, "takes images, not the columns of a table" in err) == (2, True)


def test_columns_are_kept_beside_the_predictions(cli, households, tmp_path):
    words = ("train", "homes.csv", "--target", "sold", "--drop", "id", "--missing", "mean", "--epochs", "5")
    assert cli(*words, "--no-plot", "--save", "m")[0] == 0
    plain = cli("predict", "m", "others.csv")[1].splitlines()
    code, out, err = cli("predict", "m", "others.csv", "--keep", "id", "--keep", "size")
    rows = out.splitlines()
    assert (code, rows[0]) == (0, "id,size,prediction,probability")
    given = [line.split(",")[:2] for line in (tmp_path / "others.csv").read_text().splitlines()]
    assert [row.split(",")[:2] for row in rows] == given  # as they are written, also where there is nothing
    assert [row.split(",", 2)[2] for row in rows] == plain
    assert "'id'" not in err
    found = json.loads(cli("predict", "m", "others.csv", "--keep", "id", "--json")[1])
    assert found["kept"] == {"id": [f"h{i}" for i in range(60)]}
    code, _, err = cli("predict", "m", "others.csv", "--keep", "prediction")
    assert (code, "the predictions have a column of that name themselves" in err) == (2, True)
    out, err = cli("predict", "m", "others.csv", "--keep", "sold")[1:]
    assert (out.startswith("sold,prediction"), "it is ignored" in err) == (True, False)
    code, _, err = cli("predict", "m", "others.csv", "--keep", "name")
    assert (code, "has no column 'name'" in err) == (2, True)


def test_what_was_learnt_is_saved_where_a_test_row_overflows(cli, tmp_path):
    """-3e38 is what some programs write for no value."""
    (tmp_path / "train.csv").write_text("a,y\n" + "".join(f"{i / 7000},{'uv'[i % 2]}\n" for i in range(60)))
    (tmp_path / "test.csv").write_text("a,y\n1,u\n-3e38,v\n")
    code, _, err = cli("train", "train.csv", "--target", "y", "--test", "test.csv", "--no-plot", "--save", "m")
    assert code == 2
    assert "the network is trained and saved to m; the test rows cannot be evaluated" in err
    assert "overflows float32" in err
    assert cli("predict", "m", "train.csv")[0] == 0


@pytest.mark.parametrize(
    ("name", "words"), [("adamw", "adam --weight-decay 0.01"), ("lbfgs", "in Python, net.fit(X, y, optimizer='lbfgs')")]
)
def test_optimizers_that_are_something_else_here(cli, name, words):
    code, _, err = cli("train", "digits", "--optimizer", name)
    assert (code, words in err) == (2, True)


def test_who_is_no_better_than_a_constant_answer_is_told(cli, tmp_path):
    """Five rows in a hundred of a class that nothing tells apart; and a validation cost that has risen."""
    rng = np.random.default_rng(0)
    lines = ["a,b,left", *(f"{a:.3f},{b:.3f},{'yes' if i % 20 == 0 else 'no'}" for i, (a, b) in enumerate(rng.random((600, 2))))]  # fmt: skip
    (tmp_path / "churn.csv").write_text("\n".join(lines) + "\n")
    words = ("train", "churn.csv", "--target", "left", "--no-plot", "--hidden", "64,64", "--l2", "0")
    code, out, err = cli(*words, "--epochs", "150", "--learning-rate", "0.01")
    assert code == 0, err
    assert "baseline: always no, accuracy 95.00 %" in out
    assert "overfitted" in out
    assert "--patience 10 ends in time" in out
    code, out, _ = cli(*words, "--epochs", "3", "--json")
    assert json.loads(out)["majority_accuracy"] == pytest.approx(0.95)
    code, out, _ = cli(*words, "--epochs", "150", "--patience", "5")
    assert "overfitted" not in out


@pytest.mark.parametrize(
    ("date", "told"),
    [("2026-{m:02}-{d:02}", True), ("2026/{m}/{d} 10:00", True), ("{d}.{m}.26", True), ("2026-{m:02}-{d:02}x", False)],
)
def test_dates_are_told_to_be_categories(cli, tmp_path, date, told):
    lines = [f"{date.format(d=1 + i % 28, m=1 + i % 12)},{i % 7},{i % 2}" for i in range(400)]
    (tmp_path / "t.csv").write_text("\n".join(["signup,b,y", *lines]) + "\n")
    code, out, err = cli("train", "t.csv", "--target", "y", "--epochs", "1", "--no-plot")
    assert code == 0, err
    assert ("column 'signup' looks like dates" in out) is told
    assert ("--drop signup" in out) is told


def test_masked_columns_are_refused(cli, tmp_path):
    (tmp_path / "t.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 3},{i % 2}\n" for i in range(100)))
    code, out, err = cli("train", "t.csv", "--target", "y", "--epochs", "1", "--no-plot", "--json")
    assert code == 0, err
    net = fastnn.load(json.loads(out)["model"])
    masked = np.ma.masked_array([1e6, 2], [True, False])
    with pytest.raises(fastnn.DataFileError, match=r"column 'a' is a masked array; fill it first"):
        fastnn.prediction.predict_table(net, {"a": masked, "b": [1, 2]})
