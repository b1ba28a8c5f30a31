"""What does the tracking of one trial cost in a search, against the callback of `optuna-integration`?

An objective that does nothing but log 50 times. Trials are timed from the end of the one before to their own, and a
trial without any tracking is taken off. Both log the same to the same store, each in an interpreter of its own, in
turn. Both have a run for each trial; theirs asks the store at every call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from bench import Bench
from figures import Figure, Samples, judged, shown

_LOGS = 50
_SPACE = {"x": {"type": "float", "low": 0.0, "high": 1.0}}


def trials(uri: str, way: str, count: int) -> list[float]:
    """Seconds of each trial but the first."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ended: list[float] = []
    _WAYS[way](uri, count, lambda: ended.append(time.perf_counter()))
    return [after - before for before, after in pairwise(ended)]


def _bare(uri: str, count: int, end: Callable[[], None]) -> None:
    del uri
    _study().optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), count, callbacks=[lambda *_: end()])


def _ours(uri: str, count: int, end: Callable[[], None]) -> None:
    import tailrace as sdk
    from tailrace.hpo import OptunaRunner

    def objective(trial: Any, params: dict[str, float]) -> float:
        if trial.number:
            end()  # of the one before
        for step in range(_LOGS):
            sdk.log(step=step, loss=0.25, accuracy=0.5)
        return params["x"]

    runner = OptunaRunner("ours", metric="value", sampler="random", seed=0)
    runner.optimize(objective, count + 1, _SPACE, mlflow_tracking_uri=uri)


def _theirs(uri: str, count: int, end: Callable[[], None]) -> None:
    import mlflow
    from optuna_integration import MLflowCallback

    callback = MLflowCallback(uri, create_experiment=False, mlflow_kwargs={"nested": True})
    mlflow.set_tracking_uri(uri)

    @callback.track_in_mlflow()  # type: ignore[untyped-decorator,unused-ignore]
    def objective(trial: Any) -> float:
        for step in range(_LOGS):
            mlflow.log_metrics({"loss": 0.25, "accuracy": 0.5}, step=step)
        return float(trial.suggest_float("x", 0.0, 1.0))

    with mlflow.start_run(run_name="theirs"):
        _study().optimize(objective, count, callbacks=[callback, lambda *_: end()])


def _study() -> Any:
    import optuna

    return optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))


_WAYS = {"bare": _bare, "ours": _ours, "theirs": _theirs}


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    counts = {"bare": bench.scale(200, 20), "ours": bench.scale(200, 20), "theirs": bench.scale(20, 4)}
    for name, uri in bench.stores().items():
        found: dict[str, list[float]] = {way: [] for way in _WAYS}
        for turn in range(bench.scale(5, 1)):
            for way in list(_WAYS)[:: 1 if turn % 2 == 0 else -1]:
                found[way] += bench.child("search", "trials", uri=uri, way=way, count=counts[way])
        bare = Samples(found["bare"]).median
        ours, theirs = (Samples(seconds - bare for seconds in found[way]) for way in ("ours", "theirs"))
        note = f"start, {_LOGS} calls of log(), end; {len(ours.values)} trials; a bare one takes {bare * 1e3:.2f} ms"
        yield judged(f"tracking of one trial, {name}", ours, most=0.010, note=note)
        yield judged(
            f"tracking of one trial / MLflowCallback's, {name}", ours.over(theirs), most=0.2, unit="x",
            note=f"{len(theirs.values)} trials of theirs",
        )  # fmt: skip
        yield shown(f"MLflowCallback, one trial, {name}", theirs)
