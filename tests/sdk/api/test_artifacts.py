"""Artifacts: taken as they are at the call, uploaded in the background, read back with MLflow's own loaders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import mlflow
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from PIL import Image

from helpers.sdk_tools import Store, tracking
from tailrace import CallError, Tracker

mpl.use("Agg")


@pytest.fixture
def sdk(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)  # for MLflow's loaders
    with tracking(sqlite_uri) as tracker:
        yield tracker


def content(store: Store, path: str) -> bytes:
    return Path(store.client.download_artifacts(store.run_id, path)).read_bytes()


def test_files_and_directories_are_uploaded_as_they_were_at_the_call(
    sdk: Tracker, sqlite_uri: str, tmp_path: Path
) -> None:
    file, tree = tmp_path / "model.bin", tmp_path / "tree"
    with sdk.start_run() as run:
        for epoch in range(3):
            file.write_bytes(bytes([epoch]) * 100_000)
            sdk.log_artifact(str(file), f"epoch {epoch}")
        file.write_bytes(b"changed at once")
        file.unlink()
        (tree / "below").mkdir(parents=True)
        (tree / "one.txt").write_text("one")
        (tree / "below" / "two.txt").write_text("two")
        sdk.log_artifact(tree)
        folder: Any = Path("whole")
        sdk.log_artifact(tree, folder)
        sdk.log_artifacts(tree)
        sdk.log_artifacts(str(tree), "contents/of")
        (tree / "one.txt").write_text("changed")
        shutil.rmtree(tree)
        ledger = sdk.flush()
    store = Store(sqlite_uri, run)
    for epoch in range(3):
        assert content(store, f"epoch {epoch}/model.bin") == bytes([epoch]) * 100_000
    folders = ["tree", "whole/tree", "", "contents/of"]
    expected = {str(Path(folder) / name) for folder in folders for name in ("one.txt", "below/two.txt")}
    assert set(store.artifacts()) == {*expected, *(f"epoch {epoch}/model.bin" for epoch in range(3))}
    assert content(store, "contents/of/one.txt") == content(store, "one.txt") == b"one"
    assert ledger.of("artifact").delivered == 7
    staged = list((tmp_path / "tailrace" / "sessions").glob("*/artifacts/*"))
    assert staged == [], "what has been delivered is not kept"


def test_texts_and_dictionaries_are_those_of_the_call(sdk: Tracker, sqlite_uri: str) -> None:
    config: dict[str, Any] = {"a": [1, 2], "nested": {"b": None}, "umlaut": "ä"}
    with sdk.start_run() as run:
        sdk.log_text("häl\nlo\r\n", "notes/hello.txt")
        sdk.log_dict(config, "config.json")
        sdk.log_dict(config, "config.yaml")
        config["a"].append(3)
        config["nested"]["b"] = 1
    root = f"runs:/{run.run_id}"
    assert content(Store(sqlite_uri, run), "notes/hello.txt") == "häl\nlo\r\n".encode()
    assert mlflow.artifacts.load_text(f"{root}/notes/hello.txt").startswith("häl")
    expected = {"a": [1, 2], "nested": {"b": None}, "umlaut": "ä"}
    assert mlflow.artifacts.load_dict(f"{root}/config.json") == expected
    import yaml

    assert yaml.safe_load(content(Store(sqlite_uri, run), "config.yaml")) == expected


def test_figures_and_images_are_those_of_the_call(sdk: Tracker, sqlite_uri: str) -> None:
    figure = Figure(figsize=(1, 1), dpi=50)
    axes = figure.subplots()
    axes.set_facecolor("red")
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255
    before = pixels.copy()
    with sdk.start_run() as run:
        sdk.log_figure(figure, "plots/figure.png")
        sdk.log_figure(figure, "plots/figure.svg", save_kwargs={"metadata": {"Date": None}})
        axes.set_facecolor("blue")
        sdk.log_image(pixels, "pixels.png")
        sdk.log_image(Image.fromarray(pixels), "pil.png")
        sdk.log_image(mlflow.Image(pixels), "mlflow.png")
        sdk.log_image(pixels, key="train/samples", step=7, timestamp=1_700_000_000_000)
        pixels[:] = 7
    store = Store(sqlite_uri, run)
    root = f"runs:/{run.run_id}"
    drawn = np.asarray(mlflow.artifacts.load_image(f"{root}/plots/figure.png").convert("RGB"))
    assert (drawn == (255, 0, 0)).all(axis=2).sum() > 100
    assert (drawn == (0, 0, 255)).all(axis=2).sum() == 0
    assert b"<svg" in content(store, "plots/figure.svg")
    for name in ("pixels.png", "pil.png", "mlflow.png"):
        assert (np.asarray(mlflow.artifacts.load_image(f"{root}/{name}").convert("RGB")) == before).all()
    series = store.artifacts("images")
    assert len(series) == 2
    assert all(path.startswith("images/train~samples+step+7+timestamp+1700000000000+") for path in series)
    assert store.tags["mlflow.loggedImages"] == "True"


def test_tables_grow_call_by_call_and_are_found_by_mlflow(sdk: Tracker, sqlite_uri: str) -> None:
    rows: dict[str, Any] = {"prompt": ["a", "b"], "score": [0.5, 1.0]}
    frame = pd.DataFrame({"prompt": ["c"], "score": [1.5], "extra": [True]})
    with sdk.start_run() as run:
        sdk.log_table(rows, "eval/table.json")
        rows["prompt"].clear()
        sdk.flush()
        sdk.log_table(frame, "eval/table.json")
        frame.loc[0, "prompt"] = "changed"
        sdk.log_table({"one": 1}, "other.json")
    table = mlflow.load_table("eval/table.json", run_ids=[run.run_id])
    assert list(table["prompt"]) == ["a", "b", "c"]
    assert list(table["score"]) == [0.5, 1.0, 1.5]
    assert list(table["extra"].isna()) == [True, True, False]
    assert list(mlflow.load_table("other.json", run_ids=[run.run_id])["one"]) == [1]


def test_a_table_of_a_resumed_run_keeps_its_rows(sdk: Tracker) -> None:
    with sdk.start_run() as run:
        sdk.log_table({"prompt": ["a"]}, "table.json")
    with sdk.start_run(run_id=run.run_id):
        sdk.log_table({"prompt": ["b"]}, "table.json")
    assert list(mlflow.load_table("table.json", run_ids=[run.run_id])["prompt"]) == ["a", "b"]


def test_a_resumed_run_still_names_the_tables_from_before(sdk: Tracker) -> None:
    with sdk.start_run() as run:
        sdk.log_table({"prompt": ["a"]}, "first.json")
    with sdk.start_run(run_id=run.run_id):
        sdk.log_table({"prompt": ["b"]}, "second.json")
    named = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert [each["path"] for each in named] == ["first.json", "second.json"]


def test_a_column_may_hold_images_of_other_libraries(sdk: Tracker, sqlite_uri: str) -> None:
    class Drawing:
        size = (1, 1)

        def resize(self, size: tuple[int, int]) -> Drawing:
            return self

        def save(self, path: Path) -> None:
            path.write_text("drawn")

    with sdk.start_run() as run:
        sdk.log_table({"image": [Image.new("L", (2, 2)), Drawing()]}, "table.json")
    stored = Store(sqlite_uri, run)
    assert "table.json" in stored.artifacts()
    assert sum(content(stored, name) == b"drawn" for name in stored.artifacts()) == 2, "the image and its thumbnail"


def test_floats_that_are_no_pixels_are_stretched_and_that_is_said(
    sdk: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with sdk.start_run() as run:
        for _ in range(2):
            sdk.log_image(np.array([[0.0, 2.5]]), "a.png")
        sdk.log_image(np.array([[0.0, 1.0]]), "b.png")
        assert sdk.flush().of("artifact").delivered == 3
    assert [message for message in caplog.messages if "Float pixel" in message] == [
        "tailrace: log_image: Float pixel values out of acceptable range 0 to 1: 0.0 to 2.5 is stretched to fit"
    ]
    assert run.enabled


def test_what_cannot_be_taken_is_counted_and_said_once_and_stops_nobody(
    sdk: Tracker, sqlite_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    anything: Any
    with sdk.start_run() as run:
        for _ in range(2):
            sdk.log_artifact(tmp_path / "missing.bin")
            sdk.log_artifacts(__file__)
        for anything in (None, 3, object()):
            sdk.log_artifact(anything)
            sdk.log_text(anything, "text.txt")
            sdk.log_figure(anything, "figure.png")
            sdk.log_image(anything, "image.png")
            sdk.log_table(anything, "table.json")
            sdk.log_text("text", anything)
        sdk.log_image(np.zeros((2, 2)), "a.png", key="both")
        sdk.log_table({"a": [1]}, "table.csv")
        sdk.log_text("outside", "../outside.txt")
        sdk.log_text("good", "good.txt")
        ledger = sdk.flush().of("artifact")
    assert ledger.dropped == {"could not be read or drawn": 24}
    assert (ledger.accepted, ledger.delivered) == (26, 2)
    assert Store(sqlite_uri, run).artifacts() == ["3", "good.txt"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said))
    assert any("missing.bin" in text for text in said)
    assert any("log_table writes .json" in text for text in said)


@pytest.mark.slow
def test_a_folder_that_leads_out_of_the_run_is_refused_at_the_call_and_costs_nothing_else(
    sdk: Tracker, sqlite_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a")
    anything: Any = 5
    with sdk.start_run() as run:
        for folder in ("../outside", "/absolute", "a/../../b", "..", anything):
            sdk.log_artifact(file, folder)
        for folder in ("", ".", "a//b/", "./c", "d/../e"):
            sdk.log_artifact(file, folder)
        ledger = sdk.flush().of("artifact")
    assert (sum(ledger.dropped.values()), ledger.delivered) == (5, 5)
    assert Store(sqlite_uri, run).artifacts() == ["a.txt", "a/b/a.txt", "c/a.txt", "e/a.txt"]
    assert len(caplog.records) == 5


def test_strict_raises_at_the_call(sdk: Tracker, tmp_path: Path) -> None:
    figure: Any = object()
    with sdk.start_run(strict=True):
        with pytest.raises(CallError, match=r"missing\.bin"):
            sdk.log_artifact(tmp_path / "missing.bin")
        with pytest.raises(CallError, match="Unsupported figure object type: object"):
            sdk.log_figure(figure, "figure.png")
        for kind in (CallError, MlflowException, TypeError):  # what MLflow's own raises, too
            with pytest.raises(kind, match="Unsupported image object type: list"):
                sdk.log_image([[1]], "image.png")
        for kind in (CallError, MlflowException, ValueError):
            with pytest.raises(kind, match="Integer pixel values out of acceptable range"):
                sdk.log_image(np.full((2, 2), 300), "image.png")
        with pytest.raises(CallError, match="relative path"):
            sdk.log_dict({}, "/config.json")


@pytest.mark.slow
def test_an_artifact_that_the_server_cannot_store_is_a_dead_letter_and_costs_nothing_else(mlflow_server: str) -> None:
    settings = {"experiment_name": "refused artifacts", "end_timeout": 30, "exit_timeout": 0, "retry_max_delay": 1}
    with tracking(mlflow_server, **settings) as sdk, sdk.start_run() as run:
        sdk.log_text("a file", "a")
        sdk.log_text("below the file", "a/b.txt")
        sdk.log_text("good", "good.txt")
        ledger = sdk.flush().of("artifact")
        assert (ledger.dead, ledger.delivered) == (1, 2)
        assert {"a", "good.txt"} <= {*Store(mlflow_server, run).artifacts()}


def test_an_artifact_whose_name_a_server_does_not_keep_is_stored_under_another_and_told(
    mlflow_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    with tracking(mlflow_server, experiment_name="renamed artifacts") as sdk, sdk.start_run() as run:
        sdk.log_text("one", "loss#1.txt")
        sdk.log_text("two", "loss#2.txt")
        sdk.log_text("why", "why?.txt")
    stored = Store(mlflow_server, run).artifacts()
    assert len(stored) == 3
    assert "why?.txt" in stored
    assert "artifact 'loss#1.txt' is stored as 'loss_1-" in caplog.text


def test_artifacts_reach_a_server_whatever_their_names_are(mlflow_server: str, tmp_path: Path) -> None:
    names = ["model.bin", "a b.txt", "umlaut ä.txt", "100%.txt", "a+b&c=d.txt", "a:b.txt"]
    with tracking(mlflow_server, experiment_name="artifacts over http") as sdk, sdk.start_run() as run:
        for name in names:
            (tmp_path / name).write_bytes(name.encode() * 1000)
            sdk.log_artifact(tmp_path / name, "a/b")
            (tmp_path / name).unlink()
        sdk.log_table({"x": [1]}, "table.json")
        sdk.log_table({"x": [2]}, "table.json")
    store = Store(mlflow_server, run)
    assert set(store.artifacts()) == {*(f"a/b/{name}" for name in names), "table.json"}
    assert content(store, "a/b/model.bin") == b"model.bin" * 1000
    assert content(store, "table.json") == b'{"columns":["x"],"data":[[1],[2]]}'
