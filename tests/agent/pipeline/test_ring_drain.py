"""The rings of a session, as its agent reads them: each once, each by itself, and each to its end."""

from __future__ import annotations

import pytest

from helpers.pipeline_rig import PipelineRig, owner_of, put, start
from tailrace_agent.ipc.records import End, encode
from tailrace_agent.ipc.ring_format import HEAD, SPILLED

# -- the whole way -----------------------------------------------------------------------------------------------------


def test_a_run_is_not_over_while_its_values_may_stand_behind_a_frame_that_is_not_whole(rig: PipelineRig) -> None:
    ring, other = rig.ring(), rig.ring()
    put(ring, start())
    torn = encode(rig.row("torn"))
    other.words[other.off >> 3] = len(torn)  # and a checksum that is wrong
    other.off += (len(torn) + 15) & -8
    put(other, rig.row("behind"))
    put(ring, End(1, "FINISHED", 9))
    rig.run(3.0)
    assert rig.of().status == "RUNNING"
    rig.run(6.0)
    assert (rig.of().status, rig.stored()) == ("FINISHED", {"behind": 1})
    assert rig.ledger().of("metric").late == 0


def test_a_full_ring_and_its_spill_file_are_taken_over(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start())
    for step in range(5000):
        put(ring, rig.row("loss", step=step))
    assert list(rig.session.dir.glob("spill-*"))
    rig.run()
    assert rig.stored() == {"loss": 5000}
    assert [point.step for point in rig.of().metrics["loss"]] == list(range(5000))


# -- who dies ----------------------------------------------------------------------------------------------------------


def test_a_ring_whose_name_comes_back_is_read_from_its_beginning(rig: PipelineRig) -> None:
    with owner_of(rig) as owner:
        owner.put(start(), *(rig.row("old", step=step) for step in range(300)))
        rig.run(2)
        name = owner.ring
    rig.run(5)
    assert rig.session.rings() == []
    ring = rig.ring()
    ring.path.rename(rig.session.shared / f"{name}.ring")  # the same process id, hours later
    put(ring, start(2), *(rig.row("new", run=2, step=step) for step in range(5)))
    rig.run(5)
    assert rig.stored(2) == {"new": 5}
    assert rig.ledger(2).pending == 0


@pytest.mark.parametrize("content", [b"", b"garbage" * 20_000])
def test_a_ring_that_is_none_is_removed_when_it_has_no_owner(rig: PipelineRig, content: bytes) -> None:
    (rig.session.shared / "123-0000.ring").write_bytes(content)
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(5)
    assert rig.session.rings() == [ring.path.stem]
    assert rig.stored() == {"a": 1}
    assert rig.log.events.count("ring cannot be read") == 1


def test_a_damaged_frame_of_a_living_owner_is_skipped_after_a_while(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(1)
    at = ring.off
    put(ring, rig.row("b"), rig.row("c"))
    ring.memory[at + 12] ^= 1
    rig.run(4)
    assert rig.ledger().accepted == 1
    rig.run(10)
    assert rig.stored() == {"a": 1, "c": 1}
    assert rig.log.events.count("damaged frames skipped") == 1
    assert rig.ledger().dropped == {"damaged in the ring": 1}


def test_a_ring_that_cannot_be_read_stops_no_other_one(rig: PipelineRig) -> None:
    ring, other = rig.ring(), rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(1)
    ring.words[HEAD] = 3
    ring.words[SPILLED] = 50
    rig.session.spill_path(ring.path.stem).mkdir()
    put(other, start(2), rig.row("b", run=2))
    rig.run(2)
    assert rig.stored(2) == {"b": 1}
    rig.run(10)
    assert rig.stored(2) == {"b": 1}
    put(ring, rig.row("c"))
    rig.run(10)
    assert rig.stored() == {"a": 1, "c": 1}
    assert rig.ledger().dropped == {"damaged in the ring": 2}  # the header's word, and what was to be in the file
