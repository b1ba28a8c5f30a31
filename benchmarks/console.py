"""What does it cost a program that what it prints is kept?"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import Bench
from figures import Figure, Samples, judged

_STEP = 0.010
"""Seconds of work between two lines."""
_ARMS = tuple(f"{arm} {what}" for arm in ("bare", "kept") for what in ("step", "line", "processor"))


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


def _block(rounds: int, steps: int) -> tuple[float, float, float]:
    """Seconds of a step with its line, of the line alone, and of the processor a step: medians, and a mean."""
    whole, lines = [], []
    processor = time.process_time()
    for step in range(steps):
        began = time.perf_counter()
        _work(rounds)
        before = time.perf_counter()
        print(f"step {step:6d}  loss 0.{step:05d}  accuracy 0.98765  lr 0.001")
        after = time.perf_counter()
        whole.append(after - began)
        lines.append(after - before)
    return statistics.median(whole), statistics.median(lines), (time.process_time() - processor) / steps


def loop(pairs: int, steps: int) -> dict[str, list[float]]:
    """Blocks of steps by turns: with nothing between the program and its reader, and with a tee."""
    from tailrace._console.capture import Capture

    rounds = _rounds()
    found: dict[str, list[float]] = {name: [] for name in (*_ARMS, "begin", "end")}
    kept = Path(tempfile.mkdtemp(prefix="tailrace-console-"))

    def note(arm: str, seconds: tuple[float, float, float]) -> None:
        for what, value in zip(("step", "line", "processor"), seconds, strict=True):
            found[f"{arm} {what}"].append(value)

    def bare() -> None:
        note("bare", _block(rounds, steps))

    def captured() -> None:
        began = time.perf_counter()
        capture = Capture.begin(kept, 10_000_000, sys.exit)
        found["begin"].append(time.perf_counter() - began)
        assert capture is not None
        time.sleep(0.1)  # its process comes up
        note("kept", _block(rounds, steps))
        began = time.perf_counter()
        capture.end(30)
        found["end"].append(time.perf_counter() - began)

    for pair in range(pairs):
        for arm in (bare, captured) if pair % 2 else (captured, bare):
            arm()
    return found


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    found = bench.child("console", "loop", pairs=bench.scale(40, 8), steps=bench.scale(100, 50))
    for what, called in (("step", "share of the step"), ("processor", "the same, of the program's processor time")):
        bare = Samples(found[f"bare {what}"])
        pairs = zip(found[f"kept {what}"], found[f"bare {what}"], strict=True)
        shares = Samples((kept - other) / bare.median for kept, other in pairs)
        yield judged(
            f"a line every 10 ms that is kept, {called}" if what == "step" else called,
            shares,
            most=0.01,
            value=shares.middle_mean,
            error=shares.standard_error,
            unit="share",
            note=f"by turns with the same loop alone: {bare.median * 1e3:.1f} ms a step",
        )
    others = Samples(found["bare line"])
    note = f"{others.median * 1e6:.1f} µs where nothing is kept, and Python hands on 8 KB at a time"
    yield judged("the call of print() in it, median", Samples(found["kept line"]), note=note)
    yield judged("start of the tee", Samples(found["begin"]))
    yield judged("end: the outputs are put back, and all is handed on", Samples(found["end"]))
