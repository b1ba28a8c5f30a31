"""How far a model is that is being logged: what this process knows of it, or else the agent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tailrace._background.lane import SAVES
from tailrace._messages.waiting import until

if TYPE_CHECKING:
    from tailrace._runs.core import RunCore
    from tailrace_agent.ipc.records import ModelOutcome

__all__ = ["ModelProgress"]


class ModelProgress:
    """The way of one model.

    Args:
        run: The run that it is logged to; None for one that could not be taken.
        token: What the agent calls it by.
        outcome: What is known of it already.

    Thread safety: every method from any thread.
    """

    def __init__(self, run: RunCore | None, token: str, outcome: ModelOutcome | None = None) -> None:
        self._run, self.token, self._known = run, token, outcome

    def settle(self, outcome: ModelOutcome) -> None:
        """What this process knows of its own, without the agent."""
        self._known = outcome

    def outcome(self) -> ModelOutcome | None:
        """What became of it; None while it is on its way."""
        if self._known is not None or self._run is None:
            return self._known
        status = self._run.status()
        return status.models.get(self.token) if status is not None else None

    def wait(self, timeout: float | None) -> None:
        """Waits until it is over, `timeout` seconds at most; `end_timeout` when None."""
        if self._run is None:
            return
        timeout = self._run.settings.end_timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        # While it is being saved the agent knows nothing of it, so its status would be read in vain.
        SAVES.drain(timeout)
        if self.outcome() is None:
            left = max(0.0, deadline - time.monotonic())
            until(self._run.status, lambda _: self.outcome() is not None, timeout=left, quiet=True)
