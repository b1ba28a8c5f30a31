"""Calls that MLflow does not have: training metrics by their phase, and whole configs."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import yaml

from helpers.logged_results import Logged
from helpers.sdk_tools import tracking
from tailrace import CallError, Tracker
from tailrace._runs.run_part import core_of


@pytest.mark.slow
def test_training_metrics_are_told_apart_by_phase(logged: Logged) -> None:
    metrics = logged.store.metrics()
    assert metrics["train/loss"] == [(1, 0.5), (2, 0.4)]
    assert metrics["val/loss"] == [(1, 0.6), (2, 0.5)]
    assert metrics["epoch/duration_seconds"] == [(1, 3.0)]
    assert metrics["test/accuracy"] == [(2, 0.9)]
    assert metrics["train/lr"] == [(2, 0.1)]


def test_of_two_spellings_of_one_training_metric_the_first_is_logged_and_the_other_is_reported_once(
    off: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with off.start_run() as run:
        for step in range(2):
            off.log_training_metrics({"loss": 1.0, "train_loss": 2.0, "val/loss": 3.0}, step=step, val_loss=4.0)
        latest = core_of(run).latest
        assert latest is not None
        assert latest.numbers() == {"train/loss": 1.0, "val/loss": 3.0}
    for key, name in (("train_loss", "train/loss"), ("val_loss", "val/loss")):
        assert caplog.text.count(f"metric {key!r} was not logged: {name!r} has come up before") == 1


def test_a_config_is_params_and_a_file_that_every_reader_takes(logged: Logged) -> None:
    params = logged.store.params
    assert {name: params[name] for name in ("model.layers", "model.path", "lr", "z.a")} == {
        "model.layers": "2",
        "model.path": "weights",
        "lr": "0.0003",
        "z.a": "3",
    }
    assert yaml.safe_load(logged.read("config/config.yaml")) == {
        "model": {"layers": 2, "path": "weights"},
        "lr": 3e-4,
        "sizes": [1, 2],
        "colour": "red",
        "z": {"a": 3},
    }


def test_what_is_no_frame_or_no_config_is_said_and_raises_under_strict(sqlite_uri: str) -> None:
    anything: Any = object()
    with tracking(sqlite_uri, strict=True) as sdk, sdk.start_run() as run:
        for call, message in (
            (lambda: sdk.log_dataframe(anything, "x"), "object cannot be made a table"),
            (lambda: sdk.log_dataframe(pd.DataFrame(), "x", anything), "can be 'parquet' or 'csv'"),
            (lambda: sdk.log_dataframe(pd.DataFrame(), "x.csv", "parquet"), r"does not end in \.parquet"),
            (lambda: sdk.log_dataframe(pd.DataFrame(), "../x"), "relative path"),
            (lambda: sdk.log_backtest("../x", {}), "relative path"),
            (lambda: sdk.log_backtest("x", anything), "metrics must be a mapping"),
            (lambda: sdk.log_backtest("x", {}, equity=anything), "equity: object cannot be made a table"),
            (lambda: sdk.log_config(anything), "a config must be a mapping, not object"),
            (lambda: sdk.log_training_metrics(anything), "mapping or keywords, not object"),
            (lambda: sdk.log_training_metrics(loss="high"), "'train/loss' was not logged"),
            (
                lambda: sdk.log_training_metrics({"lr": 1.0, "train_lr": 2.0}),
                "'train_lr' was not logged: 'train/lr'",
            ),
        ):
            with pytest.raises(CallError, match=message):
                call()
        assert run.flush(20).settled
