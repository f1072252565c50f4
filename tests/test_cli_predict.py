"""`fastnn predict`: a model repeats its columns, scaling and classes on files in any order."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import fastnn
from fastnn.cli import prediction
from fastnn.cli.app import app
from fastnn.data import tables
from fastnn.prediction import predict_file


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def refused(result, *words):
    assert result.exit_code == 2, (result.exit_code, result.stdout, result.stderr)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.fixture
def classifier(tmp_path):
    """A table model written down by hand: kind is 'hot' where (t - 20) / 5 > (p - 1000) / 10, else 'cold'."""
    net = fastnn.Network(
        [2, 2], backend="numpy", dtype="float64", init=([np.array([[0.0, 0.0], [8.0, -8.0]])], [np.zeros(2)])
    )
    net.preprocessing = {
        "version": 1,
        "kind": "table",
        "task": "classification",
        "target": "kind",
        "columns": ["t", "p"],
        "classes": ["cold", "hot"],
        "feature_mean": [20.0, 1000.0],
        "feature_factor": [0.2, 0.1],
    }
    net.save(tmp_path / "kind.safetensors")
    return tmp_path / "kind.safetensors"


@pytest.fixture
def regressor(tmp_path):
    """value = 100 + 10 (x - 3) / 2."""
    net = fastnn.Network(
        [1, 1],
        output="identity",
        cost="squared_error",
        backend="numpy",
        dtype="float64",
        init=([np.array([[1.0]])], [np.zeros(1)]),
    )
    net.preprocessing = {
        "version": 1, "kind": "table", "task": "regression", "target": "value", "columns": ["x"], "classes": None,
        "feature_mean": [3.0], "feature_factor": [0.5], "target_mean": 100.0, "target_std": 10.0,
    }  # fmt: skip
    net.save(tmp_path / "value.safetensors")
    return tmp_path / "value.safetensors"


@pytest.fixture
def reader(tmp_path):
    """An image model of 2 x 3 pixels 0..10: the class is the brighter row."""
    W = np.array([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    net = fastnn.Network([6, 2], backend="numpy", init=([W], [np.zeros(2)]))
    net.preprocessing = {"version": 1, "kind": "images", "shape": [2, 3], "classes": ["top", "bottom"]}
    net.scale = 0.1
    net.save(tmp_path / "rows.safetensors")
    return tmp_path / "rows.safetensors"


PIXELS = np.array([[[9, 9, 9], [1, 0, 2]], [[0, 0, 1], [10, 10, 0]]], np.uint8)


def test_columns_in_any_order_with_more_beside_them(cli, classifier, tmp_path):
    (tmp_path / "new.csv").write_text("p,station,t,kind\n1000,A,30,?\n1000,B,10,hot\n1040,C,30,x\n")
    result = cli("predict", classifier, "new.csv", "--backend", "numpy")
    assert result.exit_code == 0, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["prediction"] for row in rows] == ["hot", "cold", "cold"]
    assert float(rows[0]["probability"]) == pytest.approx(1 / (1 + np.exp(-16)), abs=1e-6)
    assert "column 'kind' is what the model predicts; it is ignored" in result.stderr
    assert "not used by the model: 'station'" in result.stderr


def test_regression_in_the_units_of_the_file(cli, regressor, tmp_path):
    (tmp_path / "new.csv").write_text("x\n3\n5\n")
    assert cli("predict", regressor, "new.csv").stdout == "prediction\n100.0\n110.0\n"
    found = json.loads(cli("predict", regressor, "new.csv", "--json").stdout)
    assert found["predictions"] == [100.0, 110.0]
    assert "probabilities" not in found
    assert found["rows"] == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_output_to_a_pipe_is_written_and_the_pipe_stays(cli, regressor, tmp_path):
    (tmp_path / "new.csv").write_text("x\n3\n")
    expected = cli("predict", regressor, "new.csv").stdout
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        cli("predict", regressor, "new.csv", "--output", "pipe")
        assert os.read(reader, 10_000).decode() == expected
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_output_file(cli, regressor, tmp_path):
    (tmp_path / "new.csv").write_text("x\n3\n")
    for expected in ("1 predictions written to out.csv\n", "overwritten"):
        result = cli("predict", regressor, "new.csv", "--output", "out.csv")
        assert result.stdout == ""
        assert expected in result.stderr
    assert (tmp_path / "out.csv").read_text() == "prediction\n100.0\n"
    (tmp_path / "link.csv").symlink_to("out.csv")
    cli("predict", regressor, "new.csv", "--output", "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    (tmp_path / "link.csv").unlink()
    refused(cli("predict", regressor, "new.csv", "--output", "."), "is a folder")
    refused(cli("predict", regressor, "new.csv", "--output", "no/where.csv"), "cannot be written")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_bad_tables(cli, classifier, tmp_path):
    for text, words in (
        ("t,station\n1,A\n", ["column 'p', which the model needs, is missing"]),
        ("t,P\n1,2\n", ["'p'"]),
        ("t,p\n1,\n", ["row 1 (line 2), column 'p': missing value"]),
        ("t,p\n1,2\nx,3\n", ["row 2 (line 3), column 't': text 'x'"]),
        ("t,p\n", ["no rows"]),
    ):
        (tmp_path / "new.csv").write_text(text)
        refused(cli("predict", classifier, "new.csv"), "new.csv", *words)
    refused(cli("predict", classifier, "none.csv"), "none.csv: no such file")


def test_npz_for_a_table_model(cli, classifier, tmp_path):
    np.savez(tmp_path / "new.npz", p=np.full(2, 1000), t=np.array([30, 10]))
    assert [line.split(",")[0] for line in cli("predict", classifier, "new.npz").stdout.split()] == [
        "prediction",
        "hot",
        "cold",
    ]


def idx_file(path, images):
    head = bytes([0, 0, 8, images.ndim]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
    path.write_bytes(gzip.compress(head + images.tobytes()))
    return path


def test_idx_images(cli, reader, tmp_path):
    found = json.loads(cli("predict", reader, idx_file(tmp_path / "images.gz", PIXELS), "--json").stdout)
    assert found["predictions"] == ["top", "bottom"]
    z = PIXELS.reshape(2, 2, 3).sum(axis=2) * 0.1
    np.testing.assert_allclose(found["probabilities"][0], np.exp(z[0, 0]) / np.exp(z[0]).sum(), rtol=1e-5)


@pytest.mark.parametrize(("arrays", "note"), [
    ({"X": PIXELS}, None),
    ({"images": PIXELS.reshape(2, 6), "labels": np.arange(2)}, "ignored: 'labels'"),
    ({"data": PIXELS.reshape(2, 6).astype(float), "images": PIXELS.astype(float)}, "whole numbers and scaled by 1/10"),
    ({"anything": PIXELS / 10}, "fractions of 1"),
])  # fmt: skip
def test_npz_images(cli, reader, tmp_path, arrays, note):
    np.savez(tmp_path / "new.npz", **arrays)
    net = fastnn.load(reader, backend="numpy")
    result = predict_file(net, tmp_path / "new.npz")
    assert result.answers == ["top", "bottom"]
    z = PIXELS.reshape(2, 2, 3).sum(axis=2) * 0.1
    np.testing.assert_allclose(result.probabilities[0], np.exp(z[0, 0]) / np.exp(z[0]).sum(), rtol=1e-5)
    assert (note is None and result.notes == []) or any(note in line for line in result.notes)


@pytest.mark.parametrize(("arrays", "match"), [
    ({"X": np.ones((2, 7))}, r"no array of numbers with the model's 6 pixels per row \(X \(2, 7\) float64\)"),
    ({"a": PIXELS, "b": PIXELS}, "several arrays"),
    ({"X": PIXELS + np.uint8(1)}, "pixels outside 0..10"),
    ({"X": PIXELS.astype(int) - 1}, "pixels outside 0..10"),
    ({"X": PIXELS * 1.5 + 0.25}, "pixels must be integers 0..10, or scaled"),
    ({"X": PIXELS / -10.0}, "pixels outside"),
    ({"X": np.where(PIXELS == 2, np.nan, PIXELS)}, r"row 0 \(counted from 0\), pixel 5: nan"),
])  # fmt: skip
def test_bad_images(reader, tmp_path, arrays, match):
    np.savez(tmp_path / "new.npz", **arrays)
    with pytest.raises(fastnn.DataFileError, match=match):
        predict_file(fastnn.load(reader, backend="numpy"), tmp_path / "new.npz")


def test_other_files_for_an_image_model(cli, reader, tmp_path):
    (tmp_path / "new.csv").write_text("a\n1\n")
    refused(cli("predict", reader, "new.csv"), "this model takes images")
    refused(
        cli("predict", reader, idx_file(tmp_path / "images.gz", PIXELS.reshape(2, 3, 2))),
        "images of 3 x 2 pixels, the model takes 2 x 3",
    )


def test_models_that_are_none(cli, regressor, tmp_path):
    (tmp_path / "new.csv").write_text("x\n3\n")
    refused(cli("predict", "none.safetensors", "new.csv"), "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    refused(cli("predict", "text.safetensors", "new.csv"), "text.safetensors")
    net = fastnn.Network([1, 1], output="identity", cost="squared_error", backend="numpy")
    net.save(tmp_path / "plain.safetensors")
    refused(cli("predict", "plain.safetensors", "new.csv"), "not trained by `fastnn train`")
    refused(cli("predict", regressor, "new.csv", "--backend", "nump"), "did you mean 'numpy'")


def test_a_value_too_large_for_the_networks_dtype(tmp_path, classifier):
    net = fastnn.Network([2, 2], backend="numpy", dtype="float32")
    net.preprocessing = fastnn.load(classifier, backend="numpy").preprocessing
    (tmp_path / "new.csv").write_text("t,p\n1,2\n1e300,2\n")
    with pytest.raises(fastnn.DataFileError, match="row 2, column 't': the value is too large for float32"):
        predict_file(net, tmp_path / "new.csv")


def test_train_then_predict_gives_the_same_answers_as_the_network(cli, tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(5, 3, (90, 2))
    kinds = np.where(x[:, 0] > 5, "b", "a")
    rows = "".join(f"{a!r},{b!r},{k}\n" for (a, b), k in zip(x.tolist(), kinds, strict=True))
    (tmp_path / "t.csv").write_text("u,v,k\n" + rows)
    assert cli("train", "t.csv", "--target", "k", "--epochs", 50, "--backend", "numpy", "--no-plot").exit_code == 0
    found = json.loads(cli("predict", "runs/t.safetensors", "t.csv", "--json", "--backend", "numpy").stdout)
    assert np.mean(np.array(found["predictions"]) == kinds) > 0.9
    turned = "".join(f"{k},{b!r},{a!r}\n" for (a, b), k in zip(x.tolist(), kinds, strict=True))
    (tmp_path / "turned.csv").write_text("k,v,u\n" + turned)
    again = json.loads(cli("predict", "runs/t.safetensors", "turned.csv", "--json", "--backend", "numpy").stdout)
    assert again["predictions"] == found["predictions"]
    assert again["probabilities"] == found["probabilities"]


def test_packed_tables_and_packed_answers(cli, classifier, tmp_path):
    text = "p,t,kind\n1000,30,hot\n1000,10,cold\n1040,30,cold\n"
    (tmp_path / "new.csv").write_text(text)
    (tmp_path / "new.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "new.TSV.GZ").write_bytes(gzip.compress(text.replace(",", "\t").encode()))
    expected = cli("predict", classifier, "new.csv", "--keep", "kind").stdout
    for name in ("new.csv.gz", "new.TSV.GZ"):
        assert cli("predict", classifier, name, "--keep", "kind").stdout == expected
        assert json.loads(cli("evaluate", classifier, name, "--json").stdout)["accuracy"] == 1
    cli("predict", classifier, "new.csv.gz", "--keep", "kind", "--output", "out.csv.gz")
    assert gzip.decompress((tmp_path / "out.csv.gz").read_bytes()).decode() == expected
    packed = (tmp_path / "new.csv.gz").read_bytes()
    for content in (text.encode(), packed[:-12], packed[:20] + b"x" * 9 + packed[29:]):
        (tmp_path / "bad.csv.gz").write_bytes(content)
        refused(
            cli("predict", classifier, "bad.csv.gz"), "bad.csv.gz: not a gzip file, or one that is cut off or damaged"
        )
    refused(cli("predict", classifier, "new.txt.gz"), "expected a file that ends in .csv, .tsv or .npz")


def test_a_packed_table_trains_as_the_table_does(tmp_path):
    text = "a,b,y\n" + "".join(f"{i / 8},{'uv'[i % 2]},{i % 2}\n" for i in range(60))
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    plain, packed = (tables.load(tmp_path / name, "y") for name in ("t.csv", "t.csv.gz"))
    np.testing.assert_array_equal(plain.X, packed.X)
    np.testing.assert_array_equal(plain.y, packed.y)
    assert (plain.name, packed.name) == ("t", "t")


def test_a_table_from_standard_input(cli, classifier, reader, tmp_path, monkeypatch):
    text = "p,t,key\n1000,30,A\n1000,10,B\n"
    (tmp_path / "new.csv").write_text(text)
    expected = cli("predict", classifier, "new.csv", "--keep", "key").stdout

    def given(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    net = fastnn.load(classifier, backend="numpy")
    given(text.encode())
    found = prediction._of_standard_input(net, ["key"])
    assert [found.kept["key"][0], found.answers[0]] == expected.split("\n")[1].split(",")[:2]
    for model, content, words in (
        (net, b"p,t\n1000,x\n", r"^standard input: row 1 \(line 2\), column 't': text 'x'"),
        (fastnn.load(reader, backend="numpy"), b"p,t\n1000,1\n", "^standard input: this model takes images"),
    ):
        given(content)
        with pytest.raises(fastnn.DataFileError, match=words):
            prediction._of_standard_input(model, [])
    result = subprocess.run(
        [sys.executable, "-m", "fastnn", "predict", str(classifier), "-", "--keep", "key", "--backend", "numpy"],
        input=text, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout == expected
