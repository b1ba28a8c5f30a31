"""How long does reading back take, against MLflow's own client?"""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from bench import Bench
from figures import Figure, Samples, interleave, judged, timed

_KEYS = ("train/loss", "train/accuracy", "train/lr", "train/grad_norm")
_RUNS = 100
_SOME = ("m1", "m2", "m3")
_ALL = 10
_FOREIGN = "runs logged with MLflow alone"  # no target: nobody has noted what their histories hold


def fill(uri: str, database: str, points: int) -> list[str]:
    """A run with so many points, put into the database directly; then 100 runs to compare, logged with MLflow alone.

    Their ids, in this order.
    """
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
        # Past MLflow, by which a million points take minutes.
        db.executemany(statement, rows)
    ids = [long]
    for number in range(_RUNS):
        ids.append(client.create_run("0", run_name=f"run-{number}").info.run_id)
        params = [Param(f"p{i}", str(i * number if i < 3 else i)) for i in range(20)]
        metrics = [Metric(f"m{i}", i / (step + number + 1), now, step) for i in range(_ALL) for step in range(20)]
        client.log_batch(ids[-1], metrics, params)
    return ids


def fill_ours(uri: str) -> list[str]:
    """The same 100 runs, logged with tailrace: their ids."""
    import tailrace as sdk

    sdk.set_tracking_uri(uri)
    sdk.set_experiment("ours")
    ids = []
    for number in range(_RUNS):
        params = {f"p{i}": i * number if i < 3 else i for i in range(20)}
        with sdk.start_run(run_name=f"run-{number}", params=params) as run:
            for step in range(20):
                run.log({f"m{i}": i / (step + number + 1) for i in range(_ALL)}, step=step)
        ids.append(run.run_id)
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    deadline = time.monotonic() + 60
    # The note of the smallest and largest values comes with the ledger, after the end.
    while any("tailrace.ledger" not in client.get_run(run_id).data.tags for run_id in ids):
        assert time.monotonic() < deadline, "the runs are not settled"
        time.sleep(0.2)
    return ids


def history(uri: str, run_id: str, way: str, points: int) -> float:
    """Seconds for the whole history, the store being open."""
    from mlflow import MlflowClient

    import tailrace as sdk

    sdk.set_tracking_uri(uri)
    client = MlflowClient(uri)
    # Opens the store on both sides, so that only the reading is timed.
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
    """Seconds for 100 runs side by side, or for one search of MLflow's that finds the same: the mean of some."""
    from mlflow import MlflowClient

    import tailrace as sdk

    sdk.set_tracking_uri(uri)
    client = MlflowClient(uri)
    experiment = client.get_run(run_ids[0]).info.experiment_id

    def ours() -> int:
        return len(sdk.compare_runs(run_ids, metrics))

    def theirs() -> int:
        return len(client.search_runs([experiment], max_results=len(run_ids)))

    call = ours if way == "ours" else theirs
    assert call() == len(run_ids)
    # A mean: every few requests the server pauses, likely for its garbage, and a median shows that of long calls alone.
    return statistics.fmean(timed(call) for _ in range(7))


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
        logged = {"": bench.child("reading", "fill_ours", uri=uri), f", {_FOREIGN}": some}
        for by, run_ids in logged.items():
            yield from _compared(bench, name + by, uri, run_ids)


def _compared(bench: Bench, name: str, uri: str, run_ids: list[str]) -> Iterator[Figure]:
    """Against one search: last values alone, those and the extremes of three metrics, and of ten."""
    asked: dict[str, list[str] | None] = {"0": [], str(len(_SOME)): list(_SOME), str(_ALL): None}

    def ours(metrics: list[str] | None) -> Callable[[], float]:
        return lambda: bench.child("reading", "compare", uri=uri, run_ids=run_ids, way="ours", metrics=metrics)

    ways = {"search": lambda: bench.child("reading", "compare", uri=uri, run_ids=run_ids, way="theirs")}
    taken = interleave(bench.scale(5, 1), ways | {count: ours(metrics) for count, metrics in asked.items()})
    search = taken["search"]
    for count in asked:
        ratios = Samples(mine / theirs for mine, theirs in zip(taken[count], search, strict=True))
        what = "last values only" if count == "0" else f"{count} metrics"
        bound = {} if _FOREIGN in name else {"most": 3.0}
        yield judged(
            f"compare_runs of {_RUNS} runs, {what} / one search of MLflow's, {name}",
            ratios,
            **bound,
            unit="x",
            note=f"{Samples(taken[count]).median * 1e3:.0f} ms against {Samples(search).median * 1e3:.0f} ms",
        )
