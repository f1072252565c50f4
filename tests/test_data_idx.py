"""IDX files: what is written is read, and whatever is wrong with a file is a DataFileError that names it."""

import contextlib
import gzip
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastnn import DataFileError
from fastnn.data import idx, mnist

CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def idx_bytes(array):
    code = CODES[f"{array.dtype.kind}{array.dtype.itemsize}"]
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([7, 0, 9], np.uint8)


def write(path, array, zipped=False):
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_every_element_type_and_byte_order(tmp_path, code, zipped):
    values = np.array([[1, 2, 100], [0, 5, 3]]).astype(code)
    found = idx.read_idx(write(tmp_path / "values", values, zipped))
    assert found.dtype == values.dtype
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, values)


def test_images_and_labels(tmp_path):
    X, y = idx.read_pair(write(tmp_path / "x.gz", IMAGES, zipped=True), write(tmp_path / "y", LABELS))
    np.testing.assert_array_equal(X, IMAGES)
    assert X.dtype == np.uint8
    assert y.dtype == np.int64
    assert y.tolist() == [7, 0, 9]


def refused(read, *paths, match):
    with pytest.raises(DataFileError, match=match) as caught:
        read(*paths)
    assert any(str(path) in str(caught.value) for path in paths)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    refused(idx.read_idx, tmp_path / "none", match="no such file")
    refused(idx.read_idx, tmp_path, match="cannot be read")


def test_empty_and_short_files(tmp_path):
    path = tmp_path / "x"
    for content in (b"", b"\0\0", idx_bytes(IMAGES)[:9]):
        path.write_bytes(content)
        refused(idx.read_images, path, match="truncated")


def test_truncated_and_trailing_bytes(tmp_path):
    path = tmp_path / "x"
    for pack in (bytes, gzip.compress):
        path.write_bytes(pack(idx_bytes(IMAGES)[:-1]))
        refused(idx.read_images, path, match="truncated.*60 bytes, but 59 follow")
        path.write_bytes(pack(idx_bytes(IMAGES) + b"\0"))
        refused(idx.read_images, path, match="trailing bytes")


def test_truncated_gzip_and_wrong_checksum(tmp_path):
    path = tmp_path / "x.gz"
    content = gzip.compress(idx_bytes(IMAGES))
    path.write_bytes(content[:-12])
    refused(idx.read_images, path, match="truncated")
    broken = bytearray(content)
    broken[-6] ^= 1
    path.write_bytes(broken)
    refused(idx.read_images, path, match="damaged gzip")


def test_wrong_magic_says_what_was_expected(tmp_path):
    refused(
        idx.read_images,
        write(tmp_path / "y", LABELS),
        match=r"wrong magic number 0x00000801, expected 0x00000803 \(labels instead of images\?\)",
    )
    refused(idx.read_labels, write(tmp_path / "x", IMAGES), match="images instead of labels")
    (tmp_path / "text").write_text("hello, world")
    refused(idx.read_images, tmp_path / "text", match="wrong magic")
    refused(idx.read_idx, tmp_path / "text", match="not an IDX file")


def test_count_mismatch_names_both_files(tmp_path):
    x, y = write(tmp_path / "x", IMAGES), write(tmp_path / "y", LABELS[:2])
    refused(idx.read_pair, x, y, match=r"3 images but .*y holds 2 labels")


def test_empty_sets(tmp_path):
    refused(idx.read_images, write(tmp_path / "x", IMAGES[:0]), match="no images")
    refused(idx.read_labels, write(tmp_path / "y", LABELS[:0]), match="no labels")


def test_header_that_claims_too_much_costs_no_memory(tmp_path):
    path = tmp_path / "x"
    head = bytes([0, 0, 8, 3])
    path.write_bytes(head + struct.pack(">3I", 2**31, 2**31, 2**31))
    refused(idx.read_images, path, match="the limit is")
    path.write_bytes(head + struct.pack(">3I", 2**20, 28, 28))
    refused(idx.read_images, path, match="truncated")


