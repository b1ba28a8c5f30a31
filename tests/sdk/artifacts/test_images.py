"""Images: captured at the call, as MLflow makes and names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import PIL.Image
import pytest

from helpers.sdk_tools import newer_than_mlflow_3_7
from helpers.written import pixels, written
from tailrace._artifacts.captured import BadArtifact
from tailrace._artifacts.images import freeze_image


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "gray": rng.integers(0, 256, (20, 30), dtype=np.uint8),
        "gray with a channel": rng.integers(0, 256, (20, 30, 1)),
        "rgb": rng.integers(0, 256, (20, 30, 3), dtype=np.uint8),
        "rgba": rng.integers(0, 256, (20, 30, 4), dtype=np.int64),
        "float": rng.random((20, 30, 3)),
        "float32 out of range": (rng.random((20, 30)) * 7 - 3).astype(np.float32),
        "mask": rng.random((20, 30)) > 0.5,
    }


@pytest.mark.filterwarnings("ignore:Float pixel values")
@pytest.mark.parametrize("name", list(arrays()))
def test_an_array_becomes_the_image_that_mlflow_makes_of_it(tmp_path: Path, name: str) -> None:
    array = arrays()[name]
    expected = np.asarray(mlflow.Image(array).to_pil())
    frozen = freeze_image(array, "dir/a.png")
    array[:] = 0
    (path,) = written(frozen, tmp_path)
    assert np.array_equal(np.asarray(mlflow.artifacts.load_image(str(path))), expected)
    assert frozen.tags == {}


def test_images_of_pillow_and_of_mlflow_are_taken_as_they_were(tmp_path: Path) -> None:
    image = PIL.Image.new("RGB", (4, 4), "red")
    one, two = freeze_image(image, "a.png"), freeze_image(mlflow.Image(image), "b.png")
    image.paste("blue", (0, 0, 4, 4))
    for frozen in (one, two):
        (path,) = written(frozen, tmp_path)
        assert tuple(pixels(path)[0, 0]) == (255, 0, 0)


@pytest.mark.slow
@newer_than_mlflow_3_7("writes a slash in a key as #, and not as ~")
def test_an_image_of_a_series_has_the_names_and_the_tag_that_mlflow_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8))
    frozen = freeze_image(image, key="val/dogs 1", step=7, timestamp=1234)
    full, thumbnail = written(frozen, tmp_path)
    assert frozen.tags == {"mlflow.loggedImages": "True"}

    monkeypatch.setattr("uuid.uuid4", lambda: full.stem.rpartition("+")[2])
    theirs: dict[str, Any] = {}
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(client, "_log_artifact_async_helper", lambda _, path, image: theirs.__setitem__(path, image))
    monkeypatch.setattr(client, "set_tag", lambda _, key, value, *__: theirs.__setitem__(key, str(value)))
    client.log_image("run", image, key="val/dogs 1", step=7, timestamp=1234, synchronous=False)
    assert {part.artifact_file for part in frozen.parts} | set(frozen.tags) == set(theirs)
    assert theirs["mlflow.loggedImages"] == "True"
    assert np.array_equal(pixels(full), np.asarray(image))
    assert PIL.Image.open(thumbnail).size == theirs[str(thumbnail.relative_to(tmp_path))].size == (256, 128)
    assert PIL.Image.open(thumbnail).format == "WEBP"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "Please specify exactly one of"),
        ({"artifact_file": "a.png", "key": "k"}, "cannot be used in conjunction"),
        ({"artifact_file": "a.png", "step": 0}, "cannot be used in conjunction"),
        ({"key": "a:b"}, "may hold"),
        ({"key": 3}, "may hold"),
    ],
)
def test_wrong_arguments_for_an_image_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(BadArtifact, match=says):
        freeze_image(np.zeros((2, 2)), **arguments)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ([[1, 2]], "Unsupported image object type: list"),
        (np.zeros(3), "not of shape"),
        (np.zeros((2, 2, 2)), "not of shape"),
        (np.zeros((0, 2)), "empty"),
        (np.zeros((2, 2), dtype=complex), "Invalid array data type: complex128"),
        (np.full((2, 2), 300), "out of acceptable range 0 to 255: these are 300 to 300"),
        (np.full((2, 2), -1), "out of acceptable range 0 to 255: these are -1 to -1"),
    ],
)
def test_what_is_no_image_is_refused_at_the_call(image: Any, says: str) -> None:
    with pytest.raises(BadArtifact, match=says):
        freeze_image(image, "a.png")


def test_floats_beyond_0_to_1_are_remarked_upon() -> None:
    for image, remarked in (([[-0.1]], True), ([[1.1]], True), ([[0.0, 1.0]], False)):
        assert (freeze_image(np.array(image), "a.png").remark is not None) == remarked
        assert (freeze_image(np.array(image), key="a").remark is not None) == remarked
