"""How far a run is: every way through the table, and what cannot happen."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from tailrace_agent.delivery.run_phase import Event, Phase, after, phase_of
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc.records import End, RunSpec

IMPOSSIBLE = {
    Phase.RUNNING: {Event.REPORTED, Event.SETTLED},
    Phase.ENDED: {Event.SETTLED},
    Phase.CLOSED: {Event.REPORTED},
    Phase.FINALIZED: {Event.REPORTED, Event.SETTLED, Event.LOST},
    Phase.GONE: {Event.REPORTED, Event.SETTLED, Event.LOST, Event.RESTARTED},
    Phase.GONE_ENDED: {Event.REPORTED, Event.LOST, Event.RESTARTED},
    Phase.BURIED: {Event.REPORTED, Event.SETTLED, Event.LOST, Event.RESTARTED},
}


def begun() -> RunState:
    return RunState(spec=RunSpec(run=1, start_time=1, cwd="/"), ring="r")


def after_event(state: RunState, event: Event) -> RunState | None:
    """What the run book does, on a copy; None where it is refused."""
    then = msgspec.json.decode(msgspec.json.encode(state), type=RunState)
    if not then.advance(event, gone="deleted" if event is Event.LOST else None):
        assert then == state
        return None
    if event is Event.ENDED:
        then.end = End(1, "FINISHED", 9)
    return then


def reachable() -> list[RunState]:
    """Every state of a run, as the spool holds it, to which events lead."""
    found, todo = [begun()], [begun()]
    while todo:
        state = todo.pop()
        for then in (after_event(state, event) for event in Event):
            if then is not None and then not in found:
                found.append(then)
                todo.append(then)
    return found


def test_every_way_leads_where_the_table_says_and_every_phase_is_reached() -> None:
    states = reachable()
    for state, event in itertools.product(states, Event):
        then = after_event(state, event)
        assert (then.phase if then is not None else None) is after(state.phase, event)
    assert {state.phase for state in states} == set(Phase)


def test_what_cannot_happen_is_refused_and_changes_nothing() -> None:
    for state, event in itertools.product(reachable(), Event):
        assert (after_event(state, event) is None) == (event in IMPOSSIBLE[state.phase]), (state.phase, event)


def test_whatever_happens_a_run_is_over_only_when_mlflow_knows_its_end_or_takes_nothing_for_it() -> None:
    for state in reachable():
        assert not state.finalized or (state.closed and state.end is not None)
        assert not state.closed or state.end is not None or state.gone
        assert (state.gone is not None) == (state.phase in {Phase.GONE, Phase.GONE_ENDED, Phase.BURIED})


def test_an_end_that_is_said_late_has_a_run_told_anew_from_every_phase() -> None:
    for state in reachable():
        then = after_event(state, Event.ENDED)
        assert then is not None
        assert (then.closed, then.finalized) == (False, False)


@pytest.mark.parametrize("fields", list(itertools.product([False, True], repeat=4)))
def test_any_fields_that_a_record_may_hold_stand_for_a_phase(fields: tuple[bool, bool, bool, bool]) -> None:
    ended, closed, finalized, gone = fields
    phase = phase_of(ended=ended, closed=closed, finalized=finalized, gone=gone)
    assert (phase in {Phase.FINALIZED, Phase.BURIED}) == finalized
    assert (phase in {Phase.GONE, Phase.GONE_ENDED, Phase.BURIED}) == gone
    assert phase is not Phase.RUNNING or not (ended or closed)


def test_the_phase_is_not_stored_and_other_versions_read_its_fields() -> None:
    written = msgspec.json.decode(msgspec.json.encode(begun()))
    assert {"end", "end_reason", "explained", "closed", "finalized", "gone", "refused"} <= written.keys()
    assert "phase" not in written


@pytest.mark.parametrize("field", ["end", "end_reason", "closed", "finalized", "gone"])
def test_no_field_that_says_how_far_a_run_is_changes_past_the_table(field: str) -> None:
    state = begun()
    with pytest.raises(ValueError, match=field):
        state.change(attempts=1, **{field: None})
    assert state == begun()
