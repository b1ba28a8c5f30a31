"""The artifacts of a run that a plain MLflow server keeps."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlsplit

import requests

from tailrace_agent.mlflow.proxied_files import ARTIFACTS, ProxiedFiles
from tailrace_agent.rest.requests import answered, send_once

__all__ = ["ServerFiles", "proxied_address"]

_KEPT_BY_THE_SERVER: Final = re.compile(r"mlflow-artifacts:((?:/[\w.@=-]+)+)", re.ASCII)
"""Artifacts of the tracking server itself, at a path in which nothing has to be quoted."""


def proxied_address(artifact_uri: str, tracking_uri: str) -> str | None:
    """The address of artifacts that the tracking server keeps; None for what another server or store keeps.

    Example:
        >>> proxied_address("mlflow-artifacts:/0/ab/artifacts", "http://host/mlflow/")
        'http://host/mlflow/api/2.0/mlflow-artifacts/artifacts/0/ab/artifacts'
    """
    kept = _KEPT_BY_THE_SERVER.fullmatch(artifact_uri)
    if kept is None:
        return None
    server = urlsplit(tracking_uri)
    return f"{server.scheme}://{server.netloc}" + re.sub("//+", "/", f"{server.path}/api/2.0{ARTIFACTS}{kept[1]}")


class ServerFiles(ProxiedFiles):
    """The artifacts of one run.

    Args:
        address: From `proxied_address`: never of another server than the tracking server, whose login goes with it.
        request_timeout: Seconds that a request may take; anew for each MiB.
    """

    def __init__(self, address: str, request_timeout: float) -> None:
        self.artifact_uri, self._timeout = address, request_timeout

    def receive(self, address: str, path: str, method: str, **content: Any) -> requests.Response:
        """Sends one request to `path` below `address`."""
        return send_once(f"{address}{path}", method, self._timeout, **content)

    def answered(self, response: requests.Response, path: str) -> Any:
        """The JSON object that an answer is."""
        return answered(response, path)
