"""Which job a process is a part of, and which part: found in the environment that its launcher has given it.

A job is what one launch has started: all ranks of a `torchrun`, of an `srun`, of an `mpirun`. Its *key* is the same in
all of them, on every node, and in no other job. So a port is never a key: the next job has it, too. Nor is a name that
people choose, as torchrun's `--rdzv-id=100`: where all ranks are on one node the launcher's process is taken along, and
elsewhere Slurm's step; without either the key is *weak*, and a run that has ended is not taken for this job's.

Pure, but for the launcher's process, which is asked for where it is needed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from tailrace_agent.runtime.processes import Process

__all__ = ["BATCH_TIME", "JOB", "Job", "derived_run", "find_job", "own_run", "why_none"]

JOB: Final = "TAILRACE_JOB"
"""The variable that names a job, stronger than whatever the launcher says."""

BATCH_TIME: Final = "train/batch_time_seconds"
"""The metric by which a slow rank is found: of all ranks, as statistics, where nobody has said otherwise."""

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job, and this process's place in it.

    Attributes:
        key: The same in all processes of the job, and in no other job.
        rank: Which of them this one is.
        world_size: How many they are; 0 where nobody says.
        local_rank: Which one on its node.
        local_world_size: How many there are on this node; 0 where nobody says.
        node: Which node this is; None where nobody counts them.
        attempt: How often the launcher has started the job anew.
        launcher: The process on this node whose end is the job's end here; none where nothing is known of one.
        weak: Another job may have the same key, at another time.
        named: Somebody has named the job, who so says which run is meant.
        placed: It is known which process of its node this one is.
    """

    key: str
    rank: int = 0
    world_size: int = 0
    local_rank: int = 0
    local_world_size: int = 0
    node: int | None = None
    attempt: int = 0
    launcher: Process | None = None
    weak: bool = False
    named: bool = False
    placed: bool = True

    @property
    def several_nodes(self) -> bool:
        """Whether it runs on several nodes, or may do so: of two that were taken for one the names would clash."""
        counted = self.node is not None and not self.world_size
        elsewhere = self.rank != self.local_rank if self.placed else self.world_size > 1
        return bool(self.node) or counted or elsewhere or 0 < self.local_world_size < self.world_size


class _Place(msgspec.Struct, frozen=True):
    """What a launcher says of one process."""

    rank: int = 0
    world_size: int = 0
    local_rank: int = 0
    local_world_size: int = 0
    node: int | None = None
    attempt: int = 0
    placed: bool = True
    supervised: bool = False  # its parent is the launcher's process on this node


def find_job(
    environ: Mapping[str, str],
    *,
    parent: Callable[[], Process],
    boot: Callable[[], str],
    named: str | None = None,
) -> Job | None:
    """The job of a process with this environment; None where it is on its own.

    Args:
        environ: Its variables.
        parent: Its parent.
        boot: The id of this machine's boot.
        named: A name that its program gives to the job.
    """
    place = _place(environ)
    key, weak = _key(environ, place, parent, boot)
    name = named or environ.get(JOB, "").strip()
    if name:
        key, weak = f"named:{name}", False
    if key is None:
        return None
    place = place or _Place()
    return Job(
        key=key,
        rank=place.rank,
        world_size=place.world_size,
        local_rank=place.local_rank,
        local_world_size=place.local_world_size,
        node=place.node,
        attempt=place.attempt,
        launcher=parent() if place.supervised else None,
        weak=weak,
        named=bool(name),
        placed=place.placed,
    )


def why_none(environ: Mapping[str, str]) -> str | None:
    """What a person should do where several processes train together, and nothing says in which job."""
    if int_of(environ, "WORLD_SIZE", 1) > 1 and "RANK" in environ:
        return (
            "several processes train together, and nothing that they all have tells their job from others: each has a "
            "run and an agent of its own. Give the job a name: TAILRACE_JOB, start_run(job=…), or torchrun --rdzv-id"
        )
    return None


def derived_run(*parts: object) -> int:
    """The id of a run on which all processes of a job agree without a word: 63 bits, from what they all know."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def own_run(run: int, rank: int) -> int:
    """The id of the nested run that a rank of a job has for itself; rank 0's is that of the job."""
    return derived_run(run, "rank", rank) if rank else run


