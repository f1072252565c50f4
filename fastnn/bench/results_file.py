"""Results as JSON files: written in one move, and read again only where they are what was asked for."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from .statistics import Result

__all__ = ["dumps", "read", "replace"]


def dumps(results: Any) -> str:
    """JSON without NaN, which other readers refuse: what is not finite becomes null."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): clean(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(clean(results), indent=1, allow_nan=False)


def replace(path: Path, text: str) -> None:
    """Write a file in one move, so that an interrupted run leaves the last complete one. A device or pipe is
    written to, not replaced.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read(path: Path, what: str, schema: int, *, part: str, kind: str | None = None) -> Result:
    """Results written earlier: of this schema and kind, with a dict under `part`. `what` says in an error what they
    should be results of.

    Raises
    ------
    ValueError
        The file cannot be read, is no JSON, or holds something else.
    """
    try:
        results: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path}: not results of {what}: {reason}") from None
    if (
        not isinstance(results, dict)
        or results.get("kind") != kind
        or results.get("schema") != schema
        or not isinstance(results.get(part), dict)
    ):
        raise ValueError(f"{path}: not results of {what} of this version (schema {schema})")
    return results
