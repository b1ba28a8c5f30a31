"""Faults that the simulator has found, each as the least that made it appear; all are mended."""

from __future__ import annotations

import pytest

from simulation.scenario import Scenario
from simulation.world import simulate

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
}


@pytest.mark.parametrize("fault", FOUND)
def test_what_the_simulator_has_found_stays_mended(fault: str) -> None:
    assert simulate(FOUND[fault]).wrong is None
