"""ONNX models, computed by the reference evaluator of the package onnx, against the networks they were made of."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from test_data_categories import income, people, trained

import fastnn
from fastnn import activations
from fastnn.data import tables
from fastnn.data.dataset import deal
from fastnn.onnx_export import export_onnx
from fastnn.prediction import predict_table


def exported(net, tmp_path):
    net.export_onnx(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    return model, lambda X: dict(
        zip([output.name for output in model.graph.output], ReferenceEvaluator(model).run(None, {"X": X}), strict=True)
    )


OUTPUTS = [
    ("softmax", "cross_entropy", 3),
    ("sigmoid", "cross_entropy", 1),
    ("sigmoid", "cross_entropy", 3),
    ("softmax", "squared_error", 3),
    ("tanh", "squared_error", 2),
    ("identity", "squared_error", 1),
    ("exp", "poisson", 2),
    (activations.LeakyReLU(0.3), "squared_error", 2),
]


@pytest.mark.parametrize(
    "hidden", ["relu", activations.LeakyReLU(0.2), "tanh", "sigmoid", "identity", "silu", "gelu", []], ids=str
)
@pytest.mark.parametrize(("output", "cost", "K"), OUTPUTS, ids=str)
def test_the_same_answers(output, cost, K, hidden, dtype, tmp_path):
    sizes = [5, K] if hidden == [] else [5, 7, 4, K]
    net = fastnn.Network(sizes, hidden=hidden, output=output, cost=cost, dtype=dtype, backend="numpy", seed=3)
    X = np.random.default_rng(0).standard_normal((20, 5)).astype(dtype)
    model, run = exported(net, tmp_path)
    # whose Erf is of float32
    found, bound = run(X), 1e-6 if hidden == "gelu" else 20 * np.finfo(dtype).eps
    answers = net.predict(X)
    if "values" in found:
        np.testing.assert_allclose(found["values"], answers.reshape(20, K), rtol=bound, atol=bound)
        assert found["values"].dtype == dtype
        return
    np.testing.assert_allclose(found["probabilities"], net.predict_proba(X), rtol=bound, atol=bound)
    np.testing.assert_array_equal(found["label"], answers if net.output.name == "softmax" else answers.reshape(20, K))
    assert (found["label"].dtype, found["probabilities"].dtype) == (np.int64, dtype)
    assert {node.op_type for node in model.graph.node} <= {
        "Gemm", "Relu", "LeakyRelu", "PRelu", "Tanh", "Sigmoid", "Softmax", "ArgMax", "GreaterOrEqual", "Cast", "Mul",
        "Add", "Erf",
    }  # fmt: skip


def test_on_every_engine(backend, tmp_path):
    net = fastnn.Network([5, 7, 3], backend=backend)
    X = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    _, run = exported(net, tmp_path)
    np.testing.assert_allclose(run(X)["probabilities"], net.predict_proba(X), rtol=1e-5)


def test_pixels_are_taken_as_they_are(tmp_path):
    X, y = np.random.default_rng(0).integers(0, 256, (40, 9)).astype(np.uint8), np.arange(40) % 3
    net = fastnn.Network([9, 8, 3], backend="numpy")
    net.fit(X, y, scale=1 / 255, epochs=2)
    model, run = exported(net, tmp_path)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    np.testing.assert_allclose(run(X)["probabilities"], net.predict_proba(X), rtol=1e-5)


def test_a_table_is_taken_as_it_is_in_the_file(tmp_path):
    net, new = trained(tmp_path), people(30, seed=5)
    new["age"][2] = np.nan
    model, run = exported(net, tmp_path)
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert properties["features"] == [
        "age",
        "city=Oslo",
        "city=Paris",
        "city=Rome",
        *(f"zip={k}000" for k in (1, 2, 3)),
    ]
    assert properties["target"] == "income"
    rows = [
        new["age"],
        *(new["city"] == city for city in ("Oslo", "Paris", "Rome")),
        *(new["zip"] == 1000 * k for k in (1, 2, 3)),
    ]
    found = run(np.column_stack(rows).astype(np.float64))["values"]
    np.testing.assert_allclose(found[:, 0], predict_table(net, new).answers, rtol=1e-9)


def test_large_numbers_of_a_table_keep_their_digits(tmp_path):
    """Seconds since 1970, an hour apart: float32 would tell none of them from the next."""
    seconds = 1.7e9 + 3600 * np.arange(60.0)
    path = tmp_path / "t.csv"
    path.write_text("t,kind\n" + "".join(f"{t},{'late' if i > 30 else 'early'}\n" for i, t in enumerate(seconds)))
    data = tables.load(path, "kind")
    parts = deal(data, validation=0.0, seed=0)
    net = fastnn.Network([1, 2], backend="numpy")
    net.fit(*parts.train, optimizer="sgd", learning_rate=1.0, epochs=300)
    net.preprocessing = parts.preprocessing
    model, run = exported(net, tmp_path)
    labels = run(seconds[:, None])["label"]
    classes = next(json.loads(entry.value) for entry in model.metadata_props if entry.key == "classes")
    assert [classes[label] for label in labels] == predict_table(net, {"t": seconds}).answers
    assert len(set(labels)) == 2


def test_the_same_network_gives_the_same_bytes(tmp_path):
    net = fastnn.Network([5, 7, 3], backend="numpy")
    for name in ("a", "b"):
        export_onnx(net, tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_what_cannot_be_written(tmp_path, monkeypatch):
    net = fastnn.Network([2, 2], backend="numpy")
    with pytest.raises(ValueError, match=r"an ONNX model's name must end in '\.onnx', got '\.pt'"):
        net.export_onnx(tmp_path / "m.pt")
    with pytest.raises(TypeError, match=r"path must be a str or os\.PathLike, the name of a model file, got 3"):
        net.export_onnx(3)
    with pytest.raises(FileNotFoundError, match=r"the folder .*absent' does not exist"):
        net.export_onnx(tmp_path / "absent" / "m.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.onnx' is a folder; give the name of a file"):
        net.export_onnx(tmp_path / "folder.onnx")
    (tmp_path / "folder.onnx").rmdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(OSError, match="is not a regular file but a device, pipe or socket"):
        net.export_onnx(tmp_path / "pipe.onnx")
    (tmp_path / "pipe.onnx").unlink()
    monkeypatch.setattr("fastnn.onnx_export.LARGEST", 23)
    with pytest.raises(ValueError, match="the network has 24 bytes of parameters; an ONNX file holds 23"):
        net.export_onnx(tmp_path / "m.onnx")
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"export_onnx needs onnx.*pip install"):
        net.export_onnx(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_income_is_what_was_meant(tmp_path):
    """The table's model is right, so that the comparison above means something."""
    net, new = trained(tmp_path), people(30, seed=5)
    np.testing.assert_allclose(predict_table(net, new).answers, income(new), rtol=0.01)


