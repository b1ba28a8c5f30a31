"""`tailrace demo`: a real training run, as a program of its own."""

from __future__ import annotations

import click

from tailrace_agent.cli._app import App, uri_option
from tailrace_agent.cli._program import run_module


@click.command("demo")
@click.option("--steps", default=3000, show_default=True, type=click.IntRange(min=1), help="Training steps.")
@uri_option("Where to log to (default: the setting, or sqlite:///mlflow.db here).")
@click.pass_obj
def command(app: App, steps: int, tracking_uri: str | None) -> None:
    """Train a small network on scikit-learn's handwritten digits and log every step.

    It needs no network, no GPU and no server: the run goes into sqlite:///mlflow.db in this directory unless a store is
    set. The code is short and worth reading: `python -c "import tailrace.demo as d; print(d.__file__)"`.
    """
    app.settings(tracking_uri)  # what is wrong is reported before anything runs
    to = ["--tracking-uri", tracking_uri] if tracking_uri else []
    run_module(app, "tailrace.demo", "--steps", str(steps), *to)
