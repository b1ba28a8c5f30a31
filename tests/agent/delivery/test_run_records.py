"""A run's record is read whatever its bytes are."""

from __future__ import annotations

import json
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.run_books import REF, Saved, spec, started
from tailrace_agent.delivery.run_records import restored, stand_in
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc.records import RunSpec, Samples
from tailrace_agent.ipc.session import Session


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff\xfe", b"[]", b'{"spec": 1, "ring": "r"}'])
def test_a_state_whose_bytes_are_damaged_costs_no_other_run_and_is_still_a_run(saved: Saved, damaged: bytes) -> None:
    book = saved.book()
    for run in (1, 2):
        started(book, run)
    saved[1] = damaged
    assert {state.run: state.rebuilt for state in saved.book().all()} == {1: True, 2: False}


@given(st.data())
def test_whatever_one_field_of_a_state_holds_the_others_stay(data: st.DataObject) -> None:
    saved = Saved()
    book = saved.book()
    started(book, tracking_uri="http://x")
    book.update(1, ref=REF, attempts=2, notices=["n"], samples={"s": Samples(3, {"j": 1.0})})
    raw = msgspec.json.decode(saved[1])
    field = data.draw(st.sampled_from([*raw, *(f"spec.{name}" for name in raw["spec"])]))
    inside, _, name = field.rpartition(".")
    value = data.draw(st.none() | st.integers() | st.text() | st.lists(st.integers()) | st.just({"a": 2**70}))
    (raw["spec"] if inside else raw)[name] = value
    saved[1] = json.dumps(raw).encode()
    (state,) = saved.book().all()
    assert (state.run, state.spec.run) == (1, 1)
    assert field == "ref" or state.ref == REF
    assert field in ("spec", "spec.tracking_uri") or state.spec.tracking_uri == "http://x"
    assert field == "samples" or state.samples == {"s": Samples(3, {"j": 1.0})}
    assert not state.rebuilt or field.startswith("spec")
    book._save(1, msgspec.json.encode(state))
    assert saved.book().all() == [state]


def record(**changes: object) -> dict[str, object]:
    state = RunState(spec=spec(run_name="mine", tags={"a": "b"}), ring="ring", ref=REF)
    plain: dict[str, object] = msgspec.to_builtins(state)
    return {**plain, **changes}


def test_a_record_that_can_be_read_whole_is_as_it_was_written() -> None:
    state = restored(1, json.dumps(record()).encode())
    assert state == RunState(spec=spec(run_name="mine", tags={"a": "b"}), ring="ring", ref=REF)


def test_what_is_soon_set_anew_costs_nothing_and_no_notice() -> None:
    state = restored(1, json.dumps(record(retry_at=None, problem=3)).encode())
    assert (state.partial, state.noted, state.notices, state.ref) == (False, False, [], REF)


def test_what_may_have_been_lost_is_looked_for_and_its_user_hears_of_it() -> None:
    state = restored(1, json.dumps(record(attempts="?")).encode())
    assert (state.attempts, state.partial, state.noted, state.rebuilt) == (1, True, True, False)
    assert "could not be read whole" in state.notices[0]


def test_a_run_that_lacks_only_its_decoration_is_still_the_one_that_was_meant() -> None:
    plain = msgspec.to_builtins(spec(run_name="mine", tracking_uri="http://x"))
    state = restored(1, json.dumps(record(spec={**plain, "tags": 3, "run_name": 5})).encode())
    assert not state.rebuilt
    assert (state.spec.tracking_uri, state.spec.tags) == ("http://x", RunSpec(run=1, start_time=0, cwd="/").tags)


@pytest.mark.parametrize("lost", ["tracking_uri", "experiment_name", "owned", "run"])
def test_a_run_that_lacks_where_it_goes_is_stood_in_for(lost: str) -> None:
    plain = {**msgspec.to_builtins(spec()), lost: []}
    state = restored(1, json.dumps(record(spec=plain)).encode())
    assert state.rebuilt
    assert state.run == 1


def test_the_record_of_another_run_is_not_this_ones() -> None:
    assert restored(2, json.dumps(record()).encode()).rebuilt


def test_a_run_of_which_nothing_is_left_goes_where_its_session_sends_runs_and_keeps_its_status(
    session: Session,
) -> None:
    settings = msgspec.structs.replace(
        session.info.settings, tracking_uri="sqlite:///runs.db", experiment_name="digits"
    )
    info = msgspec.structs.replace(session.info, settings=settings, cwd="/lab", created=7.5)
    found = restored(255, b"?", partial(stand_in, info)).spec
    assert found.tracking_uri == "sqlite:////lab/runs.db"
    assert (found.experiment_name, found.run_name) == ("digits", "recovered-00000000")
    assert (found.start_time, found.owned) == (7500, False)
