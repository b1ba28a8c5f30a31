"""Texts, dictionaries, figures, images and tables: captured at the call, written later, read back by MLflow."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import yaml

from tailrace._artifacts.captured import BadArtifact, Frozen
from tailrace._artifacts.documents import freeze_dict, freeze_text
from tailrace._artifacts.figures import freeze_figure
from tailrace._artifacts.images import freeze_image
from tailrace._artifacts.tables import freeze_table
from tailrace_agent.delivery.tables import merge_tables
from tailrace_agent.errors import CallError


def written(frozen: Frozen, folder: Path) -> list[Path]:
    """All parts, written by another thread, as the lane does it."""
    paths = [folder / part.artifact_file for part in frozen.parts]
    errors: list[Exception] = []

    def work() -> None:
        for part, path in zip(frozen.parts, paths, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write(path)
            except Exception as error:  # noqa: BLE001 - raised again by the test's thread
                errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return paths


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/../../x", "dir/", 3.5, None])
def test_a_path_that_leads_out_of_the_run_is_refused(name: Any) -> None:
    for freeze in (
        lambda: freeze_text("x", name),
        lambda: freeze_dict({}, name),
        lambda: freeze_table({"a": [1]}, name),
    ):
        with pytest.raises(BadArtifact, match="artifact_file must be"):
            freeze()
    assert issubclass(BadArtifact, CallError)
    assert issubclass(BadArtifact, ValueError)


def test_a_path_is_normalized_and_told_in_two_parts() -> None:
    (part,) = freeze_text("x", "a//b/../c.txt").parts
    assert (part.artifact_file, part.artifact_path, part.name) == ("a/c.txt", "a", "c.txt")
    (part,) = freeze_text("x", "c.txt").parts
    assert (part.artifact_path, part.name) == (None, "c.txt")


def test_a_text_is_utf8_and_mlflow_reads_it(tmp_path: Path) -> None:
    (path,) = written(freeze_text("grüß\r\n✓", "notes.txt"), tmp_path)
    assert mlflow.artifacts.load_text(str(path)) == "grüß\n✓"
    assert path.read_bytes() == "grüß\r\n✓".encode()
    with pytest.raises(BadArtifact, match="takes a str, not bytes"):
        freeze_text(b"x", "notes.txt")  # type: ignore[arg-type]


def test_a_dictionary_is_the_same_json_that_mlflow_writes(tmp_path: Path) -> None:
    dictionary = {"b": [1, 2.5, float("nan")], 3: {"when": dt.date(2020, 1, 2), "p": Path("x")}, "é": None}
    expected = json.dumps(dictionary, indent=2, default=str)
    frozen = freeze_dict(dictionary, "dir/config")
    dictionary["b"].append("later")  # type: ignore[union-attr]
    (path,) = written(frozen, tmp_path)
    assert path.read_text() == expected
    assert "é" in mlflow.artifacts.load_dict(str(path))


@pytest.mark.parametrize("name", ["c.yaml", "c.yml"])
def test_a_dictionary_is_the_same_yaml_that_mlflow_writes(tmp_path: Path, name: str) -> None:
    inner = [1, 2]
    dictionary: dict[str, Any] = {"b": inner, "a": {"again": inner}, "t": (1,)}
    expected = yaml.dump(dictionary, indent=2, default_flow_style=False)
    frozen = freeze_dict(dictionary, name)
    inner.append(3)
    dictionary["c"] = 1
    (path,) = written(frozen, tmp_path)
    assert path.read_text() == expected


def test_a_dictionary_that_contains_itself_or_has_odd_keys_is_refused() -> None:
    itself: dict[str, Any] = {}
    itself["me"] = itself
    with pytest.raises(BadArtifact, match="Circular"):
        freeze_dict(itself, "x.json")
    with pytest.raises(BadArtifact, match="keys must be"):
        freeze_dict({(1, 2): 3}, "x.json")
    with pytest.raises(BadArtifact, match="cannot copy"):
        freeze_dict({"lock": threading.Lock()}, "x.yaml")


def pixels(path: Path) -> Any:
    return np.asarray(PIL.Image.open(path).convert("RGB"))


def test_a_figure_is_drawn_as_it_was_and_pyplot_hears_nothing_of_it(tmp_path: Path) -> None:
    figure, axes = plt.subplots()
    try:
        axes.plot([0, 1], [2, 3])
        figure.savefig(tmp_path / "expected.png")
        frozen = freeze_figure(figure, "loss.png")
        axes.plot([0, 1], [3, 2])
        axes.set_title("changed after the call")
        before = plt.get_fignums()
        (path,) = written(frozen, tmp_path)
        assert plt.get_fignums() == before
        assert np.array_equal(pixels(path), pixels(tmp_path / "expected.png"))
    finally:
        plt.close("all")


def test_a_figure_closed_after_the_call_is_drawn_all_the_same(tmp_path: Path) -> None:
    figure, axes = plt.subplots()
    axes.imshow(np.eye(4))
    frozen = freeze_figure(figure, "eye.png")
    axes.clear()
    plt.close(figure)
    (path,) = written(frozen, tmp_path)
    assert pixels(path).std() > 10
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("name", "starts"), [("f.svg", b"<?xml"), ("f.pdf", b"%PDF"), ("f.PNG", b"\x89PNG"), ("f", b"\x89PNG")]
)
def test_the_extension_of_a_figure_decides_on_its_format(tmp_path: Path, name: str, starts: bytes) -> None:
    figure = mpl.figure.Figure()
    figure.subplots().plot([1, 2])
    (path,) = written(freeze_figure(figure, name), tmp_path)
    assert path.read_bytes().startswith(starts)


def test_the_style_of_the_call_decides_on_how_a_figure_is_saved(tmp_path: Path) -> None:
    figure = mpl.figure.Figure(figsize=(2, 1))
    with mpl.rc_context({"savefig.dpi": 50, "savefig.facecolor": "red"}):
        frozen = freeze_figure(figure, "a.png")
    (path,) = written(frozen, tmp_path)
    assert pixels(path).shape == (50, 100, 3)
    assert tuple(pixels(path)[0, 0]) == (255, 0, 0)
    (path,) = written(freeze_figure(figure, "b.png", save_kwargs={"dpi": 20, "transparent": True}), tmp_path)
    assert PIL.Image.open(path).size == (40, 20)
    assert PIL.Image.open(path).getpixel((0, 0))[3] == 0  # type: ignore[index]


def test_a_figure_that_cannot_be_pickled_is_drawn_at_the_call(tmp_path: Path) -> None:
    figure = mpl.figure.Figure()
    axes = figure.subplots()
    axes.plot([1, 2])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.savefig(tmp_path / "expected.png")
    frozen = freeze_figure(figure, "lambda.png")
    axes.set_title("changed after the call")
    (path,) = written(frozen, tmp_path)
    assert np.array_equal(pixels(path), pixels(tmp_path / "expected.png"))


def test_what_is_no_figure_is_refused() -> None:
    with pytest.raises(BadArtifact, match="not str"):
        freeze_figure("figure", "x.png")


@pytest.fixture
def plotly(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """As much of plotly as is called: it is no dependency of the tests."""
    calls: list[tuple[str, Any, dict[str, Any]]] = []
    base, io = types.ModuleType("plotly.basedatatypes"), types.ModuleType("plotly.io")

    class BaseFigure:
        def __init__(self) -> None:
            self.data = [1]

        def to_dict(self) -> dict[str, Any]:
            return {"data": list(self.data)}

    def writer(name: str) -> Any:
        def write(figure: Any, path: str, **options: Any) -> None:
            calls.append((name, figure, options))
            Path(path).write_text(name)

        return write

    base.BaseFigure = BaseFigure  # type: ignore[attr-defined]
    io.write_html, io.write_image = writer("html"), writer("image")  # type: ignore[attr-defined]
    for name, module in {"plotly": types.ModuleType("plotly"), "plotly.basedatatypes": base, "plotly.io": io}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return types.SimpleNamespace(figure=BaseFigure(), calls=calls)


def test_a_plotly_figure_is_written_as_it_was_at_the_call(tmp_path: Path, plotly: types.SimpleNamespace) -> None:
    html = freeze_figure(plotly.figure, "a.html", save_kwargs={"full_html": False})
    image = freeze_figure(plotly.figure, "a.webp", save_kwargs={"scale": 2})
    plotly.figure.data.append(2)
    written(html, tmp_path)
    written(image, tmp_path)
    assert plotly.calls == [
        ("html", {"data": [1]}, {"include_plotlyjs": "cdn", "auto_open": False, "full_html": False}),
        ("image", {"data": [1]}, {"scale": 2}),
    ]
    with pytest.raises(BadArtifact, match=r"one of .html, .*not '.gif'"):
        freeze_figure(plotly.figure, "a.gif")


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
        ({}, "needs artifact_file or key"),
        ({"artifact_file": "a.png", "key": "k"}, "not both"),
        ({"artifact_file": "a.png", "step": 0}, "not both"),
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
        ([[1, 2]], "not list"),
        (np.zeros(3), "not of shape"),
        (np.zeros((2, 2, 2)), "not of shape"),
        (np.zeros((0, 2)), "empty"),
        (np.zeros((2, 2), dtype=complex), "not complex128"),
    ],
)
def test_what_is_no_image_is_refused_at_the_call(image: Any, says: str) -> None:
    with pytest.raises(BadArtifact, match=says):
        freeze_image(image, "a.png")


def test_integer_pixels_out_of_range_fail_when_they_are_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be 0 to 255"):
        written(freeze_image(np.full((2, 2), 300), "a.png"), tmp_path)


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
        ({"a": [1]}, "t.parquet", "use log_artifact"),
        ({"a": [1]}, "t", "use log_artifact"),
        ({"a": [1]}, "a:b.json", "must not hold ':'"),
        ({"a": ["x", PIL.Image.new("L", (1, 1))]}, "t.json", "mixes images"),
    ],
)
def test_what_cannot_be_a_table_is_refused(data: Any, name: str, says: str) -> None:
    with pytest.raises(BadArtifact, match=says):
        freeze_table(data, name)


def test_a_plain_table_a_text_and_a_dictionary_load_neither_pandas_nor_numpy() -> None:
    script = """
import sys, pathlib, tempfile
from tailrace._artifacts.documents import freeze_text, freeze_dict
from tailrace._artifacts.tables import freeze_table
for frozen in (freeze_table({"a": [1, 2]}, "t.json"), freeze_text("x", "x"), freeze_dict({"a": 1}, "x")):
    frozen.parts[0].write(pathlib.Path(tempfile.mkdtemp(), "x"))
print([name for name in ("pandas", "numpy", "mlflow", "yaml", "PIL") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
