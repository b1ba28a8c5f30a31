"""`tailrace demo`: a real training run, as a program of its own."""

from __future__ import annotations

import subprocess

import click

from tailrace_agent.cli._app import App, leave, uri_option
from tailrace_agent.runtime import interpreter


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
    # A program, since it is a user of tailrace, and the machinery does not import its users.
    to = ["--tracking-uri", tracking_uri] if tracking_uri else []
    trainer = subprocess.Popen(
        interpreter.module_command("tailrace.demo", "--steps", str(steps), *to), env=app.environment()
    )
    while True:
        try:
            code = trainer.wait()
            break
        except KeyboardInterrupt:  # the terminal has sent it to the trainer too, which ends its run
            continue
    leave(code if code >= 0 else 128 - code)
