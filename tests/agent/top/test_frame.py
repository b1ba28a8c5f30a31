"""One frame: every size, what is where, and where a mouse finds it."""

from __future__ import annotations

import math

import msgspec
import pytest

from tailrace_agent.top.courses import course_of_points
from tailrace_agent.top.frame import frame, metrics_of
from tailrace_agent.top.lines import plain_text, width_of
from tailrace_agent.top.rows import Known, RunRow
from tailrace_agent.top.view import View

NAMES = ("train/loss", "val/acc", "lr", "grad/norm", "system/cpu_utilization_percentage")


def _known(runs: int = 3, metrics: int = 5) -> Known:
    courses = {
        name: course_of_points([(n, n, math.sin(n / 10)) for n in range(100)]) for name in NAMES[-metrics:] if metrics
    }
    rows = [
        RunRow(
            key=f"s/{n}",
            name=f"run {n} \x1b[31m漢",
            state="RUNNING" if n < 2 else "KILLED",
            live=n < 2,
            started=100.0,
            step=99,
            rate=12.5,
            accepted=500,
            delivered=490,
            pending=10,
            lag=0.4,
            problem="x" if n == 1 else None,
        )
        for n in range(runs)
    ]
    return Known(runs=rows, courses={row.key: courses for row in rows}, place="here")


def _text(known: Known, view: View, width: int = 80, height: int = 24) -> list[str]:
    return [plain_text(line) for line in frame(known, view, width, height, now=160.0).lines]


@pytest.mark.parametrize("size", [(80, 24), (81, 25), (120, 40), (124, 30), (200, 60), (40, 12), (20, 5)])
@pytest.mark.parametrize("runs", [0, 1, 3, 40])
@pytest.mark.parametrize("metrics", [0, 1, 5])
def test_a_frame_has_its_size_and_no_control_character(size: tuple[int, int], runs: int, metrics: int) -> None:
    for view in (
        View(),
        View(alone=True),
        View(help=True),
        View(typing="lo"),
        View(pattern="none"),
        View(machine=True),
    ):
        found = frame(_known(runs, metrics), view, *size, now=160.0)
        assert [width_of(line) for line in found.lines] == [size[0]] * size[1]
        assert all(each.text.isprintable() for line in found.lines for each in line)
        for spot in found.spots:
            assert 0 <= spot.top < spot.bottom <= size[1]
            assert 0 <= spot.left < spot.right <= size[0] + 1


def test_at_80_by_24_there_are_runs_charts_and_a_panel() -> None:
    view = View()
    lines = _text(_known(), view)
    assert lines[0].split() == ["tailrace", "top", "here", "3", "runs,", "2", "live"]
    assert lines[1].split() == ["RUN", "STATE", "AGE", "STEP", "RATE", "PENDING", "LAG"]
    assert lines[2].split()[-8:] == ["RUNNING", "60", "s", "99", "12.5/s", "10", "0.4", "s"]
    assert "▸●" in lines[2]
    assert lines[3].endswith("!"), "what has a problem is marked"
    text = "\n".join(lines)
    for name in NAMES[:4]:
        assert name in text
    assert "system/" not in text
    assert " machine   ranks   delivery   alerts   console" in text
    assert view.run == "s/0"


def test_a_wide_terminal_has_all_panels_beside_the_charts() -> None:
    text = "\n".join(_text(_known(), View(), 160, 40))
    for name in ("│ machine", "│ ranks", "│ delivery", "│ alerts", "│ console"):
        assert name in text


def test_what_is_chosen_is_to_be_seen_however_long_the_list_is() -> None:
    known = _known(40)
    for run in (0, 20, 39):
        assert any("▸" in line and f"run {run} " in line for line in _text(known, View(run=f"s/{run}")))


def test_charts_beyond_the_page_are_counted_and_the_chosen_one_is_on_it() -> None:
    known = _known()
    view = View(machine=True, chart=4)
    lines = _text(known, view)
    assert any("charts 5-5 of 5" in line for line in lines)
    assert any("system/cpu_utilization" in line for line in lines)
    assert view.page == 4
    view = View(chart=99)
    _text(known, view)
    assert view.chart == 3


