"""Texts that are no UTF-8: names of files and arguments in another encoding reach Python as lone surrogates."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

__all__ = ["as_utf8", "encoded"]


def as_utf8(text: str) -> str:
    r"""The text, with lone surrogates spelled out in ASCII.

    Example:
        >>> as_utf8("caf\udce9")
        'caf\\udce9'
    """
    return str.encode(text, "utf-8", "backslashreplace").decode()


def encoded(encode: Callable[[object], bytes], value: object) -> bytes:
    """What an encoder of msgspec's makes of a value; where that is no UTF-8, with its texts spelled out."""
    try:
        return encode(value)
    except UnicodeEncodeError:  # seldom, so it is paid for only then
        return encode(_spelled(msgspec.to_builtins(value)))


def _spelled(value: object) -> object:
    if isinstance(value, str):
        return as_utf8(value)
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if isinstance(value, dict):
        return {_spelled(key): _spelled(item) for key, item in value.items()}
    return value
