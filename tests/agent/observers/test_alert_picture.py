"""A metric's course as a picture: any figures, and nothing where there is nothing to draw."""

from __future__ import annotations

import builtins
import io
import math
import sys
from typing import Any

import pytest
from PIL import Image

from tailrace_agent.ipc.curves import Span
from tailrace_agent.observers.alert_picture import picture

BIG = sys.float_info.max


def line(*values: float) -> list[Span]:
    return [Span(step, value, value, value) for step, value in enumerate(values)]


@pytest.mark.parametrize("values", [[1.0, 0.5, 0.2], [1.0, 1.0], [-BIG, BIG], [5e-324, 0.0], [1.0, math.inf, 2.0]])
def test_any_figures_are_a_picture(values: list[float]) -> None:
    drawn = picture("loss", line(*values))
    assert drawn is not None
    assert len(drawn) < 30_000
    with Image.open(io.BytesIO(drawn)) as image:
        assert (image.format, image.size) == ("PNG", (640, 240))
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or ()}
    assert (0x2F, 0x81, 0xF7) in colours  # the line


@pytest.mark.parametrize("values", [[], [1.0], [math.inf, 1.0]])
def test_one_value_is_no_course(values: list[float]) -> None:
    assert picture("loss", line(*values)) is None


@pytest.mark.parametrize("key", ["x" * 1000, "Verlust/größe", "\n\t\x00", "損失"])
def test_any_name_is_written(key: str) -> None:
    assert picture(key, line(1.0, 2.0)) is not None


def test_without_pillow_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def no_pillow(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_pillow)
    assert picture("loss", line(1.0, 2.0)) is None
