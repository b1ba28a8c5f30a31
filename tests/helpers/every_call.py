"""Every public function, called as a training script might; for tests of what none of them may let through."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tailrace
from tailrace import SessionError, SettingsError, StateDirError, TailraceError, Tracker

__all__ = ["CALLS", "RUN_CALLS", "walk"]

_PARAMS: dict[str, Any] = {"lr": 0.1, "model": {"layers": 2}, "where": Path("data")}

CALLS: dict[str, Callable[[Any], Any]] = {
    "get_tracking_uri": lambda sdk: sdk.get_tracking_uri(),
    "set_tracking_uri": lambda sdk: sdk.set_tracking_uri(sdk.get_tracking_uri()),
    "set_experiment": lambda sdk: sdk.set_experiment("surroundings"),
    "start_run": lambda sdk: sdk.start_run(run_name="walked", params=_PARAMS, tags={"team": 1}),
    "active_run": lambda sdk: (sdk.active_run(), repr(sdk.active_run()), sdk.active_run().status),
    "log": lambda sdk: (sdk.log(step=1, loss=0.5), sdk.log({"val": {"loss": 1}}, 2), sdk.log(odd="text")),
    "log_metric": lambda sdk: sdk.log_metric("loss", 0.25, step=3),
    "log_metrics": lambda sdk: sdk.log_metrics({"loss": 0.2, "acc": 1}, step=4),
    "log_training_metrics": lambda sdk: sdk.log_training_metrics(step=5, loss=0.1, val_loss=0.2),
    "log_param": lambda sdk: sdk.log_param("alone", 1),
    "log_params": lambda sdk: sdk.log_params(_PARAMS),
    "log_config": lambda sdk: sdk.log_config(_PARAMS),
    "set_tag": lambda sdk: sdk.set_tag("a", 1),
    "set_tags": lambda sdk: sdk.set_tags({"b": 2}),
    "log_artifact": lambda sdk: sdk.log_artifact(__file__),
    "log_artifacts": lambda sdk: sdk.log_artifacts(Path(__file__).parents[1] / "gpu"),
    "log_text": lambda sdk: sdk.log_text("text", "text.txt"),
    "log_stream": lambda sdk: sdk.log_stream(io.BytesIO(b"bytes"), "bytes.bin"),
    "log_dict": lambda sdk: sdk.log_dict({"a": 1}, "dict.json"),
    "log_table": lambda sdk: sdk.log_table({"a": [1]}, "table.json"),
    "log_figure": lambda sdk: sdk.log_figure(object(), "figure.png"),
    "log_image": lambda sdk: sdk.log_image([[0, 1]], "image.png"),
    "log_dataframe": lambda sdk: sdk.log_dataframe({"a": [1, 2]}, "frame"),
    "log_backtest": lambda sdk: sdk.log_backtest("momentum", {"Sharpe Ratio": 1.4}),
    "log_model": lambda sdk: sdk.log_model(object(), "model"),
    "register_model": lambda sdk: sdk.register_model("models:/none/1", "none"),
    "should_stop": lambda sdk: sdk.should_stop(),
    "define_metric": lambda sdk: sdk.define_metric("val/*", summary="min"),
    "alert": lambda sdk: sdk.alert("look", "there", level="info"),
    "system_monitor": lambda sdk: sdk.system_monitor(interval=60).start().stop(),
    "flush": lambda sdk: sdk.flush(2),
    "flush_async_logging": lambda sdk: sdk.flush_async_logging(),
    "flush_artifact_async_logging": lambda sdk: sdk.flush_artifact_async_logging(),
    "last_active_run": lambda sdk: sdk.last_active_run(),
    "search_runs": lambda sdk: sdk.search_runs(),
    "best_run": lambda sdk: sdk.best_run("loss"),
    "get_run_info": lambda sdk: sdk.get_run_info("0" * 32),
    "compare_runs": lambda sdk: sdk.compare_runs(["0" * 32, "1" * 32]),
    "metric_history": lambda sdk: sdk.metric_history("0" * 32, "loss"),
    "list_models": lambda sdk: sdk.list_models(),
    "load_model": lambda sdk: sdk.load_model("models:/none/1"),
    "promote_model": lambda sdk: sdk.promote_model("none", 1),
    "archive_model": lambda sdk: sdk.archive_model("none", 1),
    "attach_run": lambda sdk: sdk.attach_run("0" * 32).log(step=0, loss=1.0),
    "end_run": lambda sdk: sdk.end_run(timeout=2),
    "import_reports": lambda sdk: tailrace.import_reports("no-such-directory", tracking_uri=sdk.get_tracking_uri()),
    "load_config": lambda sdk: tailrace.load_config({"tracking": {"experiment_name": "surroundings"}}),
    "build_tracker_from_config": lambda sdk: tailrace.build_tracker_from_config({"tracking": {"enabled": False}}),
}
"""In the order of a script's life. What reads is asked for what is not there: that is an error of tailrace's own."""

RUN_CALLS: dict[str, Callable[[Any], Any]] = {
    "ledger": lambda run: run.ledger(),
    "run_id": lambda run: run.run_id,
    "run_name": lambda run: run.run_name,
    "enabled": lambda run: run.enabled,
    "url": lambda run: run.url,
    "info": lambda run: (run.info, run.info.start_time),
    "data": lambda run: run.data,
    "id": lambda run: run.id,
    "observe": lambda run: run.observe("none", lambda step, values: None),
    "fail": lambda run: run.fail(ValueError("no"), timeout=0.0),
    "end": lambda run: run.end(timeout=0.0),
    "system_monitor": lambda run: run.system_monitor().latest(),
}


def walk(sdk: Tracker | Any, *, reads: bool = True) -> list[str]:
    """Calls everything, and says what came out that should not: anything but tailrace's own errors.

    Args:
        sdk: A tracker, or the module.
        reads: Whether the store is asked, too.
    """
    wrong = []
    reading = ("search_runs", "best_run", "get_run_info", "compare_runs", "metric_history", "list_models", "load_model")
    for name, call in CALLS.items():
        if reads or name not in (*reading, "promote_model", "archive_model", "register_model", "import_reports"):
            wrong += _try(name, call, sdk)
    run = sdk.start_run(run_name="by itself")
    for name, call in RUN_CALLS.items():
        if not reads and name == "data":
            continue
        wrong += _try(f"Run.{name}", call, run)
    return wrong


def _try(name: str, call: Callable[[Any], Any], owner: Any) -> list[str]:
    try:
        call(owner)
    except (SessionError, SettingsError, StateDirError) as error:  # what was right stays right: the surroundings' fault
        return [f"{name}: {type(error).__name__}: {error}"]
    except (TailraceError, TimeoutError, LookupError):
        return []
    except BaseException as error:  # noqa: BLE001
        return [f"{name}: {type(error).__name__}: {error}"]
    return []
