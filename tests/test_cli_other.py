"""The other commands, the progress display, the confusion matrix, the learning curve, and what is imported when."""

import io
import json
import os
import subprocess
import sys
from typing import get_args, get_type_hints

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

import fastnn
from fastnn.cli import diagnosis
from fastnn.cli.app import app
from fastnn.cli.errors import NUMBERS, guarded
from fastnn.confusion import confusion_matrix, worst_pairs
from fastnn.plots import learning_curve
from fastnn.progress import RichProgress
from fastnn.training import History


def cli(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


# ---- gradcheck, doctor, example, version --------------------------------------------------------------


def test_gradcheck_covers_every_activation_and_pair():
    result = cli("gradcheck", "--backend", "numpy")
    assert result.exit_code == 0, result.stdout
    assert "every gradient agrees" in result.stdout
    found = json.loads(cli("gradcheck", "--backend", "numpy", "--seed", 2, "--json").stdout)
    assert found["ok"]
    assert len(found["checks"]) == 7 * 13
    assert max(check["max_relative_error"] for check in found["checks"]) < 1e-6


def test_gradcheck_fails_loudly(monkeypatch):
    true = fastnn.Network._cost_and_gradient

    def wrong(self, *arguments):
        J, D = true(self, *arguments)
        D[0] *= 1.01
        return J, D

    monkeypatch.setattr(fastnn.Network, "_cost_and_gradient", wrong)
    result = cli("gradcheck", "--backend", "numpy")
    assert result.exit_code == 1
    assert "FAILED" in result.stdout


def test_gradcheck_bad_input():
    for words, expected in (
        (["--backend", "x"], "--backend 'x'"),
        (["--seed", "-1"], "--seed must be"),
        (["--seed", "a"], "--seed must be an integer, got 'a'"),
    ):
        result = cli("gradcheck", *words)
        assert result.exit_code == 2
        assert expected in result.stderr


def test_example():
    assert "0.29102777369359933" in cli("example").stdout
    found = json.loads(cli("example", "--json").stdout)
    assert found["correct"]["error_after_one"] == pytest.approx(0.29102777369359933, abs=1e-12)


def test_doctor():
    result = cli("doctor")
    assert result.exit_code == 0, result.stdout
    assert "usable, self-test passed" in result.stdout
    found = json.loads(cli("doctor", "--json").stdout)
    assert found["ok"]
    assert {engine["name"] for engine in found["engines"]} == {"numpy", "numba", "cupy"}


def test_doctor_exits_with_1_when_an_engine_fails(monkeypatch):
    monkeypatch.setattr("fastnn.doctor.self_test", lambda backend: ["wrong"])
    assert cli("doctor").exit_code == 1


def test_version_and_help():
    assert cli("--version").stdout == f"fastnn {fastnn.__version__}\n"
    for words in (["--help"], ["train", "-h"]):
        result = cli(*words)
        assert result.exit_code == 0
        assert "Usage" in result.stdout
    assert cli().exit_code == 2
    assert "bench" in cli("--help").stdout
    flags = [line for line in cli("train", "--help").stdout.splitlines() if "--no-plot" in line or "--explain" in line]
    assert len(flags) == 2
    assert not any("bool" in line for line in flags), "they take no value"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "digits", "--epochs", "3", "--seed", "1", "--epochs=2"], "--epochs is given 2 times (3, 2)"),
        (["train", "t.csv", "--target", "a", "--target", "a"], "--target is given 2 times (a, a)"),
        (["predict", "m", "t.csv", "--backend", "x", "--backend", "y", "--backend", "z"], "--backend is given 3 times"),
        (["bench", "--html", "a", "--html", "b"], "--html is given 2 times (a, b)"),
    ],
)
def test_an_option_of_one_value_is_given_once(words, said):
    result = cli(*words)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert f"error: {said}" in result.stderr
    assert "; one is expected" in result.stderr


@pytest.mark.parametrize(
    "option", ["--epochs", "--batch-size", "--base-batch", "--micro-batch", "--patience", "--seed"]
)
def test_integers_are_integers(option):
    for given in ("2.5", "ten", ""):
        result = cli("train", "digits", f"{option}={given}")
        assert (result.exit_code, result.stderr) == (2, f"fastnn: error: {option} must be an integer, got {given!r}\n")


@pytest.mark.parametrize(
    "option",
    ["learning-rate", "warmup-epochs", "l2", "weight-decay", "clip-norm", "dropout", "validation", "checkpoint"],
)
def test_numbers_are_numbers(option):
    result = cli("train", "digits", f"--{option}", "much")
    assert (result.exit_code, result.stderr) == (2, f"fastnn: error: --{option} must be a number, got 'much'\n")


def test_the_metavar_of_an_option_says_what_number_it_takes():
    """By which a bad one is found before the parser words it."""
    commands, found = get_command(app).commands, 0
    for name, info in (
        (info.name or info.callback.__name__.replace("_", "-"), info) for info in app.registered_commands
    ):
        hints = get_type_hints(info.callback)
        for param in commands[name].params:
            hint = hints.get(param.name)
            kind = next((kind for kind in (int, float) if kind in (hint, *get_args(hint))), None)
            assert NUMBERS.get(param.metavar, (None,))[0] is kind, (name, param.name)
            found += kind is not None
    assert found > 15


def test_what_may_be_repeated_still_may():
    result = cli("train", "none.csv", "--target", "y", "--drop", "a", "--drop", "b", "--no-plot", "--no-plot")
    assert "none.csv: no such file" in result.stderr
    assert "--pear" in cli("train", "--pear", "1", "--pear", "2").stderr  # what is unknown is said to be, as before


