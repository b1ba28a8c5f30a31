"""How old is a value when it can be read in MLflow?"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

from bench import Bench
from figures import Figure, Samples, judged, shown

_POLL = 0.02  # seconds


def watch(uri: str, calls: int, rate: float) -> dict[str, list[float]]:
    """Seconds from each call to its visibility; and from `start_run` to that of the first call."""
    import tailrace as sdk

    started = time.monotonic()
    run = sdk.start_run(tracking_uri=uri)
    sdk.log(step=0, loss=0.25, accuracy=0.5, lr=0.001, grad_norm=1.5, throughput=1234.5)
    latest = _reader(uri, run.run_id)
    seen: dict[int, float] = {}
    called: dict[int, float] = {}
    done = threading.Event()

    def poll() -> None:
        top = -1
        while not done.is_set():
            found, now = latest(), time.monotonic()
            seen.update(dict.fromkeys(range(top + 1, found + 1), now))
            top = max(top, found)
            if top >= calls:
                return
            time.sleep(_POLL)

    watcher = threading.Thread(target=poll, daemon=True)
    watcher.start()
    # The agent has loaded MLflow and the run is there: what follows is the lag of a run under way.
    while 0 not in seen:
        time.sleep(_POLL)
    due = time.monotonic()
    for step in range(1, calls + 1):
        # From the plan and not from the last call: a late one does not push all others back.
        due += 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))
        called[step] = time.monotonic()
        sdk.log(step=step, loss=step + 0.25, accuracy=0.5, lr=0.001, grad_norm=1.5, throughput=1234.5)
    watcher.join(60)
    done.set()
    return {"lags": [seen[step] - at for step, at in called.items()], "first": [seen[0] - started]}


def _reader(uri: str, run_id: str) -> Callable[[], int]:
    """Reads the newest step of a metric, as anybody could."""
    if uri.startswith("sqlite"):
        db = sqlite3.connect(f"file:{uri.removeprefix('sqlite:///')}?mode=ro", uri=True, check_same_thread=False)
        query = "SELECT max(step) FROM latest_metrics WHERE run_uuid = ? AND key = 'loss'"

        def from_table() -> int:
            with contextlib.suppress(sqlite3.OperationalError):  # locked by a writer: ask again
                found = db.execute(query, (run_id,)).fetchone()[0]
                return -1 if found is None else int(found)
            return -1

        return from_table
    import json
    import urllib.request

    def from_server() -> int:
        address = f"{uri}/api/2.0/mlflow/runs/get?run_id={run_id}"
        with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 - the server of this benchmark
            metrics = json.load(answer)["run"]["data"].get("metrics", [])
        return max((int(metric["step"]) for metric in metrics if metric["key"] == "loss"), default=-1)

    return from_server


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    firsts = []
    for name, uri in bench.stores().items():
        lags: list[float] = []
        for _ in range(bench.scale(3, 1)):
            found = bench.child("lag", "watch", uri=uri, calls=300, rate=100)
            lags += found["lags"]
            firsts += found["first"]
        samples = Samples(lags)
        yield judged(
            f"lag at 100 calls/s, p95, {name}",
            samples,
            value=samples.quantile(0.95),
            most=1.5,
            note=f"p50 {samples.median:.2f}, worst {samples.values[-1]:.2f} s, of {len(lags)} calls, polled at 50 Hz",
        )
    yield shown("from start_run to the first value in MLflow", Samples(firsts), note="the agent loads MLflow first")
