"""Where `tailrace top` finds runs: how the commands know sessions and stores, handed to the view."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tailrace_agent.cli._app import App, quieten_mlflow
from tailrace_agent.cli._credentials import known_credentials, with_credentials
from tailrace_agent.cli._look import look
from tailrace_agent.cli._views import RunView
from tailrace_agent.ipc.console_files import console_file
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.uris import mask_uri
from tailrace_agent.top.local import LocalRuns, store_of
from tailrace_agent.top.rows import RunRow
from tailrace_agent.top.source import LocalSource, Source, StoreSource
from tailrace_agent.top.stored import Histories, StoredRuns

if TYPE_CHECKING:
    from tailrace_agent.reading.reader import Reader

__all__ = ["local_source", "store_source"]

_PATIENCE = 20.0  # seconds for one answer: the screen says what is wrong, and it is tried again


def local_source(app: App, names: Sequence[str]) -> Source:
    """The runs of this machine, or those of them that are named."""
    settings = app.settings()
    local = LocalRuns(settings, _without_agent)
    chosen = _chooser(names)
    if names and not any(map(chosen, local.rows(time.monotonic()))):
        return store_source(app, None, names, "", (), len(names))
    return LocalSource(local, Histories(_opener(settings)), chosen)


def store_source(
    app: App, tracking_uri: str | None, names: Sequence[str], filter_: str, experiments: Sequence[str], limit: int
) -> Source:
    """The runs of a store: all that a filter finds, or those that are named."""
    settings = app.settings(tracking_uri)
    uri = app.store(settings)
    histories = Histories(_opener(settings))
    return StoreSource(StoredRuns(histories, uri, names, filter_, experiments, limit), histories, mask_uri(uri)[0])


def _chooser(names: Sequence[str]) -> Callable[[RunRow], bool]:
    def chosen(row: RunRow) -> bool:
        ids = (row.key.rpartition("/")[2], row.run_id or "")
        return not names or any(
            row.name == name or any(each.startswith(name.lower()) for each in ids) for name in names
        )

    return chosen


def _opener(settings: Settings) -> Callable[[str], Reader]:
    credentials = known_credentials(settings)

    def opened(uri: str) -> Reader:
        quieten_mlflow()
        from tailrace_agent.reading.reader import open_reader

        whole = with_credentials(uri, credentials)
        return open_reader(whole, str(Path.cwd()), request_timeout=_PATIENCE, own_process=True)

    return opened


def _without_agent(session: Session) -> list[RunRow]:
    return [_row(session, run) for run in look(session).runs]


def _row(session: Session, run: RunView) -> RunRow:
    return RunRow(
        key=f"{session.id}/{run.run}",
        name=run.run_name or run.run[:8],
        state=run.state,
        started=run.started,
        pending=run.pending,
        accepted=run.accepted,
        delivered=run.delivered,
        dead=run.dead,
        dropped=run.dropped,
        lag=run.lag,
        problem=run.problem,
        url=run.url,
        program=session.info.program,
        run_id=run.run_id,
        store=store_of(session, run.store),
        console=console_file(session.dir, int(run.run, 16)),
    )
