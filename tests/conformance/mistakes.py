"""Mistakes of a call: MLflow raises each of them, and so does tailrace under `strict=True`, for the same `except`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from mlflow import Image
from mlflow.exceptions import MlflowException

from conformance.table import Place, Try

__all__ = ["MISTAKES", "of_mlflow"]

MISTAKES: dict[str, Try] = {}


def mistake(function: Try) -> Try:
    """Each is called while a run is active, and its last call is the mistake."""
    MISTAKES[function.__name__] = function
    return function


@mistake
def a_metric_that_is_no_number(ml: ModuleType, place: Place) -> None:
    ml.log_metric("a", "much")


@mistake
def several_metrics_that_are_no_numbers(ml: ModuleType, place: Place) -> None:
    ml.log_metrics({"a": 1, "b": "much"}, step=3)


@mistake
def a_param_that_changes(ml: ModuleType, place: Place) -> None:
    ml.log_param("lr", 0.1)
    ml.log_param("lr", 0.2)


@mistake
def several_params_of_which_one_changes(ml: ModuleType, place: Place) -> None:
    ml.log_params({"lr": 0.1, "layers": 2})
    ml.log_params({"lr": 0.2, "heads": 3}, synchronous=True)


@mistake
def an_image_that_is_none(ml: ModuleType, place: Place) -> None:
    ml.log_image("no image", "a.png")


@mistake
def an_image_with_two_names(ml: ModuleType, place: Place) -> None:
    ml.log_image(np.zeros((2, 2)), "a.png", key="a")


@mistake
def an_image_without_a_name(ml: ModuleType, place: Place) -> None:
    ml.log_image(np.zeros((2, 2)))


@mistake
def an_image_of_texts(ml: ModuleType, place: Place) -> None:
    ml.log_image(np.tile("a", (1, 1, 3)), "a.png")


@mistake
def an_image_of_one_dimension(ml: ModuleType, place: Place) -> None:
    ml.log_image(np.zeros(3), "a.png")


@mistake
def an_image_of_five_channels(ml: ModuleType, place: Place) -> None:
    ml.log_image(np.zeros((2, 2, 5)), "a.png")


@mistake
def an_image_whose_numbers_are_no_pixels(ml: ModuleType, place: Place) -> None:
    ml.log_image(np.full((2, 2), 256), "a.png")


@mistake
def a_figure_that_is_none(ml: ModuleType, place: Place) -> None:
    ml.log_figure("no figure", "a.png")


@mistake
def a_table_that_is_none(ml: ModuleType, place: Place) -> None:
    ml.log_table("no table", "a.json")


@mistake
def a_column_of_images_and_texts(ml: ModuleType, place: Place) -> None:
    ml.log_table({"a": ["x", Image(np.zeros((2, 2)))]}, "a.json")


@mistake
def a_run_to_resume_that_is_deleted(ml: ModuleType, place: Place) -> None:
    run_id = ml.active_run().info.run_id
    ml.end_run()
    place.client.delete_run(run_id)
    ml.start_run(run_id)


@mistake
def a_run_to_resume_that_there_is_not(ml: ModuleType, place: Place) -> None:
    ml.end_run()
    ml.start_run("f" * 32)


@mistake
def a_parent_that_there_is_not(ml: ModuleType, place: Place) -> None:
    ml.end_run()
    ml.start_run(parent_run_id="f" * 32)


@mistake
def a_parent_that_is_deleted(ml: ModuleType, place: Place) -> None:
    run_id = ml.active_run().info.run_id
    ml.end_run()
    place.client.delete_run(run_id)
    ml.start_run(parent_run_id=run_id)


@mistake
def a_parent_that_is_not_the_active_run(ml: ModuleType, place: Place) -> None:
    other = place.client.create_run(ml.active_run().info.experiment_id).info.run_id
    ml.start_run(nested=True, parent_run_id=other)


@mistake
def an_experiment_for_a_run_that_there_is_not(ml: ModuleType, place: Place) -> None:
    ml.end_run()
    ml.start_run(experiment_id="987654")


@mistake
def an_experiment_for_a_run_that_is_deleted(ml: ModuleType, place: Place) -> None:
    ml.end_run()
    experiment_id = ml.create_experiment(f"{place.experiment}, deleted")
    place.client.delete_experiment(experiment_id)
    ml.start_run(experiment_id=experiment_id)


@mistake
def an_experiment_to_set_that_there_is_not(ml: ModuleType, place: Place) -> None:
    ml.set_experiment(experiment_id="987654")


@mistake
def an_experiment_to_set_by_id_that_is_deleted(ml: ModuleType, place: Place) -> None:
    experiment_id = ml.create_experiment(f"{place.experiment}, deleted by id")
    place.client.delete_experiment(experiment_id)
    ml.set_experiment(experiment_id=experiment_id)


@mistake
def an_experiment_to_set_by_name_that_is_deleted(ml: ModuleType, place: Place) -> None:
    experiment_id = ml.create_experiment(f"{place.experiment}, deleted by name")
    place.client.delete_experiment(experiment_id)
    ml.set_experiment(f"{place.experiment}, deleted by name")


def of_mlflow(error: Exception) -> tuple[type[Exception], str | None]:
    """What an `except` for an error of MLflow's names, and the code that it may look at."""
    kind: Any = next(each for each in (MlflowException, TypeError, ValueError) if isinstance(error, each))
    code = getattr(error, "error_code", None)
    return kind, None if code == "INTERNAL_ERROR" else code  # which is what it has where nobody gave one
