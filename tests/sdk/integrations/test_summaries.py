"""`integrations/summaries`: images, texts, histograms and figures in MLflow's forms."""

from __future__ import annotations

import json
from typing import Any

import mlflow
import numpy as np
import pytest

from helpers.sdk_tools import Store, named, said
from tailrace import CallError, Tracker
from tailrace.integrations.framework_run import FrameworkRun
from tailrace.integrations.summaries import Summaries


def table(store: Store, file: str) -> Any:
    return json.loads(mlflow.artifacts.load_text(f"{store.run.info.artifact_uri}/{file}"))


@pytest.mark.parametrize(
    ("shape", "order", "size"),
    [
        ((3, 4, 6), "CHW", (6, 4)),
        ((4, 6, 3), "HWC", (6, 4)),
        ((4, 6), "HW", (6, 4)),
        ((10, 4, 6, 3), "NHWC", (48, 8)),
        ((2, 1, 4, 6), "NCHW", (12, 4)),
    ],
)
def test_an_image_of_any_order_of_axes_is_one_of_its_step(
    sdk: Tracker, sqlite_uri: str, shape: tuple[int, ...], order: str, size: tuple[int, int]
) -> None:
    with sdk.start_run(run_name="images") as run:
        Summaries(FrameworkRun(None, run)).image("batch/first", np.full(shape, 1.5), 7, order)
    store = named(sqlite_uri, "images")
    (file,) = [name for name in store.artifacts() if name.endswith(".png")]
    assert file.startswith("images/batch~first+step+7+")
    picture = mlflow.artifacts.load_image(f"{store.run.info.artifact_uri}/{file}")
    assert picture.size == size
    assert picture.getpixel((0, 0)) in (255, (255, 255, 255)), "floats are cut, and not stretched"


def test_texts_and_histograms_are_tables_that_grow(sdk: Tracker, sqlite_uri: str) -> None:
    torch = pytest.importorskip("torch")
    with sdk.start_run(run_name="tables") as run:
        summaries = Summaries(FrameworkRun(None, run))
        for step in range(2):
            summaries.text("notes: first", f"at {step}", step)
            values = torch.tensor([0.0, 1.0, 2.0, float("nan")], dtype=torch.bfloat16, requires_grad=True)
            summaries.histogram("layer.weight", values, step, 2)
    store = named(sqlite_uri, "tables")
    texts = table(store, "text/notes_ first.json")
    assert [dict(zip(texts["columns"], row, strict=True)) for row in texts["data"]] == [
        {"step": 0, "text": "at 0"},
        {"step": 1, "text": "at 1"},
    ]
    counts = table(store, "histograms/layer.weight.json")
    first = dict(zip(counts["columns"], counts["data"][0], strict=True))
    assert first["counts"] == [1, 2]
    assert (first["edges"], first["values"], first["finite"], first["mean"]) == ([0.0, 1.0, 2.0], 4, 3, 1.0)


def test_a_figure_is_a_file_of_its_step(sdk: Tracker, sqlite_uri: str) -> None:
    from matplotlib.figure import Figure

    with sdk.start_run(run_name="figures") as run:
        Summaries(FrameworkRun(None, run)).figure("roc", Figure(), 12)
    assert named(sqlite_uri, "figures").artifacts() == ["figures/roc/00000012.png"]


def test_what_cannot_be_written_is_reported_once_and_raised_under_strict_alone(
    sdk: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with sdk.start_run() as run:
        summaries = Summaries(FrameworkRun(None, run))
        for _ in range(2):
            summaries.image("first", np.zeros((2, 2)), 0, "CHW")
        summaries.histogram("names", ["a", "b"], 0)
    assert said(caplog)[0] == "tailrace: image 'first' was not logged: an array of shape (2, 2) has no axes 'CHW'"
    assert said(caplog)[1].startswith("tailrace: histogram 'names' was not logged: could not convert")
    assert len(said(caplog)) == 2
    with sdk.start_run(strict=True) as run, pytest.raises(CallError):
        Summaries(FrameworkRun(None, run)).image("first", np.zeros((2, 2, 7)), 0, "HWC")
