"""Checks of what is beyond the machine: MLflow, the store, what waits for it; and the GPU libraries."""

from __future__ import annotations

import os
from pathlib import Path

from tailrace_agent.cli._app import App, count
from tailrace_agent.cli._checks import Check
from tailrace_agent.cli._look import look_at_all
from tailrace_agent.delivery.run_jobs import clocks_differ
from tailrace_agent.errors import StateDirError, TailraceError, Unavailable
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.uris import check_uri, mask_uri, missing_file
from tailrace_agent.sinks.base import Sink

__all__ = ["gpu", "mlflow", "sessions", "store"]

_PATIENCE = 5.0  # seconds


def mlflow() -> Check:
    """Whether MLflow is there, and can be imported."""
    import importlib
    from importlib.metadata import PackageNotFoundError, version

    try:
        importlib.import_module("tailrace_agent.mlflow.stores")  # the module that imports MLflow's insides
        return Check(name="mlflow", result="ok", text=f"MLflow {version('mlflow')}")
    except PackageNotFoundError:
        text, mend = "MLflow is not installed", "pip install mlflow"
    except Exception as error:  # noqa: BLE001 - a broken installation raises anything
        text = f"MLflow cannot be imported: {type(error).__name__}: {error}"
        mend = "pip install --upgrade --force-reinstall mlflow, in this environment"
    return Check(name="mlflow", result="fail", text=text, mend=mend)


def store(app: App, settings: Settings) -> Check:
    """Whether the tracking store can be used, and answers."""
    from tailrace_agent.hosts.process import open_sink

    uri = app.store(settings)
    shown = mask_uri(uri)[0]
    fault = check_uri(uri, os.environ)
    if fault is not None:
        return Check(name="store", result="fail", text=f"MLflow cannot use {shown}", mend=fault)
    absent = missing_file(uri)
    if absent is not None:
        return _absent(absent)
    try:
        sink = open_sink(uri, str(Path.cwd()), request_timeout=_PATIENCE)
        sink.find_runs("0" * 32)  # an id that no run has: the cheapest question that reaches the database
    except Unavailable as error:
        mend = "start the server, or check MLFLOW_TRACKING_URI; until then runs are kept here, and nothing is lost"
        return Check(name="store", result="fail", text=f"{shown} does not answer: {error}", mend=mend)
    except TailraceError as error:
        return Check(name="store", result="fail", text=f"{shown}: {error}", mend="choose another tracking URI")
    text = f"{shown} answers{_bulk(sink, uri)}{_delay(uri)}"
    if (differ := clocks_differ(sink.clock_ahead())) is not None:
        return Check(name="store", result="warn", text=f"{text}, and {differ}", mend="timedatectl set-ntp true")
    return Check(name="store", result="ok", text=text)


def _bulk(sink: Sink, uri: str) -> str:
    """How many points it takes at once. As delivery asks, when as many wait as `log_batch` takes."""
    from tailrace_agent.mlflow.links import is_server

    most = sink.metrics_at_once(sink.limits.metrics)
    if most > sink.limits.metrics:
        how = "by the route of tailrace's app" if is_server(uri) else "straight into MLflow's tables"
        return f" and takes {most:,} points at once, {how}"
    if is_server(uri):
        return (
            f" and takes {most:,} points at once; `mlflow server --app-name tailrace` takes more, where MLflow's "
            "tables are known to this tailrace (docs/server.md)"
        )
    return f" and takes {most:,} points at once"


def _delay(uri: str) -> str:
    from tailrace_agent.mlflow.answer_delay import answer_delay
    from tailrace_agent.mlflow.links import is_server

    delay = answer_delay(uri, _PATIENCE) if is_server(uri) else None
    if delay is None:
        return ""
    return (
        f". MLflow's own client waits {delay * 1e3:.0f} ms more for each answer, since this server's workers hold them "
        "back; tailrace does not (`mlflow server --workers 1` holds nothing back)"
    )


def sessions(settings: Settings) -> list[Check]:
    """What waits for somebody."""
    try:
        views = [view for view in look_at_all(settings) if view.state != "elsewhere"]
    except StateDirError as error:
        return [
            Check(name="sessions", result="fail", text=str(error), mend="see there: nothing can be delivered before")
        ]
    left = [view for view in views if view.state == "leftover"]
    broken = [view for view in views if view.problem is not None]
    dead = sum(view.dead for view in views)
    checks = []
    if left:
        pending = count(sum(view.pending for view in left), "entry", "entries")
        text = f"{count(len(left), 'session')} left over, {pending} pending"
        checks.append(Check(name="sessions", result="warn", text=text, mend="tailrace sync"))
    checks += [
        Check(name="sessions", result="warn", text=f"{view.id}: {view.problem}", mend=view.mend or "tailrace sync")
        for view in broken
    ]
    if dead:
        text = f"{count(dead, 'dead letter')}: refused by MLflow, and kept"
        checks.append(Check(name="sessions", result="warn", text=text, mend="tailrace dead list"))
    return checks or [Check(name="sessions", result="ok", text=f"{count(len(views), 'session')}, nothing left over")]


def gpu() -> Check:
    """Whether NVIDIA's management library answers. Optional."""
    try:
        import pynvml

        pynvml.nvmlInit()
        devices = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    except Exception as error:  # noqa: BLE001 - no driver, no library, no permission: all the same here
        return Check(name="gpu", result="ok", text=f"no NVIDIA GPU to be seen ({error}); none is needed")
    return Check(name="gpu", result="ok", text=f"{count(devices, 'NVIDIA GPU')}")


def _absent(file: Path) -> Check:
    near = next(parent for parent in file.parents if parent.exists())  # MLflow makes the directories, too
    if os.access(near, os.W_OK | os.X_OK):
        return Check(name="store", result="ok", text=f"{file} does not exist yet; the first run makes it")
    mend = "set MLFLOW_TRACKING_URI, or work in a directory that you can write to"
    return Check(name="store", result="fail", text=f"{file} does not exist, and {near} is not writable", mend=mend)
