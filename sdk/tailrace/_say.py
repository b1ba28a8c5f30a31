"""What a person is told: short lines on standard error, each warning once.

Lines (`say`) are silenced by the setting `quiet`; warnings go through the logger `tailrace`, which shows them on
standard error unless the program has configured logging otherwise.
"""

from __future__ import annotations

import contextlib
import sys

__all__ = ["Voice", "say"]

_MOST = 1000


def say(text: str) -> None:
    """One line on standard error; a closed or broken stream is nobody's problem."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
        sys.stderr.write(f"tailrace: {text}\n")
        sys.stderr.flush()


class Voice:
    """Warns once for each reason.

    Thread safety: every method from any thread, signal handler or finalizer, and after a fork at any moment: it takes
    no lock, since the same thread might hold it already, or no thread at all any more.
    """

    def __init__(self) -> None:
        self._said: dict[object, object] = {}

    def warn(self, text: str, *, once: object = None) -> None:
        """A warning, unless one with the same `once` (or the same text) was given."""
        ours = object()
        if len(self._said) >= _MOST or self._said.setdefault(text if once is None else once, ours) is not ours:
            return
        try:
            import logging  # not before there is something to say

            logging.getLogger("tailrace").warning("tailrace: %s", text)
        except (ImportError, AttributeError):  # re-entered while this very thread is importing it
            say(text)
