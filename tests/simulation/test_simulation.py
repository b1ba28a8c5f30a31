"""The whole path under every fault that the simulator knows: nothing lost or doubled, nothing said that is not so."""

from __future__ import annotations

import pytest

from simulation.mutations import MUTATIONS, mutated
from simulation.play import simulate
from simulation.scenario import Scenario, scenario
from simulation.shrink import kind_of, shrink

SEEDS = 500
PARTS = 10
QUICK = 120
"""Seeds within which the default suite looks for a few of the known faults, and `make test-faults` for all in 2,000."""
SAMPLE = (
    "a flush is answered before the agent has counted everything",
    "a parent is told to be over before the runs below it",
    "a run is told to be over before what came before its end",
)


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_or_doubled_whatever_fails_and_whoever_is_killed(part: int) -> None:
    wrong = {seed: outcome.wrong for seed in range(part, SEEDS, PARTS) if (outcome := simulate(scenario(seed))).wrong}
    assert not wrong, f"replay and shrink one with: make test-sim SEED={min(wrong)} N=1"


def test_a_seed_plays_the_same_again_byte_for_byte() -> None:
    for seed in range(1000, 1010):
        assert simulate(scenario(seed)) == simulate(scenario(seed))


def test_the_faults_really_strike() -> None:
    struck = {fault for seed in range(60) for fault in simulate(scenario(seed)).struck}
    assert {fault.partition(": ")[2] for fault in struck} >= {"kill", "lost", "full", "eio", "meanwhile"}


@pytest.mark.parametrize("fault", MUTATIONS)
def test_each_fault_of_the_past_can_be_put_back_into_the_source_as_it_is(fault: str) -> None:
    with mutated(MUTATIONS[fault]):
        pass


@pytest.mark.parametrize("fault", SAMPLE)
def test_a_fault_of_the_past_is_found_and_shrunk(fault: str) -> None:
    with mutated(MUTATIONS[fault]):
        first = _first_failure(QUICK)
        wrong = simulate(first).wrong
        least = shrink(first, lambda each: kind_of(simulate(each).wrong) == kind_of(wrong))
        assert kind_of(simulate(least).wrong) == kind_of(wrong)
    assert len(least.actions) <= 16
    assert simulate(least).wrong is None


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", MUTATIONS)
def test_each_fault_of_the_past_is_found_within_two_thousand_seeds(fault: str) -> None:
    with mutated(MUTATIONS[fault]):
        failing = _first_failure(2000)
    assert simulate(failing).wrong is None


def _first_failure(seeds: int) -> Scenario:
    return next(each for seed in range(seeds) if simulate(each := scenario(seed)).wrong is not None)
