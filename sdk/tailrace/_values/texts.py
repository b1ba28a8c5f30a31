"""What users pass where MLflow has a text: `run_name=42`, a `Path`, a NumPy string, an enum."""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import Enum
from typing import Any, Final

from tailrace_agent.errors import CallError

__all__ = ["as_name", "as_text", "as_texts"]

_SEVERAL: Final = (Mapping, Set, list, tuple, bytes, bytearray)
"""Their `str()` is no name: it would be taken for one, and meant for nothing."""


def as_text(value: object, name: str) -> str:
    """The value as a plain `str`: by `str()`, and of an enum that is also a string or a number, that.

    Args:
        value: Anything.
        name: What it is, for the message.

    Raises:
        CallError: Its `str()` raises.

    Example:
        >>> as_text(42, "run_name")
        '42'
    """
    if type(value) is str:
        return value
    # Its own `str()` differs between versions of Python: `Stage.PROD`, or `prod`.
    if isinstance(value, Enum) and isinstance(value, (str, int, float)):
        value = value.value
    try:
        return str.__str__(str(value))  # a subclass of str cannot travel
    except Exception as error:
        raise CallError(f"{name} cannot be made a text: its str() raises {type(error).__name__}: {error}") from error


def as_name(value: object, name: str) -> str:
    """A name or an id as a plain `str`, as `as_text` gives it; several values are none.

    Raises:
        CallError: It is None, a list, a mapping or bytes; or its `str()` raises.

    Example:
        >>> as_name(7, "experiment_id")
        '7'
    """
    if value is None or isinstance(value, _SEVERAL):
        what = name.removeprefix("one of ").replace("_", " ")
        raise CallError(f"Invalid {what}: {name} is one name or id, a text, not {value!r:.200}")
    return as_text(value, name)


def as_texts(values: object, name: str) -> dict[str, str]:
    """A mapping's keys and values as texts.

    Raises:
        CallError: It is no mapping, or one of them cannot be made a text.
    """
    if not isinstance(values, Mapping):
        raise CallError(f"{name} must be a mapping, not {type(values).__name__}")
    try:
        items: list[tuple[Any, Any]] = list(values.items())
    except Exception as error:
        raise CallError(f"{name} cannot be read: {type(error).__name__}: {error}") from error
    return {as_text(key, f"a key of {name}"): as_text(value, f"{name}[{key!r}]") for key, value in items}