def test_pairs_are_those_of_the_specification():
    assert set(diagnosis.pairs()) == {
        ("softmax", "cross_entropy"),
        ("softmax", "squared_error"),
        ("sigmoid", "cross_entropy"),
        ("sigmoid", "squared_error"),
        ("tanh", "squared_error"),
        ("relu", "squared_error"),
        ("leaky_relu", "squared_error"),
        ("identity", "squared_error"),
        ("identity", "absolute_error"),
        ("identity", "huber"),
        ("identity", "quantile"),
        ("exp", "squared_error"),
        ("exp", "poisson"),
    }


# ---- imports ----------------------------------------------------------------------------------------

HEAVY = ("numba", "scipy", "sklearn", "matplotlib", "rich", "typer", "cupy", "safetensors")


def loaded_by(code):
    script = f"import sys\n{code}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    ).stdout.strip()


def test_nothing_heavy_is_imported_before_it_is_needed():
    assert loaded_by("import fastnn") == "[]"
    assert (
        loaded_by(
            "import fastnn.data.tables, fastnn.data.mnist, fastnn.data.digits, fastnn.plots, fastnn.progress, "
            "fastnn.doctor, fastnn.worked_example"
        )
        == "[]"
    )
    assert loaded_by("import fastnn.cli") == "[]"


def test_broken_pipe_is_no_traceback(tmp_path):
    command = f"{sys.executable} -c 'from fastnn.cli import main; main()' doctor --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr


def test_streams_that_are_closed_are_replaced_before_anything_is_written(monkeypatch):
    import fastnn.cli.app

    seen = []
    monkeypatch.setattr(fastnn.cli.app, "app", lambda: seen.append((sys.stdout.name, sys.stderr.name)))
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    fastnn.cli.main()
    for stream in (sys.stdout, sys.stderr):
        stream.close()
    assert seen == [(os.devnull, os.devnull)]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(28, "No space left on device", "m.safetensors"), 2, "m.safetensors: No space left on device"),
        (MemoryError(), 2, "not enough memory (for a network or a batch of this size)"),
        (fastnn.DeviceLost("the GPU stopped answering", epoch=1, step=2, history=None), 1, "the GPU stopped answering"),
        (ValueError("X must be finite"), 2, "X must be finite"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_a_code(error, code, said, capsys):
    def run():
        raise error

    assert guarded(run) == code
    assert capsys.readouterr().err == f"fastnn: error: {said}\n"


# ---- progress ---------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def train(stream, epochs, validation=0.25):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    net = fastnn.Network([3, 4, 2], backend="numpy")
    return net.fit(
        X, (X[:, 0] > 0).astype(int), epochs=epochs, batch_size=10, validation=validation, progress=RichProgress(stream)
    )


def test_one_plain_line_per_epoch_off_a_terminal():
    stream = io.StringIO()
    history = train(stream, 3)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[2].startswith(f"epoch 3/3  training: cost {history.cost[-1]:<8.4g}, accuracy")
    assert (
        f"validation: cost {history.val_cost[-1]:<8.4g}, accuracy {100 * history.val_accuracy[-1]:6.2f} %"
    ) in lines[2]
    stream = io.StringIO()
    train(stream, 2, validation=None)
    assert "validation" not in stream.getvalue()


def test_fewer_lines_when_epochs_are_many_and_always_the_last():
    stream = io.StringIO()
    train(stream, 101)
    lines = stream.getvalue().splitlines()
    assert len(lines) <= 42
    assert lines[0].startswith("epoch   1/101")
    assert lines[-1].startswith("epoch 101/101")


def test_a_live_bar_on_a_terminal():
    stream = Terminal()
    train(stream, 4)
    shown = stream.getvalue()
    for words in ("epoch 1/4", "epoch 4/4", "validation: cost", "val", "\x1b["):
        assert words in shown
    assert shown.endswith(("\x1b[?25h", "\x1b[2K", "\n", "\r")) or "\x1b[?25h" in shown  # the cursor is back


def test_stopping_without_an_epoch_shows_nothing():
    progress = RichProgress(io.StringIO())
    progress.start(3, 10)
    progress.advance(4)
    progress.stop()
    assert progress._stream.getvalue() == ""


# ---- confusion matrix and curve -----------------------------------------------------------------------


def test_confusion_matrix():
    y, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 0, 2])
    matrix = confusion_matrix(y, predicted, 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]
    assert worst_pairs(matrix, 5) == [(2, 0, 2), (0, 1, 1)]
    for bad in (np.array([0, 3]), np.array([-1, 0]), np.array([0])):
        with pytest.raises(ValueError, match=r"must"):
            confusion_matrix(np.array([0, 1]), bad, 3)


@pytest.mark.parametrize("history", [
    History(cost=[2.0, 0.05], accuracy=[0.1, 0.9], val_cost=[2.1, 0.2], val_accuracy=[0.1, 0.8], seconds=[1, 1]),
    History(cost=[2.0], seconds=[1]),
    History(cost=[2.0, 1.0, 0.5], val_cost=[2.1, 1.5, 1.8], seconds=[1] * 3, best=1),
    History(cost=[1.0] * 100, val_cost=[0.0] * 100, seconds=[1] * 100),
])  # fmt: skip
def test_learning_curve_is_a_picture(tmp_path, history):
    learning_curve(history, tmp_path / "c.png", title="costs in $ and _names_")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_learning_curve_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="no completed epoch"):
        learning_curve(History(), tmp_path / "c.png")
