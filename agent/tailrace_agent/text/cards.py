"""How an object shows itself: one short line (`repr`), or a small table in a notebook (`_repr_html_`).

What this module promises: only what is passed is shown, nothing is waited for, and foreign text stays text: HTML is
escaped, and only an `http` or `https` address becomes a link.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["brief", "card", "table"]

_LINKS: Final = ("http://", "https://")
_LEFT: Final = ' style="text-align: left"'


def brief(kind: str, name: str | None, *facts: str | None) -> str:
    """One line: `<tailrace.Run 'baseline': RUNNING, http://…>`.

    Args:
        kind: Name of the class.
        name: Of the object; None where it has none, or none that is known.
        *facts: What else to show; what is None or empty is left out.
    """
    shown = ", ".join(fact for fact in facts if fact)
    named = f"tailrace.{kind}" if name is None else f"tailrace.{kind} {name!r}"
    return f"<{named}: {shown}>" if shown else f"<{named}>"


def card(kind: str, facts: Iterable[tuple[str, object]]) -> str:
    """A table of two columns, as HTML.

    Args:
        kind: Name of the class, as its heading.
        facts: What it is and its value; what is None or empty is left out.
    """
    rows = [(label, value) for label, value in facts if value not in (None, "")]
    return table(kind, (), rows)


def table(kind: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a heading, as HTML.

    Args:
        kind: Name of the class, as its heading.
        columns: Names of the columns, if they have any.
        rows: Their cells, the first of each row as its name.
    """
    rows = list(rows)
    width = max([len(columns), *map(len, rows)], default=1)
    lines = [f'<tr><th colspan="{width}"{_LEFT}>tailrace.{_cell(kind)}</th></tr>']
    if columns:
        lines.append("<tr>" + "".join(f"<th{_LEFT}>{_cell(name)}</th>" for name in columns) + "</tr>")
    for name, *cells in rows:
        shown = "".join(f"<td{_LEFT}>{_cell(cell)}</td>" for cell in cells)
        lines.append(f"<tr><th{_LEFT}>{_cell(name)}</th>{shown}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _cell(value: object) -> str:
    from html import escape  # 1 ms that only a notebook needs

    text = f"{value:,}" if isinstance(value, int) else str(value)
    shown = escape(text)  # quotes too: it may stand in `href`
    return f'<a href="{shown}" target="_blank" rel="noopener">{shown}</a>' if text.startswith(_LINKS) else shown
