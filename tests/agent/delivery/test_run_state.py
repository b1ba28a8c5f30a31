"""What is known of a run: stored as JSON can hold it, and shown."""

from __future__ import annotations

import math

import msgspec
import pytest

from helpers.run_books import REF, Saved, spec, started
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_phase import Event, Phase
from tailrace_agent.delivery.run_state import Description, RunState
from tailrace_agent.ipc.records import End, Facts, LogCost, Samples, Start
from tailrace_agent.ledger import Ledger
from tailrace_agent.sinks.base import RunRef


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_what_is_no_finite_number_is_never_written(saved: Saved, number: float) -> None:
    book = saved.book()
    started(book)
    book.trouble(None, "down", number)
    book.sampled(1, {"s": Samples(3, {"j": number, "k": 1.0})})
    state = msgspec.json.decode(saved[1], type=RunState)
    assert (state.retry_at, state.samples) == (0.0, {"s": Samples(3, {"j": 0.0, "k": 1.0})})


def test_the_status_shows_what_is_known(book: RunBook) -> None:
    started(book)
    status = book.status(1, Ledger(calls=3), 1.5)
    assert (status.run_id, status.status, status.closed, status.lag, status.ledger.calls) == (
        None,
        "RUNNING",
        False,
        1.5,
        3,
    )
    book.update(1, ref=REF)
    book.end(End(1, "FINISHED", 5, LogCost(1, 2, 3)))
    status = book.status(1, Ledger(), 0.0)
    assert (status.run_id, status.run_name, status.url, status.cost) == ("abc", "name", REF.url, LogCost(1, 2, 3))


def test_a_run_that_makes_itself_known_again_may_have_more_in_mlflow_than_this_state_knows() -> None:
    first, again = (RunState.begun(Start(spec(), again), "ring") for again in (False, True))
    assert (first.attempts, first.partial, first.noted) == (0, False, False)
    assert (again.attempts, again.partial, again.noted) == (1, True, True)


def test_a_field_of_the_phase_changes_by_an_event_alone() -> None:
    state = RunState(spec=spec(), ring="ring")
    with pytest.raises(ValueError, match="closed, finalized: such fields of a run change with its phase"):
        state.change(attempts=3, finalized=True, closed=True)
    assert state.attempts == 0
    state.change(attempts=3)
    assert state.attempts == 3


def test_an_event_that_cannot_happen_now_changes_nothing() -> None:
    state = RunState(spec=spec(), ring="ring")
    assert not state.advance(Event.SETTLED)
    assert state == RunState(spec=spec(), ring="ring")
    assert state.advance(Event.LOST, "deleted")
    assert (state.gone, state.phase) == ("deleted", Phase.GONE)


def test_a_run_is_described_when_there_is_nothing_to_describe_or_mlflow_has_it() -> None:
    assert RunState(spec=spec(), ring="ring").described
    facts = Facts(command=[], script=None, executable="", python="", pid=1, host="h")
    state = RunState(spec=spec(facts=facts), ring="ring")
    assert not state.described
    state.description = Description({"a": "b"}, None)
    assert not state.described
    state.description = Description({"a": "b"}, None, done=True)
    assert state.described


def test_samples_go_on_behind_those_that_the_run_had_if_they_are_logged() -> None:
    ref = RunRef("abc", "0", "name", None, next_steps={"system": 7, "loss": 3})
    state = RunState(spec=spec(1), ring="ring", ref=ref)
    assert state.steps_before == {}
    state.samples = {
        "system": Samples(2, {}, ["system/cpu"]),
        "system/node": Samples(2, {}, ["system/node/cpu", "system/node/memory"]),
        "board": Samples(2, {}, ["board/cpu"]),
        "loss": Samples(2, {}),
    }
    assert state.steps_before == {"system/cpu": 7, "system/node/cpu": 7, "system/node/memory": 7}
    state.ref = None
    assert state.steps_before == {}
