"""`fastnn train` with large batches: the course of the learning rate, linear scaling, micro-batches, LARS and LAMB;
the recipe.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from test_cli_train import cli, one_object, refused  # noqa: F401 - a fixture

from fastnn import optimizers
from fastnn.cli.settings import TrainOptions, check, course
from fastnn.data import digits

ROWS, BATCH = 1366, 683  # two steps an epoch
TRAIN = ("train", "digits", "--backend", "numpy", "--hidden", "12", "--epochs", 4, "--batch-size", BATCH, "--no-plot")


def rates(cli, *words):  # noqa: F811
    """alpha of each epoch's last step (position epoch + 1/2), and the configuration."""
    result = cli(*TRAIN, "--json", *words)
    assert result.exit_code == 0, result.stderr
    found = one_object(result.stdout)
    return found["history"]["learning_rate"], found["configuration"]


LAST = np.arange(4) + 0.5


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), np.full(4, 0.2)),
        (("--decay", "linear"), 0.2 * (1 - LAST / 4)),
        (("--decay", "quadratic"), 0.2 * (1 - LAST / 4) ** 2),
        (("--decay", "cosine"), 0.1 * (1 + np.cos(math.pi * LAST / 4))),
        (("--warmup-epochs", 2), [0.02 + 0.18 / 4, 0.02 + 0.18 * 3 / 4, 0.2, 0.2]),
        (("--base-batch", BATCH), np.full(4, 0.2)),
        (("--base-batch", 1366), np.full(4, 0.1)),
        (("--base-batch", 1, "--warmup-epochs", 0), np.full(4, 0.2 * 683)),
        # half of so few epochs
        (("--base-batch", 1), [0.2 + (136.6 - 0.2) / 4, 0.2 + (136.6 - 0.2) * 3 / 4, 136.6, 136.6]),
    ],
    ids=lambda x: " ".join(map(str, x)) if isinstance(x, tuple) else "",
)
def test_the_course_of_the_rate(cli, words, expected):  # noqa: F811
    got, configuration = rates(cli, "--optimizer", "sgd", "--learning-rate", 0.2, *words)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert configuration["learning_rate"] == 0.2


@pytest.mark.parametrize(("optimizer", "rate"), [("lars", 1.0), ("lamb", 0.01)])
def test_lars_and_lamb_with_their_own_rates(cli, optimizer, rate):  # noqa: F811
    got, configuration = rates(cli, "--optimizer", optimizer, "--micro-batch", 100)
    assert got == [rate] * 4
    assert (configuration["optimizer"], configuration["micro_batch"]) == (optimizer, 100)


def test_for_people(cli):  # noqa: F811
    result = cli(
        *TRAIN, "--optimizer", "momentum", "--learning-rate", 0.01, "--base-batch", 32, "--warmup-epochs", 1, "--decay",
        "linear", "--micro-batch", 64,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert (
        "momentum, learning rate 0.160078, rising from 0.01 over 1 epochs, linear decay to 0, batches of 683, 4 epochs"
    ) in result.stdout
    assert "learning rate 0.01, batches of 683" in cli(*TRAIN, "--optimizer", "sgd", "--learning-rate", 0.01).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--decay", "cosin"), "--decay 'cosin' is not known; did you mean 'cosine'"),
        (("--warmup-epochs", 4), "--warmup-epochs 4 must be fewer than the 4 epochs"),
        (("--warmup-epochs", -1), "--warmup-epochs must be a finite number >= 0, got -1"),
        (("--warmup-epochs", "long"), "--warmup-epochs"),
        (("--base-batch", 0, "--optimizer", "sgd"), "--base-batch must be a positive integer, got 0"),
        (("--base-batch", 32), "which is for sgd and momentum; for adam give --learning-rate for this batch"),
        (("--base-batch", 32, "--optimizer", "lars"), "for lars give --learning-rate for this batch"),
        (("--micro-batch", 0), "--micro-batch must be a positive integer, got 0"),
        (("--micro-batch", 1000), "--micro-batch 1000 is larger than --batch-size 683"),
        (("--optimizer", "lasr"), "--optimizer 'lasr' is not known; did you mean 'lars'"),
    ],
    ids=lambda x: " ".join(map(str, x)) if isinstance(x, tuple) else "",
)
def test_what_is_refused(cli, words, said):  # noqa: F811
    refused(cli(*TRAIN, *words), said)


def test_a_micro_batch_beside_the_default_batch(cli):  # noqa: F811
    refused(
        cli("train", "digits", "--backend", "numpy", "--micro-batch", 64),
        "--micro-batch 64 is larger than the 32 rows of a batch",
    )


# ---- the recipe of docs/large-batches.md
# -----------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]


def bench_script():
    """bench/large_batch.py as a module; it is measured by hand, but must not rot."""
    spec = importlib.util.spec_from_file_location("large_batch", ROOT / "bench" / "large_batch.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "large_batch", module)  # its dataclass looks itself up there
        spec.loader.exec_module(module)
    return module


def recipe():
    words = (
        re.search(
            r"^fastnn (train mnist .*--optimizer lars.*)$",
            (ROOT / "docs" / "large-batches.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        .group(1)
        .split()
    )
    return dict(zip(words[2::2], words[3::2], strict=True))


def test_the_command_in_the_docs_is_the_recipe_that_was_measured():
    words, measured = recipe(), next(r for r in bench_script().RECIPES if r.name == "LARS")
    options = TrainOptions(
        "mnist",
        epochs=int(words["--epochs"]),
        batch_size=int(words["--batch-size"]),
        learning_rate=float(words["--learning-rate"]),
        optimizer=words["--optimizer"],
        decay=words["--decay"],
        warmup_epochs=float(words["--warmup-epochs"]),
    )
    check(options)
    rule = measured.rule()
    assert (options.batch_size, options.epochs, options.optimizer) == (measured.batch, measured.epochs, rule.name)
    assert course(options) == rule.learning_rate
    assert optimizers.LARS(rule.learning_rate).hyper() == rule.hyper()


def test_the_script_measures_and_shows_what_diverged():
    """On digits, which fit any 64-10 network; the numbers mean nothing here."""
    script, data = bench_script(), digits.load()
    data.test = (data.X[:100], data.y[:100])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "SIZES", (64, 10))
        recipes = (
            script.Recipe("good", 1000, 2, lambda: optimizers.LARS(5.0)),
            script.Recipe("bad", 1000, 2, lambda: optimizers.SGD(1e300)),
        )
        patch.setattr(script, "RECIPES", recipes)
        runs = [script.train(recipe, seed, data, "numpy") for recipe in recipes for seed in (0, 1)]
        good, bad = script.table(runs).splitlines()[1:]
    assert (runs[0]["steps"], runs[0]["learning_rate"]) == (4, [5.0, 5.0])
    assert "good: LARS(5, 0.9, 0.001, 0)" in good
    assert "bad (2 diverged): SGD(1e+300)" in bad


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FASTNN_MNIST"), reason="FASTNN_MNIST names no folder with MNIST")
def test_the_recipe_reaches_what_the_readme_says(cli):  # noqa: F811
    words = {**recipe(), "--data": os.environ["FASTNN_MNIST"]}
    result = cli("train", "mnist", "--json", "--no-plot", *(word for pair in words.items() for word in pair))
    assert one_object(result.stdout)["test_accuracy"] > 0.975
