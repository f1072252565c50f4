"""Files written in one move: a crash or a full disk leaves the old one as it was. The standard library only."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path

__all__ = ["replace"]


def replace(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write `content` beside `path` and move it there. A link stays, and what it points to is written; a file that was
    there keeps its permissions. durable: also if the power fails right afterwards.

    Raises
    ------
    OSError
        The folder does not exist or cannot be written, or the disk is full; `path` is a folder, or a device, a pipe or
        a socket, whose place a file would take.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise OSError(f"{str(path)!r} is not a regular file but a device, pipe or socket; give the name of a file")
    path = Path(os.path.realpath(path))
    temporary = path.parent / f".fastnn-{uuid.uuid4().hex}.tmp"
    try:
        # an ordinary file, as `open` would make it; that of tempfile is private, and its mode cannot be made ordinary
        # without touching the umask of the whole process
        with open(temporary, "xb") as file:
            if path.exists():
                os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the new name itself
        finally:
            os.close(directory)
