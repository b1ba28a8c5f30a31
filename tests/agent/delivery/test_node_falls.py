"""What fell on which node: all agents make the same end of the same tags, whoever comes first."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from helpers.kept_log import KeptLog
from tailrace_agent.delivery.node_falls import Fall, NodeFalls, end_of_all
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.delivery.run_tags import RunTags
from tailrace_agent.ipc.records import End, JobPart, RunSpec
from tailrace_agent.sinks.base import RunRef
from tailrace_agent.sinks.memory import MemorySink

SPEC = RunSpec(run=1, start_time=5, cwd="/", job=JobPart(key="k", several_nodes=True, node="node0"))


def tags(*falls: tuple[str, int]) -> dict[str, str]:
    entries = [Fall("KILLED", reason, at) for reason, at in falls]
    return {f"tailrace.fallen.node{n}": msgspec.json.encode(fall).decode() for n, fall in enumerate(entries)}


def test_the_first_is_named_first_and_all_are_named() -> None:
    end = end_of_all(tags(("rank 0 failed", 9), ("rank 5 was killed by SIGKILL", 7)))
    assert end is not None
    assert end.reason == "rank 5 was killed by SIGKILL; on other nodes: rank 0 failed"


def test_who_was_stopped_fell_after_who_was_not_whatever_the_clocks_say() -> None:
    end = end_of_all(
        tags(("rank 0 was killed by SIGTERM; after it rank 1", 1), ("rank 5 was killed by SIGSEGV", 600_000))
    )
    assert end is not None
    assert end.reason.startswith("rank 5 was killed by SIGSEGV")


def test_of_many_nodes_some_are_named() -> None:
    end = end_of_all(tags(*((f"rank {n} fell", n) for n in range(64))))
    assert end is not None
    assert end.reason.endswith("rank 8 fell; and 55 nodes more")


@pytest.mark.parametrize("value", ["none", "{", '{"status": 3}'])
def test_what_is_no_fall_counts_for_nothing(value: str) -> None:
    assert end_of_all({"tailrace.fallen.node1": value}) is None


class Node:
    """The agent of one node, with the run of a job in a store that both nodes have."""

    def __init__(self, sink: MemorySink, run_id: str, node: str, **end: Any) -> None:
        self.sink, self.falls = sink, NodeFalls(RunTags(KeptLog()), KeptLog())
        assert SPEC.job is not None
        job = msgspec.structs.replace(SPEC.job, node=node)
        spec = msgspec.structs.replace(SPEC, owned=node == "node0", job=job)
        self.state = RunState(spec=spec, ring="ring", ref=RunRef(run_id, "0", "run", None), **end)

    def store(self) -> None:
        self.falls.store(self.sink, self.state)

    def end(self) -> None:
        status = self.falls.status(self.sink, self.state, "FINISHED")
        self.sink.end_run(self.state.ref.run_id, status, 9)  # type: ignore[union-attr]

    def look_again(self) -> None:
        self.falls.end_anew(self.sink, self.state)


def two_nodes() -> tuple[MemorySink, str, Node, Node]:
    sink = MemorySink()
    run_id = sink.open_run(SPEC, None, find_first=False).run_id
    fell = {"end": End(1, "KILLED", 7), "end_reason": "rank 5 was killed by SIGKILL"}
    return sink, run_id, Node(sink, run_id, "node0"), Node(sink, run_id, "node1", **fell)


@pytest.mark.parametrize("order", ["store end look", "end store look", "end store other"])
def test_whoever_comes_first_the_run_has_the_end_of_all(order: str) -> None:
    sink, run_id, zero, other = two_nodes()
    for what in order.split():
        {"store": other.store, "end": zero.end, "look": zero.look_again, "other": other.look_again}[what]()
    run = sink.runs[run_id]
    assert (run.status, run.tags["tailrace.end_reason"]) == ("KILLED", "rank 5 was killed by SIGKILL")


def test_another_node_ends_no_run_that_goes_on() -> None:
    sink, run_id, _, other = two_nodes()
    other.store()
    other.look_again()
    assert sink.runs[run_id].status == "RUNNING"


def test_what_fell_before_a_restart_is_forgotten() -> None:
    sink, run_id, zero, other = two_nodes()
    other.store()
    zero.falls.forget(sink, zero.state)
    zero.end()
    assert sink.runs[run_id].status == "FINISHED"
