"""Model files say which fastnn wrote them, and errors of what this one does not know name it."""

import copy
import json
import pickle
import re

import numpy as np
import pytest
from test_model_file import parts, whole

import fastnn
from fastnn.prediction import predict_file, predict_table
from fastnn.version import written_by

NEWER = f"(the file was written by fastnn 9.9.1rc2, this is fastnn {fastnn.__version__})"


@pytest.fixture
def model(tmp_path):
    """A table model, with its optimizer."""
    net = fastnn.Network([1, 1], output="identity", cost="squared_error", backend="numpy")
    rule = fastnn.optimizers.Adam()
    net.fit(np.arange(8.0)[:, None], np.arange(8.0), epochs=1, optimizer=rule)
    net.preprocessing = {
        "version": 1, "kind": "table", "task": "regression", "target": "y", "columns": ["x"], "classes": None,
        "feature_mean": [3.0], "feature_factor": [0.5], "target_mean": 100.0, "target_std": 10.0,
    }  # fmt: skip
    net.save(tmp_path / "m", optimizer=rule)
    (tmp_path / "t.csv").write_text("x,y\n3,4\n5,6\n")
    return tmp_path / "m"


def edited(path, **entries):
    """Metadata put in place, or taken out with None; a dict changes the description of that name."""
    header, tensor = parts(path.read_bytes())
    metadata = header["__metadata__"]
    for name, value in entries.items():
        if value is None:
            del metadata[name]
        else:
            metadata[name] = json.dumps(json.loads(metadata[name]) | value) if isinstance(value, dict) else value
    path.write_bytes(whole(header, tensor))


def test_the_version_is_written_and_shown(cli, model):
    header, _ = parts(model.read_bytes())
    assert header["__metadata__"]["fastnn_version"] == fastnn.__version__
    assert json.loads(cli("inspect", "m", "--json")[1])["written_by"] == fastnn.__version__
    assert f"written by fastnn {fastnn.__version__}, read by fastnn {fastnn.__version__}" in cli("inspect", "m")[1]
    edited(model, fastnn_version="9.9.1rc2")
    assert f"written by fastnn 9.9.1rc2, read by fastnn {fastnn.__version__}" in cli("inspect", "m")[1]
    fastnn.load(model)
    fastnn.resume(model)[0].save(model)
    assert json.loads(cli("inspect", "m", "--json")[1])["written_by"] == fastnn.__version__


def test_a_file_of_before_is_read_as_ever(cli, model):
    before = predict_file(fastnn.load(model), model.parent / "t.csv").answers
    edited(model, fastnn_version=None)
    assert predict_file(fastnn.load(model), model.parent / "t.csv").answers == before
    fastnn.resume(model)
    assert json.loads(cli("inspect", "m", "--json")[1])["written_by"] is None
    assert f"written by an unknown version, read by fastnn {fastnn.__version__}" in cli("inspect", "m")[1]
    edited(model, network={"cost": "hinge"})
    with pytest.raises(fastnn.ModelFileError, match="cost='hinge' is not known") as error:
        fastnn.load(model)
    assert "written by" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [{"network": {"cost": "hinge"}}, {"network": {"hidden": 3}}, {"network": {"wings": 2}}, {"version": "2"}],
    ids=str,
)
def test_errors_of_what_is_not_known_name_the_version(cli, model, change):
    edited(model, fastnn_version="9.9.1rc2", **change)
    with pytest.raises(fastnn.ModelFileError, match=re.escape(NEWER)):
        fastnn.load(model)
    for words in (("predict", "m", "t.csv"), ("evaluate", "m", "t.csv"), ("inspect", "m"), ("export", "m", "m.onnx")):
        code, out, err = cli(*words)
        assert (code, out, err.count(NEWER), err.count("\n")) == (2, "", 1, 1), err
    edited(model, fastnn_version=fastnn.__version__)
    with pytest.raises(fastnn.ModelFileError) as error:
        fastnn.load(model)
    assert "written by fastnn" not in str(error.value)


@pytest.mark.parametrize("change", [{"version": 2}, {"kind": "sound"}, {"missing": "median"}], ids=str)
def test_so_do_those_of_the_data(cli, model, change):
    edited(model, fastnn_version="9.9.1rc2", preprocessing=change)
    for words in (("predict", "m", "t.csv"), ("evaluate", "m", "t.csv"), ("inspect", "m")):
        code, out, err = cli(*words)
        assert (code, out, err.count(NEWER), err.count("\n")) == (2, "", 1, 1), err
    net = fastnn.load(model)
    for twin in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        with pytest.raises(fastnn.ModelFileError, match=re.escape(NEWER)):
            predict_table(twin, {"x": [1.0]})


def test_so_does_that_of_an_optimizer(model):
    edited(model, fastnn_version="9.9.1rc2", optimizer={"name": "lion"})
    fastnn.load(model)
    with pytest.raises(fastnn.ModelFileError, match=rf"lion.*{re.escape(NEWER)}"):
        fastnn.resume(model)


@pytest.mark.parametrize(
    "version", ["", "1" * 65, "1.0\n2", "1.0 and more", "\x1b[31m", "\u0661.0", "../..", "1.0\0", "[red]1"]
)
def test_crafted_versions_are_refused_and_never_repeated(cli, model, version):
    edited(model, fastnn_version=version)
    with pytest.raises(fastnn.ModelFileError, match=r"fastnn_version .* is no version") as error:
        fastnn.load(model)
    assert len(str(error.value)) < 300
    code, out, err = cli("inspect", "m")
    assert (code, out, err.count("\n"), "\x1b" in err) == (2, "", 1, False)
    edited(model, version="2")
    with pytest.raises(fastnn.ModelFileError, match=r"install a newer fastnn$"):
        fastnn.load(model)


def test_what_is_said_of_a_version():
    assert written_by("0.0.7") == f" (the file was written by fastnn 0.0.7, this is fastnn {fastnn.__version__})"
    assert {written_by(None), written_by(fastnn.__version__), written_by("a b")} == {""}
