"""Trainings of the command line that are killed, and go on."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from typer.testing import CliRunner

import fastnn
from fastnn.cli.app import app
from fastnn.cli.checkpoint import Checkpoint
from fastnn.cli.settings import TrainOptions
from fastnn.data.dataset import Parts
from fastnn.optimizers import Adam
from fastnn.training import History

KILLED = textwrap.dedent("""
    import os, sys
    from fastnn.cli import checkpoint
    from fastnn.cli.app import app

    written = checkpoint.Checkpoint._write

    def and_killed(self, net):
        if len(self.history.cost) < int(sys.argv[1]):  # that of this epoch is not written any more
            return written(self, net)
        os._exit(9)

    checkpoint.Checkpoint._write = and_killed
    app(sys.argv[2:])
""")


def write_table(folder):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 4))
    y = np.where(X[:, 0] * X[:, 1] + 0.5 * rng.standard_normal(300) > 0, "yes", "no")
    rows = "\n".join(",".join([*(f"{v:.5f}" for v in row), name]) for row, name in zip(X, y, strict=True))
    (folder / "t.csv").write_text("a,b,c,d,y\n" + rows + "\n")


@pytest.fixture
def table(tmp_path):
    write_table(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    write_table(folder)
    assert run(folder, "--epochs", 5, "--checkpoint", 0, "--save", "m", killed_after=3).returncode == 9
    return folder


@pytest.fixture
def killed(killed_once, tmp_path):
    """A copy of the folder of a training of five epochs that was killed in the third."""
    shutil.copytree(killed_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def here(folder, *words, table="t.csv"):
    """The same as `run` in this process, which one more has no need of."""
    with contextlib.chdir(folder):
        engine = [] if "--backend" in words else ["--backend", "numpy"]
        return CliRunner().invoke(app, ["train", table, "--target", "y", "--no-plot", *engine, *map(str, words)])


def run(folder, *words, killed_after=None):
    before = [sys.executable, "-c", KILLED, str(killed_after)] if killed_after else [sys.executable, "-m", "fastnn"]
    engine = [] if "--backend" in words else ["--backend", "numpy"]
    return subprocess.run(
        [*before, "train", "t.csv", "--target", "y", "--no-plot", *engine, *map(str, words)],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        ("--epochs", 9),
        ("--epochs", 60, "--patience", 3, "--learning-rate", 0.01, "--backend", "numba"),
        ("--epochs", 60, "--patience", 4, "--monitor", "val_accuracy", "--learning-rate", 0.01),
        ("--epochs", 9, "--decay", "cosine", "--dropout", 0.3, "--optimizer", "momentum", "--balanced"),
    ],
    ids=["plain", "patience", "accuracy", "schedule"],
)
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(table, options):
    whole = run(table, *options, "--save", "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    for epochs, more in ((4, []), (6, ["--resume"])):
        done = run(table, *options, "--save", "parts", "--checkpoint", 0, *more, killed_after=epochs)
        assert done.returncode == 9, done.stderr
        assert "--resume goes on from parts.checkpoint.safetensors" in done.stderr
        assert len(list(table.glob("parts.checkpoint-best-*"))) == ("--patience" in options), "of the best epoch alone"
    last = run(table, *options, "--save", "parts", "--checkpoint", 0, "--resume", "--json")
    assert last.returncode == 0, last.stderr
    assert (table / "whole").read_bytes() == (table / "parts").read_bytes()
    found, expected = json.loads(last.stdout), json.loads(whole.stdout)
    for name in ("cost", "accuracy", "val_cost", "val_accuracy", "learning_rate", "best"):
        assert found["history"][name] == expected["history"][name], name
    assert (found["epochs_completed"], found["test_accuracy"]) == (
        expected["epochs_completed"],
        expected["test_accuracy"],
    )
    assert {path.name for path in table.iterdir()} == {"t.csv", "whole", "parts"}, "nothing else is left"


def test_after_the_last_epoch_more_may_be_asked_for(table):
    assert run(table, "--epochs", 5, "--checkpoint", 0, "--save", "m", killed_after=5).returncode == 9
    done = run(table, "--epochs", 3, "--resume", "--save", "m")
    assert (done.returncode, "4 epochs are done; --epochs must be no fewer, got 3" in done.stderr) == (2, True)
    assert run(table, "--epochs", 7, "--resume", "--save", "m").returncode == 0
    assert fastnn.load(table / "m").epochs_trained == 7
    assert not (table / "m.checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--hidden", "8"], "--hidden is '8', the training that m.checkpoint.safetensors is of had '64,32'"),
        (["--l2", "1"], "--l2 is 1.0"),
        (["--clip-norm", "1"], "--clip-norm is 1.0, the training that m.checkpoint.safetensors is of had not given"),
        (["--seed", "1"], "--seed is 1"),
        (["--decay", "cosine"], "--decay is 'cosine'"),
    ],
    ids=str,
)
def test_other_options_are_refused(killed, change, words):
    before = (killed / "m.checkpoint.safetensors").read_bytes()
    done = here(killed, "--epochs", 5, "--resume", "--save", "m", *change)
    assert (done.exit_code, words in done.stderr) == (2, True), done.stderr
    assert (killed / "m.checkpoint.safetensors").read_bytes() == before
    assert not (killed / "m").exists()


def test_other_data_and_no_checkpoint_are_refused(killed):
    done = here(killed, "--resume", "--save", "none")
    assert (done.exit_code, "--resume: no checkpoint none.checkpoint.safetensors was found" in done.stderr) == (
        2,
        True,
    ), done.stderr
    lines = (killed / "t.csv").read_text().splitlines()
    lines[5] = "9" + lines[5].lstrip("-")
    (killed / "t.csv").write_text("\n".join(lines) + "\n")
    done = here(killed, "--resume", "--save", "m")
    assert (done.exit_code, "--resume: the data are not those" in done.stderr) == (2, True), done.stderr
    fastnn.Network([4, 2]).save(killed / "n.checkpoint.safetensors", optimizer=fastnn.optimizers.Adam())
    done = here(killed, "--resume", "--save", "n")
    assert (
        done.exit_code,
        "n.checkpoint.safetensors is no checkpoint of this version of fastnn train" in done.stderr,
    ) == (2, True), done.stderr


def test_short_trainings_leave_and_say_nothing(table):
    done = here(table, "--epochs", 3, "--save", "m")
    assert (done.exit_code, "resume" in done.stderr + done.stdout) == (0, False)
    assert {path.name for path in table.iterdir()} == {"t.csv", "m"}
    for bad in ("-1", "x", "nan"):
        done = here(table, "--checkpoint", bad)
        assert (done.exit_code, "--checkpoint must be" in done.stderr) == (2, True), done.stderr


def test_a_checkpoint_that_cannot_be_written_costs_no_training(table):
    (table / "m.checkpoint.safetensors").mkdir()
    done = here(table, "--epochs", 3, "--checkpoint", 0, "--save", "m")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("cannot be written") == 1
    assert (table / "m").is_file()


def test_a_crash_after_the_last_epoch_costs_nothing(table):
    words = ("--epochs", 4, "--decay", "cosine", "--save", "m")
    assert run(table, *words, "--checkpoint", 0, killed_after=5).returncode == 0, "it is never reached"
    whole = (table / "m").read_bytes()
    ended = f"from fastnn.cli import training; training._write = lambda *a: __import__('os')._exit(9)\n{KILLED}"
    done = subprocess.run(
        [sys.executable, "-c", ended, "99", "train", "t.csv", "--target", "y", "--no-plot", "--backend", "numpy", *map(str, words), "--checkpoint", "0"],
        cwd=table, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, (table / "m.checkpoint.safetensors").is_file()) == (9, True), done.stderr
    (table / "m").unlink()
    done = run(table, *words, "--resume")
    assert done.returncode == 0, done.stderr
    assert (table / "m").read_bytes() == whole


def test_another_training_of_that_name_leaves_it_alone_and_takes_nothing_from_it(table):
    words = ("--epochs", 8, "--patience", 3, "--checkpoint", 0, "--save")
    expected = run(table, *words, "other", "--json")
    words = (*words, "m")
    assert run(table, *words, "--l2", 50, killed_after=2).returncode == 9
    left = {path.name for path in table.iterdir()}
    short = run(table, "--epochs", 1, "--save", "m")
    assert (short.returncode, "which --resume would continue" in short.stderr) == (0, True)
    assert {path.name for path in table.iterdir()} >= left
    assert run(table, *words, killed_after=3).returncode == 9
    last = run(table, *words, "--resume", "--json")
    assert last.returncode == 0, last.stderr
    assert json.loads(last.stdout)["test_cost"] == json.loads(expected.stdout)["test_cost"]


def test_a_cost_that_is_no_number_costs_no_training(tmp_path):
    """Of a validation row whose squares overflow; and the history has it after the pause."""
    rng = np.random.default_rng(0)
    parts = tuple((rng.standard_normal((20, 2)), np.arange(20) % 2) for _ in range(3))
    options, about = TrainOptions("t.csv", checkpoint=0.0, epochs=5, patience=3), Parts(*parts, {})
    first, history = Checkpoint(tmp_path / "m", options, about), History()
    net = fastnn.Network([2, 3, 2], backend="numpy", seed=0)
    rule = Adam()
    net.fit(*parts[0], optimizer=rule, epochs=1)
    net._optimizer = rule
    for cost in (np.nan, 0.5, np.inf):
        for name in ("cost", "val_cost", "seconds", "learning_rate"):
            getattr(history, name).append(cost if "cost" in name else 0.1)
        first(0, history, net)
    second = Checkpoint(tmp_path / "m", options, about)
    second.read("numpy")
    np.testing.assert_array_equal(second.earlier.val_cost, [np.nan, 0.5, np.nan])
    assert (second.earlier.best, second._highest) == (1, -0.5)


def test_a_checkpoint_of_an_older_version_has_fewer_options(tmp_path):
    parts = tuple((np.zeros((20, 2)), np.arange(20) % 2) for _ in range(3))
    options, about = TrainOptions("t.csv", checkpoint=0.0, epochs=5), Parts(*parts, {})
    checkpoint, net = Checkpoint(tmp_path / "m", options, about), fastnn.Network([2, 3, 2], backend="numpy", seed=0)
    net._optimizer = Adam()
    checkpoint(0, History([1.0], [], [], [], [0.1], [0.1]), net)
    net, rule = fastnn.resume(checkpoint.path, backend="numpy")
    for name in ("chronological", "monitor"):
        del net.preprocessing["options"][name]
    net.save(checkpoint.path, optimizer=rule)
    Checkpoint(tmp_path / "m", options, about).read("numpy")
    other = TrainOptions("t.csv", checkpoint=0.0, epochs=5, chronological=True)
    with pytest.raises(ValueError, match=r"--chronological is True, the training .* had not given"):
        Checkpoint(tmp_path / "m", other, about).read("numpy")


@pytest.mark.parametrize(
    "damage",
    [
        {"options": None}, {"history": {}}, {"history": []}, {"data": 3}, {"version": 2}, {"kind": "table"}, {"run": None},
        {"history": {"cost": [1.0]}},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_checkpoints_are_named(tmp_path, damage):
    parts = tuple((np.zeros((20, 2)), np.arange(20) % 2) for _ in range(3))
    options, about = TrainOptions("t.csv", checkpoint=0.0, epochs=5), Parts(*parts, {})
    checkpoint, net = Checkpoint(tmp_path / "m", options, about), fastnn.Network([2, 3, 2], backend="numpy", seed=0)
    net._optimizer = Adam()
    checkpoint(0, History([1.0], [], [], [], [0.1], [0.1]), net)
    net, rule = fastnn.resume(checkpoint.path, backend="numpy")
    net.preprocessing |= damage
    if damage.get("run", 1) is None:
        del net.preprocessing["run"]
    net.save(checkpoint.path, optimizer=rule)
    with pytest.raises((fastnn.ModelFileError, ValueError), match="--resume: "):
        Checkpoint(tmp_path / "m", options, about).read("numpy")


def test_the_same_table_under_another_name_is_the_same(killed):
    (killed / "t.csv").rename(killed / "u.csv")
    done = here(killed, "--epochs", "5", "--save", "m", "--resume", table=str(killed / "u.csv"))
    assert done.exit_code == 0, done.stderr
    assert fastnn.load(killed / "m").epochs_trained == 5


def test_patience_cannot_begin_amid_a_training(killed):
    done = here(killed, "--epochs", 5, "--resume", "--save", "m", "--patience", 2)
    assert (done.exit_code, "--resume: --patience is 'given'" in done.stderr) == (2, True), done.stderr
