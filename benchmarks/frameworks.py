"""What do MLflow's own calls, and the loggers of frameworks that make them, cost through `tailrace.install()`?

The same code with the store plug-in and without it, each in an interpreter of its own, in turn, against the same store.
Nothing else differs: the plug-in's one line is the difference. Medians, and plain MLflow's own beside them.
"""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from bench import Bench
from figures import Figure, Samples, judged, shown, timed

_FIVE = {"loss": 0.5, "accuracy": 0.25, "grad_norm": 1.5, "lr": 1e-3, "throughput": 1e4}
_PAUSE = 0.002
"""Seconds between two calls: a step of training is that long at least."""
_WAYS = ("plain", "plug-in")


def _begin(uri: str, way: str) -> Any:
    """MLflow as the program has it."""
    import mlflow

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    mlflow.set_tracking_uri(uri)
    if way == "plug-in":
        import tailrace

        tailrace.install()
    return mlflow


# -- in interpreters of their own --------------------------------------------------------------------------------------


def calls(uri: str, way: str, count: int) -> list[float]:
    """Seconds in each call of `mlflow.log_metrics` with five values."""
    mlflow = _begin(uri, way)
    with mlflow.start_run():
        return _timed_steps(count, lambda step: mlflow.log_metrics(_FIVE, step=step))


def lightning(uri: str, way: str, count: int) -> list[float]:
    """Seconds in each call that Lightning's trainer makes to its MLFlowLogger at a step."""
    _begin(uri, way)
    loggers = importlib.import_module(_lightning() or "")
    logger = loggers.MLFlowLogger(experiment_name="lightning", tracking_uri=uri)
    found = _timed_steps(count, lambda step: logger.log_metrics(_FIVE, step))
    logger.finalize("success")
    return found


def trials(uri: str, way: str, count: int) -> list[float]:
    """Seconds of each trial of Optuna with the MLflow callback of `optuna-integration`."""
    import optuna

    _begin(uri, way)
    from optuna_integration import MLflowCallback

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ended: list[float] = []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    callback = MLflowCallback(uri, create_experiment=False)
    note: Callable[..., None] = lambda *_: ended.append(time.perf_counter())  # noqa: E731
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), count + 2, callbacks=[callback, note])
    return [after - before for before, after in pairwise(ended)][1:]


def fits(uri: str, way: str, count: int) -> list[float]:
    """Seconds of each run with a fit that `mlflow.sklearn.autolog()` logs, without the model."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    mlflow = _begin(uri, way)
    mlflow.sklearn.autolog(log_models=False, silent=True)
    x, y = load_iris(return_X_y=True)

    def fit() -> None:
        with mlflow.start_run():
            LogisticRegression(max_iter=200).fit(x, y)

    fit()
    return [timed(fit) for _ in range(count)]


def _timed_steps(count: int, call: Callable[[int], object]) -> list[float]:
    for step in range(5):
        call(step)
    found = []
    for step in range(5, count + 5):
        time.sleep(_PAUSE)
        found.append(timed(lambda: call(step)))  # noqa: B023 - called at once
    return found


_WHOLE = """
import sys, time
way, uri = sys.argv[1:]
import mlflow
mlflow.set_tracking_uri(uri)
if way == "plug-in":
    import tailrace
    tailrace.install()
with mlflow.start_run():
    mlflow.log_params({f"p{i}": i for i in range(10)})
    for step in range(60):
        time.sleep(0.002)
        mlflow.log_metrics({"loss": 0.5, "accuracy": 0.25}, step=step)
"""
_KILLED = """
import sys
import mlflow, tailrace
mlflow.set_tracking_uri(sys.argv[1])
tailrace.install()
mlflow.start_run()
print(mlflow.active_run().info.run_id, flush=True)
for step in range(100_000):
    mlflow.log_metric("loss", float(step), step=step)
    print(step, flush=True)
"""


def stored(uri: str, run_id: str, count: int) -> dict[str, Any]:
    """Waits until so many steps are in MLflow, for a minute at most; the steps, and the run's status."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    deadline = time.monotonic() + 60
    while True:
        steps = sorted({metric.step for metric in client.get_metric_history(run_id, "loss")})
        status = client.get_run(run_id).info.status
        if (len(steps) >= count and status != "RUNNING") or time.monotonic() > deadline:
            return {"steps": steps, "status": status}
        time.sleep(0.1)