def test_gzip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx_bytes(IMAGES) + bytes(50_000_000)))
    refused(idx.read_images, path, match="trailing bytes")


@QUICK
@given(data=st.data(), zipped=st.booleans())
def test_any_truncation_is_a_data_file_error(tmp_path, data, zipped):
    content = gzip.compress(idx_bytes(IMAGES), mtime=0) if zipped else idx_bytes(IMAGES)
    path = tmp_path / "x"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(DataFileError):
        idx.read_images(path)


@pytest.mark.parametrize("byte", range(16))
def test_any_bit_flip_of_the_header_is_a_data_file_error(tmp_path, byte):
    path = tmp_path / "x"
    for bit in range(8):
        content = bytearray(idx_bytes(IMAGES))
        content[byte] ^= 1 << bit
        path.write_bytes(content)
        with pytest.raises(DataFileError):
            idx.read_images(path)


@QUICK
@given(data=st.data())
def test_any_bit_flip_of_a_gzip_file_is_an_error_or_harmless(tmp_path, data):
    content = bytearray(gzip.compress(idx_bytes(IMAGES), mtime=0))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path = tmp_path / "x"
    path.write_bytes(content)
    try:
        found = idx.read_images(path)
    except DataFileError:
        return
    np.testing.assert_array_equal(found, IMAGES)  # time stamp, operating system: nothing that is read


@QUICK
@given(content=st.binary(max_size=200))
def test_any_bytes_are_an_array_or_a_data_file_error(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with contextlib.suppress(DataFileError):
        assert isinstance(idx.read_idx(path), np.ndarray)


# ---- MNIST ------------------------------------------------------------------------------------------


def small_mnist(
    folder,
    names=(
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte",
        "t10k-images.idx3-ubyte",
        "t10k-labels-idx1-ubyte.gz",
    ),
    rows=40,
):
    """Four files of 4 x 4 images whose brightest row tells the class, in mixed spellings."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name, n in zip(names, (rows, rows, rows // 2, rows // 2), strict=True):
        y = (np.arange(n) % 4).astype(np.uint8)
        X = rng.integers(0, 60, (n, 4, 4)).astype(np.uint8)
        X[np.arange(n), y] += 150
        write(folder / name, X if "images" in name else y, zipped=name.endswith(".gz"))
    return folder


def test_mnist_finds_every_spelling(tmp_path, monkeypatch):
    folder = small_mnist(tmp_path / "m")
    data = mnist.load(folder)
    assert data.X.shape == (40, 16)
    assert data.test[0].shape == (20, 16)
    assert data.X.dtype == np.uint8
    assert data.scale == 1 / 255
    assert data.preprocessing["shape"] == [4, 4]
    monkeypatch.setenv("FASTNN_MNIST", str(folder))
    np.testing.assert_array_equal(mnist.load().X, data.X)


def test_mnist_without_a_folder_or_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv("FASTNN_MNIST", raising=False)
    with pytest.raises(DataFileError, match=r"--data DIR.*FASTNN_MNIST"):
        mnist.load()
    refused(mnist.load, tmp_path / "none", match="no such folder")
    folder = small_mnist(tmp_path / "m")
    (folder / "train-labels-idx1-ubyte").unlink()
    refused(mnist.load, folder, match="train-labels-idx1-ubyte is missing")


def test_mnist_files_that_contradict_each_other(tmp_path):
    folder = small_mnist(tmp_path / "m")
    write(folder / "t10k-images.idx3-ubyte", np.zeros((20, 5, 5), np.uint8))
    refused(mnist.load, folder, match="5, 5")
    folder = small_mnist(tmp_path / "n")
    write(folder / "train-labels-idx1-ubyte", np.full(40, 12, np.uint8))
    refused(mnist.load, folder, match="label 12")
