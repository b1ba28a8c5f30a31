"""Which servers can be spoken to without MLflow: those where MLflow would do nothing but send the same requests.

All else (a plug-in for headers, logins or stores; a login that MLflow signs, or asks a cluster for; a workspace, for
which it asks the server first; Databricks) is left to MLflow's own stores, which know about it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from tailrace_agent.mlflow.plug_ins import has_plug_ins
from tailrace_agent.rest.credentials import INSECURE_TLS, SERVER_CERT_PATH, client_version, is_true
from tailrace_agent.settings.uris import check_uri, without_plug_in

__all__ = ["plain_server"]

_MLFLOWS_OWN: Final = (
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_WORKSPACE",
    "_MLFLOW_DATABRICKS_TRAFFIC_ID",
    "_MLFLOW_SERVER_ARTIFACT_ROOT",
)
"""Variables with which MLflow does more than to send a request."""
_DATABRICKS: Final = "DATABRICKS_"


def plain_server(tracking_uri: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The address of the server behind a tracking URI; None where MLflow's own store is needed.

    Args:
        tracking_uri: None means `MLFLOW_TRACKING_URI`.
        environ: The process environment.

    Example:
        >>> plain_server("sqlite:///mlflow.db")
        >>> plain_server("http://host:5000", {"MLFLOW_TRACKING_AUTH": "kubernetes"})
    """
    uri = without_plug_in(tracking_uri or environ.get("MLFLOW_TRACKING_URI", ""))
    if not uri.lower().startswith(("http://", "https://")) or check_uri(uri, environ) is not None:
        return None
    parts = urlsplit(uri)
    if parts.query or parts.fragment or _needs_mlflow(environ):
        return None
    return None if has_plug_ins() or client_version() is None else uri


def _needs_mlflow(environ: Mapping[str, str]) -> bool:
    if any(environ.get(name) for name in _MLFLOWS_OWN) or any(name.startswith(_DATABRICKS) for name in environ):
        return True
    certificate = environ.get(SERVER_CERT_PATH)
    try:
        # Both at once, and a word that is neither true nor false, are errors of MLflow's.
        return certificate == "" or (is_true(environ, INSECURE_TLS) and certificate is not None)
    except ValueError:
        return True
