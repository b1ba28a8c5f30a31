"""A program that trains nothing and logs a lot. Run by the tests, which kill it.

Its one argument is a JSON object; see `faults.program.Plan`. It says `run <id>` on standard output when its run has
begun, and `end` when it has ended.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tailrace
from faults.oracle import Journal, QuickJournal
from tailrace._session import agent_keeper

INSIDE, OUTSIDE = b"L"[0], b"-"[0]
PERIOD = 4096
"""Steps after which values come again: they are made beforehand, so that kills are more likely to fall in `log()`."""


def value_of(key: str, step: int) -> float:
    """What is logged under this key at this step."""
    if key.endswith("odd"):
        return (math.nan, math.inf, -math.inf, -0.0)[step % 4]
    step %= PERIOD
    return (step * 2654435761 % 2**32) / 2**32 if key.endswith("loss") else step / 7


def main(plan: dict[str, object]) -> None:
    if plan.get("no_pauses"):  # the keeper rests after a few quick deaths; these tests kill faster than that
        agent_keeper._QUICK_DEATHS = 10**6
    settings = dict(plan.get("settings") or {})
    run = tailrace.start_run(tracking_uri=plan["uri"], experiment_name=plan.get("experiment"), quiet=True, **settings)
    print("run", run.id, flush=True)
    train(plan)
    if plan.get("end", True):
        tailrace.end_run()
    print("end", flush=True)


def train(plan: dict[str, object]) -> None:
    """Logs until it is told to stop, or for some steps."""
    journal: Journal | QuickJournal = Journal(Path(str(plan["journal"])))
    prefix, pause, stop = str(plan.get("prefix", "main")), float(plan.get("pause", 0)), Path(str(plan["stop"]))
    tight = Path(str(plan["tight"]))
    keys = [f"{prefix}/{n // 3 or ''}{('loss', 'speed', 'odd')[n % 3]}" for n in range(int(plan.get("keys", 3)))]
    table = [{key: value_of(key, step) for key in keys} for step in range(PERIOD)]
    # In a hurry one call for each: more of the time inside of `log()`.
    hurried = [[{key: value} for key, value in values.items()] for values in table]
    stage = _stage()
    steps = plan.get("steps")
    for step in itertools.count():
        if (steps is not None and step >= int(steps)) or (step % 64 == 0 and stop.exists()):
            return
        values = table[step % PERIOD]
        calls = [values] if isinstance(journal, Journal) else hurried[step % PERIOD]
        before = time.time_ns()
        stage[0] = INSIDE
        for call in calls:
            tailrace.log(call, step=step)
        stage[0] = OUTSIDE
        journal.note(step, values, before, time.time_ns())
        if pause:
            time.sleep(pause)
            if tight.exists():
                pause, journal = 0.0, QuickJournal(Path(str(plan["journal"])), keys)
        elif isinstance(journal, QuickJournal) and journal.full:
            journal = Journal(Path(str(plan["journal"])))


def _stage() -> mmap.mmap:
    """One byte that says whether this process is inside of `log()`; it outlives the process."""
    folder = os.environ.get("FAULTS_STAGES")
    if folder is None:
        return mmap.mmap(-1, 64)
    fd = os.open(Path(folder, f"{os.getpid()}.trainer"), os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(fd, 64)
    return mmap.mmap(fd, 64)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
