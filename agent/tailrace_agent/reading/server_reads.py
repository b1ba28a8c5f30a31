"""`read_store.ReadStore` for a plain MLflow server, without importing MLflow.

Paths, parameters and bodies are those that MLflow's own client sends, or its UI: a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from tailrace_agent.errors import Refused
from tailrace_agent.mlflow.errors import translate
from tailrace_agent.mlflow.pages import pages
from tailrace_agent.mlflow.run_store import Page
from tailrace_agent.reading.own_reads import OwnReads
from tailrace_agent.reading.read_store import (
    ACTIVE_ONLY,
    ALL,
    Experiment,
    LastPoint,
    Peaks,
    Point,
    RunEntity,
    RunInfo,
    Thinned,
)
from tailrace_agent.rest import answers
from tailrace_agent.rest.requests import answered
from tailrace_agent.rest.server_runs import ServerRuns
from tailrace_agent.spool.extremes import unbounded

if TYPE_CHECKING:
    from tailrace_agent.reading.history import Columns

__all__ = ["ServerReads"]

_VIEWS: Final = {ACTIVE_ONLY: "ACTIVE_ONLY", ALL: "ALL"}
_INTERVAL: Final = "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
_AT_MOST: Final = 2_500
"""Points of one run that a server gives when it thins by itself."""
_STEPS: Final = -(2**63), 2**63 - 1


class ServerReads(ServerRuns):
    """Reads one server. Args and thread safety as of `ServerRuns`."""

    def experiment_page(self, size: int, token: str | None) -> Any:
        """As `ReadStore`."""
        body: dict[str, Any] = {"max_results": size, "view_type": "ACTIVE_ONLY"}
        if token:
            body["page_token"] = token
        found = self.post("experiments/search", body, answers.Experiments)
        each = [Experiment(experiment.experiment_id, experiment.name) for experiment in found.experiments]
        return Page(each, found.next_page_token or None)

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
        body: dict[str, Any] = {
            "experiment_ids": list(experiment_ids),
            "filter": query,
            "run_view_type": _VIEWS[view],
            "max_results": size,
        }
        if order_by:
            body["order_by"] = list(order_by)
        if token:
            body["page_token"] = token
        found = self.post("runs/search", body, answers.Runs)
        return Page([_entity(run) for run in found.runs], found.next_page_token or None)

    def read_run(self, run_id: str) -> Any:
        """As `ReadStore`."""
        found = self.get("runs/get", {"run_uuid": run_id, "run_id": run_id}, answers.FoundRun)
        return _entity(found.run or answers.FullRun())

    def history(self, run_id: str, key: str, *, by_step: bool) -> Iterator[Columns]:
        """As `ReadStore`."""
        return OwnReads(self.mlflows_own()).history(run_id, key, by_step=by_step)

    def read_points(self, run_id: str, key: str) -> Iterator[Sequence[Point]]:
        """As `ReadStore`, in the server's own order."""
        for page in pages(lambda token: self.metric_page(run_id, key, token)):
            yield [_point(each) for each in page]

    def thinned(self, run_id: str, key: str, most: int, first: int | None, last: int | None) -> Thinned:
        """As `ReadStore`: as MLflow's UI asks, and as the server thins; all points of one that does not do so."""
        most = min(most, _AT_MOST)
        params: list[tuple[str, Any]] = [("run_ids", run_id), ("metric_key", key), ("max_results", most)]
        low, high = _STEPS[0] if first is None else first, _STEPS[1] if last is None else last
        if (first, last) != (None, None):
            params += [("start_step", low), ("end_step", high)]
        try:
            response = self.receive(_INTERVAL, "GET", params=params)
            found = answers.read(answered(response, _INTERVAL), answers.SomeHistory, response, _INTERVAL)
        except Exception as error:
            if not isinstance(translate(error, self.uri, remote=True, about_run=False), Refused):
                raise
            every = (point for piece in self.read_points(run_id, key) for point in piece)
            return Thinned(sorted(point for point in every if low <= point[0] <= high), whole=True)
        return Thinned(sorted(map(_point, found.metrics)), len(found.metrics) < most)

    def peaks(self, run_id: str, key: str, width: int, first: int, last: int) -> Peaks | None:
        """None: a server has no such request."""
        del run_id, key, width, first, last
        return None  # one of the protocol's answers


def _entity(run: answers.FullRun) -> RunEntity:
    info, data = run.info, run.data
    return RunEntity(
        RunInfo(
            info.run_id,
            info.experiment_id,
            info.run_name,
            info.status,
            info.start_time,
            info.end_time or None,
            info.lifecycle_stage,
            info.artifact_uri,
        ),
        [LastPoint(each.key, float(each.value), each.timestamp, each.step) for each in data.metrics],
        [(param.key, param.value) for param in data.params],
        [(tag.key, tag.value) for tag in data.tags],
    )


def _point(found: dict[str, Any]) -> Point:
    """64-bit integers are text in the JSON of protocol buffers, as are NaN and infinities."""
    return int(found.get("step", 0)), int(found["timestamp"]), unbounded(float(found.get("value", 0.0)))
