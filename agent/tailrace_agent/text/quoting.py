"""Other people's words in messages of ours: a name, a server's answer, a library's error.

They may be of any length and hold what a terminal obeys (colours, a new title, a line that covers another one). Here
they become one line of what can be seen, cut to a length that can be read. Pure, and cheap to load.
"""

from __future__ import annotations

from typing import Final

__all__ = ["plain", "printable", "quoted", "visible"]

_NAME: Final = 100


def plain(text: str, limit: int = 500) -> str:
    r"""One line of a text, of what can be seen, cut to a length.

    Example:
        >>> plain("well\x1b[2K\nread")
        'well\\x1b[2K read'
    """
    cut = text[: 4 * limit + 4096]  # before anything that takes its time
    line = printable(" ".join(cut.split()))
    return line if len(line) <= limit and len(cut) == len(text) else f"{line[: limit - 1]}…"


def printable(text: str) -> str:
    r"""The text, with everything in it that is not to be printed written out, line breaks too.

    Example:
        >>> printable("a\n\x1b[31m")
        'a\\n\\x1b[31m'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def visible(text: str) -> str:
    r"""The text with control characters written out (`\x1b`); line breaks stay."""
    return "\n".join(map(printable, text.split("\n")))


def quoted(name: object, limit: int = _NAME) -> str:
    """A name in quotes, cut to a length.

    Example:
        >>> quoted("loss"), quoted("x" * 3_000_000, 12)
        ("'loss'", "'xxxxxxxxxxxx'… (3,000,000 characters)")
    """
    text = str(name)
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}… ({len(text):,} characters)"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
