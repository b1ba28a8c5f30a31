"""How fast does a backlog reach MLflow, against a bare loop of `MlflowClient.log_batch`?"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench import Bench
from figures import Figure, Samples, interleave, judged, timed

_KEYS = ("loss", "accuracy", "lr", "grad_norm", "throughput")
_BATCH = 1000  # the most metrics that MLflow takes in one request


def bare(uri: str, points: int) -> float:
    """Points a second of the bare loop: full requests, one after the other, from numbers in memory."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    steps = _BATCH // len(_KEYS)

    def send(first: int) -> None:
        at = time.time_ns() // 1_000_000
        metrics = [Metric(key, 0.25 + step, at, step) for step in range(first, first + steps) for key in _KEYS]
        client.log_batch(run_id, metrics)

    # Opens the connection, and the run in the store, before the clock runs.
    send(0)

    def send_all() -> None:
        for batch in range(1, points // _BATCH + 1):
            send(batch * steps)

    return points / timed(send_all)


def ours(uri: str, points: int) -> float:
    """Points a second from the first `log()` to the last acknowledgement, ring and spool included."""
    import tailrace as sdk

    sdk.start_run(tracking_uri=uri)
    sdk.log(step=0, loss=0.25, accuracy=0.5, lr=0.001, grad_norm=1.5, throughput=1234.5)
    assert sdk.flush(60).settled
    before = sdk.flush().delivered

    def send_all() -> None:
        log = sdk.log
        for step in range(1, points // len(_KEYS) + 1):
            log(step=step, loss=step + 0.25, accuracy=step + 0.5, lr=step + 0.1, grad_norm=step + 1.5, throughput=step)
        assert sdk.flush(600).settled

    seconds = timed(send_all)
    arrived = sdk.flush().delivered - before
    # A rate of values that did not arrive would be no rate.
    assert arrived == points, f"{arrived} of {points}"
    return points / seconds


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    points = bench.scale(200_000, 50_000)
    for name, uri in bench.stores().items():
        found = interleave(
            bench.scale(5, 2),
            {
                way: lambda way=way, uri=uri: bench.child("delivery_rate", way, uri=uri, points=points)  # type: ignore[misc]
                for way in ("bare", "ours")
            },
        )
        pairs = Samples(mine / theirs for mine, theirs in zip(found["ours"], found["bare"], strict=True))
        yield judged(
            f"delivery of {points:,} points / a bare log_batch loop, {name}",
            pairs,
            least=0.9,
            unit="share",
            note=f"{Samples(found['ours']).median:,.0f} against {Samples(found['bare']).median:,.0f} points/s",
        )
