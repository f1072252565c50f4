"""Pieces of HTML that the sections of the page share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["section", "table"]


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body)
    names = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></div>'


def section(title: str, text: str, *content: str) -> str:
    """A card with a heading; text and content are HTML already."""
    return f"<section><h2>{escape(title)}</h2><p>{text}</p>{''.join(content)}</section>"
