"""The traceback of an error as a text, with the values of the variables that were asked for, without secrets."""

from __future__ import annotations

import reprlib
import threading
import traceback
from typing import TYPE_CHECKING, Final

from tailrace_agent.runtime.originals import start_thread
from tailrace_agent.text.masking import mask_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

__all__ = ["traceback_text"]

_LONGEST: Final = 2000  # characters of one value
_VALUES: Final = 200
_FRAMES: Final = 50
"""The innermost frames whose variables are looked at: a recursion has thousands."""
_PATIENCE: Final = 5.0
"""Seconds for all values: one on a device that hangs is never there."""
_BOUND: Final = 200_000  # characters in all


def traceback_text(error: BaseException, names: Sequence[str] = ()) -> str:
    """What Python would print of it, and below that the values that these variables have in each frame.

    Args:
        error: The error.
        names: Of local variables.
    """
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if len(text) > _BOUND:  # its beginning and its end, which say what matters
        text = f"{text[: _BOUND // 4]}\n[…]\n{text[-_BOUND // 2 :]}"
    values = _values(error, names) if names else []
    if values:
        text += "\nLocal variables (traceback_locals):\n" + "".join(values)
    return mask_text(text)


def _values(error: BaseException, names: Sequence[str]) -> list[str]:
    """In a thread: to show a value may take as long as it likes."""
    lines: list[str] = []
    done = threading.Event()

    def look() -> None:
        try:
            lines.extend(_shown(error, names, lines))
        finally:
            done.set()

    try:
        start_thread(look, "tailrace-locals")
    except RuntimeError:  # no thread is to be had
        return []
    whole = done.wait(_PATIENCE)
    return [*lines, *([] if whole else [f"  [the others were not there within {_PATIENCE:.0f} s]\n"])]


def _shown(error: BaseException, names: Sequence[str], lines: list[str]) -> Iterator[str]:
    for where, frame in _frames(error):
        found = [name for name in names if name in frame.f_locals]
        if found and len(lines) < _VALUES:
            yield f"  {where}\n"
        for name in found:
            if len(lines) < _VALUES:
                yield f"    {name} = {_repr(frame.f_locals[name])}\n"


def _frames(error: BaseException) -> Iterator[tuple[str, FrameType]]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        for frame, line in list(traceback.walk_tb(each.__traceback__))[-_FRAMES:]:
            code = frame.f_code
            yield f'File "{code.co_filename}", line {line}, in {code.co_name}', frame
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


class _Repr(reprlib.Repr):
    """As `repr`, but of large containers only a part is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = 30
        self.maxarray = 30
        self.maxlevel = 4
        self.maxstring = self.maxother = self.maxlong = _LONGEST


def _repr(value: object) -> str:
    try:
        text = _Repr().repr(value)
    except Exception as error:  # noqa: BLE001 - a foreign __repr__ may raise anything
        text = f"<no value: {type(error).__name__}: {str(error)[:200]}>"
    return text[:_LONGEST].replace("\n", "\n      ")
