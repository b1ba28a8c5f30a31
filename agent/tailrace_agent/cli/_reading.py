"""What the commands that read MLflow share: the store, its runs as rows, and columns that a person would choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailrace_agent.cli._app import App, Code, Fail, console, print_line, quieten_mlflow
from tailrace_agent.reading.candidates import shortest_ids
from tailrace_agent.spool.extremes import of_program

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tailrace_agent.reading.reader import Reader
    from tailrace_agent.reading.record import RunRecord

__all__ = ["chosen_metrics", "newest", "open_store", "rows_of_json", "shortest_ids", "table"]


def open_store(app: App, tracking_uri: str | None, *, through_mlflow: bool = False) -> Reader:
    """The store in force, opened for reading.

    Args:
        app: The command.
        tracking_uri: The store; the setting where None.
        through_mlflow: For whoever wants all that MLflow knows of a run, or writes: what needs MLflow's import anyway.

    Raises:
        StoreRefused: It cannot be used, or is not there yet.
    """
    quieten_mlflow()
    from tailrace_agent.reading.reader import open_reader

    return open_reader(app.store(app.settings(tracking_uri)), str(Path.cwd()), own_process=not through_mlflow)


def newest(text: str, run_id: str) -> None:
    """Warns that of several runs with one name the newest was taken; for `Reader.find_all`."""
    del run_id
    print_line(console(stderr=True), f"tailrace: {text}", "yellow")


def table(columns: Sequence[tuple[str, str]]) -> Any:
    """An empty table in the look of all others; columns are `(name, "left" or "right")`."""
    from rich.table import Table

    empty = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name, side in columns:
        empty.add_column(name, justify=side, overflow="fold", no_wrap=side == "right")  # type: ignore[arg-type]
    return empty


def chosen_metrics(records: Sequence[RunRecord], wanted: Sequence[str], most: int) -> list[str]:
    """The metrics to show: those that fit what was requested, else those of the program that most runs have.

    Raises:
        Fail: Nothing fits one of the patterns.
    """
    from collections import Counter

    from tailrace_agent.errors import NotFound
    from tailrace_agent.reading.comparison import matching

    counted = Counter(key for record in records for key in record.metrics)
    if wanted:
        try:
            return matching(sorted(counted), wanted)
        except NotFound as error:
            raise Fail(str(error), Code.UNKNOWN) from error
    own = (key for key in counted if of_program(key))
    usual = sorted(own, key=lambda key: (-counted[key], key))
    return usual[:most]


def rows_of_json(records: Iterable[RunRecord]) -> list[dict[str, Any]]:
    """Runs as plain data, times in ISO format."""
    import msgspec

    return [{**msgspec.to_builtins(record), "duration": record.duration} for record in records]