# -- the figures -------------------------------------------------------------------------------------------------------


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    for name, uri in bench.stores().items():
        yield from _calls(bench, name, uri)
        if _lightning():
            ours, plain = _both(bench, "lightning", uri, bench.scale(300, 20))
            yield from _compared(f"a step of Lightning's MLFlowLogger, {name}", ours, plain, most=1 / 100)
        if importlib.util.find_spec("optuna_integration"):
            ours, plain = _both(bench, "trials", uri, bench.scale(30, 4))
            yield from _compared(f"an Optuna trial with MLflowCallback, {name}", ours, plain, most=1 / 2)
        ours, plain = _both(bench, "fits", uri, bench.scale(15, 3))
        yield from _compared(f"a run of scikit-learn with autolog, {name}", ours, plain, most=1.0)
        yield from _whole(bench, name, uri)
        yield _killed(bench, name, uri)


def _calls(bench: Bench, name: str, uri: str) -> Iterator[Figure]:
    ours, plain = _both(bench, "calls", uri, bench.scale(500, 30))
    what = f"mlflow.log_metrics of five values, {name}"
    yield judged(
        f"{what}, in the call", ours, most=60e-6, note=f"p99 {ours.quantile(0.99) * 1e6:.0f} µs; {_PAUSE * 1e3:.0f} ms "
        "between two calls"
    )  # fmt: skip
    yield from _compared(what, ours, plain, most=1 / 300)


def _both(bench: Bench, function: str, uri: str, count: int) -> tuple[Samples, Samples]:
    """The same measured with the plug-in and without it, in turn."""
    found: dict[str, list[float]] = {way: [] for way in _WAYS}
    for turn in range(bench.scale(5, 1)):
        for way in _WAYS[:: 1 if turn % 2 == 0 else -1]:
            found[way] += bench.child("frameworks", function, uri=uri, way=way, count=count)
    return Samples(found["plug-in"]), Samples(found["plain"])


def _compared(what: str, ours: Samples, plain: Samples, *, most: float) -> Iterator[Figure]:
    note = f"{ours.median * 1e3:.3g} against {plain.median * 1e3:.3g} ms; {len(ours.values)} each"
    yield judged(f"{what}: with the plug-in / plain", ours.over(plain), most=most, unit="x", note=note)
    yield shown(f"… plain, {what}", plain)


def _whole(bench: Bench, name: str, uri: str) -> Iterator[Figure]:
    found: dict[str, list[float]] = {way: [] for way in _WAYS}
    for turn in range(bench.scale(10, 2)):
        for way in _WAYS[:: 1 if turn % 2 == 0 else -1]:
            command = [sys.executable, "-c", _WHOLE, way, uri]
            run = lambda command=command: subprocess.run(  # noqa: E731
                command, check=True, capture_output=True, env=bench.environment(), cwd=bench.dir
            )
            found[way].append(timed(run))
            bench.clear()
    ours, plain = (Samples(found[way]) for way in ("plug-in", "plain"))
    yield from _compared(f"a program of 60 steps from its start to its exit, {name}", ours, plain, most=1.0)


def _killed(bench: Bench, name: str, uri: str) -> Figure:
    lost, noted = [], 0
    for turn in range(bench.scale(5, 1)):
        with bench.script(_KILLED, uri) as child:
            assert child.stdout is not None
            run_id = child.stdout.readline().strip()
            returned = [int(child.stdout.readline()) for _ in range(50 + 90 * turn)]
            child.kill()
            returned += [int(line) for line in child.stdout if line.endswith("\n")]
            found = bench.child("frameworks", "stored", uri=uri, run_id=run_id, count=len(returned))
        lost.append(len(set(returned) - set(found["steps"])))
        noted += len(returned)
    return judged(
        f"calls that had returned, lost by kill -9, {name}", Samples(lost), value=sum(lost), most=0, unit="n",
        note=f"of {noted}, in {len(lost)} kills; the run is {found['status']}",
    )  # fmt: skip


def _lightning() -> str | None:
    """The module of Lightning's loggers, under the name that is installed."""
    for package in ("lightning", "pytorch_lightning"):
        if importlib.util.find_spec(package):
            return "lightning.pytorch.loggers" if package == "lightning" else "pytorch_lightning.loggers"
    return None