def test_integers_of_other_ranges(tmp_path):
    X = np.random.default_rng(0).integers(0, 4000, (40, 5))
    net = fastnn.Network([5, 4, 3], backend="numpy")
    net.fit(X, np.arange(40) % 3, scale=1 / 4000, epochs=1)
    model, run = exported(net, tmp_path)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT32
    np.testing.assert_allclose(run(X.astype(np.int32))["probabilities"], net.predict_proba(X), rtol=1e-5)
    net.export_onnx(tmp_path / "m.onnx", data_dtype="uint16")
    model = onnx.load(tmp_path / "m.onnx")
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT16
    with pytest.raises(ValueError, match=r"data_dtype='int8' is not known"):
        net.export_onnx(tmp_path / "m.onnx", data_dtype="int8")
    with pytest.raises(ValueError, match="is for networks that scale integers"):
        fastnn.Network([2, 2], backend="numpy").export_onnx(tmp_path / "m.onnx", data_dtype="uint8")


def test_the_encoder_of_the_documents(tmp_path):
    """docs/deploy.md: rows as dicts for a model of a table, beside `predict_table`; a city and a number it cannot know."""
    page = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found = {}
    exec(code, found)
    net, new = trained(tmp_path), people(30, seed=5)
    rows = [{name: values[i].item() for name, values in new.items()} for i in range(30)]
    rows += [
        {"age": 40.0, "city": "Bonn", "zip": 1000},
        {"age": 30, "city": "Oslo", "zip": 3000.0},
        {"age": np.nan, "city": "Oslo", "zip": 2000},
    ]
    model, run = exported(net, tmp_path)
    with pytest.warns(fastnn.UnknownCategory, match="Bonn"):
        answers = predict_table(net, rows).answers
    np.testing.assert_allclose(run(found["encoded"](rows, model.metadata_props))["values"].ravel(), answers, rtol=1e-9)


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (["01234", "10001", "90210"], [1234, "1234", 1234.0, "01234", " 1234.0 ", "1234.5", "1_0001", 10001, "x", ""]),
        (["1.10", "1.2", "2.0"], [1.1, "1.10", 2, "2", "1.20", 3, True]),
        (["true", "false"], [True, "FALSE", "True", 1, "yes"]),
        (["1.0", "1", "2"], ["1", 1, "1.0", "1.00", 2.0]),  # 1.0 and 1 are one number
        (["7", "Rome"], ["07", 7, 7.0, "rome", "Rome"]),
        ([str(10**18 + 1), "5"], [10**18 + 1, 1e18, f"0{10**18 + 1}", "1e18", 5.0]),
    ],
)
def test_the_encoder_of_the_documents_knows_categories_as_the_library_does(tmp_path, names, given):
    page = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, found := {})
    net = fastnn.Network([len(names), 1], output="identity", cost="squared_error", dtype="float64", backend="numpy",
                         init=([np.arange(1.0, len(names) + 1)[None]], [np.zeros(1)]))  # fmt: skip
    net.preprocessing = {
        "version": 1, "kind": "table", "task": "regression", "target": "y", "columns": ["c"], "classes": None,
        "categories": {"c": names}, "feature_mean": [0.0] * len(names), "feature_factor": [1.0] * len(names),
        "target_mean": 0.0, "target_std": 1.0, "missing": "mean",
    }  # fmt: skip
    model, _ = exported(net, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastnn.UnknownCategory)
        answers = [predict_table(net, {"c": value}).answers[0] for value in given]  # 1 + the place, 0 for none of them
    X = found["encoded"]([{"c": value} for value in given], model.metadata_props)
    np.testing.assert_array_equal(X @ np.arange(1.0, len(names) + 1), answers)
    assert len(set(answers)) > 1
