"""IDX files, the format of MNIST: read, checked, gzip or not.

    bytes 0-1    0
    byte  2      element type: 08 uint8, 09 int8, 0B int16, 0C int32, 0D float32, 0E float64
    byte  3      number of dimensions d
    4 d bytes    the dimensions, big-endian uint32
    the rest     the elements, row by row, big-endian

Source: Y. LeCun, "The MNIST database of handwritten digits", file formats.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import DataFileError

__all__ = ["read_idx", "read_images", "read_labels", "read_pair"]

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IMAGES, LABELS = 0x0803, 0x0801  # the two magic numbers of MNIST: uint8 in three dimensions, in one
LIMIT = 1 << 32  # bytes of elements; a few kilobytes of gzip can claim, and unpack to, far more
CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str], *, magic: int | None = None) -> NDArray[Any]:
    """The array in an IDX file.

    Parameters
    ----------
    path : path
        The file; gzip is recognised by its content, not by its name.
    magic : int, optional
        The first four bytes wanted, for example 0x803; any valid ones if not given.

    Returns
    -------
    ndarray
        Of the shape and type that the header states, in native byte order.

    Raises
    ------
    DataFileError
        Missing, unreadable or truncated, another magic number, longer than its header says, damaged
        gzip, or more than 4 GiB of elements.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                return _read(path, raw, magic)
            with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                return _read(path, unpacked, magic)
    except FileNotFoundError:
        raise DataFileError(f"{path}: no such file") from None
    except EOFError:
        raise DataFileError(f"{path}: truncated; the gzip stream ends early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataFileError(f"{path}: damaged gzip data ({error})") from None
    except OSError as error:
        raise DataFileError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read(path: Path, file: BinaryIO | gzip.GzipFile, magic: int | None) -> NDArray[Any]:
    head = file.read(4)
    if len(head) < 4:
        raise DataFileError(f"{path}: truncated; an IDX file begins with 4 bytes, this one has {len(head)}")
    given = int.from_bytes(head, "big")
    if magic is not None and given != magic:
        hint = (
            " (labels instead of images?)"
            if (given, magic) == (LABELS, IMAGES)
            else " (images instead of labels?)"
            if (given, magic) == (IMAGES, LABELS)
            else ""
        )
        raise DataFileError(f"{path}: wrong magic number 0x{given:08X}, expected 0x{magic:08X}{hint}")
    if head[:2] != b"\0\0" or head[2] not in TYPES or not 1 <= head[3] <= 8:
        raise DataFileError(
            f"{path}: not an IDX file, it begins with 0x{given:08X} (images: 0x{IMAGES:08X}, labels: 0x{LABELS:08X})"
        )
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataFileError(f"{path}: truncated in its header")
    shape = struct.unpack(f">{head[3]}I", sizes)
    dtype = np.dtype(TYPES[head[2]])
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > LIMIT:
        raise DataFileError(
            f"{path}: its header claims {'x'.join(map(str, shape))} elements, {wanted:,} bytes; the limit is {LIMIT:,}"
        )
    # Grows with what is really there, so a header that lies costs no memory; one byte more than
    # wanted shows trailing data and makes gzip check its sum.
    data = bytearray()
    while len(data) <= wanted and (chunk := file.read(min(CHUNK, wanted + 1 - len(data)))):
        data += chunk
    if len(data) != wanted:
        what = "truncated" if len(data) < wanted else "trailing bytes"
        got = f"{len(data):,} follow" if len(data) < wanted else "more follow"
        raise DataFileError(
            f"{path}: {what}; its header announces {'x'.join(map(str, shape))} elements, {wanted:,} bytes, but {got}"
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def read_images(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Images as rows of pixels, uint8 (n, height, width). Errors as `read_idx`; no images is one too."""
    images = read_idx(path, magic=IMAGES)
    if 0 in images.shape:
        raise DataFileError(f"{path}: holds no images, shape {images.shape}")
    return images


def read_labels(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """Classes, int64 (n,). Errors as `read_idx`; no labels is one too."""
    labels = read_idx(path, magic=LABELS)
    if not labels.size:
        raise DataFileError(f"{path}: holds no labels")
    return labels.astype(np.int64)


def read_pair(
    images: str | os.PathLike[str], labels: str | os.PathLike[str]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, height, width) uint8 and their classes (n,) int64.

    Raises
    ------
    DataFileError
        As `read_idx`, and where the two files do not hold equally many.
    """
    X, y = read_images(images), read_labels(labels)
    if len(X) != len(y):
        raise DataFileError(f"{images} holds {len(X):,} images but {labels} holds {len(y):,} labels")
    return X, y
