"""Experiments, searches, data sets, models and settings."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

import numpy as np
from mlflow.entities import LoggedModelOutput

from conformance.table import Place, differs, outcome, same

__all__: list[str] = []


@same
def an_experiment_is_made_when_it_is_set(ml: ModuleType, place: Place) -> Any:
    experiment = ml.set_experiment(f"{place.experiment}, set")
    stored = place.client.get_experiment(experiment.experiment_id)
    with ml.start_run() as run:
        pass
    there = run.info.experiment_id == stored.experiment_id
    return experiment.name == stored.name, experiment.artifact_location == stored.artifact_location, there


@same
def an_experiment_can_be_set_by_its_id(ml: ModuleType, place: Place) -> Any:
    experiment_id = ml.create_experiment(f"{place.experiment}, by id", tags={"a": "1"})
    experiment = ml.set_experiment(experiment_id=experiment_id)
    with ml.start_run() as run:
        pass
    return (
        experiment.name == f"{place.experiment}, by id",
        experiment.tags["a"],
        run.info.experiment_id == experiment_id,
    )


@same
def one_of_name_and_id_is_given(ml: ModuleType, place: Place) -> Any:
    return outcome(ml.set_experiment), outcome(lambda: ml.set_experiment("a", "1"))


@same
def experiments_are_found_and_listed(ml: ModuleType, place: Place) -> Any:
    experiment_id = ml.create_experiment(f"{place.experiment}, made")
    by_name = ml.get_experiment_by_name(f"{place.experiment}, made")
    by_id = ml.get_experiment(experiment_id)
    listed = ml.search_experiments(filter_string=f"name = '{place.experiment}, made'")
    never = ml.get_experiment_by_name("never")
    return by_name.experiment_id == by_id.experiment_id, [each.experiment_id == experiment_id for each in listed], never


@same
def an_experiment_is_deleted_and_brought_back(ml: ModuleType, place: Place) -> Any:
    experiment_id = ml.create_experiment(f"{place.experiment}, deleted")
    ml.delete_experiment(experiment_id)
    deleted = ml.get_experiment(experiment_id).lifecycle_stage
    ml.restore_experiment(experiment_id)
    return deleted, ml.get_experiment(experiment_id).lifecycle_stage


@same
def tags_of_the_experiment_that_is_set(ml: ModuleType, place: Place) -> Any:
    ml.set_experiment_tag("a", 1)
    ml.set_experiment_tags({"b": 2, "c": 3})
    ml.delete_experiment_tag("c")
    tags = place.client.get_experiment_by_name(place.experiment).tags
    return {key: value for key, value in tags.items() if not key.startswith("mlflow.")}


@same
def runs_are_found_by_a_filter_and_sorted(ml: ModuleType, place: Place) -> Any:
    for n in range(3):
        with ml.start_run(run_name=f"r{n}"):
            ml.log_metric("loss", n)
            ml.log_param("lr", n)
    found = ml.search_runs(filter_string="metrics.loss > 0", order_by=["metrics.loss DESC"])
    columns = {"run_id", "experiment_id", "status", "artifact_uri", "start_time", "end_time"} <= set(found.columns)
    return columns, list(found["metrics.loss"]), list(found["params.lr"]), list(found["tags.mlflow.runName"])


@same
def runs_are_found_in_an_experiment_by_its_name(ml: ModuleType, place: Place) -> Any:
    with ml.start_run():
        pass
    return len(ml.search_runs(experiment_names=[place.experiment])), len(ml.search_runs(max_results=0 + 1))


@same
def a_search_in_an_experiment_that_there_is_not_finds_nothing(ml: ModuleType, place: Place) -> Any:
    with ml.start_run():
        pass
    found = ml.search_runs(experiment_names=["never"])
    return len(found), sorted(found.columns), len(ml.search_runs(experiment_names=["never", place.experiment]))


@same
def a_search_in_no_experiment_finds_nothing(ml: ModuleType, place: Place) -> Any:
    return ml.search_runs(experiment_names=[None], output_format="list")


@same
def a_search_before_the_first_run_finds_nothing(ml: ModuleType, place: Place) -> Any:
    ml.set_experiment(f"{place.experiment}, before")
    return len(ml.search_runs(filter_string="params.lr = '0.1'"))


@same
def a_search_in_a_store_that_is_to_come_finds_nothing(ml: ModuleType, place: Place) -> Any:
    ml.set_tracking_uri("sqlite:///to-come.db")
    return len(ml.search_runs())


@same
def a_list_of_runs_has_what_mlflows_runs_have(ml: ModuleType, place: Place) -> Any:
    with ml.start_run(run_name="mine", tags={"team": "a"}) as run:
        ml.log_metric("loss", 1)
        ml.log_param("lr", 0.1)
    (found,) = ml.search_runs(output_format="list")
    info, stored = found.info, place.client.get_run(run.info.run_id).info
    names = (
        "run_id",
        "run_name",
        "experiment_id",
        "status",
        "start_time",
        "end_time",
        "artifact_uri",
        "lifecycle_stage",
    )
    same_info = {name: getattr(info, name) == getattr(stored, name) for name in names}
    return same_info, found.data.metrics, found.data.params, found.data.tags["team"]


@differs('`output_format="list"` gives plain data', ours=("RunRecord", {"loss": 1.0}))
def a_list_of_runs_has_mlflows_runs(ml: ModuleType, place: Place) -> Any:
    with ml.start_run():
        ml.log_metric("loss", 1)
    (found,) = ml.search_runs(output_format="list")
    return type(found).__name__, getattr(found, "metrics", None)


@same
def ids_and_names_are_not_both_given(ml: ModuleType, place: Place) -> Any:
    return outcome(lambda: ml.search_runs(experiment_ids=["0"], experiment_names=[place.experiment]))


@same
def a_data_set_is_an_input_of_the_run(ml: ModuleType, place: Place) -> Any:
    data = ml.data.from_numpy(np.ones((2, 2)), source="data.csv", name="ones")
    with ml.start_run() as run:
        ml.log_input(data, context="training", tags={"a": "1"})
        ml.log_inputs([data], contexts=["test"], tags_list=[None])
    inputs = place.client.get_run(run.info.run_id).inputs.dataset_inputs
    return [(each.dataset.name, sorted((tag.key, tag.value) for tag in each.tags)) for each in inputs]


@same
def a_logged_model_belongs_to_the_active_run(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        model = ml.initialize_logged_model(name="mine", params={"a": "1"}, tags={"t": "x"}, model_type="kind")
        ml.log_model_params({"b": "2"}, model_id=model.model_id)
        ml.set_logged_model_tags(model.model_id, {"u": "y"})
        ml.delete_logged_model_tag(model.model_id, "t")
        ml.log_outputs([LoggedModelOutput(model_id=model.model_id, step=0)])
        ml.finalize_logged_model(model.model_id, "READY")
        last = ml.last_logged_model().model_id == model.model_id
    stored = ml.get_logged_model(model.model_id)
    tags = {key: value for key, value in stored.tags.items() if not key.startswith("mlflow.")}
    outputs = [each.model_id == model.model_id for each in ml.get_run(run.info.run_id).outputs.model_outputs]
    mine = stored.source_run_id == run.info.run_id, stored.experiment_id == run.info.experiment_id
    return last, mine, stored.name, str(stored.status), stored.params, tags, outputs


@same
def metrics_are_linked_with_a_model_and_a_data_set(ml: ModuleType, place: Place) -> Any:
    data = ml.data.from_numpy(np.ones((2, 2)), source="data.csv", name="ones")
    with ml.start_run() as run:
        model = ml.initialize_logged_model(name="mine")
        ml.log_metric("a", 1.0, step=2, timestamp=5, model_id=model.model_id, dataset=data)
        ml.log_metrics({"b": 2.0, "c": np.float32(3.0)}, step=3, model_id=model.model_id)
        ml.set_active_model(model_id=model.model_id)
        ml.log_metric("d", 4.0)
        ml.clear_active_model()
        ml.log_metric("e", 5.0)
        ml.finalize_logged_model(model.model_id, "READY")
    metrics = ml.get_logged_model(model.model_id).metrics
    found = sorted((each.key, each.value, each.step, each.dataset_name) for each in metrics)
    stored = ml.get_run(run.info.run_id)
    sets = [each.dataset.name for each in stored.inputs.dataset_inputs]
    models = [each.model_id == model.model_id for each in stored.inputs.model_inputs]
    return found, dict(stored.data.metrics), sets, models


@same
def a_model_can_be_active(ml: ModuleType, place: Place) -> Any:
    with ml.set_active_model(name=f"m {place.experiment}".replace(" ", "_")) as model:
        within = ml.get_active_model_id() == model.model_id
    after = ml.get_active_model_id()
    ml.set_active_model(model_id=model.model_id)
    again = ml.get_active_model_id() == model.model_id
    ml.clear_active_model()
    return within, after, again, ml.get_active_model_id()


@same
def logged_models_are_found(ml: ModuleType, place: Place) -> Any:
    with ml.start_run():
        ml.create_external_model(name="found")
    return [each.name for each in ml.search_logged_models(filter_string="name = 'found'", output_format="list")]


@same
def a_flavours_model_belongs_to_the_active_run(ml: ModuleType, place: Place) -> Any:
    class Same(ml.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
        def predict(self, context: Any, model_input: Any) -> Any:
            return model_input

    with ml.start_run() as run:
        info = ml.pyfunc.log_model(name="same", python_model=Same(), pip_requirements=[])
    loaded = ml.pyfunc.load_model(info.model_uri)
    return ml.get_logged_model(info.model_id).source_run_id == run.info.run_id, loaded.predict([1]), len(place.runs())


@same
def where_runs_go_can_be_read(ml: ModuleType, place: Place) -> Any:
    return ml.get_tracking_uri() == place.uri, ml.get_registry_uri() == place.uri, ml.is_tracking_uri_set()


@same
def a_client_reads_the_same_store(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        ml.log_metric("x", 1)
    return ml.MlflowClient().get_run(run.info.run_id).data.metrics


@same
def system_metrics_have_mlflows_names(ml: ModuleType, place: Place) -> Any:
    ml.set_system_metrics_sampling_interval(0.2)
    ml.enable_system_metrics_logging()
    try:
        with ml.start_run() as run:
            for _ in range(100):
                if ml.get_run(run.info.run_id).data.metrics:
                    break
                threading.Event().wait(0.1)
    finally:
        ml.disable_system_metrics_logging()
        ml.set_system_metrics_sampling_interval(None)
    names = place.client.get_run(run.info.run_id).data.metrics
    with ml.start_run() as another:
        pass
    wanted = {"system/system_memory_usage_megabytes", "system/disk_usage_percentage"}
    return wanted <= names.keys(), place.client.get_run(another.info.run_id).data.metrics
