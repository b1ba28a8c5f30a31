"""Metrics, params and tags: what is stored of what was logged."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from conformance.table import Place, differs, outcome, same

__all__: list[str] = []


def logged(ml: ModuleType, place: Place, *calls: Any) -> Any:
    """A run in which these calls were made, as MLflow has it."""
    with ml.start_run() as run:
        for call in calls:
            call()
    return place.client.get_run(run.info.run_id)


@same
def a_metric_has_the_step_that_is_given_and_zero_otherwise(ml: ModuleType, place: Place) -> Any:
    run = logged(
        ml,
        place,
        lambda: ml.log_metric("a", 1),
        lambda: ml.log_metric("a", 2, step=5),
        lambda: ml.log_metric("a", 3, step=-3),
        lambda: ml.log_metrics({"b": 1, "c": 2.5}, step=7),
        lambda: ml.log_metrics({"b": 2}),
    )
    histories = {key: place.history(run.info.run_id, key) for key in ("a", "b", "c")}
    return histories, run.data.metrics


@same
def a_metric_has_the_time_that_is_given(ml: ModuleType, place: Place) -> Any:
    run = logged(
        ml,
        place,
        lambda: ml.log_metric("a", 1, timestamp=1_700_000_000_123),
        lambda: ml.log_metrics({"b": 1}, timestamp=1_700_000_000_456),
    )
    return [place.client.get_metric_history(run.info.run_id, key)[0].timestamp for key in "ab"]


@same
def numbers_of_all_kinds_are_metrics(ml: ModuleType, place: Place) -> Any:
    values = {"f": 1.5, "i": 2, "b": True, "np": np.float32(0.5), "npi": np.int64(3), "array": np.array([4.0])}
    return logged(ml, place, lambda: ml.log_metrics(values)).data.metrics


@same
def no_number_and_infinities_are_kept_as_the_store_can(ml: ModuleType, place: Place) -> Any:
    run = logged(ml, place, lambda: ml.log_metrics({"nan": math.nan, "inf": math.inf, "ninf": -math.inf}))
    return {key: repr(value) for key, value in run.data.metrics.items()}


@differs("Nothing is raised into training", ours=("taken", {"good": 1.0}))
def what_is_no_number_is_an_error(ml: ModuleType, place: Place) -> Any:
    seen: list[str] = []
    run = logged(
        ml,
        place,
        lambda: seen.append(outcome(lambda: ml.log_metric("a", "much"))),
        lambda: ml.log_metric("good", 1),
    )
    return (*seen, run.data.metrics)


@same
def a_metric_can_be_logged_to_another_run(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as other:
        pass
    with ml.start_run():
        ml.log_metric("a", 1, run_id=other.info.run_id, synchronous=True)
        ml.log_metrics({"b": 2}, run_id=other.info.run_id, synchronous=True)
        ml.log_params({"p": 1}, run_id=other.info.run_id, synchronous=True)
    stored = place.client.get_run(other.info.run_id)
    return stored.data.metrics, stored.data.params, stored.info.status


@same
def params_are_texts(ml: ModuleType, place: Place) -> Any:
    values = {"f": 0.1, "i": 3, "b": True, "none": None, "list": [1, 2], "text": "x y"}
    return logged(ml, place, lambda: ml.log_params(values)).data.params


@same
def log_param_returns_its_value(ml: ModuleType, place: Place) -> Any:
    with ml.start_run():
        return ml.log_param("lr", 0.1), ml.log_params({"a": 1}), ml.log_metric("m", 1), ml.set_tag("t", 1)


@differs("A nested dictionary becomes several params", ours={"model.layers": "2"})
def a_dictionary_is_one_param(ml: ModuleType, place: Place) -> Any:
    return logged(ml, place, lambda: ml.log_param("model", {"layers": 2})).data.params


@differs("Nothing is raised into training", ours=("taken", {"lr": "0.1"}))
def a_param_cannot_change(ml: ModuleType, place: Place) -> Any:
    seen: list[str] = []
    run = logged(
        ml, place, lambda: ml.log_param("lr", 0.1), lambda: seen.append(outcome(lambda: ml.log_param("lr", 0.2)))
    )
    return (*seen, run.data.params)


@same
def a_param_can_be_logged_again_as_it_is(ml: ModuleType, place: Place) -> Any:
    return logged(ml, place, lambda: ml.log_param("lr", 0.1), lambda: ml.log_param("lr", 0.1)).data.params


@same
def the_last_value_of_a_tag_wins(ml: ModuleType, place: Place) -> Any:
    run = logged(
        ml, place, lambda: ml.set_tags({"a": 1, "b": "x"}), lambda: ml.set_tag("a", 2), lambda: ml.set_tag("c", None)
    )
    return {key: run.data.tags[key] for key in "abc"}


@same
def a_tag_can_be_deleted(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        ml.set_tags({"a": 1, "b": 2})
        ml.delete_tag("a")
        return sorted({"a", "b"} & place.client.get_run(run.info.run_id).data.tags.keys())


@same
def a_tag_that_there_is_not_cannot_be_deleted(ml: ModuleType, place: Place) -> Any:
    with ml.start_run():
        return outcome(lambda: ml.delete_tag("never"))


@same
def more_than_one_request_holds_arrives(ml: ModuleType, place: Place) -> Any:
    values = {f"m{n}": float(n) for n in range(1100)}
    params = {f"p{n}": n for n in range(150)}
    run = logged(ml, place, lambda: ml.log_metrics(values), lambda: ml.log_params(params))
    return len(run.data.metrics), len(run.data.params)


@same
def what_is_not_waited_for_can_be_waited_for(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        for call in (
            ml.log_metric("m", 1, synchronous=False),
            ml.log_metrics({"n": 1}, synchronous=False),
            ml.log_param("p", 1, synchronous=False),
            ml.log_params({"q": 1}, synchronous=False),
            ml.set_tag("t", 1, synchronous=False),
            ml.set_tags({"u": 1}, synchronous=False),
        ):
            call.wait()
        data = place.client.get_run(run.info.run_id).data
        return data.metrics, data.params, data.tags["t"], data.tags["u"]


@same
def async_logging_can_be_enabled_for_all_calls(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        ml.config.enable_async_logging()
        try:
            ml.log_metric("m", 1).wait()
            ml.log_param("p", 1).wait()
        finally:
            ml.config.enable_async_logging(False)
        ml.flush_async_logging()
        data = place.client.get_run(run.info.run_id).data
        return data.metrics, data.params, ml.log_metric("m", 2)


@differs("Nothing is raised into training", ours="taken")
def a_wait_raises_what_the_store_has_refused(ml: ModuleType, place: Place) -> Any:
    with ml.start_run():
        ml.log_param("lr", 0.1)
        return outcome(lambda: ml.log_param("lr", 0.2, synchronous=False).wait())
