"""The bulk way into a database that is the tracking URI itself: no server is between, so there is no route to ask for.

Loading this module does not import MLflow; the first question whether there is a way does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tailrace_agent.bulk.columns import as_columns
from tailrace_agent.ipc.records import Point
from tailrace_agent.mlflow.run_store import AT_ONCE

__all__ = ["BulkTables"]


class BulkTables:
    """The tables of one of MLflow's stores.

    Args:
        store: The store, whatever it is: where it is none for databases, or its tables are not those that were
            tested, there is no bulk way.

    Attributes:
        reason: Why there is none, once it is known; a word for people.

    Thread safety: as the store's; two threads at once may both look at the tables.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._fit: bool | None = None
        self.reason: str | None = None

    def at_once(self, waiting: int) -> int:
        """Points that one transaction takes; 0 where there is no bulk way."""
        del waiting  # to look costs no request
        if self._fit is None:
            self._look()
        return AT_ONCE if self._fit else 0

    def send(self, run_id: str, points: Sequence[Point]) -> bool:
        """Stores points of one run; False where there is no bulk way, and nothing was stored.

        Raises:
            Exception: As from MLflow's `log_batch`.
        """
        if not self._fit:
            return False
        from tailrace_agent.bulk import fitness, tables

        try:
            tables.write(self._store, [as_columns(run_id, points)])
        except fitness.Unfit as reason:  # it was migrated
            self._fit, self.reason = False, str(reason)
            return False
        return True

    def _look(self) -> None:
        if getattr(self._store, "engine", None) is None:
            self._fit, self.reason = False, "it is no database"
            return
        from tailrace_agent.bulk import fitness

        try:
            self.reason = fitness.unfit(self._store)
        except Exception:  # noqa: BLE001  # a database that is away or locked is `log_batch`'s to meet
            return
        self._fit = self.reason is None
