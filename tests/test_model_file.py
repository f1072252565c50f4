"""Model files: bit-exact round trips, and every kind of file that is not one, with the old file safe from failures."""

from __future__ import annotations

import json
import os
import re
import struct

import cases
import numpy as np
import pytest
from safetensors import safe_open

import fastnn
from fastnn import ModelFileError, activations

SIZES = (4, 5, 6, 3)


def data():
    return cases.normal((23, 4), np.float64), np.arange(23) % 3


def trained(backend, dtype="float32", **options):
    net = fastnn.Network(
        SIZES,
        **({"hidden": ["tanh", activations.LeakyReLU(0.3)], "l2": 0.1, "backend": backend, "dtype": dtype} | options),
    )
    net.fit(*data(), epochs=2)
    return net


def theta_of(net):
    return np.array(net.backend.to_numpy(net.theta))


# ---- round trips ------------------------------------------------------------------------------------------------


def test_round_trip_is_bit_exact(backend, dtype, tmp_path):
    net, path = trained(backend, dtype), tmp_path / "model.safetensors"
    net.theta[3] = -0.0  # a bit pattern that a detour through text or another dtype would lose
    net.theta[4] = 1e-42 if dtype == np.float32 else 5e-324
    net.preprocessing = {"columns": ["ä", "b"], "mean": [0.1, 1e-300]}
    net.save(path)
    loaded = fastnn.load(path, backend=backend)
    assert theta_of(loaded).tobytes() == theta_of(net).tobytes()
    for name in (
        "sizes",
        "hidden",
        "output",
        "cost",
        "l2",
        "dtype",
        "precision",
        "scale",
        "epochs_trained",
        "preprocessing",
    ):
        assert getattr(loaded, name) == getattr(net, name), name
    X, y = data()
    np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))
    nets = net, loaded
    for one in nets:  # goes on with epoch 2, not with epoch 0 again
        one.fit(X, y, epochs=1)
    assert theta_of(net).tobytes() == theta_of(loaded).tobytes()


@pytest.mark.parametrize(("output", "cost"), cases.PAIRS)
def test_every_pair_comes_back(tmp_path, output, cost):
    net = fastnn.Network([4, 3, 2], output=output, cost=cost, backend="numpy")
    net.save(tmp_path / "m")
    loaded = fastnn.load(str(tmp_path / "m"), backend="numpy")
    assert (loaded.output, loaded.cost, loaded.pair) == (net.output, net.cost, net.pair)


def test_saved_on_one_engine_and_loaded_on_another(backend, tmp_path):
    net, path = trained(backend), tmp_path / "model.safetensors"
    net.save(path)
    for engine in ("numpy", "numba"):
        loaded = fastnn.load(path, backend=engine)
        assert loaded.backend.name == engine
        assert theta_of(loaded).tobytes() == theta_of(net).tobytes()
    assert fastnn.load(path).backend_reason.startswith(("numba", "cupy"))


def test_scale_is_stored(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (23, 4), dtype=np.uint8)
    net = fastnn.Network([4, 3], backend="numpy")
    net.fit(pixels, data()[1], epochs=1, scale=1 / 255)
    net.save(tmp_path / "m")
    loaded = fastnn.load(tmp_path / "m", backend="numpy")
    np.testing.assert_array_equal(loaded.predict_proba(pixels), net.predict_proba(pixels))


# ---- files that are not models ------------------------------------------------------------------------------------


