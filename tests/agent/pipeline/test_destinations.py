"""Each run's rows go to its own store."""

from __future__ import annotations

from helpers.pipeline_rig import PipelineRig, put, start
from tailrace_agent.errors import StoreRefused
from tailrace_agent.ipc.records import End, Flush


def test_rings_of_several_processes_and_stores_each_go_their_way(rig: PipelineRig) -> None:
    first, second = rig.ring(), rig.ring()
    put(first, start(1, tracking_uri="http://user@a"), rig.row("x"))
    put(second, start(2, tracking_uri="http://b"), rig.row("y", run=2), rig.row("z", run=1))
    put(first, start(3))
    rig.run()
    assert rig.stored(1) == {"x": 1, "z": 1}
    assert rig.stored(2) == {"y": 1}
    assert set(rig.pipeline.by_uri) == {"http://user@a", "http://b", None}
    assert set(rig.opened) == {"http://b", "http://user@a", None}
    assert len(rig.opened) == 3


def test_credentials_reach_the_sink_and_no_file(rig: PipelineRig) -> None:
    rig.pipeline.close()
    rig.pipeline = rig.agent(credentials={"http://user@h/x": "user:pa55word"})
    ring = rig.ring()
    put(ring, start(tracking_uri="http://user@h/x"), rig.row("x"), End(1, "FINISHED", 9))
    rig.run()
    assert rig.opened == ["http://user:pa55word@h/x"]
    rig.pipeline.close()
    files = [path for path in rig.session.dir.rglob("*") if path.is_file()] + list(rig.session.shared.glob("*.status"))
    assert len(files) >= 3
    assert all(b"pa55word" not in path.read_bytes() for path in files)
    rig.pipeline = rig.agent(credentials={"http://user@h/x": "user:pa55word"})
    put(ring, rig.row("late"))
    rig.run()
    assert rig.opened[1:] == ["http://user:pa55word@h/x"]


def test_a_store_that_cannot_be_used_is_told_and_the_agent_knows_that_it_is_stuck(rig: PipelineRig) -> None:
    rig.store_error = StoreRefused("no such store")
    ring = rig.ring()
    put(ring, start(), rig.row("a"), End(1, "FINISHED", 9), Flush(1, 1))
    assert rig.pipeline.stuck == (not rig.pipeline.book.all())
    rig.run()
    assert rig.status().refused == "no such store"
    assert rig.pipeline.stuck
    assert not rig.pipeline.settled
    assert "tailrace sync" in rig.status().notices[0]
