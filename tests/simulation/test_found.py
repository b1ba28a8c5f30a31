"""Faults that the simulator has found, each as the least that made it appear; all are mended."""

from __future__ import annotations

import pytest

from simulation.play import simulate
from simulation.scenario import Scenario

FOUND = {
    "a later param overtook one that had found no room": Scenario(
        seed=294,
        families=(),
        spool_max_bytes=8000,
        actions=(
            ["join", 0],
            ["start", 0, 0, None],
            ["burst", 0, 0, 81],
            ["params", 0, 0, 1, 7000],
            ["params", 0, 0, 1, 2],
            ["pass", 0.6, 35069],
        ),
    ),
    "what was dropped while a ledger was being stored was not in it": Scenario(
        seed=96,
        families=(),
        flush_interval=0.05,
        spool_max_bytes=8000,
        actions=(
            ["join", 0],
            ["start", 0, 0, None],
            ["pass", 0.02, 55317],
            ["start", 0, 1, 0],
            ["kill", 0],
            ["join", 0],
            ["pass", 0.6, 10724],
            ["arm", "noting", 4, "meanwhile", ["artifact", 0, 0, 2, 1], ["turn", "upload"], ["turn", "drain"]],
            ["burst", 0, 1, 71],
            ["pass", 8.0, 19313],
        ),
    ),
    "a run was over before a value that stood behind a frame that was not whole": Scenario(
        seed=11945,
        families=(),
        flush_interval=0.05,
        actions=(
            ["join", 0],
            ["join", 2],
            ["pass", 0.02, 21398],
            ["start", 0, 3, None],
            ["torn", 2, 3, True],
        ),
    ),
    "a run was created once more after a power cut": Scenario(
        seed=1278,
        families=(),
        power_cuts=True,
        actions=(
            ["join", 0],
            ["pass", 0.6, 52498],
            ["sigterm"],
            ["start", 0, 2, None],
            ["pass", 2.0, 40723],
            ["power", 892105136],
        ),
    ),
    "artifacts waited an hour for a probe that nobody made": Scenario(
        seed=30857,
        families=(),
        drain_interval=0.3,
        flush_interval=0.05,
        retry_max_delay=30.0,
        spool_max_bytes=8000,
        power_cuts=True,
        actions=(
            ["join", 0],
            ["start", 0, 0, None],
            ["pass", 0.02, 11212],
            ["arm", "request", 0, "503", 20.0],
            ["flush", 0, 0],
            ["artifact", 0, 0, 0, 1],
            ["burst", 0, 0, 120],
            ["pass", 0.6, 44704],
            ["burst", 0, 0, 36],
        ),
    ),
    "an artifact that had arrived was counted as gone after a power cut": Scenario(
        seed=1000863,
        families=(),
        retry_max_delay=2.0,
        power_cuts=True,
        actions=(
            ["join", 0],
            ["start", 0, 0, None],
            ["join", 1],
            ["pass", 2.0, 33409],
            ["sigterm"],
            ["params", 1, 0, 4, 7000],
            ["pass", 2.0, 19175],
            ["power", 3757259698],
        ),
    ),
    "the agent left what it could not bury on a full disk": Scenario(
        seed=104,
        families=(),
        retry_max_delay=2.0,
        actions=(
            ["join", 0],
            ["start", 0, 0, None],
            ["pass", 0.15, 56475],
            ["end", 0, 0, "FINISHED"],
            ["delete", 0],
            ["join", 1],
            ["arm", "begin", 5, "full"],
            ["log", 0, 0, 3, "plain"],
            ["artifact", 1, 0, 0, 3000],
            ["pass", 8.0, 17705],
        ),
    ),
    "what a checkpoint had brought to the disk was taken for lost": Scenario(
        seed=1000315,
        families=("disk", "power"),
        flush_interval=0.05,
        retry_max_delay=2.0,
        power_cuts=True,
        actions=(
            ["join", 0],
            ["start", 0, 0, None],
            ["pass", 0.02, 60313],
            ["arm", "commit", 0, "full"],
            ["pass", 0.6, 27950],
            ["arm", "commit", 2, "eio"],
            ["flush", 0, 0],
            ["pass", 8.0, 49297],
            ["log", 0, 0, 90, "odd"],
            ["arm", "commit", 2, "full"],
            ["pass", 0.6, 50118],
            ["power", 3505725778],
        ),
    ),
    "a point was counted twice whose twin came behind those of another process": Scenario(
        seed=1004283,
        families=("network", "status", "children"),
        retry_max_delay=2.0,
        actions=(
            ["join", 0],
            ["start", 0, 0, None],
            ["pass", 8.0, 30538],
            ["arm", "request", 0, "late", 0.5],
            ["flush", 0, 0],
            ["log", 0, 0, 90, "plain"],
            ["pass", 0.02, 14084],
            ["join", 1],
            ["log", 1, 0, 90, "twins"],
            ["log", 0, 0, 3, "plain"],
        ),
    ),
    "an artifact of a deleted run was tried for ever": Scenario(
        seed=3003688,
        families=("store",),
        drain_interval=0.3,
        flush_interval=0.05,
        actions=(
            ["join", 0],
            ["start", 0, 0, None],
            ["end", 0, 0, "FINISHED"],
            ["pass", 0.15, 62890],
            ["artifact", 0, 0, 0, 1],
            ["delete", 0],
            ["upload_fault", 10000],
        ),
    ),
}


@pytest.mark.parametrize("fault", FOUND)
def test_what_the_simulator_has_found_stays_mended(fault: str) -> None:
    assert simulate(FOUND[fault]).wrong is None
