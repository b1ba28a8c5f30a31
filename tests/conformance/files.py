"""Artifacts: where they lie, and what they hold."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from conformance.table import Place, differs, needs, outcome, same

__all__: list[str] = []


@same
def the_address_of_artifacts_is_that_of_the_active_run(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        whole, part = ml.get_artifact_uri(), ml.get_artifact_uri("a/b.txt")
    stored = place.client.get_run(run.info.run_id).info.artifact_uri
    return whole == stored == run.info.artifact_uri, part == f"{stored}/a/b.txt"


@same
def the_address_of_artifacts_begins_a_run_where_none_is_active(ml: ModuleType, place: Place) -> Any:
    uri = ml.get_artifact_uri()
    run_id = ml.active_run().info.run_id
    ml.end_run()
    return run_id in uri, len(place.runs())


@same
def a_file_keeps_its_name(ml: ModuleType, place: Place) -> Any:
    Path("a.txt").write_text("a")
    with ml.start_run() as run:
        ml.log_artifact("a.txt")
        ml.log_artifact("a.txt", "below/it")
    return place.artifacts(run.info.run_id)


@same
def a_directory_is_logged_with_what_is_in_it(ml: ModuleType, place: Place) -> Any:
    Path("d/e").mkdir(parents=True)
    Path("d/one.txt").write_text("1")
    Path("d/e/two.txt").write_text("2")
    with ml.start_run() as run:
        ml.log_artifacts("d")
        ml.log_artifacts("d", "below")
        ml.log_artifact("d", "whole")
    return place.artifacts(run.info.run_id)


@differs("Nothing is raised into training", ours="taken")
def a_file_that_there_is_not_is_an_error(ml: ModuleType, place: Place) -> Any:
    with ml.start_run():
        return outcome(lambda: ml.log_artifact("never.txt"))


@same
def texts_and_dictionaries_are_read_back(ml: ModuleType, place: Place) -> Any:
    with ml.start_run():
        ml.log_text("hello\n", "note.txt")
        ml.log_dict({"a": [1, 2], "b": None}, "d.json")
        ml.log_dict({"a": [1, 2]}, "below/d.yaml")
        read = ml.artifacts
        return (
            read.load_text(ml.get_artifact_uri("note.txt")),
            read.load_dict(ml.get_artifact_uri("d.json")),
            read.load_text(ml.get_artifact_uri("below/d.yaml")),
        )


@same
@needs("log_stream")
def a_stream_is_a_file(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        ml.log_stream(io.BytesIO(b"\0\1\2"), "below/raw.bin")
        path = ml.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="below/raw.bin", dst_path=".")
        return Path(path).read_bytes()


@same
def a_figure_is_a_file(ml: ModuleType, place: Place) -> Any:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2])
    with ml.start_run() as run:
        ml.log_figure(figure, "plots/loss.png")
        uri = ml.get_artifact_uri("plots/loss.png")
        size = ml.artifacts.load_image(uri).size
    return size, place.artifacts(run.info.run_id)


@same
def an_image_is_a_file_or_a_step_of_a_key(ml: ModuleType, place: Place) -> Any:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    with ml.start_run() as run:
        ml.log_image(image, "one.png")
        ml.log_image(image, key="dogs", step=3, timestamp=1_700_000_000_000)
    names = [name.rpartition("%")[0].rpartition("%")[0] for name in place.artifacts(run.info.run_id)]
    return sorted(names), place.client.get_run(run.info.run_id).data.tags.get("mlflow.loggedImages")


@same
def a_table_grows_call_by_call(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        ml.log_table({"a": [1, 2], "b": ["x", "y"]}, "t.json")
        ml.log_table(pd.DataFrame({"a": [3], "b": ["z"]}), "t.json")
        table = ml.load_table("t.json", run_ids=[run.info.run_id])
    tag = place.client.get_run(run.info.run_id).data.tags["mlflow.loggedArtifacts"]
    return table.to_dict("list"), tag


@same
def a_table_in_parquet_grows_call_by_call(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        ml.log_table({"a": [1, 2], "b": ["x", "y"]}, "below/t.parquet")
        ml.log_table(pd.DataFrame({"a": [3], "b": ["z"], "c": [0.5]}), "below/t.parquet")
        table = ml.load_table("below/t.parquet", run_ids=[run.info.run_id], extra_columns=["run_id"])
    assert set(table.pop("run_id")) == {run.info.run_id}
    return table.astype(object).where(table.notna(), None).to_dict("list")


@differs("Nothing is raised into training", ours=("taken", []))
def a_table_of_another_format_is_an_error(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as run:
        wrong = outcome(lambda: ml.log_table({"a": [1]}, "t.csv"))
    return wrong, place.artifacts(run.info.run_id)


@same
@needs("log_stream")
def artifacts_can_be_logged_to_another_run(ml: ModuleType, place: Place) -> Any:
    with ml.start_run() as other:
        pass
    with ml.start_run():
        ml.log_text("a", "a.txt", run_id=other.info.run_id)
        ml.log_dict({}, "d.json", run_id=other.info.run_id)
        ml.log_table({"a": [1]}, "t.json", run_id=other.info.run_id)
        ml.log_stream(io.BytesIO(b"x"), "s.bin", run_id=other.info.run_id)
        ml.flush_artifact_async_logging()
    return place.artifacts(other.info.run_id)


@same
def a_file_is_logged_as_it_is_at_the_call(ml: ModuleType, place: Place) -> Any:
    Path("a.txt").write_text("first")
    with ml.start_run():
        ml.log_artifact("a.txt")
        Path("a.txt").write_text("second")
        return ml.artifacts.load_text(ml.get_artifact_uri("a.txt"))
