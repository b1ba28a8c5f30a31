"""Where a person looks at a run: its page in MLflow's UI, on a server, or while `tailrace ui` shows a store.

`tailrace ui` announces its address and store in the state directory while it runs: a small file in `ui/`, 0600, without
a password, under an `flock` of its process. The kernel lets go of that when the process is gone, however it ended; what
is left is ignored, and deleted by whoever sees it first.

MLflow's UI opens an experiment as one of GenAI unless its link has another kind (MLflow 3.9); older ones ignore it.

Loading this module is cheap. Nothing here calls a server, or raises for what the surroundings do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from tailrace_agent.decoding import decode_json
from tailrace_agent.files.ownership import is_own, own_directory
from tailrace_agent.files.whole_files import write_all
from tailrace_agent.settings.settings import Settings, state_dir
from tailrace_agent.settings.store_keys import store_key
from tailrace_agent.settings.uris import public_uri

__all__ = ["Announcement", "is_server", "list_page", "run_link", "run_page", "ui_address"]

# Behind the `#`, where the UI's own router reads it; the server never sees it.
_KIND: Final = "?workflowType=machine_learning"


class _Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What an announcement holds."""

    address: str
    store: str
    host: str
    started: float


def list_page(address: str, experiment_id: str) -> str:
    """The list of an experiment's runs.

    Args:
        address: Of an MLflow server; its user and password, if any, are not in the link.
        experiment_id: MLflow's id.
    """
    return f"{public_uri(address)}/#/experiments/{experiment_id}{_KIND}"


def run_page(address: str, experiment_id: str, run_id: str) -> str:
    """The page of a run.

    Args:
        address: Of an MLflow server; its user and password, if any, are not in the link.
        experiment_id: MLflow's id of its experiment.
        run_id: MLflow's id.

    Example:
        >>> run_page("http://ada:pw@mlflow:5000/", "3", "0f6a")
        'http://mlflow:5000/#/experiments/3/runs/0f6a?workflowType=machine_learning'
    """
    return f"{public_uri(address)}/#/experiments/{experiment_id}/runs/{run_id}{_KIND}"


def run_link(store_uri: str | None, cwd: str, experiment_id: str, run_id: str, settings: Settings) -> str | None:
    """A run's page as a person can open it now; None for a store without a server that no `tailrace ui` shows.

    Args:
        store_uri: The tracking URI; None means MLflow's default.
        cwd: An absolute directory, from which a relative path is meant.
        experiment_id: MLflow's id of its experiment.
        run_id: MLflow's id.
        settings: Name the state directory.
    """
    address = store_uri if is_server(store_uri) else ui_address(store_uri, settings, cwd)
    return None if address is None else run_page(address, experiment_id, run_id)


def is_server(store_uri: str | None) -> bool:
    """Whether the store has a UI of its own."""
    return store_uri is not None and store_uri.lower().startswith(("http:", "https:"))


def ui_address(store_uri: str | None, settings: Settings, cwd: str = "/") -> str | None:
    """Where `tailrace ui` shows this store now, on this machine and with this state directory; None where it does not.

    Args:
        store_uri: The tracking URI; None means MLflow's default.
        settings: Name the state directory.
        cwd: An absolute directory, from which a relative path is meant.
    """
    # The host, since a state directory may lie on a file system that machines share, and `127.0.0.1` is each one's own.
    wanted, host = store_key(store_uri, cwd), os.uname().nodename
    found = [each for each in _announced(_directory(settings)) if (each.store, each.host) == (wanted, host)]
    return max(found, key=lambda each: each.started).address if found else None


class Announcement:
    """Announces where a store can be looked at, until it is closed or this process is gone.

    Args:
        address: Of the UI, such as `http://127.0.0.1:5000`.
        store_uri: The store that it shows, absolute. Its password is not kept.
        settings: Name the state directory.

    Raises:
        OSError: The state directory cannot be written to.
    """

    def __init__(self, address: str, store_uri: str, settings: Settings) -> None:
        import tempfile  # with shutil 8 ms, which no run's link should cost

        directory = _directory(settings)
        own_directory(directory)
        contents = _Contents(
            address=address, store=store_key(store_uri, "/"), host=os.uname().nodename, started=time.time()
        )
        self._fd, name = tempfile.mkstemp(".new", "ui-", directory)  # 0600, and not inherited
        self._path = Path(name).with_suffix(".json")
        try:
            # Locked and written before it has a name that `_announced` looks for: what it finds there is whole, and
            # held.
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            write_all(self._fd, msgspec.json.encode(contents))
            Path(name).rename(self._path)
        except BaseException:
            os.close(self._fd)
            Path(name).unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Takes it back."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def _directory(settings: Settings) -> Path:
    return state_dir(settings) / "ui"


def _announced(directory: Path) -> Iterator[_Contents]:
    """What is announced by processes that live; nothing where others may write."""
    if not is_own(directory):
        return
    try:
        paths = list(directory.glob("ui-*.json"))
    except OSError:  # it may not be entered
        return
    for path in paths:
        with contextlib.suppress(OSError, msgspec.DecodeError):  # taken back meanwhile, or of another version
            contents = decode_json(path.read_bytes(), _Contents)
            # A lock on another host is not seen here; so its file is nobody's to delete but that host's.
            if contents.host != os.uname().nodename or _is_held(path):
                yield contents
            else:
                path.unlink()


def _is_held(path: Path) -> bool:
    """Whether the process that made this file lives."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Shared: two that look at once must not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
