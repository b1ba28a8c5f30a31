"""Every byte of something wrong, once: what the tests of file formats go through."""

from __future__ import annotations

import random
from collections.abc import Iterator


def spots(size: int, most: int | None = None) -> list[int]:
    """Where to flip: everywhere, or at so many places, the beginning and the end among them."""
    if most is None or size <= most:
        return list(range(size))
    inner = random.Random(size).sample(range(1, size - 1), most - 2)
    return sorted([0, *inner, size - 1])


def flips(body: bytes, most: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Where, and the bytes: each with all bits of one byte flipped, and with one of them."""
    for at in spots(len(body), most):
        for mask in (0xFF, 1 << at % 8):
            yield at, body[:at] + bytes([body[at] ^ mask]) + body[at + 1 :]
