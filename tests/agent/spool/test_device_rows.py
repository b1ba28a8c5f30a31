"""Rows that wait for values on devices: nothing waits for them that need not, and each value is counted once."""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.pipeline_rig import MS, PipelineRig, put, start
from helpers.slots import Device, ext
from tailrace_agent.ipc.device_slots import Place
from tailrace_agent.ipc.records import End, Flush, JobPart, Rank, RunSpec, Start
from tailrace_agent.ipc.ring_writer import RingWriter

REASON = "not computed by its device"


class DeviceRig(PipelineRig):
    """A pipeline with one ring and slots beside it."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self.ring_: RingWriter = self.ring()
        self.name = self.ring_.path.stem
        self.device = Device(self.session.slots_path(self.name))
        self.dead: set[str] = set()
        self.times = itertools.count(100)
        put(self.ring_, start())

    def say(self, values: dict[str, Any], step: int = 0, run: int = 1) -> None:
        row = {key: ext(value) if isinstance(value, Place) else value for key, value in values.items()}
        put(self.ring_, (run, step, next(self.times) * MS, row))

    def agent(self, **more: Any) -> Any:
        pipeline = super().agent(**more)
        alive = pipeline.rings._alive
        # The ring's process is this one: it is gone when the test says so.
        pipeline.rings._alive = lambda name: name not in self.dead and alive(name)
        return pipeline

    def values(self, key: str = "loss") -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.of().metrics.get(key, [])]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[DeviceRig]:
    made = DeviceRig(tmp_path)
    yield made
    made.pipeline.close()


def counts(rig: DeviceRig) -> tuple[int, int, int, dict[str, int]]:
    metric = rig.ledger().of("metric")
    return metric.accepted, metric.delivered, metric.pending, metric.dropped


def test_a_value_that_is_there_goes_with_the_others_of_its_call(rig: DeviceRig) -> None:
    place = rig.device.take()
    rig.device.land(place, 0.25)
    rig.say({"a": 1.0, "loss": place, "b": 2}, step=3)
    rig.run(2)
    assert list(rig.of().metrics) == ["a", "loss", "b"], "not in the order of the call"
    assert [rig.values(key) for key in ("a", "loss", "b")] == [[(3, 1.0)], [(3, 0.25)], [(3, 2.0)]]
    assert counts(rig) == (3, 3, 0, {})
    assert rig.ledger().calls == 1
    assert rig.device.is_free(place.slot)


def test_one_that_is_not_there_holds_up_no_other_and_is_pending_until_it_is(rig: DeviceRig) -> None:
    place = rig.device.take()
    rig.say({"loss": place, "host": 1.0}, step=0)
    rig.say({"host": 2.0}, step=1)
    rig.run(2)
    assert rig.values("host") == [(0, 1.0), (1, 2.0)]
    assert counts(rig) == (3, 2, 1, {})
    assert rig.status().computing == 1
    assert not rig.device.is_free(place.slot)
    rig.device.land(place, 0.5)
    rig.run(2)
    assert rig.values() == [(0, 0.5)]
    assert counts(rig) == (3, 3, 0, {})
    assert rig.status().computing == 0
    assert rig.ledger().calls == 2
    assert rig.device.is_free(place.slot)


def test_those_behind_a_stream_that_hangs_come_all_the_same(rig: DeviceRig) -> None:
    hangs, works = rig.device.take(), rig.device.take("int64")
    rig.say({"loss": hangs}, step=0)
    rig.say({"loss": works}, step=1)
    rig.run(1)
    rig.device.land(works, 7)
    rig.run(1)
    assert rig.values() == [(1, 7.0)]
    assert counts(rig) == (2, 1, 1, {})


def test_a_flush_waits_for_what_has_not_landed_and_not_for_what_comes_later(rig: DeviceRig) -> None:
    place = rig.device.take()
    rig.say({"loss": place}, step=0)
    put(rig.ring_, Flush(1, 1))
    rig.run(2)
    assert rig.status().settled == {}
    later = rig.device.take()
    rig.say({"loss": later}, step=1)
    rig.run(1)
    rig.device.land(place, 1.0)
    rig.run(2)
    assert rig.status().settled == {rig.name: 1}
    assert rig.values() == [(0, 1.0)]


def test_a_run_ends_when_its_values_are_there(rig: DeviceRig) -> None:
    place = rig.device.take()
    rig.say({"loss": place}, step=0)
    put(rig.ring_, End(1, "FINISHED", 5))
    rig.run(10)
    assert rig.of().status == "RUNNING"
    rig.device.land(place, 1.0)
    rig.run(10)
    assert (rig.of().status, rig.values()) == ("FINISHED", [(0, 1.0)])
    assert rig.ledger().of("metric").late == 0


def test_a_device_that_hangs_keeps_no_run_open_for_ever(rig: DeviceRig) -> None:
    landed, never = rig.device.take(), rig.device.take()
    rig.say({"loss": landed}, step=0)
    rig.say({"loss": never}, step=1)
    put(rig.ring_, End(1, "FINISHED", 5))
    rig.device.land(landed, 1.0)
    rig.run(50)
    assert rig.of().status == "RUNNING"
    rig.run(60)
    assert (rig.of().status, rig.values()) == ("FINISHED", [(0, 1.0)])
    assert counts(rig) == (2, 1, 0, {REASON: 1})
    assert not rig.device.is_free(never.slot), "a copy may still be under way to it"


def test_what_had_landed_when_its_process_died_is_there_and_the_rest_is_dropped(rig: DeviceRig) -> None:
    places = [rig.device.take() for _ in range(4)]
    for step, place in enumerate(places):
        rig.say({"loss": place, "host": 1.0}, step=step)
    rig.run(1)
    rig.device.land(places[0], 0.0)
    rig.device.land(places[2], 2.0)
    rig.dead.add(rig.name)
    rig.run(20)
    assert rig.values() == [(0, 0.0), (2, 2.0)]
    assert counts(rig) == (8, 6, 0, {REASON: 2})
    assert rig.of().status == "KILLED"
    assert rig.session.rings() == []
    assert not rig.session.slots_path(rig.name).exists()


def test_a_call_of_which_one_value_never_lands_keeps_the_others(rig: DeviceRig) -> None:
    one, other = rig.device.take(), rig.device.take("bool")
    rig.say({"a": one, "loss": other}, step=0)
    rig.device.land(other, True)
    rig.run(1)
    assert rig.values() == []
    rig.dead.add(rig.name)
    rig.run(20)
    assert rig.values() == [(0, 1.0)]
    assert counts(rig) == (2, 1, 0, {REASON: 1})


def test_a_killed_agent_has_put_them_aside_for_the_next_one(rig: DeviceRig) -> None:
    places = [rig.device.take() for _ in range(3)]
    for step, place in enumerate(places):
        rig.say({"loss": place, "host": 1.0}, step=step)
    rig.pipeline.drain(rig.now)
    rig.restart()
    assert counts(rig)[0] == 6
    for step, place in enumerate(places):
        rig.device.land(place, float(step))
    rig.run(2)
    assert rig.values() == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert counts(rig) == (6, 6, 0, {})
    assert all(rig.device.is_free(place.slot) for place in places)


def test_after_a_reboot_they_are_dropped(rig: DeviceRig) -> None:
    rig.say({"loss": rig.device.take()}, step=0)
    rig.run(1)
    rig.session.remove_ring(rig.name)
    rig.restart()
    rig.run(20)
    assert counts(rig) == (1, 0, 0, {REASON: 1})
    assert rig.of().status == "KILLED"


def test_a_slot_that_a_killed_agent_has_not_freed_is_freed_by_the_next_one(rig: DeviceRig) -> None:
    place = rig.device.take()
    rig.device.land(place, 1.0)
    rig.say({"loss": place}, step=0)
    committed = rig.pipeline.takeover._intake.devices.committed
    rig.pipeline.takeover._intake.devices.committed = lambda *_: None  # type: ignore[method-assign]
    rig.pipeline.drain(rig.now)
    assert committed is not None
    rig.restart()
    rig.run(2)
    taken = rig.device.take("float32")  # by a call that has not come to put its row
    rig.say({"loss": rig.device.take()}, step=1)  # so that the slots are opened
    rig.run(20)
    assert rig.device.is_free(place.slot)
    assert not rig.device.is_free(taken.slot), "nothing has landed there"
    assert rig.values() == [(0, 1.0)]


def test_a_place_that_leads_nowhere_is_counted(rig: DeviceRig) -> None:
    rig.say({"loss": Place(3, 3, 99), "host": 1.0}, step=0)
    rig.device.close()
    rig.session.slots_path(rig.name).unlink()
    rig.device = Device(rig.session.slots_path(rig.name))
    rig.say({"loss": Place(60_000, 3, 1)}, step=1)
    rig.run(2)
    assert counts(rig) == (3, 1, 0, {"damaged in the ring": 2})


def test_a_full_disk_changes_nothing_and_the_next_drain_has_it_all(rig: DeviceRig, monkeypatch: Any) -> None:
    first, second = rig.device.take(), rig.device.take()
    rig.say({"loss": first}, step=0)
    rig.run(1)
    rig.device.land(first, 1.0)
    rig.say({"loss": second}, step=1)
    with monkeypatch.context() as broken:
        broken.setattr(rig.pipeline.spool, "ingest", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        for _ in range(3):
            with pytest.raises(OSError, match="disk full"):
                rig.pipeline.drain(rig.now)
    rig.device.land(second, 2.0)
    rig.run(2)
    assert rig.values() == [(0, 1.0), (1, 2.0)]
    assert counts(rig) == (2, 2, 0, {})


def test_values_of_a_rank_go_where_its_other_values_go(rig: DeviceRig) -> None:
    job = JobPart(key="k", local_world_size=1)
    put(rig.ring_, Start(RunSpec(run=2, start_time=1, cwd="/", job=job)))
    put(rig.ring_, Rank(2, 3, 1, 1, 0, "began", 1, modes={"*": "each"}))
    place = rig.device.take()
    rig.say({"loss": place}, run=2)
    rig.run(1)
    rig.device.land(place, 4.0)
    rig.run(2)
    assert {key: [p.value for p in points] for key, points in rig.of(2).metrics.items()} == {"loss/rank3": [4.0]}


def test_statistics_of_ranks_wait_for_values_of_ranks_that_have_done_their_part(rig: DeviceRig) -> None:
    other, modes = rig.ring(), {"*": "stats"}
    device = Device(rig.session.slots_path(other.path.stem))
    put(rig.ring_, Start(RunSpec(run=2, start_time=1, cwd="/", job=JobPart(key="k", local_world_size=2))))
    places = [rig.device.take(), device.take()]
    for rank, (ring, place) in enumerate(zip((rig.ring_, other), places, strict=True)):
        put(ring, Rank(2, rank, 1, 1 + rank, 0, "began", 1, modes=modes), (2, 5, 100 * MS, {"loss": ext(place)}))
        put(ring, Rank(2, rank, 1, 1 + rank, 0, "ended", 9, modes=modes))
    rig.device.land(places[0], 1.0)
    rig.run(2)
    device.land(places[1], 3.0)
    rig.run(2)
    assert {key: [p.value for p in points] for key, points in rig.of(2).metrics.items()} == {
        "loss.mean": [2.0],
        "loss.min": [1.0],
        "loss.max": [3.0],
        "loss.max_rank": [1.0],
    }
    assert rig.ledger(2).of("metric").dropped == {}
    device.close()


def test_slots_of_which_a_killed_agent_has_freed_none_are_freed_though_no_row_comes_any_more(rig: DeviceRig) -> None:
    for slot in range(rig.device.count):
        place = rig.device.take()
        rig.device.land(place, float(slot))
        rig.say({"loss": place}, step=slot)
    rig.pipeline.takeover._intake.devices.committed = lambda *_: None  # type: ignore[method-assign]
    rig.pipeline.drain(rig.now)
    rig.restart()
    rig.run(20)
    assert rig.values() == [(slot, float(slot)) for slot in range(rig.device.count)]
    assert all(rig.device.is_free(slot) for slot in range(rig.device.count))


@pytest.mark.parametrize("seconds", [10, 1000])
def test_slots_that_cannot_be_opened_are_tried_again_for_a_minute(
    seconds: int, rig: DeviceRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = rig.device.take()
    rig.say({"loss": place}, step=0)
    rig.run(1)
    rig.device.land(place, 7.0)
    rig.dead.add(rig.name)
    rig.restart()
    until, opened = rig.now + seconds, rig.session.slots

    def slots(name: str) -> Any:
        if rig.now < until:
            raise OSError(24, "Too many open files")
        return opened(name)

    monkeypatch.setattr(rig.pipeline.takeover._intake.devices, "_open", slots)
    rig.run(100)
    assert counts(rig) == ((1, 1, 0, {}) if seconds < 60 else (1, 0, 0, {REASON: 1}))


def test_what_was_aside_in_a_spool_that_is_damaged_is_taken_back(rig: DeviceRig) -> None:
    landed, later = rig.device.take(), rig.device.take()
    rig.say({"loss": landed, "host": 1.0}, step=0)
    rig.say({"loss": later}, step=1)
    rig.run(1)
    rig.device.land(landed, 7.0)
    rig.pipeline.spool.close()
    path = rig.session.dir / "spool.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'delivered_key'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    body = bytearray(path.read_bytes())
    body[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(body)
    rig.pipeline = rig.agent()
    assert [found.entries for found in rig.pipeline.spool.set_aside] == [2]
    rig.run(2)
    rig.device.land(later, 8.0)
    rig.run(2)
    assert rig.values() == [(0, 7.0), (1, 8.0)]
    assert counts(rig) == (3, 3, 0, {})


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_in_whatever_order_the_ledger_adds_up(seed: int, tmp_path_factory: Any) -> None:
    rng = random.Random(seed)
    rig = DeviceRig(tmp_path_factory.mktemp("rig"))
    under_way: list[tuple[Place, int]] = []
    expected: dict[int, float] = {}
    logged = 0
    for step in range(40):
        what = rng.random()
        if what < 0.5 and any(rig.device.is_free(slot) for slot in range(16)):
            place = rig.device.take(rng.choice(["float32", "float64", "int64", "bool"]))
            rig.say({"loss": place}, step=step)
            logged += 1
            under_way.append((place, step))
        elif what < 0.75 and under_way:
            place, of = under_way.pop(rng.randrange(len(under_way)))
            value = rng.choice([0, 1])
            expected[of] = float(value)
            rig.device.land(place, value)
        elif what < 0.85:
            rig.restart()
        elif what < 0.95:
            rig.pipeline.drain(rig.now)
            rig.now += 0.1
        else:
            rig.run(rng.choice([0.2, 6.0]))
    rig.dead.add(rig.name)
    rig.run(30)
    assert dict(rig.values()) == expected
    assert counts(rig) == (logged, len(expected), 0, {REASON: logged - len(expected)} if under_way else {})
    rig.pipeline.close()