def parts(content):
    """(header as a dict, tensor bytes) of a safetensors file: 8 bytes of length, JSON, data."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def whole(header, tensor):
    """A file of these whose description is consistent, unless it has no checksum."""
    if fastnn.model_file.CHECKSUM in header.get("__metadata__", {}):
        header["__metadata__"][fastnn.model_file.CHECKSUM] = fastnn.model_file._checksum(header["__metadata__"])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensor


def dtype_of(name):
    """theta's bytes said to be numbers of another kind."""

    def edit(content):
        header, tensor = parts(content)
        size = {"BF16": 2, "F8_E4M3": 1}[name]
        header["theta"] |= {"dtype": name, "shape": [len(tensor) // size]}
        return whole(header, tensor)

    return edit


def metadata_of(**entries):
    def edit(content):
        header, tensor = parts(content)
        header["__metadata__"] |= entries
        return whole(header, tensor)

    return edit


def described(change):
    """A change of the network's description, everything else left consistent."""

    def edit(content):
        header, tensor = parts(content)
        network = json.loads(header["__metadata__"]["network"])
        change(network)
        header["__metadata__"]["network"] = json.dumps(network)
        return whole(header, tensor)

    return edit


def metadata(**values):
    def edit(content):
        header, tensor = parts(content)
        for key, value in values.items():
            if value is None:
                header["__metadata__"].pop(key)
            else:
                header["__metadata__"][key] = value
        return whole(header, tensor)

    return edit


def with_nan(content):
    """A NaN in theta, the checksum made to match: a finite check of its own must find it."""
    import hashlib

    header, tensor = parts(content)
    theta = np.frombuffer(tensor, np.float32).copy()
    theta[7] = np.nan
    header["__metadata__"]["theta_sha256"] = hashlib.sha256(theta.tobytes()).hexdigest()
    return whole(header, theta.tobytes())


def flipped(content):
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def renamed(content):
    header, tensor = parts(content)
    header["weights"] = header.pop("theta")
    return whole(header, tensor)


DAMAGED = {
    "empty": (lambda c: b"", "not a model file, or is damaged"),
    "text": (lambda c: b"{'model': 1}\n" * 100, "not a model file, or is damaged"),
    "a pickle": (lambda c: b"\x80\x04\x95" + b"x" * 500, "not a model file, or is damaged"),
    "a header of 2^60 bytes": (lambda c: struct.pack("<Q", 1 << 60) + c[8:], "not a model file, or is damaged"),
    "header cut": (lambda c: c[:40], "not a model file, or is damaged"),
    "tensor cut": (lambda c: c[:-3], "not a model file, or is damaged"),
    "trailing bytes": (lambda c: c + b"more", "not a model file, or is damaged"),
    "one bit": (flipped, "checksum"),
    "NaN": (with_nan, "finite"),
    "another format": (metadata(format="pt"), "not a fastnn model"),
    "no metadata": (lambda c: whole({"theta": parts(c)[0]["theta"]}, parts(c)[1]), "not a fastnn model"),
    "another tensor": (renamed, "must hold the tensor 'theta'"),
    "a newer version": (metadata(version="99"), "format version '99'.*install a newer fastnn"),
    "no version": (metadata(version=None), "format version None"),
    "no network": (metadata(network=None), "network"),
    "no checksum": (metadata(theta_sha256=None), "theta_sha256"),
    "no checksum of the description": (metadata(metadata_sha256=None), "metadata_sha256"),
    "network not JSON": (metadata(network="{"), "not a usable fastnn model"),
    "network a list": (metadata(network="[1]"), "fields"),
    "preprocessing not JSON": (metadata(preprocessing="{"), "not a usable fastnn model"),
    "a field missing": (described(lambda n: n.pop("l2")), "fields"),
    "a field more": (
        described(lambda n: n.update(code="import os")),
        "written by a newer fastnn, which describes networks by code too",
    ),
    "sizes too small": (described(lambda n: n.update(sizes=[4, 5, 3])), r"theta has shape .* need \(43,\)"),
    "sizes too large": (described(lambda n: n.update(sizes=[4, 5, 6, 4])), "theta has shape"),
    "sizes enormous": (described(lambda n: n.update(sizes=[10**9, 10**9, 3])), "theta has shape"),
    "sizes beyond 64 bits": (described(lambda n: n.update(sizes=[10**12, 10**12, 3])), "not a usable fastnn model"),
    "sizes zero": (described(lambda n: n.update(sizes=[4, 0, 3])), "positive integer"),
    "sizes floats": (described(lambda n: n.update(sizes=[4.0, 5.0, 6.0, 3.0])), "positive integer"),
    "sizes a word": (described(lambda n: n.update(sizes="abc")), "positive integer"),
    "sizes a number": (described(lambda n: n.update(sizes=4)), "not a usable fastnn model"),
    "hidden too many": (
        described(lambda n: n.update(hidden=[{"name": "relu"}] * 3)),
        "one activation per hidden layer",
    ),
    "hidden unknown": (described(lambda n: n.update(hidden=[{"name": "os.system"}] * 2)), "not known"),
    "hidden not objects": (described(lambda n: n.update(hidden=["relu", "relu"])), "not a usable fastnn model"),
    "hidden slope text": (
        described(lambda n: n.update(hidden=[{"name": "relu"}, {"name": "leaky_relu", "slope": "1"}])),
        "slope",
    ),
    "output unknown": (described(lambda n: n.update(output={"name": "argmax"})), "not known"),
    "cost unknown": (described(lambda n: n.update(cost="hinge")), "cost='hinge' is not known"),
    "cost no name": (described(lambda n: n.update(cost=["huber"])), "cost must be a name"),
    "cost out of range": (described(lambda n: n.update(cost="quantile:2")), "must lie between 0 and 1"),
    "pair without sense": (described(lambda n: n.update(output={"name": "tanh"})), "fits cost"),
    "l2 negative": (described(lambda n: n.update(l2=-1)), "l2 must be"),
    "dtype other": (described(lambda n: n.update(dtype="float64")), "theta is float32"),
    "precision unknown": (described(lambda n: n.update(precision="fp16")), "precision"),
    "scale negative": (described(lambda n: n.update(scale=-1.0)), "scale must be a finite number > 0, got -1.0"),
    "scale a list": (described(lambda n: n.update(scale=[1])), "not a usable fastnn model"),
    "theta of a dtype that NumPy has not": (dtype_of("BF16"), "not a model file|not a usable"),
    "theta of eight bits": (dtype_of("F8_E4M3"), "not a model file|not a usable"),
    "preprocessing a number": (metadata_of(preprocessing="7"), "preprocessing must be an object or null"),
    "nested without end": (metadata_of(preprocessing="[" * 100_000), "not a usable fastnn model"),
    "scale true": (described(lambda n: n.update(scale=True)), "not a usable fastnn model"),
    "epochs true": (described(lambda n: n.update(epochs_trained=True)), "epochs_trained"),
    "epochs a half": (described(lambda n: n.update(epochs_trained=1.5)), "epochs_trained"),
    "epochs negative": (described(lambda n: n.update(epochs_trained=-1)), "must be an integer >= 0"),
}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m"
    trained("numpy").save(path)
    return path.read_bytes()


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused_with_the_path_and_the_reason(case, content, tmp_path):
    edit, match = DAMAGED[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(edit(content))
    with pytest.raises(ModelFileError, match=match) as caught:
        fastnn.load(path, backend="numpy")
    assert str(path) in str(caught.value)


def test_a_description_with_one_bit_changed_is_refused(tmp_path):
    """Whatever the bit says: a digit of the scale would change every answer and look right."""
    path = tmp_path / "model.safetensors"
    trained("numpy").save(path)
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    begin = content.index(b"__metadata__")
    accepted = []
    for at in range(begin, len(content[:end].rstrip()), 3):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 7
        path.write_bytes(damaged)
        try:
            fastnn.load(path, backend="numpy")
        except ModelFileError:
            continue
        accepted.append(content[at - 5 : at + 6])
    assert not accepted


@pytest.mark.parametrize("kept", range(0, 1000, 37))
def test_truncated_anywhere(content, tmp_path, kept):
    path = tmp_path / "m"
    path.write_bytes(content[: len(content) * kept // 1000])
    with pytest.raises(ModelFileError):
        fastnn.load(path, backend="numpy")


def test_the_helpers_above_change_nothing_by_themselves(content, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(described(lambda network: None)(content))
    fastnn.load(path, backend="numpy")


def test_missing_files_and_unavailable_engines(tmp_path, content):
    with pytest.raises(FileNotFoundError, match="no such model file"):
        fastnn.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"no such model file but a folder$"):
        fastnn.load(tmp_path)
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ValueError, match="backend='nunpy' is not known; did you mean 'numpy'") as caught:
        fastnn.load(tmp_path / "m", backend="nunpy")
    assert not isinstance(caught.value, ModelFileError), "the file is fine, the argument is not"


# ---- writing ------------------------------------------------------------------------------------------------------


def test_saving_replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    net, path = trained("numpy"), tmp_path / "m"
    for _ in range(2):
        net.save(path)
        net.fit(*data(), epochs=1)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert fastnn.load(path, backend="numpy").epochs_trained == 3
    if os.name == "posix":
        mask = os.umask(0)
        os.umask(mask)
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_folder_that_does_not_exist_or_is_the_target(tmp_path):
    net = trained("numpy")
    with pytest.raises(FileNotFoundError, match=r"the folder .*absent.* does not exist"):
        net.save(tmp_path / "absent" / "m")
    with pytest.raises(IsADirectoryError, match="is a folder; give a file name"):
        net.save(tmp_path)


@pytest.mark.parametrize(
    "name", ["x.h5", "x.pkl", "x.PT", "x.onnx", "x.npz", "lr0.1.joblib", "x.safetensors.gz", "ä.keras", "x.safetensor"]
)
def test_a_name_that_promises_another_format_is_refused_before_anything_is_written(tmp_path, name, content):
    net, suffix = trained("numpy"), f".{name.rsplit('.', 1)[1]}"
    with pytest.raises(ValueError, match=r"must end in '\.safetensors' or in no ending of another") as caught:
        net.save(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert f"got {suffix!r}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / name).write_bytes(content)  # a model that an earlier version wrote under this name
    assert fastnn.load(tmp_path / name, backend="numpy").sizes == net.sizes
    net.save(str(tmp_path / "x.SafeTensors"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_device_or_pipe_is_not_replaced_by_a_model_and_a_link_stays_one(tmp_path):
    net, pipe, link = trained("numpy"), tmp_path / "pipe", tmp_path / "latest.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(
        ValueError, match="pipe' is not a regular file but a device, pipe or socket; give the name of a file"
    ):
        net.save(pipe)
    assert pipe.is_fifo()
    link.symlink_to("first.safetensors")
    for _ in range(2):  # not there yet, and there
        net.save(link)
        assert link.is_symlink()
        assert fastnn.load(tmp_path / "first.safetensors", backend="numpy").sizes == net.sizes
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first.safetensors", "latest.safetensors", "pipe"]


def test_a_name_as_long_as_the_disk_takes(tmp_path):
    name = "m" * 255
    trained("numpy").save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("path", [None, 3, b"m", ["m"]])
def test_what_is_no_path(path):
    for use in (trained("numpy").save, fastnn.load):
        with pytest.raises(TypeError, match=r"path must be a str or os\.PathLike") as caught:
            use(path)
        assert repr(path) in str(caught.value)


def test_a_model_whose_ending_was_left_out(tmp_path):
    trained("numpy").save(tmp_path / "m.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no such model file; did you mean .*m\.safetensors'"):
        fastnn.load(tmp_path / "m", backend="numpy")
    with pytest.raises(FileNotFoundError, match=r"no such model file$"):
        fastnn.load("", backend="numpy")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_leaves_the_old_file(tmp_path, content):
    path = tmp_path / "m"
    path.write_bytes(content)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            trained("numpy").save(path)
    finally:
        tmp_path.chmod(0o700)
    assert path.read_bytes() == content


@pytest.mark.parametrize("step", ["chmod", "fsync", "replace"])
def test_a_disk_that_cannot_be_written_leaves_the_old_file_and_no_leftovers(tmp_path, content, monkeypatch, step):
    """The disk is full, or fails at the last moment; root runs this too, unlike the test of permissions."""
    path = tmp_path / "m"
    path.write_bytes(content)

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    net = trained("numpy")
    monkeypatch.setattr(f"fastnn.files.os.{step}", fail)
    with pytest.raises(OSError, match="No space left"):
        net.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_nothing_in_a_model_file_is_code(content):
    header, tensor = parts(content)
    assert set(header) == {"__metadata__", "theta"}
    assert header["__metadata__"]["format"] == "fastnn"
    assert header["__metadata__"]["version"] == "1"
    assert len(tensor) == 4 * fastnn.Network(SIZES, backend="numpy").layout.size


def test_the_same_model_is_written_as_the_same_bytes(tmp_path):
    """safetensors puts its header into another order each time; a checksum of a model is to be one."""
    rule = fastnn.optimizers.Adam()
    net = fastnn.Network([4, 3, 2], backend="numpy")
    net.fit(np.random.default_rng(0).random((20, 4)), np.arange(20) % 2, optimizer=rule, epochs=1)
    files = set()
    for i in range(8):
        net.save(tmp_path / str(i), optimizer=rule)
        files.add((tmp_path / str(i)).read_bytes())
    assert len(files) == 1
    with safe_open(tmp_path / "0", "numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("theta"), net.theta)
    again, its = fastnn.resume(tmp_path / "0", backend="numpy")
    np.testing.assert_array_equal(again.theta, net.theta)
    for mine, read in zip(rule.state, its.state, strict=True):
        np.testing.assert_array_equal(mine, read)


@pytest.mark.parametrize(
    ("name", "proposed"), [("runs/m.h5", "runs/m"), ("m.safetensors.gz", "m"), ("lr0.1.pt", "lr0.1")]
)
def test_the_name_that_is_proposed(name, proposed):
    with pytest.raises(ValueError, match=re.escape(f"for example '{proposed}.safetensors'")):
        fastnn.Network([2, 2], backend="numpy").save(name)


def test_a_dot_in_a_name_is_no_ending(tmp_path):
    """Each is the name of a file of its own, written as it is given."""
    names = ["lr0.01", "lr0.02", "rate.001", "v1.2-final", "2026.01.05", "net.best", ".hidden", "lr0.01.safetensors"]
    nets = {name: fastnn.Network([2, 2], seed=i, backend="numpy") for i, name in enumerate(names)}
    for name, net in nets.items():
        net.save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name, net in nets.items():
        np.testing.assert_array_equal(fastnn.load(tmp_path / name, backend="numpy").theta, net.theta)


def test_permissions_are_those_of_the_folder_or_of_the_file_before(tmp_path, monkeypatch):
    """And the umask, which belongs to the whole process, is not touched."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("umask"))
    path = tmp_path / "m"
    trained("numpy").save(path)
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert path.stat().st_mode == ordinary.stat().st_mode
    path.chmod(0o600)
    trained("numpy").save(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_saved_beside_a_fit_is_whole(tmp_path, monkeypatch):
    """Numbers that move while they are written: the checksum is that of the numbers in the file."""
    net = trained("numpy")
    dumps = fastnn.model_file.json.dumps

    def meanwhile(*arguments, **options):
        net.theta[...] += 1
        return dumps(*arguments, **options)

    before = net.theta.copy()
    monkeypatch.setattr(fastnn.model_file.json, "dumps", meanwhile)
    net.save(tmp_path / "m")
    monkeypatch.undo()
    np.testing.assert_array_equal(fastnn.load(tmp_path / "m", backend="numpy").theta, before)
