"""Which job a process is of, from the variables that each launcher sets."""

from __future__ import annotations

import pytest

from tailrace_agent.runtime.job import Job, derived_run, find_job, why_none
from tailrace_agent.runtime.processes import Process

PARENT = Process(77, 1234)
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
TORCH = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "0",
    "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "MASTER_ADDR": "a", "MASTER_PORT": "29500",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "8", "SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "7", "SLURM_STEP_TASKS_PER_NODE": "4,3", "SLURM_RESTART_COUNT": "2",
}  # fmt: skip


def found(environ: dict[str, str], named: str | None = None) -> Job | None:
    return find_job(environ, parent=lambda: PARENT, boot=lambda: "boot", named=named)


def job(environ: dict[str, str], named: str | None = None) -> Job:
    job = found(environ, named)
    assert job is not None
    return job


def test_a_process_on_its_own_is_of_no_job() -> None:
    assert found({}) is None


def test_ranks_of_torchrun_on_one_node_are_told_from_the_next_launch_by_their_launcher() -> None:
    one = job(TORCH)
    assert one == job({**TORCH, "RANK": "0", "LOCAL_RANK": "0"}).__class__(
        key="torchelastic:none:boot:77:1234", rank=3, world_size=4, local_rank=3, local_world_size=4, node=0,
        launcher=PARENT,
    )  # fmt: skip
    assert not one.several_nodes
    assert find_job(TORCH, parent=lambda: Process(78, 1), boot=lambda: "boot").key != one.key  # type: ignore[union-attr]


def test_the_id_that_torchrun_invents_is_enough_on_several_nodes() -> None:
    several = {**TORCH, "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": UUID, "GROUP_RANK": "1", "RANK": "7"}
    assert (job(several).key, job(several).weak, job(several).several_nodes) == (f"torchelastic:{UUID}", False, True)


def test_an_id_that_a_person_has_chosen_is_weak_on_several_nodes_unless_slurm_says_more() -> None:
    several = {**TORCH, "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "100"}
    assert (job(several).key, job(several).weak) == ("torchelastic:100", True)
    slurm = {**several, "SLURM_JOB_ID": "8", "SLURM_STEP_ID": "0"}
    assert (job(slurm).key, job(slurm).weak) == ("torchelastic:100:slurm::8.0", False)


def test_without_any_id_several_nodes_are_no_job_and_it_is_said_what_to_do() -> None:
    several = {**TORCH, "WORLD_SIZE": "8"}
    assert found(several) is None
    assert "TAILRACE_JOB" in (why_none(several) or "")
    assert why_none({}) is None


def test_a_port_alone_is_no_key() -> None:
    plain = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert found(plain) is None
    assert job({**plain, "TAILRACE_JOB": "mine"}).rank == 1


@pytest.mark.parametrize(
    ("environ", "several"),
    [
        ({"JOB_COMPLETION_INDEX": "0"}, True),  # a pod of an indexed job, of which nobody says how many there are
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),  # one process in each pod, as Kubeflow starts them
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, True),
        ({}, False),
    ],
)
def test_two_nodes_are_never_taken_for_one(environ: dict[str, str], several: bool) -> None:
    assert job({**environ, "TAILRACE_JOB": "mine"}).several_nodes is several


def test_a_step_of_slurm_is_a_job_and_a_batch_script_is_none() -> None:
    step = job(SRUN)
    assert (step.key, step.rank, step.node, step.local_world_size) == ("slurm::8.0", 5, 1, 3)
    assert (step.attempt, step.launcher, step.several_nodes) == (2, PARENT, True)
    assert found({name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}) is None
    assert found({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None


@pytest.mark.parametrize(
    ("environ", "key", "rank"),
    [
        (
            {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_NAMESPACE": "prterun-a-9@1"},
            "PMIX_NAMESPACE:prterun-a-9@1",
            2,
        ),
        ({"JSM_NAMESPACE_RANK": "6", "LSB_JOBID": "12", "JSM_NAMESPACE_ID": "1"}, "lsf:12:1", 6),
        ({"JOB_COMPLETION_INDEX": "2", "TAILRACE_JOB": "train-x7"}, "named:train-x7", 2),
    ],
)
def test_other_launchers_are_known_by_what_they_set(environ: dict[str, str], key: str, rank: int) -> None:
    assert (job(environ).key, job(environ).rank) == (key, rank)


def test_a_name_counts_more_than_a_launcher_and_the_call_more_than_the_variable() -> None:
    environ = {**TORCH, "TAILRACE_JOB": "a"}
    assert (job(environ).key, job(environ).rank, job(environ).named) == ("named:a", 3, True)
    assert job(environ, named="b").key == "named:b"


@pytest.mark.parametrize("value", ["", "x", "4(x", "4(x999999999999)"])
def test_what_a_launcher_writes_wrongly_is_no_error(value: str) -> None:
    environ = {**SRUN, "SLURM_STEP_TASKS_PER_NODE": value, "SLURM_NODEID": value, "SLURM_PROCID": value}
    assert job(environ).rank == 0


def test_a_derived_id_is_the_same_everywhere_and_fits_a_signed_column() -> None:
    assert derived_run("me", "key", None, 0) == derived_run("me", "key", None, 0)
    assert len({derived_run("me", "key", n) for n in range(1000)}) == 1000
    assert 0 < derived_run("a") < 2**63
