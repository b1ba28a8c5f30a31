"""Artifacts with the store plug-in: `tailrace.store.artifacts`."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.sdk_tools import Store, forget, script

BACKGROUND = """
import os
import mlflow, tailrace
tailrace.install(background_artifacts=True)
client = mlflow.MlflowClient()
with mlflow.start_run() as run:
    with open("overwritten.bin", "w") as file:
        file.write("as it was")
    mlflow.log_artifact("overwritten.bin", "files")
    with open("overwritten.bin", "w") as file:
        file.write("later")
    mlflow.log_text("text", "text.txt")
    assert mlflow.artifacts.load_text(run.info.artifact_uri + "/text.txt") == "text"
    mlflow.log_table({"a": [1]}, "table.json")
    mlflow.log_table({"a": [2]}, "table.json")
    assert sorted(file.path for file in client.list_artifacts(run.info.run_id)) == ["files", "table.json", "text.txt"]
    os.makedirs("folder/below")
    open("folder/below/leaf", "w").close()
    client.log_artifacts(run.info.run_id, "folder", "all")
    client.log_artifact(run.info.run_id, "folder")
    try:
        mlflow.log_artifact("nowhere.bin")
    except OSError as error:
        print(type(error).__name__)
mlflow.MlflowClient().log_text(run.info.run_id, "later", "later.txt")
print(mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/later.txt"))
with open(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="files/overwritten.bin")) as file:
    print(file.read())
print(run.info.run_id)
"""


@pytest.mark.slow
def test_artifacts_go_in_the_background_where_that_is_wanted_and_who_reads_them_waits(
    store_uri: str, tmp_path: Path
) -> None:
    done = script(tmp_path, BACKGROUND, MLFLOW_TRACKING_URI=store_uri, MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true")
    missing, later, content, run_id = done.stdout.splitlines()
    assert (missing, later, content) == ("FileNotFoundError", "later", "as it was")
    run = Store(store_uri, run_id)
    folders = ["all/below/leaf", "files/overwritten.bin", "folder/below/leaf"]
    assert run.artifacts() == [*folders, "later.txt", "table.json", "text.txt"]
    assert run.status == "FINISHED"
    forget(tmp_path)
