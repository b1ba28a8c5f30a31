"""What does the same run cost with `mlflow.log_metrics(synchronous=False)`?

Both loops run the same steps of 1 ms against the same store, each in an interpreter of its own, in turn. MLflow's calls
leave work to threads of the same interpreter, which slow down the steps that follow; so its steps are compared with
those before the run and after it, while ours alternate in blocks, which is finer and favours nobody: ours leave nothing
behind in the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench import Bench
from figures import Figure, Samples, judged, shown, timed
from training import Step, block, call_times, pairs

_STEP = 0.001


def mlflow_async(uri: str, steps: int) -> dict[str, float]:
    """A run with MLflow's asynchronous logging."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    step = Step(_STEP)

    def call(step: int, **values: float) -> None:
        mlflow.log_metrics(values, step=step, synchronous=False)

    mlflow.start_run()
    # Starts MLflow's threads and opens the store, before the clock runs.
    call(0, loss=0.25)
    mlflow.flush_async_logging()
    before = block(step, steps // 2, None)
    logged = block(step, steps, call)
    end = timed(lambda: (mlflow.end_run(), mlflow.flush_async_logging()))  # the first waits, since MLflow 3
    # Before and after: a machine that gets slower meanwhile would count as MLflow's cost.
    after = block(step, steps // 2, None)
    return {"cost": logged - (before + after) / 2, "end": end}


def ours(uri: str, steps: int) -> dict[str, float]:
    """The same with tailrace."""
    import tailrace as sdk

    run = sdk.start_run(tracking_uri=uri)
    assert run.run_id
    step = Step(_STEP)
    slowdown = Samples(pairs(step, sdk.log, steps // 2)["calm"])
    end = timed(sdk.end_run)
    return {"cost": slowdown.middle_mean, "error": slowdown.standard_error, "end": end}


def in_the_call(uri: str, steps: int) -> dict[str, list[float]]:
    """Seconds in each call, of both, one block of each in turn; for the slowdown see above."""
    import mlflow

    import tailrace as sdk

    mlflow.set_tracking_uri(uri)
    mlflow.start_run()
    run = sdk.start_run(tracking_uri=uri)
    assert run.run_id
    step = Step(_STEP)

    def theirs(step: int, **values: float) -> None:
        mlflow.log_metrics(values, step=step, synchronous=False)

    found: dict[str, list[float]] = {"mlflow": [], "ours": []}
    for _ in range(steps // 50):
        found["ours"] += call_times(sdk.log, 50, step)
        found["mlflow"] += call_times(theirs, 50, step)
        mlflow.flush_async_logging()
    return found


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    steps = bench.scale(1000, 300)
    for name, uri in bench.stores().items():
        mine: list[dict[str, Any]] = []
        theirs: list[dict[str, Any]] = []
        for _ in range(bench.scale(5, 2)):
            mine.append(bench.child("versus_mlflow", "ours", uri=uri, steps=steps))
            theirs.append(bench.child("versus_mlflow", "mlflow_async", uri=uri, steps=steps))
        cost = Samples(found["cost"] for found in mine)
        their_cost = Samples(found["cost"] for found in theirs)
        error = Samples(found["error"] for found in mine).median
        yield judged(
            f"slowdown per log() / log_metrics(synchronous=False), {name}",
            cost.over(their_cost),
            error=error / len(mine) ** 0.5 / their_cost.median,
            most=1 / 200,
            unit="x",
            note=f"{cost.median * 1e6:.2f} (± {error * 1e6:.1f} each) against {their_cost.median * 1e6:.0f} µs, "
            f"{steps} steps of 1 ms",
        )
        calls = bench.child("versus_mlflow", "in_the_call", uri=uri, steps=steps)
        own, other = Samples(calls["ours"]), Samples(calls["mlflow"])
        yield shown(
            f"… time in the call alone, {name}",
            own.over(other),
            unit="x",
            note=f"{own.median * 1e6:.2f} against {other.median * 1e6:.0f} µs, in one process, in turn",
        )
        ends, their_ends = Samples(found["end"] for found in mine), Samples(found["end"] for found in theirs)
        yield judged(
            f"end_run / MLflow's, both until all is delivered, {name}",
            ends.over(their_ends),
            most=1 / 10,
            unit="x",
            note=f"{ends.median * 1e3:.0f} against {their_ends.median * 1e3:.0f} ms after {steps} steps",
        )
