"""What do many short runs cost on a server with MLflow's default of four workers, and how fast do they end?

A short trial is waited for: a run is started, 50 values and a param are logged, the run is ended, and MLflow has all of
it when the clock stops. MLflow's own is the same through `mlflow`, in two ways: a call for each value, as a loop logs
them, and all values in one batch, which is the least that can be done. Both acknowledge answers at once, which `mlflow`
by itself does not (see `tailrace doctor`): it is not those 40 ms a request that are compared.
"""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

from bench import WORKERS, Bench
from figures import Figure, Samples, interleave, judged, shown, timed

_VALUES = 50
_TOGETHER = 100
_KEPT_ALIVE = 20
_AT_ONCE = 4  # requests that tailrace has under way


def trials(uri: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of a short trial, in each way, in turn; in one interpreter, with all that is loaded once."""
    import mlflow
    from mlflow.entities import Metric, Param

    import tailrace as sdk

    _acknowledge_at_once()
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("scale")
    sdk.set_tracking_uri(uri)
    sdk.set_experiment("scale")
    client = mlflow.MlflowClient(uri)

    def ours(**settings: Any) -> None:
        with sdk.start_run(**settings):  # its end is waited for
            for step in range(_VALUES):
                sdk.log(step=step, loss=1 / (step + 1))
            sdk.log_params({"lr": 0.1})

    def by_calls() -> None:
        with mlflow.start_run():
            for step in range(_VALUES):
                mlflow.log_metric("loss", 1 / (step + 1), step=step)
            mlflow.log_param("lr", 0.1)

    def by_batch() -> None:
        with mlflow.start_run() as run:
            at = time.time_ns() // 1_000_000
            values = [Metric("loss", 1 / (step + 1), at, step) for step in range(_VALUES)]
            client.log_batch(run.info.run_id, metrics=values, params=[Param("lr", "0.1")])

    ways = {
        "ours": ours,
        "without metadata": lambda: ours(metadata=False),
        "a call for each value": by_calls,
        "one batch": by_batch,
    }
    for way in ways.values():
        way()  # warms
    return interleave(rounds, {name: lambda way=way: timed(way) for name, way in ways.items()})  # type: ignore[misc]


def together(uri: str, runs: int, *, lived: bool = False) -> float:
    """Seconds until MLflow knows the end of runs that all end at once, each begun by a thread of its own.

    With `lived` as when a job of many trials is over: all but their last step had been delivered before. Without, each
    has been begun just before its end.
    """
    import tailrace as sdk
    from tailrace._runs.run_part import core_of

    sdk.set_tracking_uri(uri)
    sdk.set_experiment("scale")
    with sdk.start_run():  # the agent runs, and knows the store
        sdk.log(step=0, loss=1.0)
    begun: list[Any] = []

    def begin() -> None:
        run = sdk.start_run()
        for step in range(_VALUES):
            run.log(step=step, loss=1 / (step + 1))
        run.log_params({"lr": 0.1})
        begun.append(run)

    for _ in range(runs):
        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()
    if lived:
        for run in begun:
            run.flush(60)
        time.sleep(1.0)
        for run in begun:
            run.log(step=_VALUES, loss=1 / (_VALUES + 1))
    began = time.perf_counter()
    for run in begun:
        run.end(timeout=0)
    waiting = [core_of(run) for run in begun]
    # One at a time: a hundred status files fifty times a second would be a load of its own.
    while waiting and time.perf_counter() < began + 300:
        status = waiting[-1].status()
        if status is not None and status.closed:
            waiting.pop()
        else:
            time.sleep(0.02)
    assert not waiting
    return time.perf_counter() - began


def bare(uri: str, runs: int) -> float:
    """Seconds for the same requests, four at a time, from a loop that does nothing else: what the server itself takes.

    Five a run, as tailrace sends them: created with the tags that describe it, two files of metadata, all values and
    the ledger, the end.
    """
    import http.client
    from concurrent.futures import ThreadPoolExecutor

    from mlflow import MlflowClient

    experiment = MlflowClient(uri).create_experiment(f"bare-{time.time_ns()}")
    described = [{"key": f"tailrace.described{number}", "value": "x" * 40} for number in range(14)]
    last = [{"key": "tailrace.ledger", "value": "x" * 300}, {"key": "tailrace.extremes", "value": "x" * 60}]
    ours = threading.local()

    def ask(method: str, path: str, body: str, kind: str) -> bytes:
        connection = getattr(ours, "connection", None)
        if connection is None:
            connection = ours.connection = http.client.HTTPConnection(*uri.removeprefix("http://").split(":"))
        connection.request(method, f"/api/2.0/{path}", body, {"Content-Type": kind})
        if (quick := getattr(socket, "TCP_QUICKACK", None)) is not None:
            connection.sock.setsockopt(socket.IPPROTO_TCP, quick, 1)
        answer = connection.getresponse()
        found: bytes = answer.read()
        assert answer.status == http.client.OK, found
        return found

    def post(what: str, body: dict[str, Any]) -> Any:
        return json.loads(ask("POST", f"mlflow/{what}", json.dumps(body), "application/json"))

    def one(_: int) -> None:
        at = time.time_ns() // 1_000_000
        made = post("runs/create", {"experiment_id": experiment, "user_id": "x", "start_time": at, "tags": described})
        run_id = made["run"]["info"]["run_id"]
        folder = f"mlflow-artifacts/artifacts/{experiment}/{run_id}/artifacts/tailrace"
        for name, size in (("environment.json", 2000), ("requirements.txt", 4000)):
            ask("PUT", f"{folder}/{name}", "x" * size, "text/plain")
        values = [{"key": "loss", "value": 1 / (n + 1), "timestamp": at, "step": n} for n in range(_VALUES)]
        params = [{"key": "lr", "value": "0.1"}]
        post("runs/log-batch", {"run_id": run_id, "metrics": values, "params": params, "tags": last})
        post("runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": at})

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(one, range(_AT_ONCE)))  # connects
        return timed(lambda: list(pool.map(one, range(runs))))


def _acknowledge_at_once() -> None:
    """What tailrace does for its own connections, for all of this process."""
    quick = getattr(socket, "TCP_QUICKACK", None)
    if quick is None:
        return
    receive = socket.socket.recv_into

    class Quick(socket.socket):
        def recv_into(self, *args: Any, **named: Any) -> int:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                self.setsockopt(socket.IPPROTO_TCP, quick, 1)
            return receive(self, *args, **named)

    socket.socket = Quick  # type: ignore[misc]


def kept_alive(uri: str) -> dict[str, list[float]]:
    """Seconds of a request on a connection that is kept, as usual and acknowledged at once."""
    import requests

    from tailrace_agent.mlflow.http_bounds import bound, hold

    with requests.Session() as usual, requests.Session() as quick:
        bound(quick)

        def ask(session: requests.Session) -> float:
            return timed(lambda: hold(session.get(f"{uri}/health", stream=True, timeout=30)))

        found = interleave(_KEPT_ALIVE, {"usual": lambda: ask(usual), "quick": lambda: ask(quick)})
    return {name: values[2:] for name, values in found.items()}


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    for workers in (1, WORKERS):
        uri = bench.server(workers)
        found = bench.child("scale", "kept_alive", uri=uri)
        quick, usual = Samples(found["quick"]), statistics.median(found["usual"])
        what = f"a request on a kept connection, {workers} worker{'s' if workers > 1 else ''}"
        yield shown(what, quick, note=f"a client that acknowledges as usual: {usual * 1e3:.1f} ms")
    uri = bench.server(WORKERS)
    times = bench.child("scale", "trials", uri=uri, rounds=bench.scale(20, 4))
    what = f"a short trial, waited for, {WORKERS} workers"
    theirs = {way: Samples(times[way]) for way in ("a call for each value", "one batch")}
    note = ", ".join(f"MLflow, {way}: {each.median * 1e3:.0f} ms" for way, each in theirs.items())
    ours = Samples(times["ours"])
    yield shown(what, ours, note=note)
    yield judged(f"{what}, against MLflow's", ours.over(theirs["a call for each value"]), most=1.0, unit="x")
    yield shown(f"{what}, without metadata", Samples(times["without metadata"]))
    runs = bench.scale(_TOGETHER, 20)
    arms = {
        "lived": lambda: bench.child("scale", "together", uri=uri, runs=runs, lived=True),
        "short": lambda: bench.child("scale", "together", uri=uri, runs=runs),
        "bare": lambda: bench.child("scale", "bare", uri=uri, runs=runs),
    }
    found = interleave(bench.scale(3, 1), arms)
    bare_loop = f"the same requests from a bare loop, {_AT_ONCE} at a time: {statistics.median(found['bare']):.2f} s"
    for which, words, note in (
        ("lived", "that end at once, all but their last step delivered before", ""),
        ("short", "that are begun and end at once", bare_loop),
    ):
        what = f"{runs} runs {words}, {WORKERS} workers"
        yield judged(what, Samples(found[which]), most=3.0 * runs / _TOGETHER, note=note)
