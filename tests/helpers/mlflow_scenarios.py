"""What programs do with MLflow, and what they see and store by it: run with the store plug-in and without it.

A program: `python mlflow_scenarios.py plain|plug-in`. It prints one line of JSON: by the name of each scenario what it
has seen, in words that are the same for every run of it (ids and times are left out). A call that is refused is its
error's name, code and text.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus, RunTag

SCENARIOS: dict[str, Callable[[MlflowClient], Any]] = {}
_IDS = re.compile(r"\b(?:m-)?[0-9a-f]{32}\b")
_TIMES = re.compile(r"\b1[789]\d{11}\b")


def scenario(call: Callable[[MlflowClient], Any]) -> Callable[[MlflowClient], Any]:
    SCENARIOS[call.__name__] = call
    return call


def refusal(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """How a call is refused; None if it is not."""
    try:
        call(*args, **named)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is to be the same
        return [type(error).__name__, getattr(error, "error_code", None), str(error)]
    return None


def stored(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """All of a run that is its program's own."""
    run = client.get_run(run_id)
    histories = {
        key: sorted([m.step, repr(m.value), m.timestamp if m.timestamp < 10**12 else None] for m in history)
        for key in run.data.metrics
        for history in [client.get_metric_history(run_id, key)]
    }
    return {
        "status": run.info.status,
        "stage": run.info.lifecycle_stage,
        "ended": run.info.end_time is not None,
        "name": run.info.run_name if run.info.run_name in NAMES else None,
        "last": {key: repr(value) for key, value in sorted(run.data.metrics.items())},
        "histories": dict(sorted(histories.items())),
        "params": dict(sorted(run.data.params.items())),
        "tags": {key: value for key, value in sorted(run.data.tags.items()) if key.split(".")[0] not in OTHERS},
        "note": run.data.tags.get("mlflow.note.content"),
        "datasets": [inputs.dataset.name for inputs in run.inputs.dataset_inputs] if run.inputs else [],
    }


OTHERS = {"mlflow", "tailrace"}
NAMES = {"first", "second", "renamed", "by tag"}


# -- runs --------------------------------------------------------------------------------------------------------------


@scenario
def a_run_begins_and_ends(client: MlflowClient) -> Any:
    run = mlflow.start_run(run_name="first", tags={"a": "1"}, description="what it is")
    during = mlflow.active_run().info.run_id == run.info.run_id, client.get_run(run.info.run_id).info.status
    mlflow.end_run()
    last = mlflow.last_active_run()
    return during, mlflow.active_run(), last.info.run_id == run.info.run_id, stored(client, run.info.run_id)


@scenario
def a_run_ends_as_it_is_ended(client: MlflowClient) -> Any:
    seen = []
    for status in ("FINISHED", "FAILED", "KILLED"):
        run = mlflow.start_run()
        mlflow.end_run(status)
        seen.append(client.get_run(run.info.run_id).info.status)
    return seen, refusal(mlflow.end_run, "FINISHED")


@scenario
def an_exception_in_a_block_fails_it(client: MlflowClient) -> Any:
    with contextlib.suppress(ZeroDivisionError), mlflow.start_run() as run:
        mlflow.log_metric("before", 1.0)
        raise ZeroDivisionError
    return stored(client, run.info.run_id)


@scenario
def a_second_run_is_refused_and_a_nested_one_is_not(client: MlflowClient) -> Any:
    with mlflow.start_run(run_name="first") as outer:
        refused = refusal(mlflow.start_run)
        with mlflow.start_run(run_name="second", nested=True) as inner:
            mlflow.log_metric("inner", 1.0)
        mlflow.log_metric("outer", 1.0)
        parent = mlflow.get_parent_run(inner.info.run_id)
    of_parent = inner.data.tags.get("mlflow.parentRunId") == outer.info.run_id
    return refused, parent.info.run_id == outer.info.run_id, of_parent, [
        stored(client, run.info.run_id) for run in (outer, inner)
    ]  # fmt: skip


