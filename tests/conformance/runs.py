"""Runs: which one is active, how they begin and end, and what is known of them."""

from __future__ import annotations

import os
import threading
from types import ModuleType
from typing import Any

from conformance.table import Place, differs, outcome, same

__all__: list[str] = []


@same
def a_run_is_active_within_its_block(ml: ModuleType, place: Place) -> Any:
    before = ml.active_run()
    with ml.start_run() as run:
        within = ml.active_run().info.run_id == run.info.run_id
    return before, within, ml.active_run(), [each.info.status for each in place.runs()]


@same
def a_run_that_is_not_ended_is_running(ml: ModuleType, place: Place) -> Any:
    run = ml.start_run()
    status = place.client.get_run(run.info.run_id).info.status
    ml.end_run()
    return status, place.client.get_run(run.info.run_id).info.status


@same
def an_exception_fails_the_run_and_goes_on(ml: ModuleType, place: Place) -> Any:
    def train() -> None:
        with ml.start_run():
            raise RuntimeError

    return outcome(train), [each.info.status for each in place.runs()], ml.active_run()


@same
def a_run_ends_as_it_is_told(ml: ModuleType, place: Place) -> Any:
    seen = []
    for status in ("FINISHED", "FAILED", "KILLED"):
        run = ml.start_run()
        ml.end_run(status)
        info = place.client.get_run(run.info.run_id).info
        seen.append((info.status, info.end_time >= info.start_time))
    return seen


@same
def an_end_without_a_run_does_nothing(ml: ModuleType, place: Place) -> Any:
    return outcome(ml.end_run), len(place.runs())


@same
def a_second_run_needs_nested(ml: ModuleType, place: Place) -> Any:
    with ml.start_run():
        wrong = outcome(ml.start_run)
    return wrong, len(place.runs())


