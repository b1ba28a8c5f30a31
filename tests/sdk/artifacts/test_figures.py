"""Figures: captured at the call, drawn later, and pyplot hears nothing of it."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest

from helpers.written import pixels, written
from tailrace._artifacts.captured import BadArtifact
from tailrace._artifacts.figures import freeze_figure

mpl.use("Agg")


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
    with pytest.raises(BadArtifact, match="Unsupported figure object type: str"):
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
    with pytest.raises(
        BadArtifact, match=r"Unsupported file extension for plotly figure: '.gif'. It is written as one of .html, "
    ):
        freeze_figure(plotly.figure, "a.gif")
