"""Filters and orders: names get the quotes that MLflow asks for, and nothing else changes."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.search_utils import SearchUtils

from helpers.sdk_tools import newer_than_mlflow_3_7
from tailrace_agent.mlflow.names import readable_name
from tailrace_agent.reading.filters import looks_like_filter, quoted_filter, quoted_order

GROUPS = {"metric": "metric", "metrics": "metric", "param": "parameter", "params": "parameter", "tags": "tag"}
# What MLflow allows in a name (`_validate_metric`), and the at sign, which some stores do.
NAMES = (
    st.text(string.ascii_letters + string.digits + "_-./: @", min_size=1, max_size=20)
    .map(str.strip)
    .filter(lambda name: name and " and " not in name.lower() and " or " not in name.lower())
)
WORDS = st.sampled_from(["in", "IN", "like", "is", "null", "not", "order", "by", "desc", "5", "f1.0", "a is in like b"])
LITERALS = st.text(st.sampled_from("abc'%_ /.`<=metrics.x/y < 1 AND params.a-b = "), max_size=30)


def meaning(filter_string: str) -> list[tuple[Any, ...]]:
    found = SearchUtils.parse_search_filter(filter_string)
    return [(each["type"], each["key"], each["comparator"].upper(), each["value"]) for each in found]


def literal(text: str) -> str:
    quote = '"' if "'" in text else "'"
    return f"{quote}{text}{quote}"


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[str, tuple[Any, ...]]:
    """A comparison as a person would write it, and what it means."""
    group = draw(st.sampled_from(sorted(GROUPS)))
    name = draw(NAMES | WORDS)
    quotes = draw(st.sampled_from(["", "", "`", '"']))
    space, other = draw(st.sampled_from(["", " ", "  "])), draw(st.sampled_from(["", " "]))
    if GROUPS[group] == "metric":
        comparator, value = draw(st.sampled_from(["<", "<=", ">", ">=", "=", "!="])), draw(st.integers(-9, 9))
        return f"{group}.{quotes}{name}{quotes}{space}{comparator}{other}{value}", (
            GROUPS[group], name, comparator, str(value),
        )  # fmt: skip
    text = draw(LITERALS)
    comparator = draw(st.sampled_from(["=", "!=", "LIKE", "ilike", "IS NULL", "is not null"]))
    word = comparator[0].isalpha()
    head = f"{group}.{quotes}{name}{quotes}{' ' if word else space}{comparator}"
    if comparator.upper().startswith("IS"):
        return head, (GROUPS[group], name, comparator.upper(), None)
    return f"{head}{' ' if word else other}{literal(text)}", (GROUPS[group], name, comparator.upper(), text)


@newer_than_mlflow_3_7("has no IS NULL")
@given(st.lists(comparisons(), min_size=1, max_size=4), st.sampled_from([" AND ", " and ", "\n AND  "]))
def test_every_name_that_mlflow_allows_can_be_written_without_quotes(
    several: list[tuple[str, tuple[Any, ...]]], between: str
) -> None:
    written = between.join(text for text, _ in several)
    quoted = quoted_filter(written)
    assert meaning(quoted) == [means for _, means in several], quoted
    assert quoted_filter(quoted) == quoted


@given(st.text(max_size=60) | st.text("metrics.params ab/'\"`<>=!()ANDINLIKE", max_size=60))
def test_what_mlflow_understood_before_means_the_same(text: str) -> None:
    try:
        before = meaning(text)
    except MlflowException:
        quoted_filter(text)  # must not raise
        return
    # But for a name that no MLflow can have: nothing was ever found by it.
    for now, then in zip(meaning(quoted_filter(text)), before, strict=True):
        assert now in (then, (then[0], readable_name(then[1]), *then[2:]))


@pytest.mark.parametrize(
    "filter_string",
    [
        "metrics.loss < 0.2",
        'metrics.`val/loss` < 0.2 AND metrics."val/loss" > 0',
        "tags.mlflow.runName = 'x' and params.x = 'a AND metrics.x/y < 3'",
        pytest.param(
            'tags.x = "it\'s metrics.a/b < 1" AND params.lr IS NOT NULL', marks=newer_than_mlflow_3_7("has no IS NULL")
        ),
        "tags.x = 'C:\\' AND params.y = \"metrics.a/b <\"",
        "attributes.run_id IN ('a/b', 'metrics.c-d') AND attributes.start_time > 5",
        "status = 'FINISHED' AND run.status != 'a-b = c' AND attribute.`run name` LIKE 'a/%'",
        "datasets.name IN ('metrics.x/y') and metrics.loss <= -1e-3",
    ],
)
def test_filters_that_were_right_stay_right(filter_string: str) -> None:
    assert meaning(quoted_filter(filter_string)) == meaning(filter_string)


@pytest.mark.parametrize(
    ("written", "quoted"),
    [
        ("metrics.val/loss < 0.2", "metrics.`val/loss` < 0.2"),
        ("metrics.val loss<0.2", "metrics.`val loss`<0.2"),
        ("params.model name LIKE 'x%'", "params.`model name` LIKE 'x%'"),
        ("tags.a:b@c-d IS NULL", "tags.`a:b@c-d` IS NULL"),
        ("metrics.mfu(%) > 40", "metrics.`mfu__percent` > 40"),
        ("metrics.a and metrics.b < 1", "metrics.a and metrics.b < 1"),  # MLflow says what is wrong with it
        ("attributes.run name = 'x'", "attributes.run name = 'x'"),
        ("", ""),
    ],
)
def test_names_are_quoted_for_the_user(written: str, quoted: str) -> None:
    assert quoted_filter(written) == quoted


@given(st.sampled_from(sorted(GROUPS)), NAMES | WORDS, st.sampled_from(["", " ASC", "  desc", "\tDESC "]))
def test_every_name_can_be_sorted_by_without_quotes(group: str, name: str, direction: str) -> None:
    if name.rsplit(maxsplit=1)[-1].lower() in ("asc", "desc") and " " in name:
        return  # taken for the direction
    ordered = quoted_order(f"{group}.{name}{direction}")
    assert SearchUtils.parse_order_by_for_search_runs(ordered) == (
        GROUPS[group], name, "desc" not in direction.lower(),
    )  # fmt: skip
    assert quoted_order(ordered) == ordered


@pytest.mark.parametrize(
    "column", ["attributes.start_time DESC", "start_time", "metrics.`a b` ASC", "created desc", ""]
)
def test_an_order_that_needs_no_quotes_gets_none(column: str) -> None:
    assert quoted_order(column) == column


def test_an_id_is_no_filter() -> None:
    assert not any(map(looks_like_filter, ["7", "digits", "my experiment", "find in files", "1,2"]))
    assert all(map(looks_like_filter, ["metrics.a < 1", "status = 'x'", "params.x IS NULL", "tags.a like 'b'"]))