@same
def a_nested_run_has_the_active_one_as_its_parent(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as parent:
        with ml.start_run(nested=True) as child, ml.start_run(nested=True) as grandchild:
            pass
        again = ml.active_run().info.run_id == parent.info.run_id
    tags = {each.info.run_id: each.data.tags.get("mlflow.parentRunId") for each in place.runs()}
    below = tags[child.info.run_id] == parent.info.run_id, tags[grandchild.info.run_id] == child.info.run_id
    return again, below, tags[parent.info.run_id]


@same
def nested_without_an_active_run_is_a_run_of_its_own(ml: ModuleType, place: Place) -> Any:
    with ml.start_run(nested=True):
        pass
    return ["mlflow.parentRunId" in each.data.tags for each in place.runs()]


@same
def a_parent_can_be_named_by_its_id(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as parent:
        pass
    with ml.start_run(parent_run_id=parent.info.run_id) as child:
        pass
    found = place.client.get_run(child.info.run_id).data.tags["mlflow.parentRunId"] == parent.info.run_id
    return found, ml.get_parent_run(child.info.run_id).info.run_id == parent.info.run_id


@differs("Nothing is asked of the server when a run begins", ours="taken")
def a_parent_that_there_is_not_is_an_error(ml: ModuleType, place: Place) -> Any:
    try:
        return outcome(lambda: ml.start_run(parent_run_id="hello"))
    finally:
        ml.end_run()


@same
def a_run_is_resumed_by_its_id(ml: ModuleType, place: Place) -> Any:
    with ml.start_run(tags={"a": "1"}) as run:
        ml.log_metric("x", 1, step=1)
    with ml.start_run(run_id=run.info.run_id, tags={"b": "2"}) as again:
        status = place.client.get_run(again.info.run_id).info.status
        ml.log_metric("x", 2, step=2)
    stored = place.client.get_run(run.info.run_id)
    tags = stored.data.tags["a"], stored.data.tags["b"]
    return status, stored.info.status, tags, place.history(run.info.run_id, "x"), len(place.runs())


@same
def the_environment_names_a_run_to_resume_once(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        pass
    os.environ["MLFLOW_RUN_ID"] = run.info.run_id
    with ml.start_run() as first:
        pass
    with ml.start_run() as second:
        pass
    return first.info.run_id == run.info.run_id, second.info.run_id == run.info.run_id


@same
def a_block_ends_the_run_that_was_resumed_within_it(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        ml.end_run()
        ml.start_run(run_id=run.info.run_id)
    return ml.active_run(), [each.info.status for each in place.runs()]


@same
def a_block_around_a_run_that_was_ended_within_it_leaves_it_as_it_is(ml: ModuleType, place: Place) -> Any:
    with ml.start_run():
        ml.end_run("KILLED")
    return ml.active_run(), [each.info.status for each in place.runs()]


@same
def what_start_run_was_given_is_stored(ml: ModuleType, place: Place) -> Any:
    with ml.start_run(run_name="mine", tags={"team": "blue", "n": 3}, description="what it is") as run:
        pass
    tags = place.client.get_run(run.info.run_id).data.tags
    return run.info.run_name, {key: tags[key] for key in ("mlflow.runName", "team", "n", "mlflow.note.content")}


@same
def a_run_has_the_tags_that_say_who_and_what_it_is(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        pass
    tags = place.client.get_run(run.info.run_id).data.tags
    return tags["mlflow.user"], tags["mlflow.source.type"], bool(tags["mlflow.runName"]), "mlflow.source.name" in tags


@same
def a_name_is_invented_where_none_is_given(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        name = run.info.run_name
    return bool(name), place.client.get_run(run.info.run_id).info.run_name == name


@same
def a_description_and_the_tag_that_is_the_same_are_an_error(ml: ModuleType, place: Place) -> Any:
    wrong = outcome(lambda: ml.start_run(description="a", tags={"mlflow.note.content": "b"}))
    return wrong, ml.active_run(), len(place.runs())


@same
def a_list_is_no_experiment(ml: ModuleType, place: Place) -> Any:
    return outcome(lambda: ml.start_run(experiment_id=["0"])), ml.active_run()


@same
def a_number_is_the_id_of_an_experiment(ml: ModuleType, place: Place) -> Any:
    with ml.start_run(experiment_id=0) as run:
        return run.info.experiment_id


@differs("Nothing is asked of the server when a run begins", ours=("taken", "an error"))
def an_experiment_that_there_is_not_is_an_error(ml: ModuleType, place: Place) -> Any:
    try:
        begun = outcome(lambda: ml.start_run(experiment_id="987654"))
        return begun, outcome(lambda: ml.active_run().info.run_id)
    finally:
        ml.end_run()


@differs("Nothing is asked of the server when a run begins", ours=("taken", "an error"))
def a_run_that_there_is_not_cannot_be_resumed(ml: ModuleType, place: Place) -> Any:
    try:
        begun = outcome(lambda: ml.start_run(run_id="f" * 32))
        return begun, outcome(lambda: ml.active_run().info.run_id)
    finally:
        ml.end_run()


@same
def the_last_run_is_the_active_one_or_the_one_that_ended_last(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        ml.log_metric("x", 1)
        within = ml.last_active_run().info.run_id == run.info.run_id
    last = ml.last_active_run()
    return within, last.info.run_id == run.info.run_id, last.data.metrics, last.info.status


@same
def the_info_of_a_run_is_what_mlflow_has(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        pass
    ours, theirs = ml.last_active_run().info, place.client.get_run(run.info.run_id).info
    names = (
        "run_id",
        "run_name",
        "experiment_id",
        "status",
        "start_time",
        "artifact_uri",
        "lifecycle_stage",
        "user_id",
    )
    return {name: getattr(ours, name) == getattr(theirs, name) for name in names}, ours.end_time >= ours.start_time


@differs("`run.data` is up to date", ours=({"x": 1.0}, {"p": "1"}, "1"))
def the_data_of_the_active_run_is_that_of_its_beginning(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        ml.log_metric("x", 1)
        ml.log_param("p", 1)
        ml.set_tag("t", 1)
        return run.data.metrics, run.data.params, run.data.tags.get("t")


@same
def get_run_has_what_was_logged_before(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        ml.log_metrics({"x": 1, "y": 2}, step=3)
        ml.log_params({"p": 1})
        data = ml.get_run(run.info.run_id).data
        return data.metrics, data.params


@same
def a_run_is_deleted_and_brought_back(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        pass
    ml.delete_run(run.info.run_id)
    deleted = ml.get_run(run.info.run_id).info.lifecycle_stage
    ml.restore_run(run.info.run_id)
    return deleted, ml.get_run(run.info.run_id).info.lifecycle_stage


@differs("A thread without a run of its own logs to the program's", ours=(True, 1))
def a_thread_without_a_run_of_its_own_begins_one(ml: ModuleType, place: Place) -> Any:
    seen: list[bool] = []

    def work() -> None:
        ml.log_metric("x", 1)
        seen.append(ml.active_run().info.run_id == run.info.run_id)
        if not seen[0]:
            ml.end_run()

    with ml.start_run() as run:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    return seen[0], len(place.runs())


@same
def threads_with_runs_of_their_own_do_not_meet(ml: ModuleType, place: Place) -> Any:
    def work(name: str) -> None:
        with ml.start_run(run_name=name):
            ml.log_param("name", name)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted((each.info.run_name, each.data.params["name"]) for each in place.runs())


@same
def what_is_logged_without_a_run_begins_one(ml: ModuleType, place: Place) -> Any:
    ml.log_metric("x", 1)
    run = ml.active_run()
    ml.end_run()
    return [each.info.run_id == run.info.run_id for each in place.runs()]
