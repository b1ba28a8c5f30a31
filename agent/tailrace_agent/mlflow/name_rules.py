"""Which names MLflow takes, in its own words, without importing it: a test compares both for many names.

These are the rules of Linux and macOS; on Windows MLflow refuses colons, too.
"""

from __future__ import annotations

import functools
import json
import posixpath
import re
from typing import Final

from tailrace_agent.ipc.records import Kind
from tailrace_agent.text.quoting import plain

__all__ = ["PARAM_CHARS", "TAG_CHARS", "is_run_id", "name_fault"]

PARAM_CHARS: Final = 6000
TAG_CHARS: Final = 8000
"""The longest values that MLflow takes."""
_RUN_ID: Final = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}")
_NAME: Final = re.compile(r"^[/\w.\- :]*$")
_CHARS: Final = 250
_FIELDS: Final[dict[Kind, str]] = {"metric": "name", "param": "key", "tag": "key"}
_ENTITIES: Final[dict[Kind, str]] = {"metric": "Metric name", "param": "Param key", "tag": "key"}
_CHARACTERS: Final = (
    "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and "
    "slashes (/)."
)


# The same keys come with every step; bounded, since a program may make them up.
@functools.lru_cache(maxsize=65536)
def name_fault(kind: Kind, key: str) -> str | None:
    """Why MLflow would refuse a name, or None.

    Example:
        >>> name_fault("metric", "loss")
        >>> name_fault("param", "x" * 251)
        "'Param key' exceeds the maximum length of 250 characters"
    """
    fault = _fault(kind, key)
    return None if fault is None else plain(fault)


def is_run_id(text: str) -> bool:
    """Whether MLflow's stores would look for a run of this id; they give 32 hexadecimal digits themselves.

    Example:
        >>> is_run_id("0f6a"), is_run_id("my run")
        (True, False)
    """
    return _RUN_ID.fullmatch(text) is not None


def _fault(kind: Kind, key: str) -> str | None:
    if kind == "artifact":
        return f"Invalid artifact path: '{key}'. {_other_path(key)}" if key and _is_other_path(key) else None
    reason = None
    if not _NAME.match(key):
        reason = _CHARACTERS
    elif _is_other_path(key):
        reason = _other_path(key)
    if reason is not None:
        return f"Invalid value {json.dumps(key)} for parameter '{_FIELDS[kind]}' supplied: {reason}"
    return f"'{_ENTITIES[kind]}' exceeds the maximum length of {_CHARS} characters" if len(key) > _CHARS else None


def _is_other_path(name: str) -> bool:
    normal = posixpath.normpath(name)
    return normal != name or normal == "." or normal.startswith(("..", "/"))


def _other_path(name: str) -> str:
    return (
        "Names may be treated as files in certain cases, and must not resolve to other names when treated as such. "
        f"This name would resolve to {posixpath.normpath(name)!r}"
    )
