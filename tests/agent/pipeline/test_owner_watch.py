"""Runs whose process is gone are ended, and no others."""

from __future__ import annotations

import os

import pytest

from helpers.pipeline_rig import MS, PipelineRig, owner_of, put, start
from tailrace_agent.ipc.records import End


def test_a_killed_owner_is_seen_and_its_run_is_killed_with_a_reason_and_all_its_rows(rig: PipelineRig) -> None:
    with owner_of(rig) as owner:
        owner.put(start(), *(rig.row("loss", step=step) for step in range(50)))
        rig.run(5)
        assert rig.status().status == "RUNNING"
        owner.put(*(rig.row("loss", step=step) for step in range(50, 80)))
        last = rig.row("loss", step=80)
        owner.put(last)
        owner.kill()
        rig.run()
        assert rig.stored() == {"loss": 81}
        assert (rig.of().status, rig.of().end_time) == ("KILLED", last[2] // MS)  # type: ignore[operator]
        pid = owner.ring.split("-")[0]
        assert f"process {pid} on {os.uname().nodename} disappeared" in rig.of().tags["tailrace.end_reason"]
        assert rig.session.rings() == []
        assert rig.pipeline.deserted
        assert rig.pipeline.settled
        assert rig.status().closed


def test_another_process_with_the_id_of_the_agents_own_is_seen_to_be_gone(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a container of its own, say, and the agent a thread in one of them."""
    ours = os.getpid()
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "getpid", lambda: ours)
        put(rig.ring(), start(), rig.row("a"))
        os._exit(0)
    os.waitpid(child, 0)
    assert rig.session.rings()[0].startswith(f"{ours}-")
    rig.run()
    assert rig.of().status == "KILLED"
    assert rig.stored() == {"a": 1}
    assert rig.session.rings() == []


def test_an_owner_that_ended_its_run_leaves_no_killed_one(rig: PipelineRig) -> None:
    with owner_of(rig) as owner:
        rig.sink.open_run(start(2).spec, None, find_first=False)
        owner.put(start(1), start(2, owned=False), End(1, "FINISHED", 9))
        owner.kill()
        rig.run()
        assert rig.of(1).status == "FINISHED"
        assert rig.of(2).status == "RUNNING"  # somebody else's
        assert rig.pipeline.deserted


def test_a_run_whose_ring_is_gone_when_the_agent_comes_back_is_killed(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(2)
    rig.session.remove_ring(ring.path.stem)
    rig.restart()
    rig.run()
    assert rig.of().status == "KILLED"
    assert rig.stored() == {"a": 1}
