"""What does it cost a program that what it prints is kept?

Steps by turns, within one loop: one prints to where the output goes, the next through the tee. So each is compared
with one that was 10 ms away from it, and what changes more slowly (clock, temperature, neighbours) is in both. A step
begins with its line, so that what the tee does with it falls into the same step.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import psutil

from bench import Bench
from figures import Figure, Samples, judged

_STEP = 0.010
"""Seconds of work between two lines."""
_RUNS = 30
_SETTLED = 0.1
"""Seconds in which a tee comes up."""


def _work(rounds: int) -> float:
    return math.fsum(math.sqrt(number) for number in range(rounds))


def _rounds() -> int:
    """So many take a step's time."""
    took = min(_timed(20_000) for _ in range(50))
    return max(1, round(20_000 * _STEP / took))


def _timed(rounds: int) -> float:
    began = time.perf_counter()
    _work(rounds)
    return time.perf_counter() - began


def _step(number: int, rounds: int, out: TextIO) -> tuple[float, float, float]:
    """Seconds of a step, of the processor in it, and of its line alone."""
    began, processor = time.perf_counter(), time.process_time()
    print(f"step {number:6d}  loss 0.{number:05d}  accuracy 0.98765  lr 0.001", file=out)
    line = time.perf_counter()
    _work(rounds)
    used = time.process_time() - processor
    return time.perf_counter() - began, used, line - began


def _used(group: int) -> float:
    """Seconds of the processor that a tee has had."""
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group:
                times = process.cpu_times()
                return float(times.user + times.system)
        except (OSError, psutil.Error):
            continue
    return math.nan


def loop(pairs: int) -> dict[str, list[float]]:
    """The steps, each kind by turns."""
    from tailrace._console.capture import Capture

    rounds = _rounds()
    found: dict[str, list[float]] = {"tee": []}
    # As Python itself opens the output: to a pipe 8 KB at a time.
    with os.fdopen(os.dup(1), "w") as bare:
        capture = Capture.begin(Path(tempfile.mkdtemp(prefix="tailrace-console-")), 10_000_000, sys.exit)
        assert capture is not None
        assert capture._tee is not None
        time.sleep(_SETTLED)
        group, outs = capture._tee.group, {"bare": bare, "kept": sys.stdout}
        before = _used(group)
        for pair in range(pairs):
            for arm in ("bare", "kept") if pair % 2 else ("kept", "bare"):
                for what, value in zip(("step", "processor", "line"), _step(pair, rounds, outs[arm]), strict=True):
                    found.setdefault(f"{arm} {what}", []).append(value)
        found["tee"].append((_used(group) - before) / pairs)
        capture.end(30)
    return found


def runs(number: int, fresh: bool) -> dict[str, list[float]]:
    """Begin and end of runs of one process, with a new tee each, or with one for all."""
    from tailrace._console import capture as module

    kept = Path(tempfile.mkdtemp(prefix="tailrace-console-"))
    found: dict[str, list[float]] = {"begin": [], "end": []}
    for _ in range(number + 1):
        if fresh and module._resting is not None:
            module._dismiss(module._resting)
            module._resting = None
        began = time.perf_counter()
        capture = module.Capture.begin(kept, 10_000_000, sys.exit)
        found["begin"].append(time.perf_counter() - began)
        assert capture is not None
        print("a line")
        time.sleep(_SETTLED)
        began = time.perf_counter()
        capture.end(30)
        found["end"].append(time.perf_counter() - began)
    return {what: values[1:] for what, values in found.items()}


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    found = bench.child("console", "loop", pairs=bench.scale(7000, 500))
    for what, called in (("step", "wall clock"), ("processor", "the program's processor time")):
        bare = Samples(found[f"bare {what}"])
        pairs = zip(found[f"kept {what}"], found[f"bare {what}"], strict=True)
        shares = Samples((kept - other) / bare.median for kept, other in pairs)
        yield judged(
            f"a line every 10 ms that is kept, {called}",
            shares,
            most=0.01,
            value=shares.middle_mean,
            error=shares.standard_error,
            unit="share",
            note=f"{len(shares.values):,} pairs of steps by turns: {bare.median * 1e3:.1f} ms each without",
        )
    step = Samples(found["bare step"]).median
    tee = Samples(each / step for each in found["tee"])
    yield judged(
        "the same, processor time of the tee beside it", tee, unit="share", note="on another core, if one is free"
    )
    others = Samples(found["bare line"])
    note = f"{others.median * 1e6:.1f} µs where nothing is kept, and Python hands on 8 KB at a time"
    yield judged("the call of print() in it, median", Samples(found["kept line"]), note=note)
    for fresh, whose in ((True, "the first run of a process"), (False, "each run after it")):
        times = bench.child("console", "runs", number=bench.scale(_RUNS, 5), fresh=fresh)
        yield judged(f"begin, of {whose}", Samples(times["begin"]))
        yield judged(f"end, of {whose}: all is handed on", Samples(times["end"]))
