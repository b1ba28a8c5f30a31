"""Each byte of a session's small files flipped, and anything in their fields: it is read or named, nothing raises."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing.flips import flips
from tailrace_agent.cli import main
from tailrace_agent.delivery.batches import body_of
from tailrace_agent.delivery.run_records import restored
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc import status
from tailrace_agent.ipc.finished import SetAside, finished, mark_finished, note_set_aside, set_aside
from tailrace_agent.ipc.records import LogCost, Point, RunSpec
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus, RunStatus
from tailrace_agent.ipc.survey import Unreadable, survey
from tailrace_agent.ledger import Counts, Ledger
from tailrace_agent.settings.sources import load_settings
from tailrace_agent.spool.blocks import Outcome
from tailrace_agent.spool.store import Spool

by_chance = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
some_or_all = pytest.mark.parametrize("most", [6, pytest.param(None, marks=pytest.mark.faults)], ids=["some", "all"])
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(2**63), 1e300, -1e300, "\0", "../../x", "\x1b[2J", "", [], {}, [[]], {"a": {}}]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
STATE = RunState(spec=RunSpec(run=1, start_time=1_700_000_000_000, cwd="/", run_name="first"), ring="r")
RUN = RunStatus(
    run=1,
    run_id="a" * 32,
    url="http://127.0.0.1:5000/#/experiments/0",
    started=1.7e9,
    retry_at=1.7e9,
    problem="away",
    ledger=Ledger(kinds={"metric": Counts(accepted=5, delivered=3, dropped={"disk full": 1})}),
    settled={"r": 3},
    notices=["something"],
    cost=LogCost(5, 900, 10**9),
)


class Place:
    """A session with all its files, which no agent holds."""

    def __init__(self, tmp_path: Path) -> None:
        self.session = Session.create(load_settings(), cwd="/", program="train.py")
        spool = Spool(self.session.dir / "spool.db")
        spool.ingest(
            [], [(1, "metric", "accepted", 2), (1, "metric", "delivered", 2)], [(1, msgspec.json.encode(STATE))]
        )
        spool.close()
        mark_finished(self.session, runs=1, dead=0, at=1.7e9)
        damaged = self.session.dir / "spool.db.damaged-1"
        damaged.write_bytes(b"x")
        note_set_aside(SetAside(path=str(damaged), reason="malformed", entries=3, lost=1))
        agent = AgentStatus(pid=1, host="process", started=1.7e9, seen=1.7e9, metrics_url="http://127.0.0.1:9/metrics")
        status.write(self.session.shared / "agent.status", agent)
        status.write(self.session.shared / status.run_file(1), RUN)
        self.files = {
            "session.json": self.session.dir / "session.json",
            "finished": self.session.dir / "finished",
            "set aside": self.session.dir / "spool.db.damaged-1.json",
            "agent": self.session.shared / "agent.status",
            "run": self.session.shared / status.run_file(1),
        }

    def look(self) -> None:
        """Reads all of it, as commands and agents do."""
        (found,) = survey(load_settings())
        if isinstance(found, Unreadable):
            assert found.mend
        else:
            finished(found)
            [str(each) for each in set_aside(found)]
            status.read(self.files["agent"], AgentStatus)
            told = status.read(self.files["run"], RunStatus)
            if told is not None:
                told.ledger.summary()
        for command in (["status", "--all"], ["status", "--all", "--json"]):
            done = CliRunner().invoke(main, command)
            if done.exception is not None and not isinstance(done.exception, SystemExit):
                raise done.exception
            assert self.session.id in done.output
            assert "\x1b" not in done.output


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    (tmp_path / "shm").mkdir()
    monkeypatch.setenv("TAILRACE_RING_DIR", str(tmp_path / "shm"))
    return Place(tmp_path)


NAMES = ["session.json", "finished", "set aside", "agent", "run"]


@pytest.mark.timeout(3600)
@some_or_all
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_a_session_with_one_flipped_byte_is_read_or_named(place: Place, name: str, most: int | None) -> None:
    path = place.files[name]
    whole = path.read_bytes()
    for _, body in flips(whole, most):
        path.write_bytes(body)
        place.look()


@pytest.mark.parametrize("name", NAMES)
@by_chance
@given(data=st.data())
def test_a_file_of_a_session_with_anything_in_a_field_is_read_or_named(
    place: Place, name: str, data: st.DataObject
) -> None:
    path = place.files[name]
    whole = path.read_bytes()
    told = json.loads(whole)
    at: Any = told
    while True:
        key = data.draw(st.sampled_from(sorted(at)))
        if isinstance(at[key], dict) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        break
    at[key] = data.draw(odd)
    path.write_text(json.dumps(told))
    try:
        place.look()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_a_session_that_was_cut_is_read_or_named(place: Place, name: str) -> None:
    path = place.files[name]
    whole = path.read_bytes()
    for size in sorted({0, 1, 2, len(whole) // 3, len(whole) // 2, len(whole) - 1}):
        path.write_bytes(whole[:size])
        place.look()


@some_or_all
def test_the_state_of_a_run_with_one_flipped_byte_is_still_that_runs(most: int | None) -> None:
    whole = msgspec.json.encode(STATE)
    for _, body in flips(whole, None if most is None else 40):
        state = restored(1, body)
        assert state.run == 1
        assert isinstance(state.spec, RunSpec)
        msgspec.json.encode(state)


def test_a_dead_letter_that_the_disk_has_damaged_is_shown_and_dropped_but_not_sent(place: Place) -> None:
    path = place.session.dir / "spool.db"
    with closing(Spool(path)) as spool:
        body = body_of(1, Point("bad!", 1.5, 9, 9))
        spool.settle(Outcome(1, "metric", [], 0, accepted=1, dead=[("bad!", 1, body, "it is bad")]))
    (place.session.dir / "finished").unlink()
    whole = path.read_bytes()
    assert whole.count(body) == 1
    path.write_bytes(whole.replace(body, body[:-1] + bytes([body[-1] ^ 1])))
    shown = CliRunner().invoke(main, ["dead", "list", "--json"])
    (letter,) = json.loads(shown.output)["dead_letters"]
    assert (letter["key"], letter["value"]) == ("bad!", "?")
    refused = CliRunner().invoke(main, ["dead", "retry", letter["id"]])
    assert refused.exit_code == 1
    assert f"damaged on disk, and cannot be sent: tailrace dead drop {letter['id']}" in refused.stderr
    assert CliRunner().invoke(main, ["dead", "drop", letter["id"], "--yes"]).exit_code == 0