def test_a_filter_is_said_and_what_fits_nothing_too() -> None:
    text = _text(_known(), View(pattern="acc"))
    assert "/acc" in text[0]
    assert not any("train/loss" in line for line in text)
    assert any("no metric fits" in line for line in _text(_known(), View(pattern="nothing")))
    assert "/lo" in _text(_known(), View(typing="lo"))[-1]


def test_several_runs_are_drawn_over_one_another_each_in_its_colour() -> None:
    known, view = _known(), View(run="s/0", marked=["s/1", "s/2"])
    lines = frame(known, view, 80, 24, now=160.0).lines
    assert {each.style for line in lines[2:5] for each in line if each.text == "● "} == {"s0", "s1", "s2"}
    assert metrics_of(known, view) == list(NAMES[:4])


def test_a_mouse_finds_runs_charts_and_panels() -> None:
    found = frame(_known(), View(), 80, 24, now=160.0)
    assert [spot.which for spot in found.spots if spot.what == "run"] == [0, 1, 2]
    assert [spot.which for spot in found.spots if spot.what == "chart"] == [0, 1, 2, 3]
    for spot in found.spots:
        if spot.what == "panel":
            line = "".join(each.text for each in found.lines[spot.top])
            assert line[spot.left : spot.right].strip() in ("machine", "ranks", "delivery", "alerts", "console")


def test_a_fault_stands_in_the_title() -> None:
    known = _known()
    known.fault = "the store\x07 is away"
    assert _text(known, View())[0].startswith(" the store\\x07 is away")


def test_a_fault_is_to_be_read_to_its_end_where_there_are_no_runs() -> None:
    fault = f"there is no store /{'long/' * 12}mlflow.db yet: nothing was logged to it, or the tracking URI is another"
    text = _text(Known(fault=fault, empty="not known"), View())
    assert " ".join(line.strip() for line in text[2:5]).replace(" ", "") == fault.replace(" ", "")


def test_the_help_names_every_key() -> None:
    text = "\n".join(_text(_known(), View(help=True)))
    for key in ("Enter", "Space", "Tab", "Esc", "quit", "logarithmic"):
        assert key in text


def test_a_frame_says_what_of_which_runs_has_a_chart() -> None:
    known, view = _known(), View()
    _text(known, view)
    view.mark()
    view.move_run(1, [row.key for row in known.runs])
    shown = frame(known, view, 80, 24).shown
    assert {(each.run, each.all) for each in shown} == {(row.key, True) for row in known.runs[:2]}
    assert len({each.metric for each in shown}) == view.page
    view.zoom(0.5)
    assert not any(each.all for each in frame(known, view, 80, 24).shown)


def test_of_a_long_list_it_is_said_where_one_is_in_it_and_what_is_not_there() -> None:
    view = View(run="s/20")
    text = _text(_known(40), view)
    assert "RUN 21/40" in text[1]
    assert view.run_page == 5 - 1
    few = msgspec.structs.replace(_known(3), of=500)
    assert "3 of 500 runs, 2 live" in _text(few, View())[0]
    newest = msgspec.structs.replace(_known(3), more=True)
    assert "3 newest runs, 2 live" in _text(newest, View())[0]
    assert "1 run, 1 live" in _text(_known(1), View())[0]


def test_a_list_without_runs_says_why() -> None:
    assert "no runs yet: they appear here" in _text(_known(0), View())[1]
    assert "no runs in this store yet" in _text(Known(empty="no runs in this store yet"), View())[1]
    assert "no run fits: Esc shows all" in _text(Known(of=7), View(run_pattern="x"))[1]
    assert "runs:x" in _text(Known(of=7), View(run_pattern="x"))[0]
    assert "only runs: wi" in _text(_known(3), View(typing="wi", of_runs=True))[-1]
