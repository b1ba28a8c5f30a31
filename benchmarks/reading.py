"""How long does reading back take, against MLflow's own client?"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

from bench import Bench
from figures import Figure, Samples, interleave, judged, timed

_KEYS = ("train/loss", "train/accuracy", "train/lr", "train/grad_norm")
_RUNS = 100


def fill(uri: str, database: str, points: int) -> list[str]:
    """A run with so many points, put into the database directly; then 100 runs to compare. Their ids, in this order."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(uri)
    now = time.time_ns() // 1_000_000
    long = client.create_run("0").info.run_id
    client.log_batch(long, [Metric(key, 0.0, now, 0) for key in _KEYS])
    each = points // len(_KEYS)
    rows = ((key, 1 / step, now + step, step, 0, long) for key in _KEYS for step in range(1, each))
    with closing(sqlite3.connect(database, timeout=60)) as db, db:
        statement = "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)"
        db.executemany(statement, rows)
    ids = [long]
    for number in range(_RUNS):
        ids.append(client.create_run("0", run_name=f"run-{number}").info.run_id)
        params = [Param(f"p{i}", str(i * number if i < 3 else i)) for i in range(20)]
        metrics = [Metric(f"m{i}", i / (step + number + 1), now, step) for i in range(10) for step in range(20)]
        client.log_batch(ids[-1], metrics, params)
    return ids


def history(uri: str, run_id: str, way: str, points: int) -> float:
    """Seconds for the whole history, the store being open."""
    from mlflow import MlflowClient

    import tailrace as sdk

    sdk.set_tracking_uri(uri)
    client = MlflowClient(uri)
    sdk.metric_history(sdk.search_runs(max_results=1)["run_id"][0])
    client.get_run(run_id)

    def ours() -> int:
        return len(sdk.metric_history(run_id))

    def theirs() -> int:
        return sum(len(client.get_metric_history(run_id, key)) for key in _KEYS)

    read: list[int] = []
    seconds = timed(lambda: read.append((ours if way == "ours" else theirs)()))
    assert read == [points // len(_KEYS) * len(_KEYS)], read
    return seconds


def compare(uri: str, run_ids: list[str], way: str, metrics: list[str] | None = None) -> float:
    """Seconds for 100 runs side by side, or for one search of MLflow's that finds as many."""
    from mlflow import MlflowClient

    import tailrace as sdk

    sdk.set_tracking_uri(uri)
    client = MlflowClient(uri)

    def ours() -> int:
        return len(sdk.compare_runs(run_ids, metrics))

    def theirs() -> int:
        return len(client.search_runs(["0"], max_results=len(run_ids)))

    call = ours if way == "ours" else theirs
    assert call() == len(run_ids)
    return Samples(timed(call) for _ in range(3)).median


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    points = bench.scale(1_000_000, 40_000)
    for name, uri in bench.stores().items():
        database = bench.dir / "server" / "mlflow.db" if name == "HTTP" else uri.removeprefix("sqlite:///")
        long, *some = bench.child("reading", "fill", uri=uri, database=str(database), points=points)
        found = interleave(
            bench.scale(3, 1),
            {
                way: lambda way=way: bench.child("reading", "history", uri=uri, run_id=long, way=way, points=points)  # type: ignore[misc]  # noqa: B023
                for way in ("theirs", "ours")
            },
        )
        ratios = Samples(ours / theirs for ours, theirs in zip(found["ours"], found["theirs"], strict=True))
        yield judged(
            f"metric_history of {points:,} points / MLflow's own paged reads, {name}",
            ratios,
            most=1.5,
            unit="x",
            note=f"{Samples(found['ours']).median:.2f} s against {Samples(found['theirs']).median:.2f} s",
        )
        taken = interleave(
            bench.scale(5, 1),
            {
                way: lambda way=way: bench.child("reading", "compare", uri=uri, run_ids=some, way=way)  # type: ignore[misc]  # noqa: B023
                for way in ("theirs", "ours")
            },
        )
        ratios = Samples(ours / theirs for ours, theirs in zip(taken["ours"], taken["theirs"], strict=True))
        ours, theirs = (Samples(taken[way]).median * 1e3 for way in ("ours", "theirs"))
        last = bench.child("reading", "compare", uri=uri, run_ids=some, way="ours", metrics=[]) * 1e3
        yield judged(
            f"compare_runs of {_RUNS} runs / one search of MLflow's, {name}",
            ratios,
            most=3.0,
            unit="x",
            note=f"{ours:.0f} ms against {theirs:.0f} ms; {last:.0f} ms for the last values alone",
        )
