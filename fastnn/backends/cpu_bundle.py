"""Shared libraries that need each other's symbols, loaded without the rest of the process seeing them.

The parts of MKL name no dependencies, so by themselves they can only be loaded into the process's global
scope (which is what `libmkl_rt` does). There they would take over the symbols of libraries loaded later:
PyTorch carries an MKL of its own under the same names, and ran on one thread after such a load. The
dynamic linker keeps a library's dependencies to itself, so a library that holds nothing but a list
of dependencies is all that is needed. It is written here byte by byte, because a user has no linker.

Source of the format: System V ABI, chapters 4 and 5, with its AMD64 supplement; 64 bits, little-endian.
"""

from __future__ import annotations

import ctypes
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["load_together"]

_HEADER_BYTES, _SEGMENT_BYTES, _SYMBOL_BYTES = 64, 56, 24
_LOAD, _DYNAMIC, _STACK = 1, 2, 0x6474E551  # segment types PT_LOAD, PT_DYNAMIC, PT_GNU_STACK
_READ_WRITE = 4 | 2
# entries DT_* of the dynamic section
_NEEDED, _HASH, _STRINGS, _SYMBOLS, _STRINGS_BYTES, _SYMBOL_SIZE, _END = 1, 4, 5, 6, 10, 11, 0


def load_together(paths: Sequence[Path]) -> ctypes.CDLL:
    """The libraries at these absolute paths, in one scope of their own; a symbol is looked up in them in this order.

    Raises
    ------
    OSError
        One of them is missing or cannot be loaded, or no temporary file can be written.
    """
    with tempfile.NamedTemporaryFile(prefix="fastnn-", suffix=".so") as file:  # needed only while it is being loaded
        file.write(_library_of([str(path).encode() for path in paths]))
        file.flush()
        return ctypes.CDLL(file.name)


def _library_of(needed: Sequence[bytes]) -> bytes:
    """An ELF library for x86-64 with these dependencies, no code and no symbols."""
    strings = b"\0" + b"".join(name + b"\0" for name in needed)
    strings += b"\0" * (-len(strings) % 8)
    symbol = b"\0" * _SYMBOL_BYTES  # the null symbol, which every table begins with
    table = struct.pack("<4I", 1, 1, 0, 0)  # one bucket, one chain, both empty

    strings_at = _HEADER_BYTES + 3 * _SEGMENT_BYTES
    symbols_at = strings_at + len(strings)
    table_at = symbols_at + len(symbol)
    dynamic_at = table_at + len(table)

    names_at = [1 + sum(len(name) + 1 for name in needed[:i]) for i in range(len(needed))]
    entries = [*((_NEEDED, at) for at in names_at), (_HASH, table_at), (_STRINGS, strings_at), (_SYMBOLS, symbols_at),
               (_STRINGS_BYTES, len(strings)), (_SYMBOL_SIZE, _SYMBOL_BYTES), (_END, 0)]  # fmt: skip
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    end = dynamic_at + len(dynamic)

    def segment(kind: int, at: int, size: int, alignment: int) -> bytes:
        # type, flags, offset in the file, address in memory twice, bytes in the file and in memory, alignment
        return struct.pack("<2I6Q", kind, _READ_WRITE, at, at, at, size, size, alignment)

    # Without the last segment the linker would take it that this library wants a stack that can be executed.
    segments = segment(_LOAD, 0, end, 4096) + segment(_DYNAMIC, dynamic_at, len(dynamic), 8) + segment(_STACK, 0, 0, 16)
    # \x7fELF, 64 bits, little-endian, version 1; shared library for x86-64, version 1; no entry, segments
    # behind this header, no sections, no flags; sizes and numbers of header, segments and sections
    header = struct.pack(
        "<4s12B2HI3QI6H", b"\x7fELF", 2, 1, 1, *[0] * 9, 3, 62, 1, 0, _HEADER_BYTES, 0, 0, _HEADER_BYTES,
        _SEGMENT_BYTES, 3, 0, 0, 0,
    )  # fmt: skip
    return header + segments + strings + symbol + table + dynamic
