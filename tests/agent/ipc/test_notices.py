"""Notices: what a line is said once for stands beside it, and is never read out of it."""

from __future__ import annotations

import msgspec
import pytest

from tailrace_agent.delivery.run_book import RunState, restored
from tailrace_agent.ipc import stored
from tailrace_agent.ipc.notices import LONGEST, Notice, Topic, not_logged, note, paired, refused
from tailrace_agent.ipc.records import RunSpec
from tailrace_agent.ipc.status import RunStatus


class StatusOfBefore(msgspec.Struct, kw_only=True):
    """What the version before this one knows of a run's status, as far as notices go."""

    run: int
    problem: str | None = None
    notices: list[str] = []


SAID = [
    Notice("the first"),
    Notice("MLflow refused metric 'a: b': no such name", Topic(refused("metric", "a: b"))),
    Notice("MLflow cannot be reached (401)", Topic(everywhere=True, asks_login=True)),
]


def status() -> RunStatus:
    texts: list[str] = []
    topics: list[Topic] = []
    assert [note(texts, topics, each) for each in SAID] == [True, True, True]
    return RunStatus(run=1, problem="401", lacks="login", notices=texts, topics=topics)


def test_a_status_gives_back_each_notice_with_its_topic() -> None:
    read = stored.read(msgspec.json.encode(status()), RunStatus)
    assert read is not None
    assert read.all_notices == SAID
    assert read.lacks == "login"


def test_a_program_of_the_version_before_reads_the_texts_of_a_newer_agent() -> None:
    read = stored.read(msgspec.json.encode(status()), StatusOfBefore)
    assert read == StatusOfBefore(run=1, problem="401", notices=[each.text for each in SAID])


def test_what_an_agent_of_the_version_before_wrote_is_its_own_topic() -> None:
    read = stored.read(msgspec.json.encode(StatusOfBefore(run=1, notices=["one", "two"])), RunStatus)
    assert read is not None
    assert read.all_notices == [Notice("one"), Notice("two")]
    assert [each.about for each in read.all_notices] == ["one", "two"]
    assert read.lacks is None


def test_a_runs_state_of_the_version_before_goes_on_with_topics() -> None:
    raw = msgspec.to_builtins(RunState(spec=RunSpec(run=1, start_time=5, cwd="/"), ring="r", notices=["one", "two"]))
    del raw["topics"], raw["lacks"]
    state = restored(1, msgspec.json.encode(raw))
    assert not note(state.notices, state.topics, "two")
    assert note(state.notices, state.topics, SAID[1])
    assert paired(state.notices, state.topics) == [Notice("one"), Notice("two"), SAID[1]]


def test_a_later_version_may_say_more_of_a_topic() -> None:
    body = b'{"run": 1, "notices": ["a", "b"], "topics": [["about a", true, false, "more"], ["about b"]]}'
    read = stored.read(body, RunStatus)
    assert read is not None
    assert [each.about for each in read.all_notices] == ["about a", "about b"]


@pytest.mark.parametrize("topics", [b'"none"', b"[7]", b'[["a"], ["b"], ["c"]]'])
def test_topics_that_cannot_be_read_cost_no_text(topics: bytes) -> None:
    read = stored.read(b'{"run": 1, "notices": ["a", "b"], "topics": ' + topics + b"}", RunStatus)
    assert read is not None
    assert read.all_notices == [Notice("a"), Notice("b")]


def test_one_notice_of_a_topic_is_enough_whatever_its_words() -> None:
    texts: list[str] = []
    topics: list[Topic] = []
    about = Topic(not_logged("metric", "a"))
    assert note(texts, topics, Notice("metric 'a' was not logged: it is None", about))
    assert not note(texts, topics, Notice("metric 'a' was not logged: it is a list", about))
    assert note(texts, topics, Notice("metric 'b' was not logged: it is None", Topic(not_logged("metric", "b"))))
    assert note(texts, topics, "metric 'a' was not logged: these words are no topic")
    assert len(texts) == len(topics) == 3


def test_a_notice_is_one_short_line_and_there_are_not_too_many() -> None:
    texts: list[str] = []
    topics: list[Topic] = []
    assert note(texts, topics, "a\nb" + "x" * 10_000)
    assert texts[0].startswith("a b")
    assert len(texts[0]) <= LONGEST
    assert sum(note(texts, topics, f"line {number}") for number in range(1000)) < 500


def test_what_is_the_same_everywhere_is_said_once_in_a_program_and_all_else_once_a_run() -> None:
    here, everywhere = Notice("text"), Notice("text", Topic(everywhere=True))
    assert here.once(1) != here.once(2)
    assert everywhere.once(1) == everywhere.once(2)
    assert len({SAID[1].once(1), Notice("other words", SAID[1].topic).once(1)}) == 1
    assert not_logged("metric", "a") != not_logged("param", "a") != refused("param", "a")
