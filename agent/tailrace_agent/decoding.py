"""Decoding into types with msgspec, from any thread, a type's very first time included.

msgspec (0.22 and before) learns a type when it is first decoded into, keeps what it has learned on the class, and puts
it there before it is complete: while it asks Python for the annotations of an inner struct, another thread finds a
half-learned type and reads through null pointers. That ends the process, which may be the user's training. So types
are learned here, one thread at a time and never across a fork, and nothing of ours calls msgspec's decoding by itself.

Thread safety: every function from any thread, and in any forked process.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Final, TypeVar, overload

import msgspec

__all__ = ["convert", "decode_json", "json_decoder", "msgpack_decoder"]

T = TypeVar("T")
_lock: Final = threading.RLock()
_learned: set[Any] = set()


@overload
def decode_json(body: bytes | str, type_: type[T]) -> T: ...
@overload
def decode_json(body: bytes | str, type_: Any = Any) -> Any: ...
def decode_json(body: bytes | str, type_: Any = Any) -> Any:
    """What a JSON text says, as a type; as plain data where none is given.

    Args:
        body: The text, in UTF-8 where it is bytes.
        type_: Any type that msgspec knows.

    Raises:
        msgspec.DecodeError: It is no JSON, or (`msgspec.ValidationError`) not of this type.

    Example:
        >>> decode_json('{"a": [1, 2]}', dict[str, list[int]])
        {'a': [1, 2]}
    """
    return msgspec.json.decode(body, type=_known(type_))


@overload
def convert(raw: object, type_: type[T], *, strict: bool = True) -> T: ...
@overload
def convert(raw: object, type_: Any, *, strict: bool = True) -> Any: ...
def convert(raw: object, type_: Any, *, strict: bool = True) -> Any:
    """Plain data as a type.

    Args:
        raw: Dictionaries, lists and scalars.
        type_: Any type that msgspec knows.
        strict: Whether a text is never taken for a number.

    Raises:
        msgspec.ValidationError: It is not of this type.

    Example:
        >>> convert({"a": 1.0}, dict[str, int])
        {'a': 1}
    """
    return msgspec.convert(raw, _known(type_), strict=strict)


def json_decoder(type_: type[T]) -> msgspec.json.Decoder[T]:
    """A decoder of JSON into a type, for what is decoded often.

    Example:
        >>> json_decoder(list[int]).decode(b"[1, 2]")
        [1, 2]
    """
    return msgspec.json.Decoder(_known(type_))


@overload
def msgpack_decoder(type_: type[T]) -> msgspec.msgpack.Decoder[T]: ...
@overload
def msgpack_decoder(type_: Any = Any) -> msgspec.msgpack.Decoder[Any]: ...
def msgpack_decoder(type_: Any = Any) -> msgspec.msgpack.Decoder[Any]:
    r"""A decoder of MessagePack into a type, or into plain data where none is given.

    Example:
        >>> msgpack_decoder(list[int]).decode(b"\x92\x01\x02")
        [1, 2]
    """
    return msgspec.msgpack.Decoder(_known(type_))


def _known(type_: Any) -> Any:
    """The type, once it and all types in it are learned."""
    if type_ not in _learned:
        with _lock:
            msgspec.json.Decoder(type_)
            _learned.add(type_)
    return type_


# A child must neither inherit a type that is half learned, nor a lock that nobody will ever release.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
