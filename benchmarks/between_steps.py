"""What does `log()` cost training: between steps of pure Python, everything that slows them down included?"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, Literal

from bench import Bench
from figures import Figure, Samples, judged, shown
from training import Step, call_times, drained, empty, pairs


def train(uri: str, seconds: float, rounds: int, agent: Literal["process", "thread"] = "process") -> dict[str, Any]:
    """The slowdown of a loop by `log()`, the time in the calls alone, and in those of a function that does nothing."""
    import tailrace as sdk

    run = sdk.start_run(tracking_uri=uri, agent=agent)
    # Waited for, so that the agent's start is not in the figures.
    assert run.run_id
    step = Step(seconds)
    found = pairs(step, sdk.log, rounds)
    each: list[float] = []
    nothing: list[float] = []
    # In turn, ten by ten: what slows the machine down meanwhile meets both.
    for _ in range(max(1, rounds // 20)):
        each += call_times(sdk.log, 10, step)
        nothing += call_times(empty, 10, step)
    assert drained(run)
    return {**found, "each": each, "empty": nothing}


def cold(uri: str, rounds: int) -> dict[str, list[float]]:
    """The calls alone, after steps that fill the processor's caches."""
    import tailrace as sdk

    run = sdk.start_run(tracking_uri=uri)
    assert run.run_id
    step = Step(0.01, weights=65536)  # 2 MB of floats
    found: dict[str, list[float]] = {"each": [], "empty": []}
    for _ in range(rounds):
        found["each"] += call_times(sdk.log, 10, step)
        found["empty"] += call_times(empty, 10, step)
    return found


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    uri = bench.sqlite()
    found = bench.child("between_steps", "train", uri=uri, seconds=0.001, rounds=bench.scale(8000, 600))
    slowdown = Samples(found["calm"])
    yield judged(
        "log() between 1 ms steps: slowdown of the loop per call",
        slowdown,
        value=slowdown.middle_mean,
        error=slowdown.standard_error,
        most=3e-6,
        note=f"{_pairs(found)}; {_alone(found)}",
    )
    found = bench.child("between_steps", "train", uri=uri, seconds=0.01, rounds=bench.scale(800, 40))
    each = Samples(found["each"])
    yield judged(
        "log() between 10 ms steps: share of the step, in the call",
        Samples(seconds / 0.01 for seconds in each.values),
        value=each.middle_mean / 0.01,
        most=0.0005,
        unit="share",
        note=f"{_alone(found)}; slowdown {Samples(found['calm']).middle_mean * 1e6:+.1f} µs {_pairs(found)}",
    )
    found = bench.child("between_steps", "cold", uri=uri, rounds=bench.scale(60, 8))
    calls = Samples(found["each"])
    what = "log() between 10 ms steps that fill the caches (2 MB)"
    yield shown(what, calls, value=calls.middle_mean, note=_alone(found))
    found = bench.child("between_steps", "train", uri=uri, seconds=0.001, rounds=bench.scale(4000, 600), agent="thread")
    yield shown(
        'log() between 1 ms steps, agent="thread": slowdown per call',
        Samples(found["calm"]),
        value=statistics.fmean(found["calm"]),
        note=f"plain mean, since delivery takes the GIL in bursts; {_alone(found)}",
    )


def _pairs(found: dict[str, list[float]]) -> str:
    calm, every = found["calm"], found["all"]
    return f"± {Samples(calm).standard_error * 1e6:.2f} µs, from {len(calm):,} undisturbed of {len(every):,} pairs"


def _alone(found: dict[str, list[float]]) -> str:
    each, nothing = Samples(found["each"]), Samples(found["empty"])
    return (
        f"in the call {each.middle_mean * 1e6:.2f} µs, p99 {each.quantile(0.99) * 1e6:.1f} "
        f"(an empty function there: {nothing.middle_mean * 1e6:.2f} µs)"
    )
