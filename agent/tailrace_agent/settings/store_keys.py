"""Which store a tracking URI means, whoever spelled it: MLflow's default, and a key that two spellings share.

Nothing is opened and nothing is created. Loading this module is cheap.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from tailrace_agent.settings.uris import mask_uri, resolve_uri

__all__ = ["default_uri", "store_key"]

_SERVER: Final = re.compile(r"(https?)://(?:[^/?#]*@)?([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_DATABASE: Final = re.compile(r"(sqlite|postgresql|mysql|mssql)(?:\+\w+)?:(.*)", re.IGNORECASE | re.DOTALL)
_FILE: Final = re.compile(r"file:(?://[^/]*)?(/.*)", re.IGNORECASE | re.DOTALL)


def default_uri(cwd: str) -> str:
    """The store that MLflow takes in a directory when none is set.

    It goes on with plain files in `mlruns` where an earlier version has left some.

    Args:
        cwd: An absolute directory.
    """
    here = Path(cwd)
    try:
        plain = any((entry / "meta.yaml").exists() for entry in here.glob("mlruns/[0-9]*"))
    except OSError:  # it may not be entered, so MLflow sees no runs there either
        plain = False
    return (here / "mlruns").as_uri() if plain else f"sqlite:///{here / 'mlflow.db'}"


def store_key(uri: str | None, cwd: str) -> str:
    """The same text for two URIs of one store: relative or absolute, through a link, with another driver or user.

    Args:
        uri: A tracking URI or a path; None means MLflow's default.
        cwd: An absolute directory, from which a relative path is meant.

    Returns:
        A text to compare, without a password; no URI to open.

    Example:
        >>> store_key("sqlite+pysqlite:///mlflow.db", "/srv") == store_key("sqlite:////srv/./mlflow.db", "/")
        True
    """
    whole = resolve_uri(uri, cwd) if uri else default_uri(cwd)
    if whole.startswith("/"):
        return f"file:{os.path.realpath(whole)}"
    if server := _SERVER.fullmatch(whole):
        # Without user: two people of one server look at one store.
        return f"{server[1].lower()}://{server[2].lower()}{server[3].rstrip('/')}"
    if file := _FILE.fullmatch(whole):
        return f"file:{os.path.realpath(file[1])}"
    masked = mask_uri(whole)[0]
    if database := _DATABASE.fullmatch(masked):
        dialect, rest = database[1].lower(), database[2].partition("?")[0]
        return f"{dialect}:{os.path.realpath(rest[3:]) if dialect == 'sqlite' else rest}"
    return masked
