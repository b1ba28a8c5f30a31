"""What a terminal was sent, as plain text: lines as they stood there at last, without colours.

A carriage return begins the line anew, as progress bars do; of such a line the last state is kept. What moves the
cursor elsewhere is left out, and so are colours and titles.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

__all__ = ["Plain"]

_LONGEST: Final = 20_000
"""Characters of a line; what is longer is broken."""
_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[ -/]*[0-~])"
    r"|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]"
)
_BEGUN: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*|)\Z")
_BACKSPACE: Final = re.compile(r"[^\x08]\x08")


class Plain:
    """Makes lines of bytes, whatever pieces they come in.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete by now, without their ends."""
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        found = [_line(line) for line in lines]
        if len(self._rest) > _LONGEST:
            whole = _line(self._rest)
            # A progress bar of hours is one line; one that says more than that is broken.
            if len(whole) > _LONGEST:
                found.append(whole)
                self._rest = ""
            else:
                self._rest = self._rest[self._rest.rfind("\r") :] if "\r" in self._rest else whole
        return found

    @property
    def begun(self) -> str:
        """The line that is not complete, as it stands now."""
        return _line(_BEGUN.sub("", self._rest))


def _line(text: str) -> str:
    if "\x1b" in text or not text.isprintable():
        text = _ESCAPES.sub("", text)
        if "\r" in text:
            # What was written last, be it an empty state only because its line was closed after it.
            text = next((part for part in reversed(text.split("\r")) if part.strip()), "")
        while "\x08" in text:
            shorter = _BACKSPACE.sub("", text)
            text = shorter if shorter != text else text.replace("\x08", "")
    return text.rstrip(" ")
