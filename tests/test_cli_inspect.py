"""`fastnn inspect`: what it says of model files, against the data they were trained on and against net itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_model_file import parts, whole

import fastnn


def inspected(cli, model):
    code, out, err = cli("inspect", model, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.fixture
def homes(cli, tmp_path):
    """A trained model, and the columns of its file."""
    rng = np.random.default_rng(0)
    size, city = rng.integers(20, 200, 80), np.array(["Oslo", "[red]Rome"])[rng.integers(0, 2, 80)]
    rows = [f"h{i},{size[i]},7,{city[i]},{('no', 'yes')[int(size[i] > 100)]}" for i in range(80)]
    (tmp_path / "homes.csv").write_text("id,size,rooms,city,sold\n" + "\n".join(rows) + "\n")
    words = ("train", "homes.csv", "--target", "sold", "--drop", "id", "--validation", "0", "--test", "homes.csv")
    code, _, err = cli(*words, "--missing", "mean", "--hidden", "6,5", "--activation", "leaky_relu", "--epochs", "3",
                       "--dropout", "0.25", "--l2", "2.5", "--dtype", "float64", "--no-plot", "--save", "m", "--backend", "numpy")  # fmt: skip
    assert code == 0, err
    return size, city


def test_a_model_of_a_table(cli, homes, tmp_path):
    size, _ = homes
    found = inspected(cli, "m")
    assert (found["fastnn"], found["command"], found["model"]) == (fastnn.__version__, "inspect", "m")
    assert found["bytes"] == (tmp_path / "m").stat().st_size
    assert found["sizes"] == [4, 6, 5, 2]
    assert found["parameters"] == 5 * 6 + 7 * 5 + 6 * 2
    assert found["hidden"] == 2 * [{"name": "leaky_relu", "slope": 0.01}]
    assert (found["output"], found["cost"]) == ("softmax", "cross_entropy")
    assert (found["l2"], found["dropout"], found["dtype"], found["precision"]) == (2.5, [0.25] * 2, "float64", "fp32")
    assert (found["epochs_trained"], found["optimizer"], found["scale"]) == (3, None, None)
    assert (found["data"], found["task"], found["target"]) == ("table", "classification", "sold")
    assert (found["classes"], found["missing"], found["decimal"]) == (["no", "yes"], "mean", "point")
    assert found["dropped"] == ["id"]
    number, constant, categories = found["columns"]
    assert (number["name"], number["treatment"]) == ("size", "number")
    assert number["mean"] == pytest.approx(size.mean())
    assert number["scale"] == pytest.approx(size.std())
    assert constant == {"name": "rooms", "treatment": "constant", "mean": 7}
    assert categories == {"name": "city", "treatment": "categories", "categories": ["Oslo", "[red]Rome"]}


def test_for_people(cli, homes):
    code, out, err = cli("inspect", "m")
    assert (code, err) == (0, "")
    for words in (
        "4-6-5-2, leaky_relu (slope 0.01), softmax output with cross_entropy, float64, precision fp32",
        "77 parameters",
        "3 epochs, L2 2.5, dropout 0.25",
        "a table, classification; target 'sold', 2 classes: no, yes",
        "missing cells: the mean of the training rows",
        "left out by --drop: id",
        "without an optimizer",
        f"mean {homes[0].mean():.6g}, scale {homes[0].std():.6g}",
        "always 7 in training",
        "[red]Rome",
    ):
        assert words in out


def test_quantities_with_a_decimal_comma(cli, tmp_path):
    y = np.arange(60) ** 2 / 8
    rows = [f"{i % 11};{value:.4f}".replace(".", ",") for i, value in enumerate(y)]
    (tmp_path / "t.csv").write_text("a;y\n" + "\n".join(rows) + "\n")
    words = ("train", "t.csv", "--target", "y", "--decimal", "comma", "--validation", "0", "--test", "t.csv")
    code, _, err = cli(*words, "--epochs", "1", "--no-plot", "--save", "m", "--backend", "numpy")
    assert code == 0, err
    found = inspected(cli, "m")
    assert (found["task"], found["classes"], found["decimal"], found["dropped"]) == ("regression", None, "comma", [])
    assert found["target_centre"] == pytest.approx(y.mean())
    assert found["target_scale"] == pytest.approx(y.std())
    shown = cli("inspect", "m")[1]
    assert f"target 'y', learnt as (target - {y.mean():.6g}) / {y.std():.6g}" in shown
    assert "decimal comma" in shown


def test_many_columns_and_categories_are_shortened_for_people_alone(cli, tmp_path):
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(70)]
    rows = [",".join([*map(str, row), f"k{i % 12:02}", str(i % 2)]) for i, row in enumerate(rng.random((60, 70)))]
    (tmp_path / "t.csv").write_text(",".join([*names, "kind", "y"]) + "\n" + "\n".join(rows))
    assert (
        cli("train", "t.csv", "--target", "y", "--epochs", "1", "--no-plot", "--save", "m", "--backend", "numpy")[0]
        == 0
    )
    found = inspected(cli, "m")
    assert [column["name"] for column in found["columns"]] == [*names, "kind"]
    assert len(found["columns"][-1]["categories"]) == 12
    shown = cli("inspect", "m")[1]
    assert "c59" in shown
    assert "c60" not in shown
    assert "and 11 more columns; --json lists them all" in shown


def described_as(path, text, other):
    """The same file with another word in its metadata, whose checksum is right."""
    header, tensor = parts(path.read_bytes())
    found = [name for name, value in header["__metadata__"].items() if text in value]
    assert len(found) == 1
    header["__metadata__"][found[0]] = header["__metadata__"][found[0]].replace(text, other)
    path.write_bytes(whole(header, tensor))


def test_an_optimizer_beside_the_network(cli, tmp_path):
    net = fastnn.Network([3, 4, 1], hidden="tanh", output="identity", cost="huber:2", backend="numpy")
    rule = fastnn.optimizers.Adam(0.002)
    X = np.random.default_rng(0).standard_normal((40, 3))
    net.fit(X, X[:, :1], epochs=2, batch_size=10, optimizer=rule, progress=False)
    net.save(tmp_path / "m", optimizer=rule)
    found = inspected(cli, "m")
    assert found["optimizer"]["name"] == "adam"
    assert (found["optimizer"]["learning_rate"], found["optimizer"]["steps"]) == (0.002, 8)
    assert found["optimizer"]["constants"]["beta1"] == 0.9
    assert (found["cost"], found["data"], found["columns"], found["classes"]) == ("huber:2", None, None, None)
    shown = cli("inspect", "m")[1]
    assert "adam, learning rate 0.002, after 8 steps" in shown
    assert "it was not saved by fastnn train" in shown
    net.preprocessing = {"kind": "checkpoint"}
    net.save(tmp_path / "m", optimizer=rule)
    assert (inspected(cli, "m")["data"], inspected(cli, "m")["optimizer"]["steps"]) == ("checkpoint", 8)
    assert "a checkpoint of a training that did not end" in cli("inspect", "m")[1]
    described_as(tmp_path / "m", "adam", "Adam")
    code, out, err = cli("inspect", "m")
    assert (code, out, err.count("\n"), "unknown optimizer 'Adam'" in err) == (2, "", 1, True)


def test_images_with_their_scale_and_the_precision_of_the_file(cli, tmp_path):
    net = fastnn.Network([4, 3], backend="numpy")
    net.scale = 1 / 16
    net.preprocessing = {"version": 1, "kind": "images", "shape": [2, 2], "classes": [0, 1, 2]}
    net.save(tmp_path / "m")
    described_as(tmp_path / "m", "fp32", "bf16")  # as of a GPU, which no engine here need know
    found = inspected(cli, "m")
    assert (found["precision"], found["scale"], found["hidden"]) == ("bf16", 1 / 16, [])
    assert (found["data"], found["shape"], found["classes"]) == ("images", [2, 2], [0, 1, 2])
    shown = cli("inspect", "m")[1]
    assert "images of 2 x 2 pixels; 3 classes: 0, 1, 2" in shown
    assert "0.0625, by which whole numbers are multiplied" in shown


def test_a_file_that_cannot_be_read_is_refused_as_by_predict(cli, homes, tmp_path):
    (tmp_path / "text.safetensors").write_text("no model")
    content = (tmp_path / "m").read_bytes()
    (tmp_path / "damaged").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / "folder").mkdir()
    for model in ("nobody", "text.safetensors", "damaged", "folder", "homes.csv"):
        of_inspect, of_predict = cli("inspect", model), cli("predict", model, "homes.csv")
        assert of_inspect == of_predict
        code, out, err = of_inspect
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert model in err
    net = fastnn.load(tmp_path / "m")
    net.preprocessing["classes"] = ["no"]
    net.save(tmp_path / "odd")
    assert cli("inspect", "odd") == cli("predict", "odd", "homes.csv")
    assert "classes are not 2 names or numbers" in cli("inspect", "odd")[2]
