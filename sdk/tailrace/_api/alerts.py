"""Alerts that the program raises: printed at once, and stored and posted by the agent."""

from __future__ import annotations

import time
from typing import Literal

from tailrace._messages.voice import print_line
from tailrace._runs.run_part import RunPart
from tailrace_agent.ipc.records import Alert

__all__ = ["AlertCalls"]

_LEVELS = ("info", "warning", "error")
_LONGEST_TITLE = 200  # characters; title and text become one tag of MLflow
_LONGEST_TEXT = 4000


class AlertCalls(RunPart):
    """`alert`. A base of `Run`."""

    def alert(self, title: str, text: str = "", level: Literal["info", "warning", "error"] = "warning") -> None:
        """Notifies people about this run: a tag on it, a line here and in the agent's log, the webhook.

        The same title and text are printed here once; with tracking off, that is all. A run
        keeps its first 100 alerts, as `tailrace.alert.001` and so on.

        Args:
            title: What happened, in a few words.
            text: More on it.
            level: How bad it is.

        Raises:
            CallError: Under `strict=True`: an unknown level.

        Example:
            >>> run.alert("loss diverges", f"{loss:.1f} at step {step}", level="error")
        """
        title, text = str(title)[:_LONGEST_TITLE], str(text)[:_LONGEST_TEXT]
        if level not in _LEVELS:
            self._core.fault(
                f"alert level {level!r} is none of {', '.join(_LEVELS)}; taken as warning", once=("level", level)
            )
            level = "warning"
        if self._core.settings.backend == "none":
            return
        # Printed here, and not by the agent: whoever looks at the program sees it, also with tracking off.
        line = _one_line(f"alert: {title} ({text})" if text else f"alert: {title}")
        if level != "info":
            self._core.voice.warn(line, once=(self._core.spec.run, line))
        elif not self._core.settings.quiet:
            print_line(line)
        # With the time of the call: the agent may be some seconds late.
        self._core.put(Alert(self._core.spec.run, title, text, level, time.time_ns() // 1_000_000))


def _one_line(text: str) -> str:
    """With control characters written out: foreign text must not steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
