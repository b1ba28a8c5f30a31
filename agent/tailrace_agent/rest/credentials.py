"""Who MLflow's client is to a server, and whom it trusts: what it reads from variables, and from its own file.

They are read for each request, as MLflow does: a program may be given a new token while it runs.
"""

from __future__ import annotations

import base64
import functools
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["INSECURE_TLS", "SERVER_CERT_PATH", "Identity", "client_version", "identity", "is_true"]

INSECURE_TLS: Final = "MLFLOW_TRACKING_INSECURE_TLS"
SERVER_CERT_PATH: Final = "MLFLOW_TRACKING_SERVER_CERT_PATH"
_USERNAME: Final = "MLFLOW_TRACKING_USERNAME"
_PASSWORD: Final = "MLFLOW_TRACKING_PASSWORD"  # noqa: S105  # a variable's name
_TOKEN: Final = "MLFLOW_TRACKING_TOKEN"  # noqa: S105  # a variable's name
_CLIENT_CERT_PATH: Final = "MLFLOW_TRACKING_CLIENT_CERT_PATH"
_FILE: Final = "~/.mlflow/credentials"


class Identity(NamedTuple):
    """What goes with each request: headers, and the arguments of `requests` for TLS."""

    headers: dict[str, str]
    verify: bool | str
    cert: str | None


def identity(environ: Mapping[str, str] = os.environ) -> Identity:
    """What MLflow would send with a request now.

    Raises:
        ValueError: A variable says neither true nor false, or two contradict each other.
        Exception: MLflow's file of credentials cannot be read.
    """
    client = client_version()
    headers = {"User-Agent": f"mlflow-python-client/{client}", "X-MLflow-Client-Version": str(client)}
    user, password = _login(environ)
    token = environ.get(_TOKEN)
    if user and password:  # before the token, as in MLflow
        pair = base64.standard_b64encode(f"{user}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    certificate = environ.get(SERVER_CERT_PATH) or None
    insecure = is_true(environ, INSECURE_TLS)
    if insecure and certificate is not None:
        raise ValueError(f"{INSECURE_TLS} and {SERVER_CERT_PATH} are both set: only one of them may be")
    return Identity(headers, not insecure if certificate is None else certificate, environ.get(_CLIENT_CERT_PATH))


def is_true(environ: Mapping[str, str], name: str) -> bool:
    """What a variable says, in MLflow's words for yes and no.

    Raises:
        ValueError: It says neither.
    """
    word = environ.get(name, "false").lower()
    if word not in ("true", "false", "1", "0"):
        raise ValueError(f"{name} value must be one of ['true', 'false', '1', '0'] (case-insensitive), but got {word}")
    return word in ("true", "1")


@functools.cache
def client_version() -> str | None:
    """The version of the MLflow that is installed; None where its metadata are missing."""
    try:
        return version("mlflow")
    except PackageNotFoundError:
        return None


def _login(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """User and password: each from its variable, or else from MLflow's file."""
    user, password = environ.get(_USERNAME), environ.get(_PASSWORD)
    file = Path(os.path.expanduser(_FILE))  # noqa: PTH111  # `Path.expanduser` raises where there is no home
    if (user and password) or not file.exists():
        return user, password
    from configparser import ConfigParser

    config = ConfigParser()
    config.read(file)
    if "mlflow" not in config:
        return user, password
    section = config["mlflow"]
    return user or section.get(_USERNAME.lower()), password or section.get(_PASSWORD.lower())
