"""What each key changes, and which metrics have charts."""

from __future__ import annotations

import pytest

from tailrace_agent.top.rows import RunRow
from tailrace_agent.top.view import KEYS, PANELS, SMOOTHING, View, fits, shown_metrics

RUNS = ["a", "b", "c"]


def _pressed(*keys: str, **chosen: object) -> View:
    view = View(run="a", **chosen)  # type: ignore[arg-type]
    for key in keys:
        view.press(key, RUNS, key if len(key) == 1 else None)
    return view


def test_arrows_choose_runs_and_metrics_and_stay_inside() -> None:
    assert _pressed("down", "down").run == "c"
    assert _pressed("down", "down", "down").run == "c"
    assert _pressed("up").run == "a"
    assert _pressed("right", "right", "left").chart == 1
    assert _pressed("left").chart == 0
    assert _pressed("pagedown", page=4).chart == 4


def test_what_is_not_there_any_more_is_chosen_anew() -> None:
    view = View(run="gone", marked=["b", "gone"])
    view.settle(RUNS)
    assert (view.run, view.marked, view.drawn) == ("a", ["b"], ["b", "a"])
    view.settle([])
    assert view.run == "a", "a list that is empty for a moment forgets nothing"


def test_a_run_is_drawn_beside_others_and_last() -> None:
    view = _pressed("space", "down", "space", "down")
    assert view.drawn == ["a", "b", "c"]
    view.press("up", RUNS)
    view.press("space", RUNS)
    assert view.marked == ["a"]


def test_a_pattern_counts_while_it_is_typed_and_escape_takes_it_back() -> None:
    view = _pressed("slash", "l", "o", "q", "backspace", "s")
    assert (view.typing, view.filter, view.pattern) == ("los", "los", "")
    view.press("enter", RUNS)
    assert (view.typing, view.filter) == (None, "los")
    view.press("slash", RUNS)
    view.press("ctrl+u", RUNS)
    view.press("escape", RUNS)
    assert view.filter == "los"
    view.press("escape", RUNS)
    assert view.filter == ""
    hostile = _pressed("slash")
    hostile.press("", RUNS, "\x1b")
    assert hostile.typing == ""


def test_zoom_keeps_the_newest_step_and_a_window_stays_within_the_run() -> None:
    view = _pressed("plus", "plus")
    assert (view.look.first, view.look.last) == (0.75, 1.0)
    view = _pressed("plus", "plus", "less_than_sign")
    assert (view.look.first, view.look.last) == (0.625, 0.875)
    view = _pressed("plus", *["comma"] * 9)
    assert (view.look.first, view.look.last) == (0.0, 0.5)
    view = _pressed("plus", *["full_stop"] * 9, "minus", "minus")
    assert (view.look.first, view.look.last) == (0.0, 1.0)
    closest = _pressed(*["plus"] * 40)
    assert closest.look.last - closest.look.first > 0
    assert _pressed("plus", "0").look.first == 0.0


def test_switches_and_turns() -> None:
    assert _pressed("l").look.log
    assert not _pressed("l", "l").look.log
    assert [_pressed(*["s"] * n).look.smooth for n in range(5)] == [*SMOOTHING, 0.0]
    assert _pressed("enter").alone
    assert not _pressed("enter", "escape").alone
    assert _pressed("tab").panel == 1
    assert _pressed("shift+tab").panel == len(PANELS) - 1
    assert _pressed("m").machine
    assert _pressed("f12", "x").run == "a", "any other key does nothing"


def test_q_quits_but_not_while_a_pattern_is_typed_and_any_key_leaves_the_help() -> None:
    assert not View().press("q", RUNS, "q")
    view = _pressed("slash")
    assert view.press("q", RUNS, "q")
    assert view.typing == "q"
    view = _pressed("question_mark")
    assert view.help
    view.press("down", RUNS)
    assert (view.help, view.run) == (False, "a")
    assert len(KEYS) > 10


@pytest.mark.parametrize(
    ("name", "pattern", "found"),
    [("val/loss", "LOSS", True), ("val/loss", "val/*", True), ("val/loss", "*acc", False), ("a[1]", "a[1]", True)],
)
def test_a_pattern_is_one_of_a_shells_or_a_part_of_the_name(name: str, pattern: str, found: bool) -> None:
    assert fits(name, pattern) is found


def test_metrics_of_the_machine_have_charts_when_they_are_wanted_and_come_last() -> None:
    names = ["system/cpu", "loss", "loss.best", "acc"]
    assert shown_metrics(names, "", machine=False) == ["loss", "acc"]
    assert shown_metrics(names, "", machine=True) == ["loss", "loss.best", "acc", "system/cpu"]
    assert shown_metrics(names, "cpu", machine=False) == ["system/cpu"]


def test_a_pattern_of_runs_leaves_those_that_fit_and_those_that_are_drawn_beside() -> None:
    rows = [RunRow(key=name, name=name, state="RUNNING") for name in ("base", "wide", "wider")]
    view = View(run="base", marked=["base"])
    for key, text in (("f", "f"), ("w", "w"), ("i", "i")):
        view.press(key, RUNS, text)
    assert (view.run_filter, view.filter) == ("wi", "")
    assert [row.name for row in view.of_list(rows)] == ["base", "wide", "wider"]
    view.marked = []
    assert [row.name for row in view.of_list(rows)] == ["wide", "wider"]
    view.press("enter", RUNS)
    view.press("slash", RUNS)
    view.press("x", RUNS, "x")
    assert (view.run_filter, view.filter) == ("wi", "x")
    for _ in range(2):
        view.press("escape", RUNS)
    assert (view.run_filter, view.of_list(rows)) == ("", rows)


def test_a_long_list_is_gone_through_by_the_page() -> None:
    runs = [str(n) for n in range(500)]
    view = View(run="0", run_page=10)
    for _ in range(3):
        view.press("right_square_bracket", runs)
    assert view.run == "30"
    view.press("left_square_bracket", runs)
    assert view.run == "20"
