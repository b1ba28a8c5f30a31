"""A run as it is read back: plain data, which also answers as MLflow's `Run` does."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec

from tailrace_agent.text.cards import brief, card

__all__ = ["RecordInfo", "RunRecord"]


class RecordInfo(NamedTuple):
    """What MLflow's `run.info` has: times in milliseconds since the epoch."""

    run_id: str
    run_name: str
    experiment_id: str
    status: str
    start_time: int
    end_time: int | None
    artifact_uri: str
    lifecycle_stage: str
    user_id: str


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run as MLflow has it.

    Attributes:
        run_id: MLflow's id.
        run_name: Its name.
        experiment_id: MLflow's id of its experiment.
        status: RUNNING, SCHEDULED, FINISHED, FAILED or KILLED.
        start_time: When it began.
        end_time: When it ended, or None.
        params: All params.
        metrics: The last value of each metric.
        tags: All tags.
        artifact_uri: Where its artifacts are.
        url: Its page in MLflow's UI, where the store is a server.
        deleted: Whether it lies in MLflow's bin.
    """

    run_id: str
    run_name: str
    experiment_id: str
    status: str
    start_time: datetime
    end_time: datetime | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    artifact_uri: str
    url: str | None
    deleted: bool

    @property
    def duration(self) -> float | None:
        """Seconds from its start to its end; None while it runs."""
        return (self.end_time - self.start_time).total_seconds() if self.end_time else None

    @property
    def info(self) -> RecordInfo:
        """What scripts read of MLflow's `Run.info`."""
        return RecordInfo(
            run_id=self.run_id,
            run_name=self.run_name,
            experiment_id=self.experiment_id,
            status=self.status,
            start_time=_milliseconds(self.start_time),
            end_time=None if self.end_time is None else _milliseconds(self.end_time),
            artifact_uri=self.artifact_uri,
            lifecycle_stage="deleted" if self.deleted else "active",
            user_id=self.tags.get("mlflow.user", ""),
        )

    @property
    def data(self) -> RunRecord:
        """The record itself, which has `metrics`, `params` and `tags` as MLflow's `Run.data` has."""
        return self

    def __repr__(self) -> str:
        counted = [f"{n:,} {noun}{'' if n == 1 else 's'}" for noun, n in self._sizes().items()]
        return brief("RunRecord", self.run_name or None, self.status, *counted, self.url or f"run_id={self.run_id}")

    def _repr_html_(self) -> str:
        """What it is, for a notebook."""
        facts = {
            "name": self.run_name,
            "status": f"{self.status}, deleted" if self.deleted else self.status,
            "started": f"{self.start_time:%Y-%m-%d %H:%M:%S} UTC",
            "duration": None if self.duration is None else f"{self.duration:,.1f} s",
            **{f"{noun}s": n for noun, n in self._sizes().items()},
            "run_id": self.run_id,
            "link": self.url,
        }
        return card("RunRecord", facts.items())

    def _sizes(self) -> dict[str, int]:
        return {"param": len(self.params), "metric": len(self.metrics)}


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
