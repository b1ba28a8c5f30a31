"""What a server answers, as far as it is needed; MLflow's defaults stand where a field is left out.

Numbers may come as words, as protocol buffers write large ones. Fields that are not known are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import msgspec
import requests

from tailrace_agent.decoding import convert
from tailrace_agent.mlflow.answers import believing, check_answer
from tailrace_agent.mlflow.run_store import Run

__all__ = [
    "Answer",
    "ChangedRun",
    "Experiment",
    "Experiments",
    "FoundExperiment",
    "FoundRun",
    "FullRun",
    "History",
    "NewExperiment",
    "Nothing",
    "Runs",
    "SomeHistory",
    "read",
]


class Answer(msgspec.Struct):
    """An answer of MLflow's."""

    may_be_empty: ClassVar[bool] = False
    """Whether MLflow leaves out all of its fields where it has found nothing."""


class _Text(msgspec.Struct):
    key: str = ""
    value: str = ""


class _Metric(msgspec.Struct):
    key: str = ""
    step: int = 0
    timestamp: int = 0
    value: float | str = 0.0


class _Info(msgspec.Struct):
    run_id: str = ""
    experiment_id: str = ""
    run_name: str = ""
    status: str = "RUNNING"
    lifecycle_stage: str = ""
    start_time: int = 0
    end_time: int = 0
    artifact_uri: str = ""


class _Data(msgspec.Struct):
    metrics: list[_Metric] = []
    params: list[_Text] = []
    tags: list[_Text] = []


class FullRun(msgspec.Struct):
    """A run."""

    info: _Info = msgspec.field(default_factory=_Info)
    data: _Data = msgspec.field(default_factory=_Data)

    def plain(self) -> Run:
        """What of it is needed for writing to it."""
        info, data = self.info, self.data
        return Run(
            info.run_id,
            info.experiment_id,
            info.run_name,
            info.status,
            info.lifecycle_stage,
            info.end_time or None,  # MLflow, too, takes zero for absent
            info.artifact_uri,
            {tag.key: tag.value for tag in data.tags},
            {param.key: param.value for param in data.params},
            {metric.key: metric.step for metric in data.metrics},
            {metric.key: float(metric.value) for metric in data.metrics},
        )


class Nothing(Answer):
    """To `log_batch`, and to what deletes."""


class FoundRun(Answer):
    """To a request for a run, or for a new one."""

    run: FullRun | None = None

    def found(self) -> Run:
        """The run, which an answer without one would not have been believed to lack."""
        return (self.run or FullRun()).plain()


class ChangedRun(Answer):
    """To a change of a run."""

    run_info: _Info | None = None


class Runs(Answer):
    """To a search for runs."""

    may_be_empty: ClassVar[bool] = True

    runs: list[FullRun] = []
    next_page_token: str = ""


class SomeHistory(Answer):
    """To a request for some points of a metric."""

    may_be_empty: ClassVar[bool] = True

    metrics: Sequence[Any] = ()


class History(Answer):
    """A page of a metric's history."""

    may_be_empty: ClassVar[bool] = True

    metrics: Sequence[Any] = ()
    next_page_token: str = ""


class Experiment(msgspec.Struct):
    """An experiment."""

    experiment_id: str = ""
    name: str = ""
    lifecycle_stage: str = ""


class FoundExperiment(Answer):
    """To a request for an experiment."""

    experiment: Experiment | None = None


class NewExperiment(Answer):
    """To a request for a new experiment."""

    experiment_id: str = ""


class Experiments(Answer):
    """To a search for experiments."""

    may_be_empty: ClassVar[bool] = True

    experiments: list[Experiment] = []
    next_page_token: str = ""


_Kind = TypeVar("_Kind", bound=Answer)


def read(fields: dict[str, Any], kind: type[_Kind], response: requests.Response, what: str) -> _Kind:
    """What the JSON object of an answer says.

    Args:
        fields: The object.
        kind: What was asked for.
        response: Where it stood.
        what: The request, for messages.

    Raises:
        ValueError: It is not MLflow's answer to that. The response is attached to the error.
    """
    known = kind.__struct_fields__
    with believing(response):
        given = any(fields.get(name) not in (None, []) for name in known)
        check_answer(given, known, fields, what, may_be_empty=kind.may_be_empty)
        return convert(fields, kind, strict=False)
