"""Two nodes of one job that are called the same: whoever sees it is told, and nothing that an agent stores is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.delivery_rigs import DeliveryRig
from tailrace_agent.ipc.records import End, JobPart, RunSpec, Start
from tailrace_agent.sinks.memory import MemorySink


class Nodes:
    """Agents of one job's run, each with a spool of its own, and one store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sink, self.all = folder, MemorySink(), list[DeliveryRig]()

    def node(self, name: str, *, owned: bool = False, attempt: int = 0) -> DeliveryRig:
        folder = self.folder / str(len(self.all))
        folder.mkdir()
        rig = DeliveryRig(folder, self.sink)
        self.all.append(rig)
        part = JobPart(key="k", node=name, several_nodes=True, rank=0 if owned else 1, attempt=attempt)
        rig.say(Start(RunSpec(run=1, start_time=5, cwd="/", owned=owned, job=part)))
        rig.log_metrics("loss" if owned else "other")
        rig.run(20)
        return rig

    def tags(self) -> dict[str, str]:
        return self.all[0].of().tags

    def end(self) -> None:
        for rig in reversed(self.all):
            rig.say(End(1, "FINISHED", 77))
            rig.run(60)


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


def said(rig: DeliveryRig) -> list[str]:
    return [text for text in rig.notices() if "system_metrics_node" in text]


def test_nodes_of_different_names_hear_nothing_and_leave_no_claim_behind(nodes: Nodes) -> None:
    rigs = [nodes.node("node0", owned=True), nodes.node("node1")]
    assert len([key for key in nodes.tags() if key.startswith("tailrace.node.")]) == 2
    nodes.end()
    assert [said(rig) for rig in rigs] == [[], []]
    assert {text for key, text in nodes.tags().items() if key.startswith("tailrace.node.")} == {"free"}


def test_of_two_that_are_called_the_same_the_later_is_told_and_the_ledgers_of_both_are_there(nodes: Nodes) -> None:
    zero, one, two = nodes.node("box", owned=True), nodes.node("box"), nodes.node("box")
    nodes.end()
    assert [len(said(rig)) for rig in (zero, one, two)] == [0, 1, 1]
    assert "'box'" in said(one)[0]
    assert len([key for key in nodes.tags() if key.startswith("tailrace.ledger")]) == 3
    assert [rig.ledger().pending for rig in nodes.all] == [0, 0, 0]


def test_of_two_that_claim_at_once_one_at_least_is_told(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    zero = nodes.node("node0", owned=True)
    key, mine = "tailrace.node.box", MemorySink.log_batch

    def too(sink: MemorySink, run_id: str, **what: object) -> None:
        mine(sink, run_id, **what)  # type: ignore[arg-type]
        if any(tag == key for tag, _ in what.get("tags", ())):  # type: ignore[attr-defined]
            mine(sink, run_id, tags=[(key, "gpu-7 0 deadbeef")])

    with monkeypatch.context() as patch:
        patch.setattr(MemorySink, "log_batch", too)
        one = nodes.node("box")
    assert said(zero) == []
    assert "on host 'gpu-7'" in said(one)[0]


def test_an_agent_that_is_killed_knows_its_own_claim_again(nodes: Nodes) -> None:
    rigs = [nodes.node("node0", owned=True), nodes.node("node1")]
    for rig in rigs:
        rig.book.update(1, claim_stored=False)  # it was killed behind the request
        rig.restart()
        rig.run(20)
    assert [said(rig) for rig in rigs] == [[], []]


def test_a_node_of_a_later_attempt_takes_the_name_of_one_that_has_disappeared(nodes: Nodes) -> None:
    nodes.node("node0", owned=True)
    nodes.node("node1")
    assert said(nodes.node("node1", attempt=1)) == []
