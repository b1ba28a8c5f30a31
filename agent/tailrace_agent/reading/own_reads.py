"""`read_store.ReadStore` over a store of MLflow's own. Loading this module does not import MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tailrace_agent.reading.read_store import ACTIVE_ONLY, Peaks, Point, Thinned

if TYPE_CHECKING:
    from tailrace_agent.mlflow.stores import Store
    from tailrace_agent.reading.history import Columns

__all__ = ["OwnReads"]


class OwnReads:
    """Reads one store of MLflow's, from `mlflow.stores.open_store`. Thread safety: that of the store."""

    def __init__(self, store: Store) -> None:
        from tailrace_agent.mlflow.stores import is_remote

        self._store = store
        self.remote = is_remote(store)

    def experiment_page(self, size: int, token: str | None) -> Any:
        """As `ReadStore`."""
        return self._store.search_experiments(ACTIVE_ONLY, size, None, None, token)

    def run_page(
        self,
        experiment_ids: Sequence[str],
        query: str,
        view: int,
        size: int,
        order_by: Sequence[str],
        token: str | None,
    ) -> Any:
        """As `ReadStore`."""
        return self._store.search_runs(list(experiment_ids), query, view, size, list(order_by), token)

    def read_run(self, run_id: str) -> Any:
        """As `ReadStore`."""
        return self._store.get_run(run_id)

    def history(self, run_id: str, key: str, *, by_step: bool) -> Iterator[Columns]:
        """As `ReadStore`."""
        from tailrace_agent.reading.history import read

        return read(self._store, run_id, key, by_step=by_step)

    def read_points(self, run_id: str, key: str) -> Iterator[Sequence[Point]]:
        """As `ReadStore`."""
        for piece in self.history(run_id, key, by_step=True):
            yield list(zip(*(column.tolist() for column in piece), strict=True))

    def thinned(self, run_id: str, key: str, most: int, first: int | None, last: int | None) -> Thinned:
        """As `ReadStore`."""
        from tailrace_agent.reading.thinned import thinned

        return thinned(self._store, run_id, key, most, first, last)

    def peaks(self, run_id: str, key: str, width: int, first: int, last: int) -> Peaks | None:
        """None: a server has no such request, and of a database nobody knows how quick it is."""
        del run_id, key, width, first, last
        return None  # one of the protocol's answers

    def mlflows_own(self) -> Store:
        """As `ReadStore`."""
        return self._store
