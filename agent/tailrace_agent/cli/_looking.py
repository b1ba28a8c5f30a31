"""The links that `tailrace ui` gives, and a browser to open one in."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Any, Final, NamedTuple

from tailrace_agent.mlflow.links import list_page, run_page
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.uris import public_uri

__all__ = ["Links", "can_browse", "links_of", "open_browser"]

_PATIENCE: Final = 10.0  # seconds: without links the UI is of use, too


class Links(NamedTuple):
    """Where to look.

    Attributes:
        runs: The list of the runs.
        newest: The page of the newest of them, if there is any.
        name: Its name.
    """

    runs: str
    newest: str | None = None
    name: str | None = None


def links_of(uri: str, address: str, settings: Settings) -> Links:
    """The runs of the experiment that is set, if the store has it, else of the one with the newest run.

    Args:
        uri: The store, absolute.
        address: Of the UI that shows it.
        settings: Name the experiment.

    Raises:
        SinkError, StoreRefused: The store is away, or cannot be used.
    """
    from tailrace_agent.reading.reader import open_reader

    reader = open_reader(uri, str(Path.cwd()), request_timeout=_PATIENCE)
    ids = {name: experiment_id for experiment_id, name in reader.experiments().items()}
    by_id = os.environ.get("MLFLOW_EXPERIMENT_ID")  # no setting of ours; the name comes first, as in MLflow
    wanted = ids.get(settings.experiment_name or "") or (by_id if by_id in ids.values() else None)
    newest = _newest(reader, [wanted] if wanted else list(ids.values()))
    if newest is None:
        first = wanted or ids.get("Default") or next(iter(ids.values()), None)
        return Links(list_page(address, first) if first is not None else public_uri(address))
    info = newest.info
    experiment_id = str(info.experiment_id)
    page = run_page(address, experiment_id, info.run_id)
    return Links(list_page(address, experiment_id), page, info.run_name or info.run_id)


def _newest(reader: Any, experiment_ids: list[str]) -> Any | None:
    found = reader.search(experiment_ids, "", ["attributes.start_time DESC"], 1)
    return found[0] if found else None


def can_browse() -> bool:
    """Whether a browser may be opened: somebody sits at this terminal, and a window can appear before them.

    Without a display `webbrowser` would take a browser for terminals; over SSH the display is mostly another machine's.
    """
    if not sys.stdout.isatty():
        return False
    if os.environ.get("BROWSER"):
        return True
    if os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_browser(link: str) -> bool:
    """Opens a link in the user's browser; whether there is one."""
    try:
        return webbrowser.open(link)
    except (webbrowser.Error, OSError):
        return False
