"""Directories on this machine that a server names for artifacts, as one without `--serve-artifacts` does.

MLflow writes into any directory that a server names. Here it has to be one that MLflow makes for a run or a model,
`…/<id>/artifacts`, so that a server can have no file put into a directory of the user's.

Loading this module is cheap.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlparse
from urllib.request import url2pathname

from tailrace_agent.errors import Refused
from tailrace_agent.mlflow.links import is_server
from tailrace_agent.text.quoting import quoted

__all__ = ["check_place", "directory_of", "fault_of_the_path", "place_here"]

_OF_A_RUN: Final = re.compile(r"/(?:m-)?[0-9a-f]{32}/artifacts$")  # `m-`: of a logged model
_OF_THE_PATH: Final = frozenset(
    (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EILSEQ)
)
"""The error numbers of a path that a file system will never take."""


def place_here(artifact_uri: str, tracking_uri: str) -> Path | None:
    """The directory on this machine that a server names for artifacts.

    Returns:
        None where the artifacts go elsewhere, or the tracking URI is no server's.

    Raises:
        ValueError: It names a file of another machine.
    """
    return directory_of(artifact_uri) if is_server(tracking_uri) else None


def directory_of(artifact_uri: str) -> Path | None:
    """The directory on this machine that an artifact URI means; None for what is kept elsewhere.

    Raises:
        ValueError: It names a file of another machine.
    """
    parts = urlparse(artifact_uri)  # as MLflow: `urlsplit` makes another path of `;`
    if parts.scheme not in ("", "file"):
        return None
    host = parts.hostname or ""
    if parts.scheme == "file" and host and host != "." and not host.startswith(("localhost", "127.0.0.1")):
        raise ValueError(f"{artifact_uri} is a file of another machine")
    return Path(os.path.normpath(url2pathname(parts.path if artifact_uri.startswith("file:") else artifact_uri)))


def check_place(artifact_uri: str, tracking_uri: str) -> None:
    """Makes sure that artifacts do not go into a directory of the user's.

    Raises:
        Refused: They would.
        ValueError: As in `place_here`.
    """
    here = place_here(artifact_uri, tracking_uri)
    if here is not None and not _OF_A_RUN.search(here.as_posix()):  # `..` is gone from it
        raise Refused(
            f"MLflow's server wants artifacts in {quoted(here)} on this machine, which is no directory of a run: "
            "nothing is written there; start the server with --serve-artifacts"
        )


def fault_of_the_path(error: Exception, repository: Any) -> str | None:
    """What a file system has against this one path, where it takes others: a file where a directory must be, say."""
    root = getattr(repository, "artifact_dir", None)
    if not isinstance(error, OSError) or error.errno not in _OF_THE_PATH or root is None or not Path(root).is_dir():
        return None
    where = error.filename2 or error.filename
    return f"it cannot be stored in {root}: {error.strerror} ({where})"
