"""`tailrace train`: a training that a file describes, as a program of its own."""

from __future__ import annotations

import click

from tailrace_agent.cli._app import App, json_option
from tailrace_agent.cli._program import run_module


@click.command("train")
@click.argument("config", type=click.Path(exists=True, dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@json_option
@click.pass_obj
def command(app: App, config: str, overrides: tuple[str, ...], json_: bool) -> None:
    """Train what CONFIG says: a model of scikit-learn, XGBoost, LightGBM or PyTorch, on a CSV or Parquet file.

    \b
    tailrace train digits.yaml
    tailrace train digits.yaml training.model.parameters.max_depth=5 mlflow.run_name=deep

    A value is written as in YAML. docs/estimators.md says what a configuration holds.
    """  # noqa: D301 - click reads the backspace
    app.settings()  # what is wrong is reported before anything runs
    arguments = ["--json"] if json_ else []
    run_module(app, "tailrace.training", *arguments, "--", config, *overrides)
