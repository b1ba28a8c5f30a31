"""Alert rules: what can be written, what it means, and what a person is told when it cannot be understood."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.errors import SettingsError
from tailrace_agent.settings.alert_rules import parse_rule


@pytest.mark.parametrize(
    ("text", "value", "other", "seconds"),
    [
        ("loss is NaN", math.nan, math.inf, 0),
        ("loss IS  not   Finite", -math.inf, 1.0, 0),
        ("loss > 85", 85.1, 85.0, 0),
        ("loss>=85", 85.0, 84.9, 0),
        ("loss < -1e-3", -1.0, 0.0, 0),
        ("loss <= 1", 1.0, 1.1, 0),
        ("loss == 0", 0.0, 0.1, 0),
        ("loss != 0", 0.1, 0.0, 0),
        ("loss >= inf", math.inf, 1e300, 0),
        ("loss > 85 for 5 min", 86.0, math.nan, 300),
        ("  loss < 1 FOR 1.5h ", 0.0, 1.0, 5400),
    ],
)
def test_a_rule_about_a_value(text: str, value: float, other: float, seconds: float) -> None:
    rule = parse_rule(text)
    assert rule.matches is not None
    assert rule.matches("loss")
    assert (rule.holds(value), rule.holds(other), rule.seconds) == (True, False, seconds)
    assert rule.text == text.strip()


@pytest.mark.parametrize(
    ("text", "times", "seconds"),
    [
        ("rank slower than 1.5 times the fastest for 2 min", 1.5, 120),
        ("Rank slower  than 2x", 2, 0),
        ("rank slower than 1.2 times for 30s", 1.2, 30),
    ],
)
def test_a_rule_about_slow_ranks(text: str, times: float, seconds: float) -> None:
    rule = parse_rule(text)
    assert (rule.matches, rule.ranks, rule.seconds) == (None, True, seconds)
    assert (rule.holds(times), rule.holds(times + 0.1)) == (False, True)


@pytest.mark.parametrize(
    "text", ["rank slower than 0.5 times", "rank slower than much x", "rank slower than 2x for ever"]
)
def test_a_rule_about_slow_ranks_that_can_never_work_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="cannot be understood"):
        parse_rule(text)


def test_a_rule_about_progress_is_about_no_metric() -> None:
    rule = parse_rule("no progress for 10 min")
    assert (rule.matches, rule.seconds) == (None, 600)


@pytest.mark.parametrize(
    ("metric", "means", "not_means"),
    [
        ("loss", ["loss", "train/loss", "a/b/loss"], ["val_loss", "loss/x", "losses"]),
        ("train/loss", ["train/loss", "x/train/loss"], ["loss", "val/loss"]),
        ("gpu_*_temperature_celsius", ["system/gpu_0_temperature_celsius"], ["system/gpu_0_power_usage_watts"]),
        ("val loss", ["val loss", "x/val loss"], ["loss"]),
        ('"a > b is c"', ["a > b is c"], ["a"]),
        ("f(x)+[y]", ["f(x)+y"], ["f(x)+z"]),
    ],
)
def test_which_metrics_a_name_means(metric: str, means: list[str], not_means: list[str]) -> None:
    rule = parse_rule(f"{metric} > 1")
    assert rule.matches is not None
    assert [name for name in [*means, *not_means] if rule.matches(name)] == means


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "write `loss is NaN`"),
        ("loss", "write `loss is NaN`"),
        ("> 5", "write `loss is NaN`"),
        ("loss is high", "a metric can be `NaN` or `not finite`, not 'high'"),
        ("loss > high", "'high' is no number"),
        ("loss > nan", "write `is NaN`"),
        ("loss > 1 for ever", "'ever' is no time"),
        ("loss > 1 for -1 s", "'-1 s' is no time"),
        ("no progress for a while", "'a while' is no time"),
        ("no progress", "write `loss is NaN`"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_rule(text)
    assert reason in str(caught.value)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_rule_or_a_settings_error(text: str) -> None:
    try:
        rule = parse_rule(text)
    except SettingsError:
        return
    assert rule.seconds >= 0
    assert rule.holds(1.0) in (True, False)


@given(
    st.text("abcXYZ019_-./ ", min_size=1).map(str.strip).filter(lambda name: name and " is " not in name),
    st.floats(allow_nan=False),
)
def test_any_metric_name_can_be_compared(name: str, limit: float) -> None:
    rule = parse_rule(f'"{name}" >= {limit!r}')
    assert rule.matches is not None
    assert rule.matches(name)
    assert rule.holds(limit)
