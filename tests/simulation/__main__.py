"""`python -m simulation [SEED [N]]`: N seeds from one on, or until told to stop; what fails is replayed and shrunk."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter

from simulation.play import simulate
from simulation.scenario import Scenario, scenario
from simulation.shrink import as_text, kind_of, shrink

_TELL_EVERY = 1000


def main(first: int = 0, count: int | None = None, *, trace: bool = False) -> int:
    """Plays the seeds; the exit status."""
    began, failed, struck = time.monotonic(), 0, Counter[str]()
    done = 0
    seeds = itertools.count(first) if count is None else range(first, first + count)
    try:
        for seed in seeds:
            outcome = simulate(scenario(seed))
            struck.update(outcome.struck)
            done += 1
            if trace:
                print("\n".join(outcome.trace))
            if outcome.wrong is not None:
                failed += 1
                report(seed)
            if done % _TELL_EVERY == 0:
                print(f"{done} seeds, {failed} failed, {time.monotonic() - began:.0f} s", flush=True)
    except KeyboardInterrupt:
        pass
    print(f"{done} seeds from {first} on, {failed} failed, {time.monotonic() - began:.0f} s; faults that struck:")
    for fault, times in sorted(struck.items()):
        print(f"{times:9,} {fault}")
    return int(failed > 0)


def report(seed: int) -> None:
    """One that fails: that it fails again in the same way, and the least that makes it fail."""
    first, again = simulate(scenario(seed)), simulate(scenario(seed))
    print(f"\nseed {seed}: {first.wrong}")
    print("The same trace once more, byte for byte." if first.trace == again.trace else "NOT the same trace again.")

    def fails(candidate: Scenario) -> bool:
        return kind_of(simulate(candidate).wrong) == kind_of(first.wrong)

    least = shrink(scenario(seed), fails)
    print(f"{simulate(least).wrong}\n{as_text(least)}\n", flush=True)


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:3] if text]
    sys.exit(main(*numbers, trace="--trace" in sys.argv))
