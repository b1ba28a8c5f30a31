"""`tailrace hpo`: a search that a file describes, as a program of its own."""

from __future__ import annotations

import click

from tailrace_agent.cli._app import App, json_option
from tailrace_agent.cli._program import run_module


@click.command("hpo")
@click.argument("config", type=click.Path(exists=True, dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes at work on it.")
@click.option("--storage", metavar="URL", help="Where the study is kept, in place of the configuration's.")
@json_option
@click.pass_obj
def command(app: App, config: str, overrides: tuple[str, ...], workers: int, storage: str | None, json_: bool) -> None:
    """Search hyper-parameters as CONFIG says, by Optuna, each trial a run of its own.

    \b
    tailrace hpo digits.yaml --workers 4
    tailrace hpo digits.yaml n_trials=200 --storage postgresql://me@db/studies

    The same command on another machine, or after a crash, goes on with the same study and the same parent run, as long
    as the storage is one that both can reach. docs/search.md says what a configuration holds.
    """  # noqa: D301 - click reads the backspace
    app.settings()  # what is wrong is reported before anything runs
    arguments = ["--workers", str(workers), *(["--json"] if json_ else [])]
    if storage is not None:
        arguments += ["--storage", storage]
    run_module(app, "tailrace.hpo", *arguments, "--", config, *overrides)