def int_of(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    """A variable that holds a whole number; the default where it holds none."""
    try:
        return int(environ.get(name, ""))
    except ValueError:
        return default


def _key(
    environ: Mapping[str, str], place: _Place | None, parent: Callable[[], Process], boot: Callable[[], str]
) -> tuple[str | None, bool]:
    step = _slurm_step(environ)
    if place is not None and (run := environ.get("TORCHELASTIC_RUN_ID")):
        return _torch_key(run, place, step, parent, boot)
    if place is None:
        return None, False
    # A step of one process is a program of its own: `srun --pty bash` may start several.
    if step is not None and place.world_size > 1:
        return step, False
    for name in ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID"):
        if environ.get(name):
            lsf = environ.get("LSB_JOBID")
            return f"{name}:{environ[name]}" + (f":lsf:{lsf}" if lsf else ""), not lsf
    if environ.get("LSB_JOBID") and "JSM_NAMESPACE_RANK" in environ:
        return f"lsf:{environ['LSB_JOBID']}:{environ.get('JSM_NAMESPACE_ID', '')}", False
    return None, False


def _torch_key(
    run: str, place: _Place, step: str | None, parent: Callable[[], Process], boot: Callable[[], str]
) -> tuple[str | None, bool]:
    if _UUID.fullmatch(run):
        return f"torchelastic:{run}", False
    if place.world_size and place.local_world_size == place.world_size:
        launcher = parent()
        return f"torchelastic:{run}:{boot()}:{launcher.pid}:{launcher.began}", False
    if step is not None:
        return f"torchelastic:{run}:{step}", False
    # What torchrun takes where it is given none: every other job without one has it, too.
    return (None, False) if run == "none" else (f"torchelastic:{run}", True)


def _slurm_step(environ: Mapping[str, str]) -> str | None:
    """Only inside of `srun`: two programs of one batch script are two jobs."""
    job, step = environ.get("SLURM_JOB_ID"), environ.get("SLURM_STEP_ID")
    if not job or not step:
        return None
    return f"slurm:{environ.get('SLURM_CLUSTER_NAME', '')}:{job}.{step}"


def _place(environ: Mapping[str, str]) -> _Place | None:
    for found in (_torchelastic, _slurm, _openmpi, _jsm, _plain, _kubernetes):
        place = found(environ)
        if place is not None:
            return place
    return None


def _torchelastic(environ: Mapping[str, str]) -> _Place | None:
    if "TORCHELASTIC_RUN_ID" not in environ:
        return None
    return _Place(
        int_of(environ, "RANK"),
        int_of(environ, "WORLD_SIZE"),
        int_of(environ, "LOCAL_RANK"),
        int_of(environ, "LOCAL_WORLD_SIZE"),
        int_of(environ, "GROUP_RANK"),
        int_of(environ, "TORCHELASTIC_RESTART_COUNT") + int_of(environ, "SLURM_RESTART_COUNT"),
        supervised=True,
    )


def _slurm(environ: Mapping[str, str]) -> _Place | None:
    if "SLURM_STEP_ID" not in environ or "SLURM_PROCID" not in environ:
        return None
    node = int_of(environ, "SLURM_NODEID")
    tasks = int_of(environ, "SLURM_STEP_NUM_TASKS", int_of(environ, "SLURM_NTASKS"))
    return _Place(
        int_of(environ, "SLURM_PROCID"),
        tasks,
        int_of(environ, "SLURM_LOCALID"),
        _tasks_on(environ.get("SLURM_STEP_TASKS_PER_NODE", ""), node),
        node,
        int_of(environ, "SLURM_RESTART_COUNT"),
        supervised=tasks > 1,
    )


def _tasks_on(text: str, node: int) -> int:
    """From Slurm's `4(x2),3`."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if found is None:
            return 0
        counts += [int(found[1])] * min(int(found[2] or 1), 100_000)
    return counts[node] if 0 <= node < len(counts) else 0


def _openmpi(environ: Mapping[str, str]) -> _Place | None:
    return _numbered(environ, "OMPI_COMM_WORLD")


def _jsm(environ: Mapping[str, str]) -> _Place | None:
    return _numbered(environ, "JSM_NAMESPACE")


def _numbered(environ: Mapping[str, str], prefix: str) -> _Place | None:
    """By the four variables of a launcher that watches over its processes."""
    if f"{prefix}_RANK" not in environ:
        return None
    rank, size, local_rank, local_size = (
        int_of(environ, f"{prefix}_{what}") for what in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    )
    return _Place(rank, size, local_rank, local_size, supervised=True)


def _plain(environ: Mapping[str, str]) -> _Place | None:
    """The variables that torch.distributed reads, whoever has set them."""
    if "RANK" not in environ and "LOCAL_RANK" not in environ:
        return None
    node = int_of(environ, "GROUP_RANK", int_of(environ, "NODE_RANK", -1))
    local = int_of(environ, "LOCAL_RANK")
    # Launchers that give each process its place on its node alone (Lightning's) number the nodes, too.
    rank = int_of(environ, "RANK", local + max(node, 0) * int_of(environ, "LOCAL_WORLD_SIZE"))
    world = int_of(environ, "WORLD_SIZE")
    return _Place(
        rank,
        world,
        local,
        int_of(environ, "LOCAL_WORLD_SIZE"),
        None if node < 0 else node,
        placed="LOCAL_RANK" in environ,
    )


def _kubernetes(environ: Mapping[str, str]) -> _Place | None:
    """An indexed job: one process in each pod, as far as anybody says."""
    if "JOB_COMPLETION_INDEX" not in environ:
        return None
    index = int_of(environ, "JOB_COMPLETION_INDEX")
    return _Place(index, 0, 0, 1, index)
