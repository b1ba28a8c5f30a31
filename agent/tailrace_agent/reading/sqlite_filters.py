"""MLflow's filters as conditions on its tables, where they are of the plain kinds; all else is MLflow's own to read.

Pure.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tailrace_agent.ipc.tags import RUN_NAME_TAG

__all__ = ["Condition", "condition"]

_TEXT: Final = r"""'[^'"\\`]*'|"[^'"\\`]*\""""
_COMPARISON: Final = re.compile(
    rf"""
    \s*
    (?: (?P<group>attributes|metrics|params|tags) \. )?
    (?: `(?P<quoted>[^`'"]+)` | (?P<plain>[A-Za-z_]\w*) )
    (?: \s* (?P<sign><=|>=|!=|<|>|=) \s* (?: (?P<text>{_TEXT}) | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?) )
      | \s+ (?P<like>LIKE) \s+ (?P<pattern>{_TEXT})
      | \s+ IN \s* \( (?P<texts> \s* (?:{_TEXT}) (?: \s* , \s* (?:{_TEXT}) )* \s* ) \)
    )
    \s* (?: \b AND \b (?=\s*\S) | $ )
    """,
    re.VERBOSE,
)
_ONE_TEXT: Final = re.compile(_TEXT)
_ATTRIBUTES: Final = {"run_id": "run_uuid", "status": "status"}
_UNLIKE: Final = "run_uuid IN (SELECT run_uuid FROM latest_metrics WHERE key = ? AND (value != ? OR is_nan))"
"""NaN, which is stored as 0 and a flag, differs from every number, and is neither smaller nor larger."""
_LOGGED: Final = {
    "metrics": "run_uuid IN (SELECT run_uuid FROM latest_metrics WHERE key = ? AND value {} ? AND NOT is_nan)",
    "params": "run_uuid IN (SELECT run_uuid FROM params WHERE key = ? AND value {} ?)",
    "tags": "run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value {} ?)",
}


class Condition(NamedTuple):
    """What stands behind `WHERE`, about a row of `runs`, and its parameters."""

    sql: str
    values: tuple[str | float, ...]


def condition(filter_string: str) -> Condition | None:
    """The condition that a filter is; None for one that MLflow has to read.

    Args:
        filter_string: In MLflow's language, names of metrics, params and tags in backticks.

    Example:
        >>> condition("params.`lr` = '0.1'")
        Condition(sql='run_uuid IN (SELECT run_uuid FROM params WHERE key = ? AND value = ?)', values=('lr', '0.1'))
        >>> condition("params.`lr` ILIKE '0.%'")
    """
    parts: list[Condition] = []
    at = 0
    while at < len(filter_string.rstrip()):
        found = _COMPARISON.match(filter_string, at)
        part = _one(found) if found is not None else None
        if found is None or part is None:
            return None
        parts.append(part)
        at = found.end()
    return Condition(
        " AND ".join(part.sql for part in parts) or "TRUE", tuple(value for part in parts for value in part.values)
    )


def _one(found: re.Match[str]) -> Condition | None:
    group, key, texts = found["group"], found["quoted"] or found["plain"], found["texts"]
    if texts is not None:
        ids = [text[1:-1] for text in _ONE_TEXT.findall(texts)]
        of_runs = group == "attributes" and key == "run_id"
        return Condition(f"run_uuid IN ({', '.join('?' * len(ids))})", tuple(ids)) if of_runs else None
    operator, number = found["sign"] or "LIKE", found["number"]
    if group == "metrics":
        return _logged(group, key, operator, float(number)) if number is not None else None
    if number is not None or operator not in ("=", "!=", "LIKE"):
        return None
    text = (found["text"] or found["pattern"])[1:-1]
    return _logged(group, key, operator, text) if group in _LOGGED else _attribute(key, operator, text)


def _attribute(key: str, operator: str, text: str) -> Condition | None:
    if key == "run_name":  # the column is empty for runs of MLflow 1
        return _logged("tags", RUN_NAME_TAG, operator, text)
    column = _ATTRIBUTES.get(key)
    return Condition(f"{column} {operator} ?", (text,)) if column is not None else None


def _logged(group: str, key: str, operator: str, value: str | float) -> Condition:
    unlike = group == "metrics" and operator == "!="
    return Condition(_UNLIKE if unlike else _LOGGED[group].format(operator), (key, value))
