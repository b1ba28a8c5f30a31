"""The curves of a session's runs, published while somebody looks on, and taken away when nobody does any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tailrace_agent.ipc import curve_files
from tailrace_agent.ipc.curve_files import RunCurves
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ipc.session import Session
from tailrace_agent.log import Log
from tailrace_agent.observers.curves import Curves

__all__ = ["CurveFiles"]

_EVERY: Final = 0.15
"""Seconds between two writes: with the drain's own tenth a value is there within a quarter of a second."""
_SHARE: Final = 20
"""At most one part in this many of the drain's time goes into it, however many metrics there are."""


class CurveFiles:
    """Writes the curve files of one session. One that cannot be written is written later, and stops nothing.

    Args:
        session: The session.
        curves: What its metrics have been so far.
        log: Where operators read.
        monotonic: Measures what it costs.
        wall: Seconds since the epoch, by which requests are dated.

    Not thread-safe: the drain's thread calls everything.
    """

    def __init__(
        self,
        session: Session,
        curves: Curves,
        log: Log,
        monotonic: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._session, self._curves, self._log = session, curves, log
        self._monotonic, self._wall = monotonic, wall
        self._written: dict[int, int] = {}
        self._at = 0.0
        self._failing = False

    def step(self, now: float) -> None:
        """Writes the curves that have changed, if anybody looks on."""
        if now < self._at:
            return
        self._at = now + _EVERY
        if not curve_files.is_asked(self._session.shared, self._wall()):
            self._take_away()
            return
        began = self._monotonic()
        for run, version in list(self._curves.versions.items()):
            if self._written.get(run) != version:
                self._write(run, version)
        self._at = max(self._at, now + _SHARE * (self._monotonic() - began))

    def _write(self, run: int, version: int) -> None:
        drawn = {key: curve.drawn for key, curve in self._curves.of(run).items()}
        try:
            curve_files.write(
                self._session.shared, run, RunCurves(curves=drawn, left_out=len(self._curves.left_out.get(run, ())))
            )
            self._written[run], self._failing = version, False
        except OSError as error:  # no room in shared memory, say
            if not self._failing:  # once, and not several times a second
                self._log.warning("curves not written", run=run_hex(run), reason=str(error))
            self._failing = True

    def _take_away(self) -> None:
        for run in self._written:
            curve_files.curve_file(self._session.shared, run).unlink(missing_ok=True)
        self._written.clear()
