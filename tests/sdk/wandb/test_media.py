"""wandb's data types as artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.wandb_tools import stored
from tailrace import wandb
from tailrace.wandb._media import media_of


def test_media_and_files_become_artifacts(store: str, tmp_path: Path) -> None:
    run = wandb.init(project="media")
    table = wandb.Table(columns=["prompt", "score"], data=[["a", 0.5]])
    table.add_data("b", 0.75)
    table.add_column("n", [1, 2])
    hist = wandb.Histogram([1, 2, 2, 3], num_bins=2)
    assert (hist.histogram, len(hist.bins)) == ([1, 3], 3)
    wandb.log(
        {
            "image": wandb.Image(np.zeros((4, 4, 3), np.uint8), caption="black"),
            "images": [wandb.Image(np.ones((4, 4))), wandb.Image(np.zeros((4, 4)))],
            "table": table,
            "weights": hist,
            "array": np.arange(100.0),
            "page": wandb.Html("<b>bold</b>"),
            "list": [1, 2, 3],
        }
    )
    (tmp_path / "model.bin").write_bytes(b"weights")
    assert wandb.save("model.bin") == ["model.bin"]
    artifact = wandb.Artifact("data", type="dataset", metadata={"rows": 2})
    artifact.add_file("model.bin", name="sub/renamed.bin")
    with artifact.new_file("notes.txt") as file:
        file.write("hello")
    run.log_artifact(artifact, aliases=["best"])
    Path(run.dir, "log.txt").write_text("in run.dir")
    found = stored(store, run)
    names = found.artifacts()
    for name in (
        "model.bin",
        "log.txt",
        "media/html/page_0.html",
        "media/tables/table_0.json",
        "media/histograms/weights_0.json",
        "media/histograms/array_0.json",
        "media/lists/list_0.json",
        "media/images/image_0.caption.txt",
        "artifacts/data/sub/renamed.bin",
        "artifacts/data/notes.txt",
        "artifacts/data/artifact.json",
    ):
        assert name in names, names
    assert len([name for name in names if name.startswith("images/") and name.endswith(".png")]) == 3


def test_pictures_of_every_kind_are_what_mlflow_takes() -> None:
    torch = pytest.importorskip("torch")
    pillow = pytest.importorskip("PIL.Image")
    assert wandb.Image(torch.zeros(3, 4, 5)).picture().shape == (4, 5, 3)
    assert wandb.Image(torch.zeros(1, 4, 5)).picture().shape == (4, 5)
    assert wandb.Image(np.full((2, 2), 200.0)).picture().dtype == np.uint8
    assert wandb.Image(np.array([[-1.0, 1.0]])).picture().tolist() == [[0.0, 1.0]]
    assert wandb.Image(np.zeros((2, 2, 3), np.uint8), mode="L").picture().mode == "L"
    image = pillow.new("RGB", (2, 2))
    assert wandb.Image(image).picture().getbands() == image.getbands()


def test_a_table_of_frames_and_rows() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    for table in (wandb.Table(dataframe=frame), wandb.Table(data=frame), wandb.Table(["a", "b"], [[1, "x"], [2, "y"]])):
        assert (table.columns, table.data) == (["a", "b"], [[1, "x"], [2, "y"]])
        assert table.get_dataframe().equals(frame)
    empty = wandb.Table()
    empty.add_column("a", [1, 2])
    assert (empty.columns, empty.get_column("a")) == (["a"], [1, 2])


def test_a_histogram_of_values_and_of_numpys() -> None:
    torch = pytest.importorskip("torch")
    assert wandb.Histogram(np_histogram=np.histogram([1, 2, 2], bins=2)).histogram == [1, 2]
    assert sum(wandb.Histogram(torch.ones(10, dtype=torch.bfloat16)).histogram) == 10
    assert len(wandb.Histogram(range(5000), num_bins=1000).bins) == 513


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.arange(3), wandb.Histogram),
        (np.float64(1), type(None)),
        (np.ones(1), type(None)),
        (1.5, type(None)),
        (pd.DataFrame({"a": [1]}), wandb.Table),
        (wandb.Html("x"), wandb.Html),
    ],
)
def test_what_a_value_is(value: Any, kind: type) -> None:
    assert isinstance(media_of(value), kind)


def test_figures_are_drawn(store: str) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    figure.subplots().plot([1, 2])
    run = wandb.init(project="figures")
    wandb.log({"curve": figure})
    wandb.log({"wrapped": wandb.Image(figure)})
    compressed, whole, curve = stored(store, run).artifacts()
    assert (compressed.startswith("images/wrapped+step+1"), whole[-4:]) == (True, ".png")
    assert curve == "media/images/curve_0.png"


def test_images_in_a_table_are_images_and_beside_others_words(store: str) -> None:
    run = wandb.init(project="tables")
    pictures = [wandb.Image(np.zeros((2, 2, 3))), wandb.Image(np.ones((2, 2), bool))]
    wandb.log({"all": wandb.Table(["image"], [[each] for each in pictures])})
    wandb.log({"some": wandb.Table(["image"], [[pictures[0]], [None]])})
    found = stored(store, run)
    assert len([name for name in found.artifacts() if name.startswith("table_images/") and name.endswith(".png")]) == 2
    path = found.client.download_artifacts(found.run_id, "media/tables/some_1.json")
    assert Path(path).read_text() == '{"columns":["image"],"data":[["Image"],[null]]}'
