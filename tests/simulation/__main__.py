"""`python -m simulation [SEED [N]]`: one seed with its trace, N seeds from there on, or seeds until told to stop."""

from __future__ import annotations

import sys
import time

from simulation.scenario import scenario
from simulation.world import simulate


def main() -> int:
    first = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    began, failed = time.monotonic(), 0
    for seed in range(first, first + count):
        if seed % 100 == 0:
            print(seed, flush=True)
        outcome = simulate(scenario(seed))
        if count == 1:
            print("\n".join(outcome.trace))
        if outcome.wrong:
            failed += 1
            print(f"seed {seed}: {outcome.wrong}", flush=True)
    print(f"{count} seeds, {failed} failed, {time.monotonic() - began:.1f} s")
    return failed > 0


sys.exit(main())
