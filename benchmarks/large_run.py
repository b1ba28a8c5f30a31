"""Does a run of many millions of points keep agent and spool small, and how do its readers fare?

`--points` says how many: 5 million by default, 100 million take half an hour and 25 GB of disk. They go into SQLite
without a server. The loop waits where more than half a million points are on their way, as one that trains does in
effect; so what is seen of agent and spool is what delivery takes, and not how far a loop that does nothing else can be
ahead.
"""

from __future__ import annotations

import sqlite3
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from bench import Bench
from figures import Figure, Samples, judged, shown, timed

_KEYS = tuple(f"layer{number}/grad_norm" for number in range(20))
_AHEAD = 500_000
_SLOWEST = 10_000  # points a second, on a machine that has much else to do
_LOOK_EVERY = 20_000  # points
_TRAINER = """
import os, sys, time
import tailrace
uri, points, ahead, every, keys = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5:]
run = tailrace.start_run(run_name="large", tracking_uri=uri, metadata=False)
assert run.run_id  # waited for: the agent has loaded MLflow
log, n, step, began = run.log, 0, 0, time.perf_counter()
while n < points:
    for _ in range(every // len(keys)):
        value = step * 1e-6
        log({key: value for key in keys}, step=step)
        step += 1
    n = step * len(keys)
    while n - run.ledger().delivered > ahead:
        time.sleep(0.02)
run.flush(3600)
seconds = time.perf_counter() - began
print("RESULT", n, run.ledger().of("metric").delivered, seconds, run.run_id, flush=True)
sys.stdin.read()
os._exit(0)
"""


def _logged(bench: Bench, uri: str, points: int) -> dict[str, Any]:
    """Logs them, and looks at agent and spool meanwhile."""
    memory, spool = list[float](), list[float]()
    over = threading.Event()

    def watch(trainer: int) -> None:
        while not over.wait(0.5):
            rss = _agent_memory(bench, trainer)
            if rss:
                memory.append(rss)
                spool.append(float(sum(file.stat().st_size for file in bench.state.glob("sessions/*/sp*"))))

    arguments = [uri, *map(str, (points, _AHEAD, _LOOK_EVERY)), *_KEYS]
    with bench.script(_TRAINER, *arguments, patience=900 + points / _SLOWEST) as child:
        watcher = threading.Thread(target=watch, args=(child.pid,))
        watcher.start()
        try:
            assert child.stdout is not None
            words = next((line.split() for line in child.stdout if line.startswith("RESULT")), [])
        finally:
            over.set()
            watcher.join()
    if not words:
        raise RuntimeError("the program that logs has failed")
    found = {"points": int(words[1]), "delivered": int(words[2]), "seconds": float(words[3]), "run": words[4]}
    return {**found, "memory": memory, "spool": spool}


def _agent_memory(bench: Bench, trainer: int) -> float:
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if process.pid != trainer and str(bench.state) in " ".join(process.info["cmdline"] or ()):
            try:
                return float(process.memory_info().rss)
            except psutil.Error:
                return 0.0
    return 0.0


def history(uri: str, run_id: str, key: str) -> dict[str, float]:
    """Seconds and bytes of memory for one metric's history: as pieces, none of which is kept, and as a table."""
    import resource

    import tailrace as sdk
    from tailrace._api.readers import reader_at

    def peak() -> float:
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024

    sdk.set_tracking_uri(uri)
    reader = reader_at(uri, "/")
    reader.find(run_id)
    before, read = peak(), list[int]()
    streaming = timed(lambda: read.append(sum(len(piece.step) for piece in reader.history(run_id, key))))
    streamed = peak()
    table = timed(lambda: read.append(len(sdk.metric_history(run_id, key))))
    assert read[0] == read[1]
    return {
        "points": read[0], "streaming": streaming, "streamed": streamed - before,
        "table": table, "tabled": peak() - streamed,
    }  # fmt: skip


def _asked_by_the_ui(server: str, run_id: str) -> dict[str, list[float]]:
    """Seconds of what MLflow's page of a run asks: the run, and the sampled history of a chart."""
    sampled = {"run_ids": run_id, "metric_key": _KEYS[0], "max_results": 320}
    paths = {
        "the run": f"runs/get?run_id={run_id}",
        "a chart": f"metrics/get-history-bulk-interval?{urllib.parse.urlencode(sampled)}",
    }

    def ask(path: str) -> None:
        address = f"{server}/ajax-api/2.0/mlflow/{path}"
        with urllib.request.urlopen(address, timeout=600) as answer:  # noqa: S310 - the server of this benchmark
            answer.read()

    return {what: [timed(lambda path=path: ask(path)) for _ in range(3)] for what, path in paths.items()}  # type: ignore[misc]


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    points = bench.points or bench.scale(5_000_000, 400_000)
    uri = bench.sqlite()
    found = _logged(bench, uri, points)
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as db:
        rows = db.execute("SELECT count(*) FROM metrics").fetchone()[0]
    if not found["points"] == found["delivered"] == rows:
        raise RuntimeError(f"{found['points']} points were logged, {found['delivered']} delivered, {rows} stored")
    what = f"a run of {rows:,} points"
    yield shown(
        f"{what}, SQLite without a server: points a second from the first call to the last acknowledgement",
        Samples([rows / found["seconds"]]),
        unit="per s",
        note=f"{found['seconds']:.0f} s",
    )
    half = len(found["memory"]) // 2
    yield judged(
        f"{what}: largest memory of the agent",
        Samples([max(found["memory"])]),
        most=250e6,
        unit="MB",
        note=f"{max(found['memory'][:half], default=0) / 1e6:.0f} MB in the first half of the time",
    )
    yield judged(
        f"{what}: largest size of spool and spill file", Samples([max(found["spool"])]), most=256e6, unit="MB",
        note=f"at most {_AHEAD:,} points were on their way",
    )  # fmt: skip
    read = bench.child("large_run", "history", uri=uri, run_id=found["run"], key=_KEYS[0])
    yield judged(
        f"history of a metric of {read['points']:,.0f} points: memory while its pieces are read",
        Samples([read["streamed"]]),
        most=64e6,
        unit="MB",
        note=f"{read['streaming']:.1f} s; metric_history(), which has all of it in a table: {read['table']:.1f} s, "
        f"{read['tabled'] / read['points']:.0f} bytes a point",
    )
    for asked, seconds in _asked_by_the_ui(bench.server_on(uri), found["run"]).items():
        yield shown(f"{what}: what MLflow's page asks for {asked}", Samples(seconds))
