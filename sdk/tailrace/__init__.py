"""tailrace: MLflow tracking that training does not feel.

`log()` costs about a microsecond, survives `kill -9`, and reaches MLflow exactly once.

```python
import tailrace as sdk

sdk.set_tracking_uri("http://localhost:5000")
with sdk.start_run(run_name="baseline"):
    sdk.log_params({"lr": 0.1})
    for step, (loss, accuracy) in enumerate(train()):
        sdk.log(step=step, loss=loss, accuracy=accuracy)
```

The module-level functions are those of one `Tracker`, in MLflow's names and with MLflow's argument names wherever
MLflow's fluent API has the function, so `import tailrace as mlflow` carries a plain training script over.
"""

import contextlib as _contextlib
import typing as _typing

from tailrace._api.info import RunInfo
from tailrace._api.model_handle import ModelHandle
from tailrace._api.run import Run
from tailrace._api.tracker import Tracker
from tailrace._api.tracker import module_tracker as _module_tracker
from tailrace_agent.errors import (
    CallError,
    NotFound,
    SessionError,
    SettingsError,
    StateDirError,
    StoreRefused,
    TailraceError,
)
from tailrace_agent.ledger import Counts, Ledger
from tailrace_agent.settings.settings import Settings

if _typing.TYPE_CHECKING:
    from tailrace._api.system_metrics_logger import SystemMetricsLogger
    from tailrace._api.system_monitor import SystemMonitor
    from tailrace.config import TrackingConfig, build_tracker_from_config, load_config
    from tailrace.experiment import Experiment
    from tailrace.protocol import TrackerLike
    from tailrace.reports import import_reports
    from tailrace.store import install
    from tailrace_agent.reading.comparison import Comparison
    from tailrace_agent.reading.record import RunRecord

__version__ = "0.1.0"

__all__ = [
    "CallError",
    "Comparison",
    "Counts",
    "Experiment",
    "Ledger",
    "ModelHandle",
    "NotFound",
    "Run",
    "RunInfo",
    "RunRecord",
    "SessionError",
    "Settings",
    "SettingsError",
    "StateDirError",
    "StoreRefused",
    "SystemMetricsLogger",
    "SystemMonitor",
    "TailraceError",
    "Tracker",
    "TrackerLike",
    "TrackingConfig",
    "active_run",
    "alert",
    "archive_model",
    "attach_run",
    "best_run",
    "build_tracker_from_config",
    "compare_runs",
    "define_metric",
    "end_run",
    "flush",
    "flush_artifact_async_logging",
    "flush_async_logging",
    "get_run_info",
    "get_tracking_uri",
    "import_reports",
    "install",
    "last_active_run",
    "list_models",
    "load_config",
    "load_model",
    "log",
    "log_artifact",
    "log_artifacts",
    "log_backtest",
    "log_config",
    "log_dataframe",
    "log_dict",
    "log_figure",
    "log_image",
    "log_metric",
    "log_metrics",
    "log_model",
    "log_param",
    "log_params",
    "log_stream",
    "log_table",
    "log_text",
    "log_training_metrics",
    "metric_history",
    "promote_model",
    "register_model",
    "search_runs",
    "set_experiment",
    "set_tag",
    "set_tags",
    "set_tracking_uri",
    "should_stop",
    "start_run",
    "system_monitor",
]

# Bound methods and not functions around them: a frame more would be felt in `log`.
_default = _module_tracker()

active_run = _default.active_run
alert = _default.alert
archive_model = _default.archive_model
attach_run = _default.attach_run
best_run = _default.best_run
compare_runs = _default.compare_runs
define_metric = _default.define_metric
end_run = _default.end_run
flush = _default.flush
flush_artifact_async_logging = _default.flush_artifact_async_logging
flush_async_logging = _default.flush_async_logging
get_run_info = _default.get_run_info
get_tracking_uri = _default.get_tracking_uri
last_active_run = _default.last_active_run
list_models = _default.list_models
load_model = _default.load_model
log = _default.log
log_artifact = _default.log_artifact
log_artifacts = _default.log_artifacts
log_backtest = _default.log_backtest
log_config = _default.log_config
log_dataframe = _default.log_dataframe
log_dict = _default.log_dict
log_figure = _default.log_figure
log_image = _default.log_image
log_metric = _default.log_metric
log_metrics = _default.log_metrics
log_model = _default.log_model
log_param = _default.log_param
log_params = _default.log_params
log_stream = _default.log_stream
log_table = _default.log_table
log_text = _default.log_text
log_training_metrics = _default.log_training_metrics
metric_history = _default.metric_history
promote_model = _default.promote_model
register_model = _default.register_model
search_runs = _default.search_runs
set_experiment = _default.set_experiment
set_tag = _default.set_tag
set_tags = _default.set_tags
set_tracking_uri = _default.set_tracking_uri
should_stop = _default.should_stop
start_run = _default.start_run
system_monitor = _default.system_monitor


_LATER = {
    "Comparison": "tailrace_agent.reading.comparison",
    "Experiment": "tailrace.experiment",
    "RunRecord": "tailrace_agent.reading.record",
    "SystemMetricsLogger": "tailrace._api.system_metrics_logger",
    "SystemMonitor": "tailrace._api.system_monitor",
    "TrackerLike": "tailrace.protocol",
    "TrackingConfig": "tailrace.config",
    "build_tracker_from_config": "tailrace.config",
    "import_reports": "tailrace.reports",
    "install": "tailrace.store",
    "load_config": "tailrace.config",
    # What `%load_ext tailrace` and `%unload_ext tailrace` look for.
    "load_ipython_extension": "tailrace._api.magics",
    "unload_ipython_extension": "tailrace._api.magics",
}

_MODULES = ("config",)
"""Modules of ours that MLflow has, too: as `mlflow.config`, it is there without an import of its own."""


def __dir__() -> list[str]:
    """What is here, with what is loaded on first use, and what MLflow has, where it is loaded already."""
    from tailrace._fluent.names import known_names

    return sorted({*globals(), *_LATER, *_MODULES, *known_names()})


def __getattr__(name: str) -> _typing.Any:
    """What is loaded on first use, since it costs every import otherwise; MLflow's own; and what is not here at all.

    `Any`, since it may be anything of MLflow's: to a type checker a slip in a name looks like that, too. When the
    program runs, it is an `AttributeError` with the nearest name.
    """
    from importlib import import_module

    if name in _LATER:
        # From now on it is found without this function.
        globals()[name] = found = getattr(import_module(_LATER[name]), name)
        return found
    if name in _MODULES:
        return import_module(f"tailrace.{name}")
    nothing = f"module 'tailrace' has no attribute {name!r}"
    if not name or name.startswith("_"):  # what the import system looks up
        raise AttributeError(nothing)
    from tailrace._fluent.names import handed, mlflow_may_have
    from tailrace._messages.suggestions import instead_of_function, is_import

    if mlflow_may_have(name):
        from tailrace._api.tracker_core import module_core

        with _contextlib.suppress(AttributeError):  # a word of MLflow's source, and no name
            return handed(module_core(), name)
    text = instead_of_function(name, __all__)
    if text != nothing and is_import(__name__, name):  # Python would replace the words of an AttributeError by its own
        raise ImportError(text, name=__name__, path=__file__)
    raise AttributeError(text)
