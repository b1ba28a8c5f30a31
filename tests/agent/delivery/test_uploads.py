"""Uploads: what was staged arrives, once it can, and nothing that goes wrong with one artifact stops another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.delivery_faults import cannot_store
from helpers.delivery_rigs import UploadRig, fails
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.delivery.run_state import Description
from tailrace_agent.errors import Refused, RunGone, StoreRefused, Unavailable
from tailrace_agent.ipc.records import End, Facts, ModelOutcome, ModelSpec

IDLE = 600.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[UploadRig]:
    rig = UploadRig(tmp_path)
    yield rig
    rig.spool.close()


def test_files_and_directories_arrive_and_the_staged_copies_go(rig: UploadRig) -> None:
    rig.start()
    entries = [
        rig.stage({"model.txt": "weights"}),
        rig.stage({"plot.txt": "pixels"}, artifact_path="plots/train"),
        rig.stage({"folder/a.txt": "a", "folder/sub/b.txt": "b"}, artifact_path="x"),
        rig.stage({"folder/c.txt": "c"}, artifact_path="y", contents=True),
    ]
    rig.run()
    assert rig.of().artifacts == {
        "model.txt": b"weights",
        "plots/train/plot.txt": b"pixels",
        "x/folder/a.txt": b"a",
        "x/folder/sub/b.txt": b"b",
        "y/c.txt": b"c",
    }
    assert not any(entry.exists() for entry in entries)
    assert (rig.counts().accepted, rig.counts().delivered, rig.counts().pending) == (4, 4, 0)


def test_the_run_is_created_first_and_ends_after_its_artifacts(rig: UploadRig) -> None:
    rig.start()
    rig.stage({"a.txt": "a"})
    assert rig.uploads.step(rig.now) == pytest.approx(rig.now + 0.1)  # no sink yet
    rig.say(End(1, "FINISHED", 9))
    failures, seen = iter(range(3)), []

    def slow(method: str) -> None:
        seen.append(method)
        if method == "log_artifact" and next(failures, None) is not None:
            raise Unavailable("slow", away=True)

    rig.sink.fail = slow
    rig.run(30)
    assert rig.of().status == "FINISHED"
    assert seen[-3:] == ["log_artifact", "log_batch", "end_run"]
    assert (rig.of().artifacts["a.txt"], rig.counts().delivered, rig.counts().late) == (b"a", 1, 0)


def test_a_run_ends_before_artifacts_that_cannot_be_stored_for_a_minute_and_the_ledger_says_so(rig: UploadRig) -> None:
    rig.start()
    rig.stage({"a.txt": "a"})
    rig.say(End(1, "FINISHED", 9))
    fails(rig, Unavailable("the bucket is away", away=True), "log_artifact")
    began = rig.now
    rig.run(45)
    assert rig.of().status == "RUNNING"
    rig.run(60)
    assert rig.now - began < 130
    state = rig.book.get(1)
    assert state is not None
    assert (rig.of().status, state.closed, state.finalized) == ("FINISHED", True, False)
    assert json.loads(rig.of().tags["tailrace.ledger"])["kinds"]["artifact"]["pending"] == 1
    rig.sink.fail = None
    rig.run()
    assert (rig.of().artifacts, rig.counts().delivered) == ({"a.txt": b"a"}, 1)
    assert state.finalized
    stored = json.loads(rig.of().tags["tailrace.ledger"])["kinds"]["artifact"]
    assert (stored["delivered"], stored["late"]) == (1, 1)


def test_a_failed_upload_is_tried_again_more_and_more_rarely_and_told_once(rig: UploadRig) -> None:
    rig.start()
    entry = rig.stage({"a.txt": "a"})
    calls = fails(rig, Unavailable("the bucket is away", away=True), "log_artifact")
    rig.run(300)
    assert 8 <= len(calls) < 120
    assert entry.exists()
    assert rig.counts().pending == 1
    assert rig.notices() == ["artifact 'a.txt' cannot be uploaded (the bucket is away); tailrace keeps trying"]
    rig.sink.fail = None
    rig.run()
    assert rig.of().artifacts == {"a.txt": b"a"}


def test_what_the_store_asks_for_is_kept(rig: UploadRig) -> None:
    rig.start()
    rig.run(1)
    rig.stage({"a.txt": "a"})
    calls = fails(rig, Unavailable("busy", retry_after=77), "log_artifact")
    assert rig.uploads.step(rig.now) == pytest.approx(rig.now + 77)
    assert rig.uploads.step(rig.now + 76) == pytest.approx(rig.now + 77)
    assert len(calls) == 1


def test_an_answer_that_was_lost_costs_only_time(rig: UploadRig) -> None:
    rig.start()
    rig.stage({"a.txt": "a"})
    fails(rig, Unavailable("lost"), "log_artifact", times=2, after=True)
    rig.run()
    assert rig.of().artifacts == {"a.txt": b"a"}
    assert (rig.counts().delivered, rig.counts().pending) == (1, 0)


def test_a_model_whose_answer_was_lost_is_registered_once_and_its_fate_outlives_the_agent(rig: UploadRig) -> None:
    rig.start()
    for token in ("t1", "t2"):
        rig.stage({"net/MLmodel": token}, model=ModelSpec(token, "net", registered_name="digits"))
    fails(rig, Unavailable("lost"), "log_model", times=2, after=True)
    rig.delivery.step(rig.now)
    rig.uploads.step(rig.now)
    rig.restart()
    rig.run()
    assert rig.sink.models == {"digits": ["t1", "t2"]}
    assert (rig.counts().delivered, rig.counts().pending) == (2, 0)
    uri = f"runs:/{rig.of().run_id}/net"
    rig.restart()
    state = rig.book.get(1)
    assert state is not None
    assert state.models == {"t1": ModelOutcome(uri, "1"), "t2": ModelOutcome(uri, "2")}


def test_a_model_that_is_refused_is_a_dead_letter_and_says_where_it_is_logged(rig: UploadRig) -> None:
    rig.start()
    entry = rig.stage({"net/MLmodel": ""}, model=ModelSpec("t", "net"))
    fails(rig, Refused("no such name"), "log_model")
    rig.run()
    assert (rig.counts().dead, rig.counts().pending) == (1, 0)
    assert rig.notices() == ["model 'net' was refused: no such name"]
    assert (entry / "net" / "MLmodel").exists(), "for `tailrace dead retry`"
    state = rig.book.get(1)
    assert state is not None
    assert state.models == {"t": ModelOutcome(error="no such name")}


@pytest.mark.parametrize("error", [Refused("too large"), RunGone("deleted")])
def test_what_is_refused_is_a_dead_letter_and_the_next_one_arrives(rig: UploadRig, error: Exception) -> None:
    rig.start()
    refused = rig.stage({"a.txt": "a"})
    rig.stage({"b.txt": "b"})
    fails(rig, error, "log_artifact", times=1)
    rig.run()
    assert rig.of().artifacts == {"b.txt": b"b"}
    assert (rig.counts().delivered, rig.counts().dead, rig.counts().pending) == (1, 1, 0)
    (letter,) = rig.spool.letters.all(1)
    assert (letter.kind, letter.key, letter.reason) == ("artifact", "a.txt", str(error))
    assert refused.exists()  # so that it can be sent again
    rig.spool.letters.revive([letter], [(1, "artifact", 1, 0, letter.body)])
    rig.run()
    assert rig.of().artifacts == {"a.txt": b"a", "b.txt": b"b"}


def test_a_block_whose_bytes_are_damaged_is_counted_and_keeps_nothing_waiting(rig: UploadRig) -> None:
    rig.start()
    rig.spool.ingest([(1, "artifact", 1, 0, b"\xc1")], [(1, "artifact", "accepted", 1)])
    rig.stage({"b.txt": "b"})
    rig.run()
    assert rig.of().artifacts == {"b.txt": b"b"}
    assert rig.counts().dropped == {"unreadable block": 1}


def test_one_run_after_the_other_and_the_gone_ones_are_left_out(rig: UploadRig) -> None:
    for run in (1, 2):
        rig.start(run)
        rig.stage({f"{run}.txt": "x"}, run=run)
    rig.book.advance(1, Event.LOST, gone="deleted")
    rig.run(30)
    assert rig.of(2).artifacts == {"2.txt": b"x"}
    assert rig.counts(1).dead == 1


def test_while_the_store_is_refused_nothing_is_tried(rig: UploadRig) -> None:
    rig.store_error = StoreRefused("no")
    rig.start()
    rig.stage({"a.txt": "a"})
    rig.run(1)
    assert rig.uploads.step(rig.now) >= rig.now + IDLE
    assert rig.counts().pending == 1


def test_what_cannot_be_stored_stands_before_nothing_and_becomes_a_dead_letter(rig: UploadRig) -> None:
    rig.start()
    rig.start(2)
    entry = rig.stage({"impossible": "a"})
    for number in range(5):
        rig.stage({f"{number}.txt": "b"}, run=1 + number % 2)
    tried = cannot_store(rig, "impossible")
    rig.say(End(1, "FINISHED", 9), End(2, "FINISHED", 9))
    rig.run(60)
    assert {*rig.of(1).artifacts} - {"tailrace/upload-check.txt"} == {"0.txt", "2.txt", "4.txt"}
    assert sorted(rig.of(2).artifacts) == ["1.txt", "3.txt"]
    assert (rig.of(1).status, rig.of(2).status) == ("FINISHED", "FINISHED")
    assert (rig.counts().delivered, rig.counts().dead, rig.counts().pending) == (3, 1, 0)
    (letter,) = rig.spool.letters.all()
    assert letter.key == "impossible"
    assert "500" in letter.reason
    assert "others were stored meanwhile" in letter.reason
    assert tried.count("impossible") <= 10
    assert entry.exists(), "for `tailrace dead retry`"
    assert any("'impossible' was refused" in text for text in rig.notices())


@pytest.mark.slow
def test_many_that_cannot_be_stored_hold_up_what_can_for_seconds(rig: UploadRig) -> None:
    rig.start()
    for number in range(200):
        rig.stage({f"bad{number}": "a"})
    rig.stage({"good.txt": "b"})
    cannot_store(rig, *(f"bad{number}" for number in range(200)))
    rig.run(10)
    assert "good.txt" in rig.of().artifacts
    rig.run(120)
    assert (rig.counts().delivered, rig.counts().dead, rig.counts().pending) == (1, 200, 0)


def test_a_store_that_takes_nothing_buries_nothing(rig: UploadRig) -> None:
    rig.start()
    for number in range(3):
        rig.stage({f"{number}.txt": "b"})
    names = ("0.txt", "1.txt", "2.txt", "upload-check.txt")
    cannot_store(rig, *names)
    rig.run(900)
    assert (rig.counts().dead, rig.counts().pending) == (0, 3)


def test_how_often_it_failed_by_itself_outlives_the_agent(rig: UploadRig) -> None:
    rig.start()
    rig.stage({"impossible": "a"})
    cannot_store(rig, "impossible")
    for _ in range(6):
        rig.run(4)
        rig.restart()
    rig.run(4)
    assert rig.counts().dead == 1
    assert rig.spool.artifacts.failures() == {}


def test_a_tag_of_where_a_run_comes_from_that_is_refused_costs_neither_the_others_nor_the_files(rig: UploadRig) -> None:
    rig.start(facts=Facts(command=["train.py"], script=None, python="3", executable="", host="h", pid=1))
    rig.run(5)
    folder = rig.staging / "tailrace-1"
    folder.mkdir()
    (folder / "pip.txt").write_text("numpy")
    tags = {"git.branch": "main", "git.message": "x" * 10_000}
    rig.book.update(1, description=Description(tags=tags, staged="tailrace-1"))
    rig.run(60)
    assert rig.of().tags["git.branch"] == "main"
    assert "tailrace/pip.txt" in rig.of().artifacts
    assert rig.state().described
