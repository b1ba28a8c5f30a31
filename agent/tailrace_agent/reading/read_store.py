"""What `Reader` asks of a tracking store, whoever carries it out, and the runs that come back where it is not MLflow.

`own_reads` asks MLflow's own store, `server_reads` a plain server and `sqlite_reads` a database of a known version,
both without importing MLflow. A store raises whatever it comes up with.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from tailrace_agent.mlflow.stores import Store
    from tailrace_agent.reading.history import Columns

__all__ = [
    "ACTIVE_ONLY",
    "ALL",
    "Experiment",
    "LastPoint",
    "Peaks",
    "Point",
    "ReadStore",
    "RunEntity",
    "RunInfo",
    "Thinned",
    "offset_of",
    "token_of",
]

ACTIVE_ONLY: Final = 1
ALL: Final = 3
"""MLflow's `ViewType`s: what is not deleted, and everything."""
Point: TypeAlias = tuple[int, int, float]
"""Step, time in milliseconds, value."""


class Thinned(NamedTuple):
    """Some points of a metric, by step; `whole` says whether no other lies between them."""

    points: list[Point]
    whole: bool


class Peaks(NamedTuple):
    """The smallest and the largest value of so many steps each, and the last; `onwards` is where to go on, if anywhere.

    The first two are given at the first of these steps, and without a time.
    """

    points: list[Point]
    onwards: int | None


class Experiment(NamedTuple):
    """An experiment, by MLflow's names."""

    experiment_id: str
    name: str


class RunInfo(NamedTuple):
    """What a run is, by MLflow's names; times are in milliseconds."""

    run_id: str
    experiment_id: str
    run_name: str
    status: str
    start_time: int
    end_time: int | None
    lifecycle_stage: str
    artifact_uri: str


class LastPoint(NamedTuple):
    """The last point of a metric, by MLflow's names."""

    key: str
    value: float
    timestamp: int
    step: int


class _Data:
    """What a run has logged, by MLflow's names."""

    def __init__(self, metrics: Sequence[LastPoint], params: dict[str, str], tags: dict[str, str]) -> None:
        self._metric_objs = metrics  # as whoever wants steps reads them from MLflow's
        self.metrics = {point.key: point.value for point in metrics}
        self.params, self.tags = params, tags


class RunEntity:
    """A run, as far as it is read here, by the names of MLflow's `Run`."""

    def __init__(
        self,
        info: RunInfo,
        metrics: Iterable[LastPoint],
        params: Iterable[tuple[str, str]],
        tags: Iterable[tuple[str, str]],
    ) -> None:
        self.info = info
        self.data = _Data(list(metrics), dict(params), dict(tags))


class ReadStore(Protocol):
    """A tracking store that is read. May be used from several threads at once."""

    @property
    def remote(self) -> bool:
        """Whether it is behind HTTP, so that only an answer can be a refusal."""

    def experiment_page(self, size: int, token: str | None) -> Any:
        """Experiments that are not deleted: a list with the `token` of the next page."""

    def run_page(
        self,
        experiment_ids: Sequence[str],
        query: str,
        view: int,
        size: int,
        order_by: Sequence[str],
        token: str | None,
    ) -> Any:
        """Runs of some experiments that a filter finds: a list with the `token` of the next page."""

    def read_run(self, run_id: str) -> Any:
        """One run, deleted ones included."""

    def history(self, run_id: str, key: str, *, by_step: bool) -> Iterator[Columns]:
        """Every point of a metric in pieces, as `history.read`."""

    def read_points(self, run_id: str, key: str) -> Iterator[Sequence[Point]]:
        """The same without arrays, where there is an order to be had by step."""

    def thinned(self, run_id: str, key: str, most: int, first: int | None, last: int | None) -> Thinned:
        """About `most` points of a metric, spread over its steps from the first to the last one that are given."""

    def peaks(self, run_id: str, key: str, width: int, first: int, last: int) -> Peaks | None:
        """The extremes of every `width` steps, of so many points as take a moment; None where it would take longer."""

    def mlflows_own(self) -> Store:
        """MLflow's own store, for what only it can do; opened, and MLflow imported, at the first call."""


def token_of(offset: int) -> str:
    """The token of the page that begins so far down, as MLflow's databases write it: either reads the other's."""
    return base64.b64encode(json.dumps({"offset": offset}).encode()).decode()


def offset_of(token: str | None) -> int:
    """Where the page of a token begins.

    Raises:
        ValueError: It is none.
    """
    return int(json.loads(base64.b64decode(token))["offset"]) if token else 0
