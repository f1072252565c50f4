"""The version of fastnn, and what is said of another one's files."""

from __future__ import annotations

import re

__all__ = ["__version__", "is_version", "written_by"]

__version__ = "0.1.0"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}")  # no more than PEP 440 allows, and a line at most


def is_version(text: object) -> bool:
    """Whether it can be the version of a package."""
    return isinstance(text, str) and _VERSION.fullmatch(text) is not None


def written_by(version: str | None) -> str:
    """What an error of a file says of its origin; nothing where it does not tell, or is of this version."""
    if not is_version(version) or version == __version__:
        return ""
    return f" (the file was written by fastnn {version}, this is fastnn {__version__})"
