"""Tags of tailrace's own: one that is refused costs no other, and is logged."""

from __future__ import annotations

import pytest

from helpers.kept_log import KeptLog
from tailrace_agent.delivery.run_tags import RunTags
from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.records import RunSpec
from tailrace_agent.mlflow.name_rules import TAG_CHARS
from tailrace_agent.sinks.memory import MemorySink


class TagsRig:
    """A run in memory, whose requests are counted."""

    def __init__(self) -> None:
        self.sink, self.log = MemorySink(), KeptLog()
        self.tags = RunTags(self.log)
        self.run_id = self.sink.open_run(RunSpec(run=1, start_time=0, cwd="/"), None, find_first=False).run_id
        self.calls: list[str] = []
        self.sink.fail = self.calls.append

    def store(self, **tags: str) -> bool:
        return self.tags.store(self.sink, self.run_id, tags.items())

    def stored(self) -> dict[str, str]:
        return self.sink.runs[self.run_id].tags


@pytest.fixture
def rig() -> TagsRig:
    return TagsRig()


def test_all_go_in_one_request(rig: TagsRig) -> None:
    assert rig.store(a="1", b="2")
    assert rig.calls == ["log_batch"]
    assert {"a": "1", "b": "2"}.items() <= rig.stored().items()


def test_more_than_a_request_holds_go_in_several(rig: TagsRig) -> None:
    many = {f"tag{n}": str(n) for n in range(250)}
    assert rig.store(**many)
    assert len(rig.calls) == 3
    assert many.items() <= rig.stored().items()


def test_one_that_is_refused_costs_no_other_and_is_logged(rig: TagsRig) -> None:
    assert not rig.store(a="1", long="x" * (TAG_CHARS + 1), b="2")
    assert {"a": "1", "b": "2"}.items() <= rig.stored().items()
    assert "long" not in rig.stored()
    assert [fields["key"] for fields in rig.log.said("tag refused")] == ["long"]


def test_one_that_may_not_be_deleted_stays_and_is_logged(rig: TagsRig) -> None:
    rig.store(a="1")

    def refuse(method: str) -> None:
        raise Refused("not everybody may")

    rig.sink.fail = refuse
    rig.tags.delete(rig.sink, rig.run_id, "a")
    assert [fields["key"] for fields in rig.log.said("tag stays")] == ["a"]


def test_a_store_that_is_away_is_no_refusal(rig: TagsRig) -> None:
    def away(method: str) -> None:
        raise Unavailable("away")

    rig.sink.fail = away
    with pytest.raises(Unavailable):
        rig.store(a="1")
