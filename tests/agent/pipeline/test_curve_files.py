"""The curves of runs are published while somebody looks on, and only then."""

from __future__ import annotations

import errno
import time

import pytest

from helpers.pipeline_rig import PipelineRig, put, start
from tailrace_agent.ipc import curve_files
from tailrace_agent.ipc.curve_files import LOOKS_FOR
from tailrace_agent.pipeline import curve_files as publisher


def _curves(rig: PipelineRig) -> dict[str, float | None] | None:
    found = curve_files.read(rig.session.shared, 1)
    return {key: drawn.last[2] if drawn.last else None for key, drawn in found.curves.items()} if found else None


def test_nothing_is_written_until_somebody_asks_and_then_all_that_there_was(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), (1, 0, 5, {"loss": 1.0}), (1, 1, 6, {"loss": 0.5}))
    rig.run(2)
    assert _curves(rig) is None
    curve_files.ask(rig.session.shared)
    rig.run(1)
    assert _curves(rig) == {"loss": 0.5}
    found = curve_files.read(rig.session.shared, 1)
    assert found is not None
    assert [span.last for span in found.curves["loss"].line] == [1.0, 0.5]
    put(ring, (1, 2, 7, {"loss": 0.25, "acc": True}))
    rig.run(1)
    assert _curves(rig) == {"loss": 0.25, "acc": 1.0}


def test_what_has_not_changed_is_not_written_again(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), (1, 0, 5, {"loss": 1.0}))
    curve_files.ask(rig.session.shared)
    rig.run(2)
    before = curve_files.curve_file(rig.session.shared, 1).stat().st_ino
    rig.run(3)
    assert curve_files.curve_file(rig.session.shared, 1).stat().st_ino == before


def test_when_nobody_looks_on_any_more_they_are_taken_away(rig: PipelineRig, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = rig.ring()
    put(ring, start(), (1, 0, 5, {"loss": 1.0}))
    curve_files.ask(rig.session.shared)
    rig.run(1)
    assert _curves(rig) == {"loss": 1.0}
    later = time.time() + LOOKS_FOR + 1
    monkeypatch.setattr(rig.pipeline.curve_files, "_wall", lambda: later)
    rig.run(1)
    assert _curves(rig) is None
    monkeypatch.undo()
    rig.run(1)
    assert _curves(rig) == {"loss": 1.0}, "they are asked for again"


def test_an_agent_that_follows_publishes_all_that_there_was(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), (1, 0, 5, {"loss": 1.0}), (1, 1, 6, {"loss": 0.5}))
    rig.run(1)
    rig.restart()
    curve_files.ask(rig.session.shared)
    rig.run(1)
    assert _curves(rig) == {"loss": 0.5}
    found = curve_files.read(rig.session.shared, 1)
    assert found is not None
    assert [span.last for span in found.curves["loss"].line] == [1.0, 0.5]


def test_full_shared_memory_stops_nothing_and_is_tried_again(rig: PipelineRig, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = rig.ring()
    put(ring, start(), (1, 0, 5, {"loss": 1.0}))
    curve_files.ask(rig.session.shared)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(publisher.curve_files, "write", full)
        rig.run(3)
    assert _curves(rig) is None
    assert rig.stored() == {"loss": 1}
    rig.run(1)
    assert _curves(rig) == {"loss": 1.0}


def test_the_status_of_a_run_has_the_last_step_of_its_program(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start())
    rig.run(1)
    assert rig.status().step is None
    put(ring, (1, 7, 5, {"loss": 1.0}), (1, 3, 6, {"loss": 2.0}))
    rig.run(2)
    assert rig.status().step == 7
