"""JSON that another version wrote, or a damaged disk gives back: read as far as it can be read.

Every stored record has to be readable by every later version, and one field that is not should not cost the others.
"""

from __future__ import annotations

import typing
from types import UnionType
from typing import Any, NamedTuple, TypeVar

import msgspec

from tailrace_agent.decoding import convert, decode_json

__all__ = ["UNREADABLE", "Read", "converted", "read", "read_with_losses", "to_finite"]

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not what they should be."""
T = TypeVar("T")


class Read(NamedTuple):
    """What was read: the record, or None; and which of its fields could not be read and are as if not written."""

    value: Any
    lost: list[str]


def read(body: bytes, type_: type[T]) -> T | None:
    """The record, with defaults for what cannot be read of it.

    Returns:
        None when it is no JSON object, or lacks what has no default.

    Example:
        >>> read(b'{"pid": 7, "host": "process", "started": 1, "seen": 2, "pending": "many"}', AgentStatus).pending
        0
    """
    value: T | None = read_with_losses(body, type_).value
    return value


def read_with_losses(body: bytes, type_: type) -> Read:
    """As `read`, and what it cost."""
    try:
        return Read(decode_json(body, type_), [])
    except UNREADABLE:
        pass
    try:
        return converted(decode_json(body), type_)
    except UNREADABLE:
        return Read(None, [])


def to_finite(number: float) -> float:
    """The number as JSON can hold it: infinities and NaN would come back as `null`, which is none."""
    return number if abs(number) < float("inf") else 0.0


def converted(raw: object, type_: type) -> Read:
    """A struct from plain data, field by field.

    Raises:
        msgspec.ValidationError: A field that has no default cannot be read.
    """
    if not isinstance(raw, dict):
        raise msgspec.ValidationError("no object")
    known: dict[str, Any] = {}
    lost: list[str] = []
    for field in msgspec.structs.fields(type_):
        if field.encode_name not in raw:
            continue  # the default; or what has none is missed below
        value = raw[field.encode_name]
        try:
            known[field.name] = convert(value, field.type)
            continue
        except (msgspec.ValidationError, RecursionError):
            lost.append(field.name)
        inner = _struct_in(field.type)
        if inner is not None and isinstance(value, dict):
            try:
                known[field.name], more = converted(value, inner)
                # Not the whole field any more: the fields of its own that could not be read.
                lost[-1:] = [f"{field.name}.{name}" for name in more]
            except msgspec.ValidationError:
                if field.required:
                    raise
        elif field.required:
            raise msgspec.ValidationError(f"{field.name} cannot be read")
    try:
        return Read(type_(**known), lost)
    except TypeError as error:  # it lacks a field that has no default
        raise msgspec.ValidationError(str(error)) from error


def _struct_in(type_: Any) -> type | None:
    """The struct of `X` or `X | None` that is written as an object."""
    options = typing.get_args(type_) if typing.get_origin(type_) in (UnionType, typing.Union) else (type_,)
    found = [each for each in options if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    # An array's fields have no names, so none of them can be left out by itself.
    return found[0] if len(found) == 1 and not found[0].__struct_config__.array_like else None
