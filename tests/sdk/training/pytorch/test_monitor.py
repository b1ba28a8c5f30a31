"""Which epoch is the best, and when to stop."""

from __future__ import annotations

import math

import pytest

from tailrace import CallError
from tailrace.training.pytorch.monitor import Monitor


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("val_loss", "min"),
        ("val_accuracy", "max"),
        ("val_f1_macro", "max"),
        ("train_rmse", "min"),
        ("val_auroc", "max"),
        ("val_mape", "min"),
        ("val_brier_score", "min"),
        ("val_top5", "max"),
    ],
)
def test_the_name_of_a_metric_says_what_is_better(metric: str, mode: str) -> None:
    assert Monitor(metric).mode == mode


def test_where_the_name_does_not_say_it_the_mode_has_to() -> None:
    with pytest.raises(
        CallError, match="'val_bias', whose name does not say whether more of it is better: pass mode='min'"
    ):
        Monitor("val_bias")
    assert Monitor("val_bias", "max").mode == "max"


def test_a_mode_that_is_given_holds_whatever_the_name() -> None:
    monitor = Monitor("val_accuracy", "min")
    assert [monitor.improved(n, value) for n, value in enumerate((0.5, 0.7, 0.4), 1)] == [True, False, True]


def test_less_than_min_delta_is_no_improvement() -> None:
    monitor = Monitor("val_loss", min_delta=0.1)
    assert [monitor.improved(n, value) for n, value in enumerate((1.0, 0.95, 0.85), 1)] == [True, False, True]
    assert (monitor.best, monitor.best_epoch) == (0.85, 3)


def test_patience_counts_epochs_since_the_best_one() -> None:
    monitor = Monitor("val_loss", patience=2)
    seen = []
    for epoch, value in enumerate((1.0, 1.1, 0.9, 1.0, 1.0), 1):
        monitor.improved(epoch, value)
        seen.append(monitor.exhausted)
    assert seen == [False, False, False, False, True]


def test_nan_is_never_the_best_and_counts_as_stale() -> None:
    monitor = Monitor("val_loss", patience=2)
    assert not monitor.improved(1, math.nan)
    assert monitor.improved(2, 5.0)
    assert not monitor.improved(3, math.nan)
    assert monitor.best == 5.0


def test_it_goes_on_from_a_checkpoint_as_if_it_had_not_stopped() -> None:
    first = Monitor("val_loss", patience=2)
    for epoch, value in enumerate((1.0, 0.5, 0.6), 1):
        first.improved(epoch, value)
    second = Monitor("val_loss", patience=2)
    second.load_state_dict(first.state_dict())
    assert not second.improved(4, 0.55)
    assert second.exhausted
    assert second.best_epoch == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "largest"},
        {"patience": 0},
        {"patience": "3"},
        {"patience": 1.5},
        {"min_delta": math.nan},
        {"min_delta": "0.1"},
    ],
)
def test_what_can_never_work_is_an_error(arguments: dict[str, object]) -> None:
    with pytest.raises(CallError, match=r"mode is 'largest'|early_stopping_patience is|min_delta is"):
        Monitor("val_loss", **arguments)  # type: ignore[arg-type]


def test_the_best_value_of_another_metric_is_none_of_this_one() -> None:
    state = Monitor("val_loss", best=0.2, best_epoch=3).state_dict()
    other = Monitor("val_f1_macro")
    assert not other.load_state_dict(state)
    assert (other.best_epoch, other.improved(4, 0.1)) == (0, True)
    assert Monitor("val_loss").load_state_dict(state)