@scenario
def a_parent_may_be_named(client: MlflowClient) -> Any:
    with mlflow.start_run() as outer:
        pass
    with mlflow.start_run(parent_run_id=outer.info.run_id) as inner:
        pass
    parent = client.get_parent_run(inner.info.run_id)
    return parent.info.run_id == outer.info.run_id, refusal(mlflow.start_run, parent_run_id="0" * 32)


@scenario
def a_run_is_resumed(client: MlflowClient) -> Any:
    with mlflow.start_run(run_name="first") as run:
        mlflow.log_metric("loss", 1.0, step=1, timestamp=1000)
        mlflow.log_param("lr", 1)
    with mlflow.start_run(run_id=run.info.run_id, tags={"again": "yes"}, description="again") as resumed:
        status = client.get_run(run.info.run_id).info.status
        mlflow.log_metric("loss", 0.5, step=2, timestamp=2000)
        seen = resumed.data.metrics, resumed.data.params
    return status, seen, stored(client, run.info.run_id)


@scenario
def a_run_gets_more_after_its_end(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        mlflow.log_metric("during", 1.0, step=0, timestamp=1)
    client.log_metric(run.info.run_id, "after", 2.0, timestamp=2, step=3)
    mlflow.log_metric("after", 3.0, step=4, timestamp=3, run_id=run.info.run_id)
    mlflow.log_params({"after": 1}, run_id=run.info.run_id)
    return stored(client, run.info.run_id)


@scenario
def a_run_by_the_client_ends_by_the_client(client: MlflowClient) -> Any:
    run = client.create_run("0", start_time=5, tags={"a": "b"}, run_name="first")
    before = client.get_run(run.info.run_id).info
    client.set_terminated(run.info.run_id, "FAILED", end_time=12)
    after = client.get_run(run.info.run_id).info
    client.set_terminated(run.info.run_id)
    return [before.start_time, before.status, after.end_time, after.status], stored(client, run.info.run_id)


@scenario
def a_run_is_updated(client: MlflowClient) -> Any:
    run = client.create_run("0", run_name="first")
    client.update_run(run.info.run_id, name="renamed")
    named = stored(client, run.info.run_id)
    client.update_run(run.info.run_id, status="FINISHED")
    return named, stored(client, run.info.run_id), refusal(client.update_run, run.info.run_id, status="NO STATUS")


@scenario
def a_tag_names_a_run(client: MlflowClient) -> Any:
    with mlflow.start_run(run_name="first") as run:
        mlflow.set_tag("mlflow.runName", "by tag")
        mlflow.set_tag("mlflow.note.content", "a note")
    return stored(client, run.info.run_id)


@scenario
def a_deleted_run_refuses_and_a_restored_one_takes(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0, timestamp=1)
    run_id = run.info.run_id
    client.delete_run(run_id)
    seen = [
        refusal(client.log_metric, run_id, "loss", 2.0),
        refusal(client.log_param, run_id, "lr", 2),
        refusal(client.set_tag, run_id, "a", 2),
        refusal(client.log_batch, run_id, [Metric("loss", 1.0, 1, 1)]),
        refusal(mlflow.start_run, run_id=run_id),
        stored(client, run_id)["stage"],
    ]
    client.restore_run(run_id)
    client.log_metric(run_id, "loss", 3.0, timestamp=3, step=1)
    return seen, stored(client, run_id)


@scenario
def a_run_is_deleted_and_brought_back_while_it_is_active(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0, timestamp=1)
        mlflow.delete_run(run.info.run_id)
        refused = refusal(mlflow.log_metric, "loss", 2.0)
        client.restore_run(run.info.run_id)
        mlflow.log_metric("loss", 3.0, step=1, timestamp=2)
        client.delete_run(run.info.run_id)
        client.restore_run(run.info.run_id)
        mlflow.log_param("lr", 1)
        during = client.get_run(run.info.run_id).info.status
    return refused, during, stored(client, run.info.run_id)


@scenario
def runs_of_a_deleted_experiment_are_refused(client: MlflowClient) -> Any:
    made = client.create_experiment(f"deleted {sys.argv[1]}")
    run_id = client.create_run(made).info.run_id
    client.log_metric(run_id, "loss", 1.0, timestamp=1)
    client.delete_experiment(made)
    seen = refusal(client.log_metric, run_id, "loss", 2.0), refusal(client.log_param, run_id, "lr", 1)
    stage = client.get_run(run_id).info.lifecycle_stage
    client.restore_experiment(made)
    client.log_metric(run_id, "loss", 3.0, timestamp=3, step=1)
    return seen, stage, stored(client, run_id)


@scenario
def a_run_that_there_is_not_is_refused(client: MlflowClient) -> Any:
    nobody = "0" * 32
    return [
        refusal(client.get_run, nobody),
        refusal(client.log_metric, nobody, "a", 1),
        refusal(client.log_param, nobody, "a", 1),
        refusal(client.set_tag, nobody, "a", 1),
        refusal(client.delete_tag, nobody, "a"),
        refusal(client.log_batch, nobody, [Metric("a", 1, 1, 1)]),
        refusal(client.set_terminated, nobody),
        refusal(client.log_metric, "no id!", "a", 1),
        refusal(mlflow.start_run, run_id=nobody),
        refusal(mlflow.start_run, run_id="no id!"),
    ]


@scenario
def a_call_without_a_run_begins_one(client: MlflowClient) -> Any:
    mlflow.log_metric("loss", 1.0, timestamp=7)
    mlflow.log_param("lr", 1)
    run = mlflow.active_run()
    mlflow.end_run()
    return stored(client, run.info.run_id)


@scenario
def a_thread_has_its_own_active_run(client: MlflowClient) -> Any:
    seen: dict[str, Any] = {}

    def work() -> None:
        seen["active"] = mlflow.active_run()
        with mlflow.start_run(run_name="second") as run:
            mlflow.log_metric("thread", 1.0, timestamp=1)
        seen["run"] = run.info.run_id

    with mlflow.start_run(run_name="first") as run:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        mlflow.log_metric("main", 1.0, timestamp=1)
    return seen["active"], stored(client, seen["run"]), stored(client, run.info.run_id)


# -- params and tags ---------------------------------------------------------------------------------------------------


@scenario
def params_become_texts(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        given = [mlflow.log_param("int", 1), mlflow.log_param("none", None), mlflow.log_param("list", [1, "a"])]
        mlflow.log_params({"float": 0.1, "bool": True, "empty": "", "nested": {"a": {"b": 1}}, "text": "ä 😀"})
        client.log_param(run.info.run_id, "by client", 3)
    return given, stored(client, run.info.run_id)


@scenario
def params_do_not_change(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        mlflow.log_params({"lr": 0.1, "layers": 3})
        refused = [
            refusal(mlflow.log_param, "lr", 0.2),
            refusal(mlflow.log_param, "lr", 0.1),
            refusal(mlflow.log_params, {"lr": 0.1, "layers": 4, "new": 1}),
            refusal(
                client.log_batch, run.info.run_id, [Metric("m", 1.0, 1, 1)], [Param("lr", "9")], [RunTag("t", "1")]
            ),
            refusal(client.log_batch, run.info.run_id, params=[Param("twice", "1"), Param("twice", "2")]),
            refusal(client.log_batch, run.info.run_id, params=[Param("same", "1"), Param("same", "1")]),
        ]
    return refused, stored(client, run.info.run_id)


@scenario
def params_that_are_too_long_or_badly_named_are_refused(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        refused = [
            refusal(mlflow.log_param, "long", "x" * 6001),
            refusal(mlflow.log_param, "k" * 251, 1),
            refusal(mlflow.log_param, "a//b", 1),
            refusal(mlflow.log_param, "../b", 1),
            refusal(mlflow.log_param, "a?b", 1),
            refusal(mlflow.log_param, "", 1),
            refusal(mlflow.log_params, {f"p{n}": n for n in range(101)}),
        ]
        mlflow.log_params({f"p{n}": n for n in range(100)})
    return refused, stored(client, run.info.run_id)


@scenario
def tags_are_set_changed_and_deleted(client: MlflowClient) -> Any:
    with mlflow.start_run(tags={"first": "1"}) as run:
        mlflow.set_tag("first", 2)
        mlflow.set_tags({"second": None, "third": [1], "fourth": "x" * 5000})
        client.set_tag(run.info.run_id, "gone", "soon")
        mlflow.delete_tag("gone")
        refused = [
            refusal(mlflow.delete_tag, "gone"),
            refusal(mlflow.set_tag, "k" * 251, 1),
            refusal(mlflow.set_tag, "a//b", 1),
            refusal(client.log_batch, run.info.run_id, tags=[RunTag(f"t{n}", "1") for n in range(101)]),
        ]
    return refused, stored(client, run.info.run_id)


# -- metrics -----------------------------------------------------------------------------------------------------------


@scenario
def metrics_have_steps_and_times(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1, step=1, timestamp=10)
        mlflow.log_metric("loss", 0.5, step=3, timestamp=5)
        mlflow.log_metric("loss", 0.75, step=2, timestamp=20)
        mlflow.log_metrics({"a": 1, "b": True}, step=7, timestamp=1)
        mlflow.log_metric("negative", -1.5, step=-3, timestamp=2)
        for value in (1.0, 3.0, 2.0):
            mlflow.log_metric("same", value, step=0, timestamp=1)
        mlflow.log_metric("same", 3.0, step=0, timestamp=1)
        last = mlflow.get_run(run.info.run_id).data.metrics
    return last, stored(client, run.info.run_id)


@scenario
def metrics_that_are_no_plain_numbers(client: MlflowClient) -> Any:
    import numpy as np

    with mlflow.start_run() as run:
        mlflow.log_metric("numpy", np.float32(0.5), timestamp=1)
        mlflow.log_metric("array", np.array([0.25]), timestamp=1)
        mlflow.log_metric("int", np.int64(3), timestamp=1)
        mlflow.log_metric("nan", math.nan, timestamp=1)
        mlflow.log_metric("inf", math.inf, timestamp=1)
        mlflow.log_metric("-inf", -math.inf, timestamp=1)
        mlflow.log_metric("word", "0.5", timestamp=1)
        refused = [
            refusal(mlflow.log_metric, "text", "high"),
            refusal(mlflow.log_metric, "none", None),
            refusal(mlflow.log_metric, "list", [1, 2]),
            refusal(mlflow.log_metrics, {"good": 1.0, "bad": "high"}),
        ]
    return refused, stored(client, run.info.run_id)


@scenario
def steps_and_times_that_are_none(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        mlflow.log_metric("known", 1.0, timestamp=1)
        seen = []
        for step in (0.5, 2**62, 2**63, 2.0):
            seen.append(refusal(mlflow.log_metric, "known", 2.0, step=step, timestamp=2))
            seen.append(refusal(mlflow.log_metrics, {"known": 3.0, "whole": 1.0}, step=step, timestamp=3))
            batch = [Metric("known", 4.0, 4, step), Metric("batch", 1.0, 4, 1)]
            seen.append(refusal(client.log_batch, run.info.run_id, batch))
        for n, timestamp in enumerate((0.5, 2**50, 10**18, 2**63)):  # 10**18: somebody has taken nanoseconds
            seen.append(refusal(mlflow.log_metric, "known", 10.0 + n, step=9, timestamp=timestamp))
            seen.append(refusal(mlflow.log_metrics, {"known": 20.0 + n}, step=9, timestamp=timestamp))
        times = [metric.timestamp for metric in client.get_metric_history(run.info.run_id, "known")]
    return seen, sorted(times), stored(client, run.info.run_id)


@scenario
def of_two_at_one_moment_no_number_is_a_zero(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        for name, values in {"a": [math.nan, 1.0], "b": [math.nan, -1.0], "c": [-1.0, math.nan]}.items():
            for value in values:
                mlflow.log_metric(name, value, step=0, timestamp=1)
        seen = client.get_run(run.info.run_id).data.metrics
    return {name: repr(value) for name, value in seen.items()}, stored(client, run.info.run_id)


@scenario
def texts_that_cannot_be_written(client: MlflowClient) -> Any:
    half = "\ud800"
    with mlflow.start_run(run_name="first") as run:
        seen = [
            refusal(mlflow.log_param, "p", half),
            refusal(mlflow.log_params, {"p": half, "q": 1}),
            refusal(mlflow.set_tag, "t", half),
            refusal(client.log_batch, run.info.run_id, [Metric("m", 1.0, 1, 0)], [Param("p", half)]),
            refusal(mlflow.set_tag, "mlflow.runName", ""),
            client.get_run(run.info.run_id).info.run_name,
        ]
        mlflow.log_param("p", 1)
    return seen, stored(client, run.info.run_id)


@scenario
def metrics_that_are_badly_named_or_placed_are_refused(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        run_id = run.info.run_id
        refused = [
            refusal(mlflow.log_metric, "loss(train)", 1.0),
            refusal(mlflow.log_metric, "a//b", 1.0),
            refusal(mlflow.log_metric, "k" * 251, 1.0),
            refusal(mlflow.log_metric, None, 1.0),
            refusal(mlflow.log_metrics, {"good": 1.0, "bad?": 1.0}),
            refusal(mlflow.log_metric, "step", 1.0, step="later"),
            refusal(client.log_batch, run_id, [Metric("time", 1.0, -1, 0)]),
            refusal(client.log_batch, run_id, [Metric("step", 1.0, 1, "x")]),
            refusal(client.log_batch, run_id, [Metric("m", float(n), n, n) for n in range(1001)]),
            refusal(mlflow.log_metric, "loss", 1.0, run_id="0" * 32),
        ]
        client.log_batch(run_id, [Metric("m", float(n), n, n) for n in range(1000)])
    return refused, len(client.get_metric_history(run_id, "m")), client.get_run(run_id).data.metrics


@scenario
def a_batch_has_all_kinds_at_once(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        client.log_batch(
            run.info.run_id,
            [Metric("a", 1.0, 10, 0), Metric("a", 2.0, 20, 1), Metric("b", 3.0, 10, 0)],
            [Param("p", "1")],
            [RunTag("t", "1")],
        )
        client.log_batch(run.info.run_id)
    return stored(client, run.info.run_id)


@scenario
def what_is_logged_asynchronously_is_there(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        operations = [
            mlflow.log_metric("loss", 1.0, timestamp=1, synchronous=False),
            mlflow.log_metrics({"a": 1.0}, timestamp=1, synchronous=False),
            mlflow.log_params({"p": 1}, synchronous=False),
            mlflow.set_tags({"t": 1}, synchronous=False),
            client.log_batch(run.info.run_id, [Metric("batch", 1.0, 1, 0)], synchronous=False),
        ]
        for operation in operations:
            operation.wait()
        mlflow.flush_async_logging()
        seen = mlflow.get_run(run.info.run_id).data.metrics
    return [type(operation).__name__ for operation in operations], seen, stored(client, run.info.run_id)


@scenario
def what_is_refused_asynchronously_is_told_to_who_waits(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        mlflow.log_param("lr", 1)
        operations = [
            mlflow.log_metric("a//b", 1.0, synchronous=False),
            mlflow.log_metrics({"good": 1.0, "bad": "high"}, timestamp=1, synchronous=False),
            mlflow.log_metric("step", 1.0, step="later", timestamp=1, synchronous=False),
            mlflow.log_param("a//b", 1, synchronous=False),
            mlflow.log_params({"lr": 2}, synchronous=False),
            mlflow.set_tag("a//b", 1, synchronous=False),
            client.log_metric("0" * 32, "a", 1.0, timestamp=1, synchronous=False),
            client.log_metric("no id!", "a", 1.0, timestamp=1, synchronous=False),
        ]
        mlflow.config.enable_async_logging(True)
        mlflow.log_metric("x(y)", 1.0)
        mlflow.config.enable_async_logging(False)
        mlflow.flush_async_logging()
    return [refusal(operation.wait) for operation in operations], stored(client, run.info.run_id)


@scenario
def a_history_comes_in_pages(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        for step in range(30):
            mlflow.log_metric("loss", float(step), step=step, timestamp=step + 1)
        history = client.get_metric_history(run.info.run_id, "loss")
        seen = sorted((metric.step, metric.value, metric.timestamp) for metric in history)
    return seen, client.get_metric_history(run.info.run_id, "nothing")


@scenario
def histories_are_read_by_the_store_s_other_ways(client: MlflowClient) -> Any:
    store: Any = client._tracking_client.store
    reads: list[Callable[[str], Any]] = [
        lambda run_id: [m.step for m in store.get_metric_history_bulk_interval_from_steps(run_id, "loss", [0, 1], 9)],
        lambda run_id: [m.step for m in store.get_metric_history_bulk([run_id], "loss", 9)],
        lambda run_id: store.get_max_step_for_metric(run_id, "loss"),
    ]
    seen: list[Any] = []
    with mlflow.start_run() as run:
        for step, read in enumerate(reads):
            mlflow.log_metric("loss", float(step), step=step, timestamp=step + 1)
            try:
                seen.append(read(run.info.run_id))
            except (AttributeError, NotImplementedError):  # a server's store has none of them
                seen.append(None)
    return seen


# -- reading back ------------------------------------------------------------------------------------------------------


@scenario
def a_search_finds_what_was_logged_a_moment_ago(client: MlflowClient) -> Any:
    made = client.create_experiment(f"searched {sys.argv[1]}")
    for number in range(4):
        with mlflow.start_run(experiment_id=made, tags={"kind": "even" if number % 2 == 0 else "odd"}):
            mlflow.log_metric("score", number / 10)
            mlflow.log_param("number", number)
    found = [
        [run.data.params["number"] for run in client.search_runs([made], text, order_by=["metrics.score DESC"])]
        for text in ("", "metrics.score > 0.1", "tags.kind = 'even'", "params.number = '3'", "status = 'FINISHED'")
    ]
    table = mlflow.search_runs([made], order_by=["metrics.score ASC"])
    columns = sorted(column for column in table.columns if column.split(".")[-1] in ("score", "number", "kind"))
    return found, list(table["metrics.score"]), columns, refusal(client.search_runs, [made], "metrics.score >")


@scenario
def experiments_are_mlflow_s_own(client: MlflowClient) -> Any:
    own = f"of the client, {sys.argv[1]}"
    made = client.create_experiment(own, tags={"a": "b"})
    chosen = mlflow.set_experiment(f"chosen {sys.argv[1]}")
    with mlflow.start_run() as run:
        pass
    found = client.get_experiment_by_name(own)
    mlflow.set_experiment_tag("c", "d")
    tags = client.get_experiment(chosen.experiment_id).tags
    mlflow.set_experiment(experiment_id="0")
    return [
        found.experiment_id == made,
        run.info.experiment_id == chosen.experiment_id,
        {key: value for key, value in tags.items() if not key.startswith("mlflow.")},
        (refusal(client.create_experiment, own) or [])[:2],
        refusal(client.create_run, "12345678"),
    ]


# -- what goes MLflow's way --------------------------------------------------------------------------------------------


@scenario
def artifacts_are_stored_and_read(client: MlflowClient) -> Any:
    import numpy as np

    Path("file.txt").write_text("file")
    with mlflow.start_run() as run:
        mlflow.log_artifact("file.txt", "files")
        mlflow.log_text("text", "text.txt")
        mlflow.log_dict({"a": 1}, "dict.json")
        mlflow.log_table({"a": [1, 2]}, "table.json")
        mlflow.log_table({"a": [3]}, "table.json")
        mlflow.log_image(np.zeros((4, 4, 3), dtype="uint8"), "image.png")
        missing = refusal(mlflow.log_artifact, "nowhere.txt")
        uri = run.info.artifact_uri
        seen = mlflow.artifacts.load_text(f"{uri}/text.txt"), mlflow.artifacts.load_dict(f"{uri}/dict.json")
        listed = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        at = mlflow.get_artifact_uri("text.txt") == f"{uri}/text.txt"
    return seen, listed, at, missing and missing[0], stored(client, run.info.run_id)


@scenario
def datasets_are_stored(client: MlflowClient) -> Any:
    import numpy as np

    with mlflow.start_run() as run:
        dataset = mlflow.data.from_numpy(np.ones((2, 2)), name="ones")
        mlflow.log_input(dataset, context="training")
        mlflow.log_metric("loss", 1.0, timestamp=1, dataset=dataset)
    found = client.search_runs(["0"], "dataset.name = 'ones'")
    return run.info.run_id in [each.info.run_id for each in found], stored(client, run.info.run_id)


@scenario
def metrics_of_a_logged_model_are_its_and_the_run_s(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        model = mlflow.initialize_logged_model(name="model")
        mlflow.log_metric("score", 0.5, step=2, timestamp=1, model_id=model.model_id)
        mlflow.log_metrics({"other": 0.25}, timestamp=1, model_id=model.model_id)
        mlflow.finalize_logged_model(model.model_id, "READY")
    found = mlflow.get_logged_model(model.model_id)
    return sorted((m.key, m.value, m.step) for m in found.metrics), stored(client, run.info.run_id)


@scenario
def metrics_of_models_data_sets_and_batches(client: MlflowClient) -> Any:
    import numpy as np

    data = mlflow.data.from_numpy(np.ones((2, 2)), name="ones")
    with mlflow.start_run() as run:
        run_id = run.info.run_id
        model = mlflow.initialize_logged_model(name="model")
        of_both: Any = {"model_id": model.model_id, "dataset": data}
        mlflow.log_metric("one", 0.5, step=2, timestamp=1, **of_both)
        mlflow.log_metrics({"two": 1.0, "three": 2.0}, step=3, timestamp=4, **of_both)
        named: Any = {"model_id": model.model_id, "dataset_name": data.name, "dataset_digest": data.digest}
        client.log_metric(run_id, "four", 3.0, 5, 1, **named)
        mixed = [Metric("five", 1.0, 1, 0, **named), Metric("six", 1.0, 1, 0)]
        client.log_batch(run_id, mixed, [Param("p", "1")], [RunTag("t", "2")])
        mlflow.set_active_model(name="model")
        mlflow.log_metric("seven", 1.5, timestamp=6)
        mlflow.log_metric("eight", 1.5, timestamp=6, synchronous=False).wait()
        mlflow.clear_active_model()
        mlflow.finalize_logged_model(model.model_id, "READY")
        during = client.get_run(run_id).data.metrics
    found = mlflow.get_logged_model(model.model_id).metrics
    seen = sorted((m.key, m.value, m.step, m.timestamp, m.dataset_name, m.run_id == run_id) for m in found)
    inputs = client.get_run(run_id).inputs
    models = [each.model_id == model.model_id for each in inputs.model_inputs]
    return during, seen, models, len(inputs.dataset_inputs), stored(client, run_id)


@scenario
def traces_belong_to_the_run(client: MlflowClient) -> Any:
    with mlflow.start_run() as run:
        with mlflow.start_span("work") as span:
            span.set_inputs({"a": 1})
        mlflow.log_metric("loss", 1.0, timestamp=1)
    mlflow.flush_trace_async_logging()
    traces = mlflow.search_traces(run_id=run.info.run_id, return_type="list")
    return [trace.data.spans[0].name for trace in traces], stored(client, run.info.run_id)


@scenario
def the_store_s_own_calls_are_the_same(client: MlflowClient) -> Any:
    store = client._tracking_client.store
    run = store.create_run("0", "user", 5, [RunTag("a", "b")], "first")
    run_id = run.info.run_id
    store.log_metric(run_id, Metric("m", 1.0, 1, 0))
    store.log_param(run_id, Param("p", "1"))
    store.set_tag(run_id, RunTag("t", "1"))
    info = store.update_run_info(run_id, RunStatus.FINISHED, 77, "renamed")
    return info.status, info.end_time, info.run_name, stored(client, run_id)


def _plain(value: Any) -> Any:
    """The same for every run of it, and as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (bool, int, float, type(None))):
        return value
    return _TIMES.sub("TIME", _IDS.sub("ID", str(value)))


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.argv[1] == "plug-in":
        import tailrace

        tailrace.install()
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    client = MlflowClient()
    told: dict[str, Any] = {}
    for name, call in SCENARIOS.items():
        told[name] = _plain(call(client))
        assert mlflow.active_run() is None, name
    told["kind of store"] = type(client._tracking_client.store).__name__
    print("TOLD " + json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
