"""What a person reads: short lines on standard error, each warning once.

Lines (`print_line`) are silenced by the setting `quiet`; warnings go through the logger `tailrace`, which shows them on
standard error unless the program has configured logging otherwise.

In a notebook lines go to standard output, since a red box there means that something is wrong; and both go to the cell
that they are about, see `notebook`.
"""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from tailrace._messages.notebook import cells
from tailrace_agent.runtime.program import notebook_shell
from tailrace_agent.text.quoting import visible

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Voice", "on_terminal", "print_line", "shows"]

_MOST = 1000
"""Warnings of one tracker: what it has said is remembered, and that has an end."""
_LONGEST = 4000  # characters; an error of a server may hold a whole page


def print_line(text: str) -> None:
    """One line on standard error, in a notebook on standard output; a broken stream is nobody's problem."""
    # None, closed, without `flush`; RuntimeError: a signal handler that prints in the midst of a print.
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, RuntimeError):
        stream = _stream()
        # In one piece, so that lines of two threads do not run into each other.
        stream.write(_writable(f"tailrace: {text}", stream) + "\n")
        stream.flush()


def shows(characters: str) -> bool:
    """Whether the stream on which lines are printed has such characters."""
    try:
        characters.encode(getattr(_stream(), "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError, TypeError):
        return False
    return True


def _stream() -> Any:
    return sys.stderr if notebook_shell() is None else sys.stdout


def _writable(text: str, stream: Any) -> str:
    """The text without what a terminal obeys, and with what a stream's encoding has no characters for spelled out."""
    text = visible(text[:_LONGEST])
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:  # a stream of somebody's own, with an encoding of its own
        pass
    return text


def on_terminal() -> bool:
    """Whether a line on standard error can be drawn over: never in a notebook, which keeps what was drawn."""
    try:
        return notebook_shell() is None and sys.stderr.isatty()
    except (AttributeError, TypeError, ValueError, OSError):  # none, a closed one, or one that is no file
        return False


class Voice:
    """Warns once for each reason.

    Thread safety: every method from any thread, signal handler or finalizer, and after a fork at any moment: it takes
    no lock, since the same thread might hold it already, or no thread at all any more.
    """

    def __init__(self) -> None:
        self._shown: dict[object, object] = {}

    def warn(self, text: str, *, once: object = None) -> None:
        """A warning, unless one with the same `once` (or the same text) was given."""
        if self._is_new(text if once is None else once):
            _write(partial(_warn, text))

    def warn_undone(self, what: str, error: Exception) -> None:
        """Warns that a call could not be done, for a reason that is not the program's."""
        text = f"{what}() could not be done: {type(error).__name__}: {error}. Training goes on."
        self.warn(text, once=(what, str(error)))

    def remark(self, text: str) -> None:
        """A line that is no warning, once."""
        if self._is_new(text):
            _write(partial(print_line, text))

    def _is_new(self, what: object) -> bool:
        # In one step, which nothing interrupts: of two that warn at a time, one finds its own object.
        ours = object()
        return len(self._shown) < _MOST and self._shown.setdefault(what, ours) is ours


def _write(write: Callable[[], None]) -> None:
    """Where it belongs: in a notebook, to the cell that it is about."""
    notebook = cells()
    if notebook is None:
        write()
    else:
        notebook.show(write)


def _warn(text: str) -> None:
    try:
        import logging  # not before there is something to report

        # Without a handler of the program's logging shows a warning on standard error by itself.
        logging.getLogger("tailrace").warning("tailrace: %s", _writable(text, sys.stderr))
    except (ImportError, AttributeError, OSError):  # re-entered while this very thread is importing it; no descriptor
        print_line(text)
