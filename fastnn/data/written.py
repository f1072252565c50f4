"""How a table is written as text: its encoding, what separates its fields, whether its first line names the columns."""

from __future__ import annotations

import codecs
import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import DataFileError, nearest

__all__ = [
    "PLAIN",
    "SEPARATORS",
    "UTF8",
    "Written",
    "first_line",
    "opened",
    "separator_of",
    "undecodable",
    "written_as",
]

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
UTF8 = "utf-8"
# What a file begins with, the longer first, and what reads it.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Written:
    """As `written_as` checks it.

    Attributes
    ----------
    encoding : str
        As Python's codecs call it; UTF-8 may begin with a byte-order mark.
    separator : str or None
        One of SEPARATORS; None is found in the first line.
    header : bool
        Whether the first line names the columns; they are "0", "1", ... if not.
    """

    encoding: str = UTF8
    separator: str | None = None
    header: bool = True


PLAIN = Written()


def written_as(encoding: str | None, separator: str | None, *, header: bool = True, option: str = "--") -> Written:
    """What a user says of a file; None is UTF-8, and what its first line shows. `option` begins the names in messages.

    Raises
    ------
    ValueError
        No encoding of text, or a separator that tables do not have.
    TypeError
        Not a str.
    """
    for name, value in (("encoding", encoding), ("separator", separator)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{option}{name} must be a str, got {value!r} ({type(value).__name__})")
    found = UTF8
    if encoding is not None:
        try:
            found = codecs.lookup(encoding).name
            "".encode(encoding)  # not of codecs such as hex and zlib, which are no encodings of text
        except (LookupError, ValueError):
            hint = nearest(encoding, ("utf-8", "utf-16", "latin-1", "cp1252"), 0.6)
            raise ValueError(
                f"{option}encoding {encoding!r} is no encoding of text that Python knows"
                f"{hint or '; for example utf-16, latin-1 or cp1252'}"
            ) from None
    if separator is None:
        return Written(UTF8 if found == "utf-8-sig" else found, None, header)
    marks = {name: mark for mark, name in SEPARATORS.items()} | {mark: mark for mark in SEPARATORS} | {"\\t": "\t"}
    if separator not in marks:
        raise ValueError(
            f"{option}separator must be {', '.join(SEPARATORS.values())}, or that character itself, got {separator!r}"
        )
    return Written(UTF8 if found == "utf-8-sig" else found, marks[separator], header)


def opened(path: Path, encoding: str | None) -> IO[Any]:
    """The file as text, or as bytes without an encoding; unpacked on the way if its name ends in .gz."""
    packed = path.suffix.lower() == ".gz"
    if encoding is None:
        return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]
    named = "utf-8-sig" if encoding == UTF8 else encoding
    return gzip.open(path, "rt", newline="", encoding=named) if packed else path.open(newline="", encoding=named)


def first_line(path: Path, file: IO[str], encoding: str) -> str:
    """The first line that is not blank, '' if there is none.

    Raises
    ------
    DataFileError
        It shows that the file is written in another encoding.
    """
    line = next((line for line in file if line.strip()), "")
    for mark, name in (("\ufeff", "utf-16"), ("\u00ef\u00bb\u00bf", "utf-8")):
        if line.startswith(mark):
            raise DataFileError(f"{path}: begins with a byte-order mark, which {encoding} does not read: {_use(name)}")
    if (at := line.find("\0")) >= 0:
        raise DataFileError(
            f"{path}: its text holds bytes 0x00, as UTF-16 does: {_use('utf-16-le' if at % 2 else 'utf-16-be')}"
        )
    return line


def _use(encoding: str) -> str:
    return f"--encoding {encoding} reads it" if encoding != UTF8 else "leave --encoding out"


def separator_of(line: str, written: Written, *, comma: bool) -> str:
    """What separates the fields, as far as the first line says: where numbers in it have a decimal comma, that comes
    last.
    """
    if written.separator is not None:
        return written.separator
    unquoted = re.sub(r'"[^"]*"', "", line)
    marks = [*SEPARATORS] if written.header or not comma else [*[*SEPARATORS][1:], ","]
    return next((mark for mark in marks if mark in unquoted), ",")


def undecodable(path: Path, encoding: str, error: UnicodeError) -> DataFileError:
    """The error of a file that is written in another encoding."""
    if encoding != UTF8:
        why = error.reason if isinstance(error, UnicodeDecodeError) else error
        return DataFileError(f"{path}: not {encoding} text ({why}); --encoding says in which encoding it is written")
    with opened(path, None) as file:
        begin = file.read(4)
        for mark, name in MARKS:
            if begin.startswith(mark):
                shown = " ".join(f"0x{byte:02X}" for byte in mark)
                return DataFileError(
                    f"{path}: not UTF-8 text: it begins with {shown}, as {name.upper()} does: {_use(name)}"
                )
        file.seek(0)
        for number, line in enumerate(file, 1):  # a line break is never part of another character
            try:
                line.decode()
            except UnicodeDecodeError as found:
                return DataFileError(
                    f"{path}: not UTF-8 text (byte 0x{line[found.start]:02X} in line {number}); save the table as "
                    "UTF-8, or say how it is written: --encoding latin-1 or cp1252 is Western European"
                )
    return DataFileError(f"{path}: not UTF-8 text ({error}); save the table as UTF-8")
