"""The application, driven by Textual's pilot: keys, mouse, sizes, and what is drawn again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

import pytest
from textual.pilot import Pilot

from tailrace_agent.top.app import Board, Top
from tailrace_agent.top.courses import course_of_points
from tailrace_agent.top.frame import Shown
from tailrace_agent.top.rows import Known, RunRow
from tailrace_agent.top.view import View


class _Source:
    """Two runs, of which a test moves one on."""

    def __init__(self) -> None:
        self.points = [(n, n, float(n)) for n in range(10)]
        self.new = False
        self.looks = 0
        self.shown: list[Shown] = []

    def start(self) -> None:
        pass

    def step(self, now: float) -> None:
        pass

    complete = True
    closest = True

    def look(self, drawn: Collection[str]) -> Known:
        self.looks, self.new = self.looks + 1, False
        runs = [RunRow(key=key, name=f"run-{key}", state="RUNNING", live=True) for key in "ab"]
        course = course_of_points(self.points)
        return Known(runs=runs, courses={key: {"loss": course, "acc": course} for key in drawn}, place="here")

    def show(self, shown: Collection[Shown]) -> None:
        self.shown = list(shown)

    def changed(self, drawn: Collection[str]) -> bool:
        return self.new

    def log(self, value: float) -> None:
        self.points.append((len(self.points), 0, value))
        self.new = True


def _screen(app: Top) -> str:
    return "\n".join("".join(segment.text for segment in app.board.render_line(y)) for y in range(app.size.height))


def _drive(
    test: Callable[[Top, _Source, Pilot[None]], Awaitable[None]],
    size: tuple[int, int] = (80, 24),
    view: View | None = None,
) -> None:
    async def run() -> None:
        source = _Source()
        app = Top(source, view or View())
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await test(app, source, pilot)

    asyncio.run(run())


def test_runs_and_charts_are_on_the_screen_from_the_first_frame_on() -> None:
    async def test(app: Top, source: _Source, pilot: Pilot[None]) -> None:
        assert "run-a" in _screen(app)
        assert "loss" in _screen(app)
        assert app.view.run == "a"

    _drive(test)


def test_a_value_is_drawn_when_it_is_known() -> None:
    async def test(app: Top, source: _Source, pilot: Pilot[None]) -> None:
        assert "77.25" not in _screen(app)
        source.log(77.25)
        for _ in range(100):
            await pilot.pause(0.02)
            if "77.25" in _screen(app):
                return
        raise AssertionError(_screen(app))

    _drive(test)


def test_keys_do_what_the_help_says() -> None:
    async def test(app: Top, source: _Source, pilot: Pilot[None]) -> None:
        await pilot.press("down")
        assert app.view.run == "b"
        await pilot.press("slash", "a", "c")
        assert "/ac" in _screen(app)
        assert "loss" not in _screen(app)
        await pilot.press("enter", "escape", "l", "question_mark")
        assert "logarithmic scale" in _screen(app)
        await pilot.press("x", "plus")
        assert "zoom 2x" in _screen(app)
        assert Shown("b", "loss", 1, 9, all=False) in source.shown
        await pilot.press("q")
        assert not app.is_running or app._exit

    _drive(test)


def test_a_mouse_chooses_runs_charts_and_panels_and_zooms() -> None:
    async def test(app: Top, source: _Source, pilot: Pilot[None]) -> None:
        spots = {(spot.what, spot.which): spot for spot in app._frame.spots}
        run, chart, panel = spots["run", 1], spots["chart", 1], spots["panel", 2]
        await pilot.click(Board, offset=(run.left + 8, run.top))
        assert app.view.run == "b"
        await pilot.click(Board, offset=(chart.left + 3, chart.top + 2))
        assert (app.view.chart, app.view.alone) == (1, False)
        await pilot.click(Board, offset=(panel.left + 1, panel.top))
        assert app.view.panel == 2
        app._scroll(chart.left + 3, chart.top + 2, -1)
        assert app.view.look.first == 0.5
        app._scroll(run.left + 8, run.top, -1)
        assert app.view.run == "a"

    _drive(test)


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (40, 10), (10, 3)])
def test_every_size_is_filled_and_another_one_is_followed(size: tuple[int, int]) -> None:
    async def test(app: Top, source: _Source, pilot: Pilot[None]) -> None:
        assert len(app._frame.lines) == size[1]
        await pilot.resize_terminal(100, 30)
        await pilot.pause()
        assert len(app._frame.lines) == 30

    _drive(test, size)


def test_only_lines_that_are_different_are_drawn_again() -> None:
    async def test(app: Top, source: _Source, pilot: Pilot[None]) -> None:
        drawn: list[int] = []
        refresh = app.board.refresh
        app.board.refresh = lambda *regions: drawn.extend(region.y for region in regions) or refresh(*regions)  # type: ignore[method-assign]
        app.draw()
        assert drawn == []
        await pilot.press("tab")
        assert 0 < len(drawn) < 8

    _drive(test)


def test_without_colours_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def test(app: Top, source: _Source, pilot: Pilot[None]) -> None:
        strips = app.screen._compositor.render_strips()
        styles = [
            segment.style
            for strip in strips
            for segment in strip.apply_filter(app._filters[-1], app.screen.background_colors[1])
        ]
        assert any(style and style.reverse for style in styles), "what is chosen stands out all the same"
        assert not any(style and (style.color or style.bgcolor) and not _default(style) for style in styles)

    _drive(test)


def _default(style: object) -> bool:
    colours = (getattr(style, "color", None), getattr(style, "bgcolor", None))
    return all(colour is None or colour.is_default for colour in colours)


def test_the_list_is_cut_to_runs_that_fit() -> None:
    async def test(app: Top, source: _Source, pilot: Pilot[None]) -> None:
        await pilot.press("f", "n", "minus", "b", "enter")
        assert "run-b" in _screen(app)
        assert "run-a" not in _screen(app)
        assert "1 of 2 runs" in _screen(app)
        assert app.view.run == "b"
        await pilot.press("escape")
        assert "run-a" in _screen(app)

    _drive(test)
