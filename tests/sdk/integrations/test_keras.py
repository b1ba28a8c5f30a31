"""`integrations/keras`: what Keras measures, in MLflow."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from helpers.sdk_tools import named, said
from tailrace import Tracker

pytestmark = [pytest.mark.services, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
from tailrace.integrations.keras import TailraceCallback  # noqa: E402

X, Y = np.linspace(0, 1, 32)[:, None], np.linspace(1, 3, 32)[:, None]


def line() -> Any:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.125), "mse", metrics=["mae"])
    return model


def test_epochs_batches_the_optimizer_and_an_evaluation_are_one_run(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, callback = line(), TailraceCallback("line", tracker=sdk, every_batches=2)
    history = model.fit(X, Y, batch_size=8, epochs=3, validation_split=0.25, verbose=0, callbacks=[callback]).history
    measured = model.evaluate(X, Y, verbose=0, callbacks=[callback], return_dict=True)
    sdk.flush()
    callback._framework.run.flush()
    store = named(sqlite_uri, "line")
    assert store.status == "FINISHED"
    for name, values in history.items():
        assert store.history(name) == [(n, pytest.approx(value)) for n, value in enumerate(values)]
    assert set(history) == {"loss", "mae", "val_loss", "val_mae"}
    assert [step for step, _ in store.history("batch/loss")] == [0, 2, 4, 6, 8]
    assert store.history("test_loss") == [(2, pytest.approx(measured["loss"]))]
    assert (store.params["epochs"], store.params["parameters"]) == ("3", "2")
    assert (store.params["optimizer.name"], store.params["optimizer.learning_rate"]) == ("sgd", "0.125")
    assert said(caplog) == []


def test_a_fit_that_goes_on_counts_batches_on_and_a_model_may_be_built_by_its_first_batch(
    sdk: Tracker, sqlite_uri: str
) -> None:
    model = keras.Sequential([keras.layers.Dense(1)])
    callback = TailraceCallback(tracker=sdk, every_batches=1)
    model.compile("sgd", "mse")
    with sdk.start_run(run_name="two fits"):
        model.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
        model.fit(X, Y, batch_size=16, initial_epoch=2, epochs=3, verbose=0, callbacks=[callback])
    store = named(sqlite_uri, "two fits")
    assert [step for step, _ in store.history("batch/loss")] == [0, 1, 2, 3, 4, 5]
    assert [step for step, _ in store.history("loss")] == [0, 1, 2]


def test_an_active_run_is_joined_and_other_processes_than_the_first_are_silent(
    sdk: Tracker, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sdk.start_run(run_name="outer") as run:
        line().fit(X, Y, verbose=0, callbacks=[TailraceCallback(tracker=sdk)])
        monkeypatch.setattr("tailrace.integrations.keras.is_first", lambda: False)
        line().fit(X, Y, verbose=0, epochs=2, callbacks=[TailraceCallback(tracker=sdk, every_batches=1)])
        assert run.status == "RUNNING"
    store = named(sqlite_uri, "outer")
    assert {name: len(points) for name, points in store.metrics().items()} == {"loss": 1, "mae": 1}


def test_a_fit_that_raises_is_failed_once_its_callback_is_gone(sdk: Tracker, sqlite_uri: str) -> None:
    class Fails(keras.callbacks.Callback):  # type: ignore[misc,name-defined]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise ValueError("it diverges")

    def fit() -> None:
        line().fit(X, Y, verbose=0, callbacks=[TailraceCallback("failing", tracker=sdk), Fails()])

    with pytest.raises(ValueError, match="it diverges"):
        fit()
    line().fit(X, Y, verbose=0, callbacks=[TailraceCallback("next", tracker=sdk)])
    assert sdk.active_run() is None
    sdk.flush()
    assert [named(sqlite_uri, name).status for name in ("failing", "next")] == ["FAILED", "FINISHED"]


def test_a_model_that_cannot_describe_itself_is_trained_all_the_same(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Silent(keras.optimizers.SGD):  # type: ignore[misc,name-defined]
        def get_config(self) -> Any:
            raise NotImplementedError("no configuration")

    model = line()
    model.compile(Silent(0.125), "mse")
    model.fit(X, Y, verbose=0, callbacks=[TailraceCallback("silent", tracker=sdk)])
    sdk.flush()
    store = named(sqlite_uri, "silent")
    assert (store.status, store.params["parameters"], len(store.history("loss"))) == ("FINISHED", "2", 1)
    assert "without all of its params: NotImplementedError" in caplog.text


def test_batches_that_are_told_in_another_order_leave_the_next_epoch_its_steps(sdk: Tracker, sqlite_uri: str) -> None:
    callback = TailraceCallback("disorder", tracker=sdk, every_batches=1)
    callback.set_model(line())
    callback.set_params({"epochs": 2, "steps": 3})
    callback.on_train_begin()
    for epoch in range(2):
        callback.on_epoch_begin(epoch)
        for batch in (0, 2, 1):  # as Keras may, of what is `async_safe`
            callback.on_train_batch_end(batch, {"loss": float(batch)})
        callback.on_epoch_end(epoch, {"loss": 1.0})
    callback.on_train_end()
    sdk.flush()
    history = named(sqlite_uri, "disorder").history("batch/loss")
    assert sorted(history) == [(step, float(step % 3)) for step in range(6)]  # times are as they were told


def test_a_fit_whose_run_is_asked_to_stop_ends_with_the_batch(sdk: Tracker, sqlite_uri: str) -> None:
    asked = iter([False, True])
    with sdk.start_run(run_name="asked") as run:
        run.__dict__["should_stop"] = lambda: next(asked, True)
        fitted = line()
        history = fitted.fit(X, Y, epochs=5, batch_size=8, verbose=0, callbacks=[TailraceCallback(tracker=run)])
    assert len(history.epoch) < 5
    assert named(sqlite_uri, "asked").status == "FINISHED"
