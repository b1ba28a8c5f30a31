"""Filters and orders in MLflow's language, with the quotes that it requires around names.

MLflow takes `metrics.loss < 0.2` and refuses `metrics.val/loss < 0.2`: a name with a slash, a dash, a colon, a space or
a digit after a dot has to stand in backticks. Here it gets them. What this module promises:

* What MLflow understood before means the same after it; what is quoted already, and what stands in a literal, stays.
* A name such as `throughput(tps)`, which MLflow cannot have, becomes what tailrace has stored it as (`mlflow.names`).
* A filter that is none is left for MLflow to refuse: a name that holds ` and ` gets no quotes, since it may be a
  comparison that lacks its other half.

Pure functions over text; `import tailrace` does not load them.
"""

from __future__ import annotations

import re
from typing import Final

from tailrace_agent.mlflow.names import readable_name

__all__ = ["looks_like_filter", "quoted_filter", "quoted_order"]

_GROUP: Final = r"(?:metrics?|params?|parameters?|tags?)"
_COMPARATOR: Final = r"""
      [<>=] | !=
    | \s (?: (?:NOT\s+)? (?:I|R)?LIKE \s* ['"]
           | (?:NOT\s+)? IN \s* \(
           | IS \s+ (?:NOT\s+)? NULL \b )
"""
_PART: Final = re.compile(
    rf"""
    '(?: '' | \\' | [^'] )*' | "(?: "" | \\" | [^"] )*" | `[^`]*`   # a literal, or a name that is quoted
    | (?<![\w.`"'/:@-]) (?P<group>{_GROUP}) \. \s*
      (?P<key> [^\s`"'<>=] [^`"'<>=]*? ) \s* (?={_COMPARATOR})
    """,
    re.VERBOSE | re.IGNORECASE,
)
_COMPARED: Final = re.compile(_COMPARATOR, re.VERBOSE | re.IGNORECASE)
_AND: Final = re.compile(r"\s(?:and|or)\s", re.IGNORECASE)
_DIRECTION: Final = re.compile(r"(?P<column>.*?)(?P<direction>\s+(?:ASC|DESC))?\s*", re.IGNORECASE | re.DOTALL)
_COLUMN: Final = re.compile(rf"\s*(?P<group>{_GROUP})\.\s*(?P<key>[^\s`\"].*)", re.IGNORECASE | re.DOTALL)


def quoted_filter(filter_string: str) -> str:
    """A filter with the names of its metrics, params and tags in backticks.

    Args:
        filter_string: In MLflow's filter language, quoted or not.

    Example:
        >>> quoted_filter("metrics.val/loss < 0.2 AND tags.mlflow.runName = 'a/b'")
        "metrics.`val/loss` < 0.2 AND tags.`mlflow.runName` = 'a/b'"
    """
    return _PART.sub(_with_quotes, filter_string)


def quoted_order(column: str) -> str:
    """One column of an order, with its name in backticks.

    Args:
        column: As `metrics.val/loss ASC`, quoted or not.

    Example:
        >>> quoted_order("metrics.val/loss DESC")
        'metrics.`val/loss` DESC'
    """
    parts = _DIRECTION.fullmatch(column)
    name = _COLUMN.fullmatch(parts["column"]) if parts is not None else None
    if parts is None or name is None or "`" in name["key"]:
        return column
    return f"{name['group']}.`{readable_name(name['key'].rstrip())}`{parts['direction'] or ''}"


def looks_like_filter(text: str) -> bool:
    """Whether a text compares something with something, as no id and hardly a name does."""
    return _COMPARED.search(text) is not None


def _with_quotes(match: re.Match[str]) -> str:
    whole, key = match[0], match["key"]
    if key is None or _AND.search(key):
        return whole
    end = whole[len(whole.rstrip()) :]
    return f"{match['group']}.`{readable_name(key)}`{end}"
