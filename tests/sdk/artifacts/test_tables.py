"""Tables: captured at the call, written as MLflow writes them, and read back by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import PIL.Image
import pytest

from helpers.written import written
from tailrace._artifacts.captured import BadArtifact, Frozen
from tailrace._artifacts.tables import freeze_table
from tailrace_agent.delivery.tables import merge_tables


def table(frozen: Frozen, folder: Path) -> pd.DataFrame:
    """The table as MLflow's `load_table` reads it."""
    path = written(frozen, folder)[-1]
    # An address that is never called: reading a file asks no store; MLflow's default one would take seconds to make.
    return mlflow.MlflowClient("http://localhost")._read_from_file(str(path))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "data",
    [
        {"a": [1, 2], "b": ["x", None]},
        {"a": 1, "b": "x"},
        {"a": [1, 2], "b": [1]},
        {"a": [0.5, float("nan")], "b": [True, False]},
        {"a": [{"k": 1}, [1, "é"]], "b": (1, 2)},
        {"a": [np.float32(0.5), np.int64(3)], "b": [np.arange(2), None]},
        {"a": np.arange(3), "b": 1.5},
        {1: [1, 2]},
        {"a": []},
        {},
    ],
)
def test_a_dictionary_becomes_the_table_that_mlflow_makes_of_it(tmp_path: Path, data: dict[Any, Any]) -> None:
    try:
        frame = pd.DataFrame(data)
    except ValueError:
        frame = pd.DataFrame([data])
    frame.to_json(tmp_path / "expected.json", orient="split", index=False, date_format="iso")
    expected = pd.read_json(tmp_path / "expected.json", orient="split")
    pd.testing.assert_frame_equal(table(freeze_table(data, "t.json"), tmp_path), expected)


def test_a_table_is_taken_as_it_was_at_the_call(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "when": pd.to_datetime(["2020-01-01", "2020-01-02"])}, index=[5, 9])
    columns: dict[str, Any] = {"a": [1, [2]]}
    one, two = freeze_table(frame, "dir/one.json"), freeze_table(columns, "two.json")
    frame.loc[5, "a"] = 100
    columns["a"][1].append(100)
    assert table(one, tmp_path)["a"].tolist() == [1, 2]
    assert table(two, tmp_path)["a"].tolist() == [1, [2]]
    assert one.tags == {"mlflow.loggedArtifacts": '[{"path": "dir/one.json", "type": "table"}]'}
    assert [part.append for part in one.parts] == [True]


@pytest.fixture
def client(tmp_path: Path) -> Any:
    """A real store; `load_table` looks at the global one, which is put back."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


@pytest.mark.slow
def test_parts_of_a_table_merge_into_one_that_mlflow_loads(tmp_path: Path, client: mlflow.MlflowClient) -> None:
    experiment = client.create_experiment("tables", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment)
    image = PIL.Image.new("RGB", (8, 4), "red")
    calls = [
        {"prompt": ["a", "b"], "score": [0.1, 0.9]},
        pd.DataFrame({"prompt": ["c"], "picture": [image]}),
        {"prompt": ["d"], "picture": [mlflow.Image(image)]},
    ]
    parts = []
    for number, data in enumerate(calls):
        frozen = freeze_table(data, "eval.json")
        *images, part = written(frozen, tmp_path / str(number))
        parts.append(part)
        assert len(images) == (0 if number == 0 else 2)
        for piece, path in zip(frozen.parts, images, strict=False):
            client.log_artifact(run.info.run_id, str(path), piece.artifact_path)
        for key, value in frozen.tags.items():
            client.set_tag(run.info.run_id, key, value)
    merge_tables(parts, tmp_path / "eval.json")
    client.log_artifact(run.info.run_id, str(tmp_path / "eval.json"))
    loaded = client.load_table(experiment, "eval.json")
    assert loaded["prompt"].tolist() == ["a", "b", "c", "d"]
    assert loaded["score"].tolist()[:2] == [0.1, 0.9]
    picture = loaded["picture"].tolist()[3]
    assert picture["type"] == "image"
    local = client.download_artifacts(run.info.run_id, picture["filepath"], str(tmp_path))
    assert PIL.Image.open(local).size == (8, 4)


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        ([1], "t.json", "not list"),
        ({"a": [1]}, "t.csv", "use log_artifact"),
        ({"a": [1]}, "t", "use log_artifact"),
        ({"a": [1]}, "a:b.json", "must not hold ':'"),
        ({"a": ["x", PIL.Image.new("L", (1, 1))]}, "t.json", "contains a mix of images"),
    ],
)
def test_what_cannot_be_a_table_is_refused(data: Any, name: str, says: str) -> None:
    with pytest.raises(BadArtifact, match=says):
        freeze_table(data, name)
