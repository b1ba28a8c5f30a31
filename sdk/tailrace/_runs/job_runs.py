"""A run that the processes of a job share: on its id they agree without a word, and each says what is its to say.

The id follows from what all of them know: who, which job, experiment, name, parent, and how many such runs this process
has begun before. So nobody waits for anybody, and each call of `start_run` means the same run in all ranks as long as
all ranks make the same calls. The store's address is no part of it: nodes may reach one server under several names.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from tailrace_agent.ipc.records import JobPart, Rank
from tailrace_agent.ipc.tags import ATTEMPT_TAG
from tailrace_agent.runtime.job import derived_run
from tailrace_agent.runtime.processes import process
from tailrace_agent.sampler.config import node_part

if TYPE_CHECKING:
    from tailrace_agent.ipc.records import RunSpec
    from tailrace_agent.runtime.job import Job
    from tailrace_agent.settings.settings import Settings

__all__ = ["of_job", "rank_record"]

_begun: Counter[tuple[object, ...]] = Counter()
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
        first_node=job.rank == 0,
        several_nodes=job.several_nodes,
        local_world_size=job.local_world_size,
        attempt=job.attempt,
        launcher=(job.launcher.pid, job.launcher.began) if job.launcher is not None else (0, 0),
        weak=job.weak,
    )
    spec = msgspec.structs.replace(spec, run=derived_run(*known, number), job=part)
    if job.rank == 0:
        if job.attempt:
            spec = msgspec.structs.replace(spec, tags={**spec.tags, ATTEMPT_TAG: str(job.attempt)})
        return spec, config
    # What describes the run is rank 0's to say; what it logs under its own name, too.
    spec = msgspec.structs.replace(spec, tags={}, description=None)
    quiet = {**_SILENT, "quiet": True}
    if modes(config):
        del quiet["log_metrics"]
    return spec, msgspec.structs.replace(config, **quiet)


def modes(config: Settings) -> dict[str, str]:
    """What becomes of metrics by pattern, where that is more than those of rank 0; else nothing."""
    found: dict[str, str] = {**(config.ranks or {})}
    return found if any(mode != "zero" for mode in found.values()) else {}


def rank_record(spec: RunSpec, config: Settings, state: str, detail: str = "") -> Rank:
    """What the agent is told of this rank.

    Args:
        spec: The run.
        config: In force for it.
        state: `began`, `done` or `failed`.
        detail: What it failed of.
    """
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
        modes=modes(config),
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
