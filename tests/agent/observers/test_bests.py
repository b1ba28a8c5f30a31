"""The best value of a metric: exact over kills, and only where something says what is better."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from helpers.pipeline_rig import MS, PipelineRig, owner_of, put, start
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc import session as session_module
from tailrace_agent.ipc.curves import At, Curve
from tailrace_agent.ipc.records import End, Goals, RunSpec
from tailrace_agent.ipc.status import MetricEnds, run_file
from tailrace_agent.observers import curves, observers
from tailrace_agent.observers.bests import closing_row, ends_of, with_more
from tailrace_agent.sinks.base import RunRef


def curve(*values: float) -> Curve:
    drawn = Curve()
    drawn.add([(step, step, value) for step, value in enumerate(values)])
    return drawn


def state(**more: object) -> RunState:
    return RunState(spec=RunSpec(run=1, start_time=0, cwd="/"), ring="r", **more)  # type: ignore[arg-type]


def values_of(row: bytes | None) -> dict[str, float] | None:
    return None if row is None else msgspec.msgpack.decode(row)[3]


def test_a_run_whose_bests_have_not_changed_is_not_written_anew() -> None:
    known = state(bests={"loss": At(0.25, 2)})
    assert with_more(known, {"loss": curve(0.5, 0.5), "lr": curve(0.1)}, by_name=True) is None
    assert with_more(known, {"loss": curve(0.5, 0.125)}, by_name=True) == {"loss": (0.125, 1)}


@pytest.mark.parametrize(
    ("more", "end", "written"),
    [
        ({}, "FINISHED", True),
        ({}, "KILLED", True),
        ({}, "RUNNING", False),
        ({"spec": RunSpec(run=1, start_time=0, cwd="/", owned=False)}, "FINISHED", False),
        ({"spec": RunSpec(run=1, start_time=0, cwd="/", created=True, run_id="a")}, "FINISHED", False),
        ({"spec": RunSpec(run=1, start_time=0, cwd="/", run_id="a")}, "FINISHED", False),
        ({"goals": {"loss": "last"}}, "FINISHED", False),
    ],
)
def test_who_owns_a_run_writes_its_bests_with_its_end(more: dict[str, object], end: str, written: bool) -> None:
    run = msgspec.structs.replace(state(), **more)
    row = closing_row(run, End(1, end, 5), {"loss": At(0.25, 2)}, by_name=True)
    assert values_of(row) == ({"loss.best": 0.25, "loss.best_step": 2} if written else None)


def test_an_earlier_attempts_best_stays_while_it_is_the_better() -> None:
    def again(before: float) -> dict[str, float] | None:
        ref = RunRef("a", "0", "n", None, bests={"loss": before})
        run = state(ref=ref)
        return values_of(closing_row(run, End(1, "FINISHED", 5), {"loss": At(0.25, 2)}, by_name=True))

    assert again(0.125) is None
    assert again(0.5) == {"loss.best": 0.25, "loss.best_step": 2}


def test_people_are_shown_the_programs_own_metrics_first_those_with_a_best_value() -> None:
    curves = {f"m{n}": curve(float(n)) for n in range(20)} | {"loss": curve(*map(float, range(100)))}
    curves |= {"system/cpu": curve(1.0), "loss.best": curve(1.0)}
    ends = ends_of(curves, {"loss": At(0.0, 0)}, {"left", "system/out"})
    assert [end.key for end in ends.shown] == ["loss", *(f"m{n}" for n in range(11))]
    assert ends.more == 10
    first = ends.shown[0]
    assert (first.last, first.best, first.step, len(first.line)) == (99.0, 0.0, 0, 24)
    assert (first.line[0], first.line[-1]) == (0.0, 99.0)


@pytest.fixture
def best_rig(tmp_path: Path) -> PipelineRig:
    return PipelineRig(tmp_path, best_metrics=True)


def last(rig: PipelineRig) -> dict[str, float]:
    return {
        key: max(points, key=lambda point: (point.step, point.timestamp)).value
        for key, points in rig.of().metrics.items()
    }


def row(step: int, **values: float) -> tuple[object, ...]:
    return (1, step, step * MS, values)


def test_a_run_has_its_bests_with_its_end(best_rig: PipelineRig) -> None:
    ring = best_rig.ring()
    rows = [row(0, loss=0.5, gap=1.0), row(1, loss=0.25, gap=3.0), row(2, loss=0.75, gap=2.0)]
    put(ring, start(), Goals(1, {"gap": "max"}), *rows, End(1, "FINISHED", 77))
    best_rig.run()
    assert last(best_rig) == {
        "loss": 0.75,
        "gap": 2.0,
        "loss.best": 0.25,
        "loss.best_step": 1.0,
        "gap.best": 3.0,
        "gap.best_step": 1.0,
    }
    status = best_rig.status()
    assert (status.ledger.accepted, status.ledger.pending, status.ledger.calls) == (10, 0, 3)
    assert [end.key for end in status.metrics.shown] == ["loss", "gap"]


def test_so_has_a_run_that_was_killed(best_rig: PipelineRig) -> None:
    with owner_of(best_rig) as owner:
        owner.put(start(), row(0, loss=0.25), row(1, loss=0.5))
        owner.kill()
        best_rig.run()
    assert best_rig.of().status == "KILLED"
    assert last(best_rig) == {"loss": 0.5, "loss.best": 0.25, "loss.best_step": 0.0}


def test_what_a_killed_agent_has_seen_is_not_forgotten(best_rig: PipelineRig) -> None:
    ring = best_rig.ring()
    put(ring, start(), row(0, loss=0.125))
    best_rig.run(1)
    best_rig.restart()
    put(ring, row(1, loss=0.5), End(1, "FINISHED", 77))
    best_rig.run()
    assert last(best_rig) == {"loss": 0.5, "loss.best": 0.125, "loss.best_step": 0.0}


def test_how_metrics_ended_is_of_the_whole_run_over_agents_that_were_killed(best_rig: PipelineRig) -> None:
    ring = best_rig.ring()
    put(ring, start(), row(0, once=7.0), *(row(n, loss=float(n)) for n in range(10)))
    best_rig.run(1)
    best_rig.restart()
    put(ring, *(row(n, loss=float(n)) for n in range(10, 20)), End(1, "FINISHED", 77))
    best_rig.run()
    ends = {end.key: end for end in best_rig.status().metrics.shown}
    assert (ends["loss"].line, ends["loss"].last) == ([float(n) for n in range(20)], 19.0)
    assert (ends["loss"].best, ends["loss"].step) == (0.0, 0)
    assert ends["once"].last == 7.0
    assert best_rig.status().step == 19


def test_an_agent_that_follows_on_an_end_still_knows_how_the_metrics_ended(best_rig: PipelineRig) -> None:
    ring = best_rig.ring()
    put(ring, start(), row(0, loss=0.5), row(3, loss=0.25), End(1, "FINISHED", 77))
    best_rig.pipeline.drain(best_rig.now)  # and no more: the agent is killed before it could publish anything
    (best_rig.session.shared / run_file(1)).unlink(missing_ok=True)
    best_rig.restart()
    best_rig.run()
    for _ in range(2):  # once more, with everything settled long ago
        (end,) = best_rig.status().metrics.shown
        assert (end.key, end.last, end.line, best_rig.status().step) == ("loss", 0.25, [0.5, 0.25], 3)
        best_rig.restart()
        best_rig.run()


def test_of_a_run_that_is_over_the_status_file_alone_knows_how_its_metrics_ended(best_rig: PipelineRig) -> None:
    ring = best_rig.ring()
    for run in range(1, 6):
        put(ring, start(run), (run, 7, run * MS, {"loss": 0.5}), End(run, "FINISHED", 77))
    best_rig.run()
    assert best_rig.pipeline.observers.metric_ends(1) == MetricEnds()
    assert best_rig.pipeline.observers.last_step(1) is None
    best_rig.pipeline.book.touch(1)  # and it goes on knowing it
    best_rig.run(1)
    assert [end.last for end in best_rig.status(1).metrics.shown] == [0.5]
    assert best_rig.status(1).step == 7


def test_what_is_better_may_be_said_after_the_values_and_over_a_killed_agent(best_rig: PipelineRig) -> None:
    ring = best_rig.ring()
    put(ring, start(), row(0, gap=3.0), row(1, gap=1.0), row(2, gap=2.0))
    best_rig.run(1)
    best_rig.restart()
    put(ring, Goals(1, {"gap": "max"}))
    best_rig.run(1)
    put(ring, End(1, "FINISHED", 77))
    best_rig.run()
    assert last(best_rig) == {"gap": 2.0, "gap.best": 3.0, "gap.best_step": 0.0}


def test_of_a_run_whose_start_is_read_last_goals_and_values_count_all_the_same(best_rig: PipelineRig) -> None:
    child = best_rig.ring()
    put(child, Goals(1, {"gap": "max"}), row(0, gap=3.0), row(1, gap=1.0))
    best_rig.run(1)
    put(best_rig.ring(), start(), End(1, "FINISHED", 77))
    best_rig.run()
    assert last(best_rig) == {"gap": 1.0, "gap.best": 3.0, "gap.best_step": 0.0}


def test_a_later_best_value_is_the_last_also_where_the_clock_was_set_back(
    best_rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = best_rig.ring()
    put(ring, start(), row(0, loss=0.5), End(1, "FINISHED", 77))
    best_rig.run(1)
    put(ring, row(1, loss=0.25))
    best_rig.pipeline.drain(best_rig.now)
    monkeypatch.setattr(observers.time, "time_ns", lambda: 1)
    put(ring, row(2, loss=0.125))
    best_rig.run()
    assert last(best_rig) == {"loss": 0.125, "loss.best": 0.125, "loss.best_step": 2.0}


def test_so_it_is_where_the_agent_that_wrote_the_one_before_was_killed(
    best_rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = best_rig.ring()
    monkeypatch.setattr(observers.time, "time_ns", lambda: 1)
    put(ring, start(), row(0, loss=0.5), End(1, "FINISHED", 77))
    for step, value in enumerate((0.25, 0.125, 0.0625), 1):
        best_rig.run(1)
        put(ring, row(step, loss=value))
    best_rig.run(1)
    best_rig.restart()
    put(ring, row(4, loss=0.03125))
    best_rig.run()
    assert last(best_rig) == {"loss": 0.03125, "loss.best": 0.03125, "loss.best_step": 4.0}


def test_a_value_that_is_given_up_is_nobodys_best(best_rig: PipelineRig) -> None:
    put(best_rig.ring(), start(), row(0, loss=0.5), (1, 2**63, 5 * MS, {"loss": 0.1}), End(1, "FINISHED", 77))
    best_rig.run()
    assert last(best_rig) == {"loss": 0.5, "loss.best": 0.5, "loss.best_step": 0.0}


def test_a_value_that_comes_after_the_end_counts(best_rig: PipelineRig) -> None:
    ring = best_rig.ring()
    put(ring, start(), row(0, loss=0.5), End(1, "FINISHED", 77))
    best_rig.run()
    put(ring, row(1, loss=0.25), row(2, loss=1.0))
    best_rig.run()
    assert last(best_rig) == {"loss": 1.0, "loss.best": 0.25, "loss.best_step": 1.0}
    assert best_rig.ledger().pending == 0


def full(patch: pytest.MonkeyPatch, rig: PipelineRig) -> None:
    """The disk has no room, for one drain."""

    def refuse(*args: object, **more: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with patch.context() as once:
        once.setattr(rig.pipeline.spool, "ingest", refuse)
        with pytest.raises(sqlite3.OperationalError):
            rig.pipeline.drain(rig.now)


def test_a_best_value_that_comes_after_the_end_survives_a_full_disk(
    best_rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = best_rig.ring()
    put(ring, start(), row(0, loss=0.5), End(1, "FINISHED", 77))
    best_rig.run()
    put(ring, row(1, loss=0.25))
    full(monkeypatch, best_rig)
    best_rig.run()
    assert last(best_rig) == {"loss": 0.25, "loss.best": 0.25, "loss.best_step": 1.0}
    assert len(best_rig.of().metrics["loss.best"]) == 2


def test_a_best_value_survives_a_full_disk_and_the_kill_of_the_agent_behind_it(
    best_rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = best_rig.ring()
    put(ring, start(), row(0, loss=0.5))
    best_rig.run(1)
    put(ring, row(1, loss=0.25))
    full(monkeypatch, best_rig)
    best_rig.pipeline.drain(best_rig.now)
    (best_rig.session.dir / "curves.journal").unlink()
    best_rig.restart()
    put(ring, row(2, loss=0.75), End(1, "FINISHED", 77))
    best_rig.run()
    assert last(best_rig) == {"loss": 0.75, "loss.best": 0.25, "loss.best_step": 1.0}


def test_after_a_reboot_curves_begin_anew_since_a_power_cut_may_have_taken_what_they_hold(
    best_rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = best_rig.ring()
    put(ring, start(), row(0, gap=3.0))
    best_rig.run(1)
    monkeypatch.setattr(session_module, "boot_id", lambda: "another")
    best_rig.restart()
    put(ring, row(1, gap=1.0), Goals(1, {"gap": "max"}), End(1, "FINISHED", 77))
    best_rig.run()
    assert last(best_rig) == {"gap": 1.0, "gap.best": 1.0, "gap.best_step": 1.0}


def test_runs_that_are_settled_leave_their_room_to_those_that_follow(
    best_rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "_MOST", 2)
    ring = best_rig.ring()
    for run in range(1, 6):
        put(ring, start(run), (run, 0, run * MS, {"loss": 0.5}), End(run, "FINISHED", 77))
        best_rig.run()
        assert best_rig.stored(run) == {"loss": 1, "loss.best": 1, "loss.best_step": 1}


def test_nothing_of_it_is_stored_where_it_is_switched_off(tmp_path: Path) -> None:
    rig = PipelineRig(tmp_path)
    put(rig.ring(), start(), row(0, loss=0.5), End(1, "FINISHED", 77))
    rig.run()
    assert rig.stored() == {"loss": 1}
    assert [end.best for end in rig.status().metrics.shown] == [None]
