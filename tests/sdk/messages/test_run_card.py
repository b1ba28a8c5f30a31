"""A run's card: what is passed and no more, foreign text as text, and pictures of any figures."""

from __future__ import annotations

import math
import re
import sys
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tailrace._messages.run_card import RunFacts, run_card, svg_line
from tailrace_agent.ipc.status import MetricEnd, MetricEnds

NASTY = "\"><script>alert('&')</script>"


def facts(**changes: Any) -> RunFacts:
    return RunFacts("baseline", "RUNNING", (), None, MetricEnds(), ())._replace(**changes)


def seen(card: str) -> str:
    return " ".join("".join(ET.fromstring(card).itertext()).split())


def test_a_card_says_what_is_passed() -> None:
    card = run_card(
        facts(
            where=["experiment digits", "nested in sweep"],
            link="http://mlflow:5000/#/experiments/1/runs/2",
            metrics=MetricEnds([MetricEnd("loss", 0.25, [1.0, 0.2, 0.25], 0.2, 1), MetricEnd("lr", 0.1, [0.1])], 3),
            notes=["4 points delivered", "2 waiting"],
        )
    )
    text = seen(card)
    assert "baseline● RUNNING" in text
    assert "experiment digits · nested in sweep" in text
    assert "loss0.25best 0.2at step 1lr0.1" in text
    assert "and 3 more metrics" in text
    assert "4 points delivered · 2 waiting" in text
    assert [each.get("href") for each in ET.fromstring(card).iter("a")] == ["http://mlflow:5000/#/experiments/1/runs/2"]
    assert len(list(ET.fromstring(card).iter("svg"))) == 1  # of one value there is no line


def test_foreign_text_stays_text() -> None:
    card = run_card(
        facts(
            name=NASTY,
            state=NASTY,
            where=[NASTY],
            link=f"http://h/{NASTY}",
            metrics=MetricEnds([MetricEnd(NASTY, 1.0, [1.0, 2.0])]),
            notes=[NASTY],
            problem=NASTY,
        )
    )
    tree = ET.fromstring(card)
    assert {each.tag for each in tree.iter()} <= {"div", "span", "a", "table", "tr", "td", "svg", "polyline", "circle"}
    assert "<script" not in card
    assert {name for each in tree.iter() for name in each.attrib if name.startswith("on")} == set()


@pytest.mark.parametrize("link", ["javascript:alert(1)", "file:///etc/passwd", "", None])
def test_only_a_page_is_linked(link: str | None) -> None:
    assert "<a " not in run_card(facts(link=link))


def test_nothing_is_loaded_from_elsewhere() -> None:
    card = run_card(facts(metrics=MetricEnds([MetricEnd("loss", 1.0, [1.0, 2.0])])))
    assert not re.search(r"http|url\(|src=|@import|<style|<link", card)


def test_long_names_are_cut() -> None:
    assert len(seen(run_card(facts(name="x" * 1000, where=["y" * 1000])))) < 200


def points(picture: str) -> list[tuple[float, float]]:
    lines = [each.get("points", "") for each in ET.fromstring(picture).iter("polyline")]
    return [tuple(map(float, pair.split(","))) for line in lines for pair in line.split()]  # type: ignore[misc]


def test_a_line_is_the_higher_the_larger_and_ends_in_a_dot() -> None:
    picture = svg_line([0.0, 1.0, 0.5], "loss")
    (_, lowest), (_, highest), (x, middle) = points(picture)
    assert lowest > middle > highest
    (dot,) = ET.fromstring(picture).iter("circle")
    assert (float(dot.get("cx", 0)), float(dot.get("cy", 0))) == (x, middle)


def test_what_is_no_number_leaves_a_gap() -> None:
    picture = svg_line([1.0, 2.0, math.nan, 2.0, 1.0], "loss")
    assert len(list(ET.fromstring(picture).iter("polyline"))) == 2


BIG = sys.float_info.max


@pytest.mark.parametrize(
    "values",
    [[], [1.0], [math.nan] * 3, [math.inf, -math.inf], [-BIG, BIG], [5e-324, 0.0], [1.0, 1.0], [1.0, math.inf, 2.0]],
)
def test_any_figures_are_within_the_picture(values: list[float]) -> None:
    for x, y in points(svg_line(values, "any")):
        assert 0 <= x <= 140
        assert 0 <= y <= 26
