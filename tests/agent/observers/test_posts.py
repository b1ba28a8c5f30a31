"""Where alerts go, what is said there, and which metric they show."""

from __future__ import annotations

import pytest

from tailrace_agent.ipc.curves import Curve
from tailrace_agent.ipc.records import Alert
from tailrace_agent.observers.posts import metric_of
from tailrace_agent.settings.settings import Settings, alert_addresses


@pytest.mark.parametrize(
    ("title", "text", "shown"),
    [
        ("loss is NaN", "val/loss is nan at step 7", "val/loss"),
        ("loss is NaN", "loss is nan at step 7", "loss"),
        ("accuracy fell", "", "accuracy"),
        ("at", "a word that has an a in it", "a"),
        ("run killed", "SIGKILL", "loss"),
        ("hot", "system/gpu_0 is 90", "system/gpu_0"),
    ],
)
def test_the_metric_that_is_named_is_shown_else_the_first_of_the_program(title: str, text: str, shown: str) -> None:
    curves = {key: Curve() for key in ("system/gpu_0", "loss", "val/loss", "a", "accuracy")}
    assert metric_of(Alert(1, title, text, "warning", 0), curves) == shown


def test_without_metrics_none_is_shown() -> None:
    assert metric_of(Alert(1, "loss", "", "warning", 0), {}) is None


def test_addresses_are_called_the_same_with_and_without_their_secrets() -> None:
    whole = Settings(
        alert_webhook="https://hooks.example.org/geheim",
        alert_urls=("slack://a/b/c", "slack://d/e/f", "mailto://x:y@z"),
    )
    masked = Settings(alert_webhook="https://hooks.example.org/…", alert_urls=("slack://…", "slack://…", "mailto://…"))
    assert list(alert_addresses(whole)) == list(alert_addresses(masked))
    assert list(alert_addresses(whole).values()) == [
        "https://hooks.example.org/geheim",
        "slack://a/b/c",
        "slack://d/e/f",
        "mailto://x:y@z",
    ]
