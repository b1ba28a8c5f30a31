"""The pipeline, driven step by step: from a ring to a store, without a thread, a process or a clock of its own."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from helpers.pipeline_rig import Owner, PipelineRig, put, start
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.errors import Unavailable
from tailrace_agent.ipc.records import Alert, Artifact, Drop, End, Flush, Params, Tags

# -- the whole way -----------------------------------------------------------------------------------------------------


def test_what_was_logged_is_delivered_and_the_run_closed_and_everything_settled(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), Params(1, {"lr": "1"}))
    for step in range(100):
        put(ring, rig.row("loss", "acc", step=step))
    put(ring, End(1, "FINISHED", 99))
    assert not rig.pipeline.settled or not rig.pipeline.book.all()
    rig.run()
    assert rig.status().started == 1.001
    assert rig.stored() == {"loss": 100, "acc": 100}
    assert (rig.of().params, rig.of().status, rig.of().end_time) == ({"lr": "1"}, "FINISHED", 99)
    assert rig.pipeline.settled
    told = rig.status()
    assert (told.closed, told.run_id, told.status) == (True, rig.of().run_id, "FINISHED")
    assert (told.ledger.accepted, told.ledger.delivered, told.ledger.pending, told.lag) == (201, 201, 0, 0.0)
    assert json.loads(rig.of().tags["tailrace.ledger"]) == told.ledger.summary()
    assert ring.unread == 0


@pytest.mark.parametrize("full", [False, True])
def test_the_ledger_with_a_run_knows_what_came_after_its_end_though_the_agent_was_killed_before_storing_it(
    rig: PipelineRig, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("x"), End(1, "FINISHED", 9))
    rig.run()
    put(ring, Tags(1, {"late": "1"}))
    if full:
        with monkeypatch.context() as disk:
            disk.setattr(rig.pipeline.spool, "ingest", Mock(side_effect=sqlite3.OperationalError("full")))
            with pytest.raises(sqlite3.OperationalError):
                rig.pipeline.drain(rig.now)
    rig.pipeline.drain(rig.now)
    (destination,) = rig.pipeline.by_uri.values()
    rig.pipeline.deliver(destination, rig.now)
    assert rig.of().tags["late"] == "1"
    assert rig.pipeline.spool.waiting.points == 0
    rig.restart()
    rig.run()
    assert json.loads(rig.of().tags["tailrace.ledger"]) == rig.ledger().summary()
    assert rig.ledger().of("tag").late == 1


def test_the_ledger_with_a_run_knows_what_was_dropped_while_it_was_being_stored(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, advance = rig.ring(), rig.pipeline.book.advance

    def after_a_drain(run: int, event: Event, **more: Any) -> bool:
        if event is Event.SETTLED and not dropped:
            dropped.append(Drop(1, "metric", "disk full", 7))
            put(ring, *dropped)
            rig.pipeline.drain(rig.now)
        return advance(run, event, **more)

    dropped: list[Drop] = []
    monkeypatch.setattr(rig.pipeline.book, "advance", after_a_drain)
    put(ring, start(), rig.row("x"), End(1, "FINISHED", 9))
    rig.run()
    assert rig.pipeline.settled
    assert rig.ledger().dropped == {"disk full": 7}
    assert json.loads(rig.of().tags["tailrace.ledger"]) == rig.ledger().summary()


def test_artifacts_are_uploaded_when_what_the_store_did_not_take_was_dropped_meanwhile(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start())
    rig.run(2.0)
    (rig.session.artifacts / "staged").mkdir()
    (rig.session.artifacts / "staged" / "model.bin").write_bytes(b"weights")

    def down(_: str) -> None:
        raise Unavailable("away", 5.0, away=True)

    rig.sink.fail = down
    put(ring, rig.row("x"), Artifact(1, "staged"), End(1, "FINISHED", 9))
    rig.run(2.0)
    rig.sink.fail = None
    assert rig.pipeline.spool.waiting.shed(0, "spool at its bound") == {1: 1}
    rig.run(60.0)
    assert rig.of().artifacts == {"model.bin": b"weights"}
    assert rig.of().status == "FINISHED"


def test_artifacts_and_long_params_are_staged_and_uploaded(rig: PipelineRig) -> None:
    ring = rig.ring()
    (rig.session.artifacts / "s").mkdir()
    (rig.session.artifacts / "s" / "model.txt").write_text("weights")
    put(ring, start(), Artifact(1, "s", "models"), Params(1, {"config": "x" * 20_000}), End(1, "FINISHED", 9))
    rig.run()
    assert rig.of().artifacts == {"models/model.txt": b"weights", "tailrace/params/config.txt": b"x" * 20_000}
    assert len(rig.of().params["config"]) == 6000
    assert rig.pipeline.settled
    assert list(rig.session.artifacts.iterdir()) == []
    assert rig.status().notices == [
        "param 'config' has 20000 characters: cut, whole in the artifact tailrace/params/config.txt"
    ]


# -- flushes -----------------------------------------------------------------------------------------------------------


def test_a_flush_is_answered_only_when_all_before_it_was_delivered(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(2)
    rig.sink.fail = lambda _: (_ for _ in ()).throw(Unavailable("away"))
    put(ring, rig.row("b"), Flush(1, 1))
    rig.run(20)
    assert rig.status().settled == {}
    rig.sink.fail = None
    rig.run(60)
    assert rig.status().settled == {ring.path.stem: 1}
    assert rig.stored() == {"a": 1, "b": 1}


def test_a_flush_waits_for_rows_of_other_rings_that_were_there_before_it(rig: PipelineRig) -> None:
    first, second = rig.ring(), rig.ring()
    put(first, start())
    rig.run(1)
    put(second, rig.row("a"))
    put(first, Flush(1, 1))
    seen: list[dict[str, int]] = []
    rig.sink.fail = lambda method: seen.append(rig.status().settled) if method == "log_batch" else None
    rig.run(5)
    assert rig.status().settled == {first.path.stem: 1}
    assert {} in seen
    assert {first.path.stem: 1} not in seen


def test_a_flush_does_not_wait_for_what_comes_after_it(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"), Flush(1, 1))
    rig.pipeline.drain(rig.now)
    rig.pipeline.drain(rig.now)  # every ring was read once more: the barrier stands
    destination = rig.pipeline.by_uri[None]
    rig.pipeline.deliver(destination, rig.now)
    put(ring, rig.row("later"))
    rig.pipeline.drain(rig.now)
    for _ in range(3):
        rig.pipeline.deliver(destination, rig.now)
    assert rig.status().settled == {ring.path.stem: 1}


def test_a_flush_with_nothing_before_it_is_answered_at_once(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), Flush(1, 1))
    rig.pipeline.drain(rig.now)
    rig.pipeline.drain(rig.now)
    assert rig.status().settled == {ring.path.stem: 1}


# -- what is told ------------------------------------------------------------------------------------------------------


def test_an_agent_with_an_alert_to_post_has_something_left_to_do(tmp_path: Path) -> None:
    rig = PipelineRig(tmp_path, alert_webhook="http://127.0.0.1:9/hook")
    put(rig.ring(), start(), Alert(1, "odd", "", "warning", 5), End(1, "FINISHED", 99))
    rig.run()
    assert rig.pipeline.book.all()[0].finalized
    assert not rig.pipeline.settled
    assert not rig.pipeline.stuck
    rig.pipeline.close()


def test_a_damaged_spool_is_set_aside_and_what_comes_later_is_taken_over(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(2)
    rig.pipeline.spool.close()
    path = rig.session.dir / "spool.db"
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    rig.pipeline = rig.agent()
    assert rig.log.events.count("spool was unreadable and set aside") == 1
    put(ring, rig.row("b"), start(2), rig.row("c", run=2), End(2, "FINISHED", 9))
    rig.run()
    assert rig.stored(2) == {"c": 1}
    assert rig.of(2).status == "FINISHED"
    assert rig.ledger(1).pending == 1  # whose it is, only the old spool knows, or the run's own last word
    rig.session.remove_ring(ring.path.stem)  # which will not come
    rig.restart()
    rig.run()
    assert rig.ledger(1).pending == 0
    assert rig.stored(1) == {"a": 1, "b": 1}
    assert rig.of(1).status == "RUNNING"  # how it ended is not known


def test_a_session_is_not_finished_while_a_damaged_spool_is_still_to_be_read(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(rig.ring(), start(), rig.row("a"), End(1, "FINISHED", 9))
    rig.pipeline.drain(rig.now)
    rig.pipeline.spool.close()
    path = rig.session.dir / "spool.db"
    path.replace(path.with_name("spool.db.damaged-1"))

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("tailrace_agent.spool.salvage.salvage", full)
        rig.pipeline = rig.agent()
    rig.run()
    assert (rig.pipeline.settled, rig.pipeline.stuck) == (False, True)
    rig.pipeline.spool.close()
    rig.pipeline = rig.agent()
    rig.run()
    assert rig.pipeline.settled
    assert rig.stored() == {"a": 1}


def _write_state(rig: PipelineRig, state: bytes | None, run: int = 1) -> None:
    """Another state of a run in the spool of an agent that was killed, or none."""
    rig.pipeline.spool.close()
    with contextlib.closing(sqlite3.connect(rig.session.dir / "spool.db", isolation_level=None)) as db:
        db.execute("DELETE FROM run WHERE run = ?", (run,))
        if state is not None:
            db.execute("INSERT INTO run VALUES(?, ?)", (run, state))
    rig.pipeline = rig.agent()


@pytest.mark.parametrize("state", [None, b"", b"\xff{", b"[" * 5000, b'{"spec": {"run": 1, "start_time": "?"}}'])
@pytest.mark.parametrize("opened", [True, False], ids=["in the store", "not in the store yet"])
def test_what_waits_for_a_run_whose_record_cannot_be_read_is_delivered_all_the_same(
    rig: PipelineRig, state: bytes | None, *, opened: bool
) -> None:
    rig.store_error = None if opened else Unavailable("down")
    ring = rig.ring()
    put(ring, start(run_name="mine"), rig.row("a"))
    rig.run(2)
    rig.store_error = Unavailable("down")
    put(ring, rig.row("b"))
    rig.pipeline.drain(rig.now)
    _write_state(rig, state)
    rig.store_error = None
    rig.run(5)
    assert rig.ledger().pending == (1 if opened else 2)  # while its program lives, it may say what it is
    rig.session.remove_ring(ring.path.stem)
    rig.restart()
    rig.run(5)
    assert rig.stored() == {"a": 1, "b": 1}
    assert (rig.of().run_name, rig.of().status) == (("mine", "RUNNING") if opened else ("recovered-00000000", "KILLED"))
    assert any("could not be read" in notice for notice in rig.status().notices)
    assert rig.pipeline.settled


def test_a_run_whose_record_was_lost_is_itself_again_when_its_program_says_what_it_is(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(run_name="mine"), rig.row("a"))
    rig.run(2)
    _write_state(rig, b"?")
    put(ring, start(run_name="mine"), rig.row("b"), End(1, "FINISHED", 9))
    rig.run(5)
    assert (rig.of().run_name, rig.of().status, rig.stored()) == ("mine", "FINISHED", {"a": 1, "b": 1})


def test_a_record_with_null_for_a_number_costs_that_number_alone(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(run_name="mine"), rig.row("a"))
    rig.run(2)
    before = rig.pipeline.book.get(1)
    state = rig.pipeline.spool.runs()[1]
    assert b'"retry_at":0.0' in state
    _write_state(rig, state.replace(b'"retry_at":0.0', b'"retry_at":null'))
    after = rig.pipeline.book.get(1)
    assert before is not None
    assert after is not None
    assert (after.ref, after.notices, after.rebuilt, after.retry_at) == (before.ref, before.notices, False, 0.0)


def test_who_waits_waits_for_the_ring_of_a_child_that_came_between_two_looks(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start())
    rig.run(0.6)
    child = Owner(rig.session)  # the next look around is 0.4 s away
    child.put(rig.row("of the child"))
    child.kill()
    put(ring, End(1, "FINISHED", 99), Flush(1, 7))
    rig.run(0.25)
    assert rig.stored() == {"of the child": 1}
    assert json.loads(rig.of().tags["tailrace.ledger"])["delivered"] == 1


def test_while_runs_begin_and_end_the_rings_are_read_more_often_and_then_as_usual_again(rig: PipelineRig) -> None:
    usual = rig.pipeline.settings.drain_interval
    ring = rig.ring()
    put(ring, rig.row("x"))
    rig.pipeline.drain(rig.now)
    assert rig.pipeline.drain(rig.now) == rig.now + usual
    put(ring, start())
    rig.pipeline.drain(rig.now)
    assert rig.now < rig.pipeline.drain(rig.now) < rig.now + usual
    rig.now += 1.5
    rig.pipeline.drain(rig.now)
    assert rig.pipeline.drain(rig.now) == rig.now + usual


def test_a_run_that_is_opened_wakes_who_uploads_its_files(rig: PipelineRig) -> None:
    put(rig.ring(), start())
    rig.pipeline.drain(rig.now)
    rig.pipeline.on_change = woken = Mock()
    (destination,) = rig.pipeline.by_uri.values()
    rig.pipeline.deliver(destination, rig.now)
    assert woken.call_count == 1
    rig.pipeline.deliver(destination, rig.now)
    assert woken.call_count == 1
