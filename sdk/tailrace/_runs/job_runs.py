"""A run that the processes of a job share: on its id they agree without a word, and each says what is its to say.

The id follows from what all of them know: who, which job, experiment, name, parent, and how many such runs this process
has begun before. So nobody waits for anybody, and each call of `start_run` means the same run in all ranks as long as
all ranks make the same calls. The store's address is no part of it: nodes may reach one server under several names.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tailrace_agent.ipc.records import End, JobPart, Rank, Start
from tailrace_agent.ipc.tags import ATTEMPT_TAG, JOB_TAG
from tailrace_agent.runtime.job import BATCH_TIME, derived_run, own_run
from tailrace_agent.runtime.processes import process
from tailrace_agent.sampler.config import node_part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailrace_agent.ipc.records import RunSpec
    from tailrace_agent.runtime.job import Job
    from tailrace_agent.settings.settings import Settings

__all__ = ["begun", "ends_elsewhere", "heard", "of_job", "told"]

_begun: Counter[tuple[object, ...]] = Counter()
_CONTEXT: Final = ("mlflow.user", "mlflow.source.")
_SILENT: Final = {"log_params": False, "log_metrics": False, "log_artifacts": False, "log_model": False}


def of_job(spec: RunSpec, config: Settings, job: Job, parent: str | None) -> tuple[RunSpec, Settings]:
    """A run as a rank of a job has it, and the settings that are in force for it there.

    Args:
        spec: As it would be without a job.
        config: In force.
        job: The job, and which rank this is.
        parent: tailrace's id of the run that it is nested in.
    """
    user = spec.tags.get("mlflow.user", "")
    above = (parent, spec.parent_run_id)
    # A resumed run is the one of that id, whatever it is called.
    what = ("resumed", spec.run_id) if spec.run_id else (spec.experiment_name, spec.experiment_id, spec.run_name)
    known = (user, job.key, *what, *above)
    number = _begun[known]
    _begun[known] += 1
    part = JobPart(
        key=job.key,
        name=job.key.partition(":")[2] if job.named else None,
        rank=job.rank,
        world_size=job.world_size,
        node=node_name(job, config.system_metrics_node),
        # Where nobody counts nodes, ranks are most often given out node by node.
        first_node=job.rank == 0 or (job.rank < job.local_world_size if job.node is None else job.node == 0),
        several_nodes=job.several_nodes,
        local_world_size=job.local_world_size,
        attempt=job.attempt,
        launcher=(job.launcher.pid, job.launcher.began) if job.launcher is not None else (0, 0),
        weak=job.weak,
    )
    spec = msgspec.structs.replace(spec, run=derived_run(*known, number), job=part)
    if not config.log_metrics:  # of nobody, then
        config = msgspec.structs.replace(config, ranks={"*": "zero"})
    if job.rank == 0:
        again = {ATTEMPT_TAG: str(job.attempt)} if job.attempt else {}
        return msgspec.structs.replace(spec, tags={**spec.tags, JOB_TAG: job.key, **again}), config
    # What describes the run is rank 0's to say; what it logs under its own name, too.
    context = {key: value for key, value in spec.tags.items() if key.startswith(_CONTEXT)}
    spec = msgspec.structs.replace(spec, tags=context, description=None)
    quiet: dict[str, Any] = {**_SILENT, "quiet": True}
    if config.log_metrics and any(mode != "zero" for mode in (config.ranks or {}).values()):
        del quiet["log_metrics"]
    return spec, msgspec.structs.replace(config, **quiet)


def modes(spec: RunSpec, config: Settings) -> dict[str, str]:
    """What becomes of metrics by pattern, where that is more than those of rank 0; else nothing."""
    found: dict[str, str] = {**(config.ranks or {})}
    several = spec.job is not None and max(spec.job.world_size, spec.job.local_world_size) > 1
    if several and not any(fnmatchcase(BATCH_TIME, pattern) for pattern in found):
        found[BATCH_TIME] = "stats"
    return found if any(mode != "zero" for mode in found.values()) else {}


def heard(spec: RunSpec, config: Settings) -> frozenset[str]:
    """Metrics that go out also of a rank that is not logged."""
    silent = spec.job is not None and spec.job.rank and not config.log_metrics
    return frozenset({BATCH_TIME} if silent and modes(spec, config).get(BATCH_TIME) == "stats" else ())


def ends_elsewhere(spec: RunSpec) -> bool:
    """Whether the run is ended on another node, where nobody waits for what this one has said."""
    return spec.job is not None and spec.job.several_nodes and not spec.job.first_node


def begun(spec: RunSpec, config: Settings) -> Iterator[Start | Rank]:
    """What the agent is told of a run that begins, and of this rank if it is a job's."""
    yield Start(spec)
    if spec.job is None:
        return
    yield _rank_record(spec, config, "began")
    if (own := _own(spec, config)) is not None:
        yield Start(own)
        yield _rank_record(own, config, "began")


def told(spec: RunSpec, config: Settings, state: str, detail: str) -> Iterator[Rank | End]:
    """What the agent is told when this rank has done its part.

    Args:
        spec: The run.
        config: In force for it.
        state: `done` or `failed`.
        detail: What it failed of.
    """
    yield _rank_record(spec, config, state, detail)
    if (own := _own(spec, config)) is not None:
        record = _rank_record(own, config, state, detail)
        yield record
        yield End(own.run, "FINISHED" if state == "done" else "FAILED", record.time_ms)


def _own(spec: RunSpec, config: Settings) -> RunSpec | None:
    """The nested run of this rank, where it has one: its agent creates it, and ends it as this rank ends."""
    job = spec.job
    if job is None or not job.rank or "runs" not in modes(spec, config).values():
        return None
    return msgspec.structs.replace(
        spec,
        run=own_run(spec.run, job.rank),
        run_id=None,
        run_name=f"rank{job.rank}",
        parent=spec.run,
        parent_run_id=None,
        owned=True,
        job=msgspec.structs.replace(job, own=True),
    )


def _rank_record(spec: RunSpec, config: Settings, state: str, detail: str = "") -> Rank:
    assert spec.job is not None
    here = process(os.getpid())
    return Rank(
        run=spec.run,
        rank=spec.job.rank,
        pid=here.pid,
        started=here.began,
        attempt=spec.job.attempt,
        state=state,
        time_ms=time.time_ns() // 1_000_000,
        detail=detail,
        modes={} if spec.job.own else modes(spec, config),  # its rows come by the job's run
    )


def node_name(job: Job, given: str | None) -> str:
    """What this machine is called among those of the job, as a part of a metric's name.

    Example:
        >>> from tailrace_agent.runtime.job import Job
        >>> node_name(Job(key="a", node=2), None), node_name(Job(key="a"), "gpu box #3")
        ('node2', 'gpu-box-3')
    """
    if given is None and job.node is not None:
        return f"node{job.node}"
    return node_part(given or os.uname().nodename)


def _after_fork_in_child() -> None:
    _begun.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
