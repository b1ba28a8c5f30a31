"""Requests to a plain MLflow server as MLflow's client sends them, each once.

What this module promises: the same as `mlflow.requests`, with the same words for what goes wrong. A request has
MLflow's headers and login, is bounded by `http_bounds`, and follows no redirect. It goes to the tracking server alone.

Proxies, `.netrc` and the system's certificates are `requests`' own business, as under MLflow. Its steps are those of
`Session.request` without cookies, redirects and hooks, which no request has here; what is the same for each request to
a server is looked up once. The rest is half of a request's time.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, BinaryIO, Final

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_netrc_auth
from urllib3.connection import HTTPConnection

from tailrace_agent.mlflow.answers import OK, hold_answer, json_object
from tailrace_agent.mlflow.http_bounds import bound
from tailrace_agent.rest.credentials import identity, is_true

__all__ = ["answered", "send_once"]

_PROXIES: Final = tuple(f"{what}_proxy" for what in ("http", "https", "all", "no"))
_LOOKED_AT: Final = (*_PROXIES, *map(str.upper, _PROXIES), "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that `requests` reads for each request, for which it walks through all that there are."""
_ANEW: Final = 60
"""Seconds after which the system's own settings of proxies are looked at again (macOS and Windows have some)."""


class NoAnswer(Exception):
    """A request that got no answer; what happened is its cause."""


class ServerError(Exception):
    """An answer that is no success.

    Attributes:
        json: The JSON object in it; None where there is none.
        error_code: MLflow's code for it; None where it is somebody else's answer.
    """

    def __init__(self, message: str, error_code: str | None = None, json: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.error_code, self.json = error_code, json


def send_once(
    address: str,
    method: str,
    timeout: float,
    *,
    params: Mapping[str, Any] | None = None,
    data: bytes | BinaryIO | None = None,
    json: Any = None,
    extra_headers: Mapping[str, str] = MappingProxyType({}),
    stream: bool = False,
) -> requests.Response:
    """One request.

    Args:
        address: Where to, on the tracking server.
        method: `GET`, `POST`, `PUT`.
        timeout: Seconds that it may take; anew for each MiB.
        params: What stands behind the address.
        data: The body as it is.
        json: The body, to be encoded.
        extra_headers: Go with MLflow's own.
        stream: Whether only the head of an answer is read.

    Raises:
        Exception: There was none, or it cannot be believed.
    """
    who = identity()
    try:
        session = _session(os.getpid())
        request = requests.PreparedRequest()
        request.prepare_method(method)
        request.prepare_url(address, params)
        request.prepare_headers({**session.headers, **who.headers, **extra_headers})
        request.prepare_body(data, None, json)
        request.prepare_auth(get_netrc_auth(address), address)
        around = _surroundings("/".join(address.split("/", 3)[:3]), who.verify, who.cert)
        # As a stream: the body is bounded where it is read.
        response = session.get_adapter(address).send(request, stream=True, timeout=timeout, **around)
    except Exception as error:  # whatever `requests` and the encoding come up with
        raise NoAnswer(f"API request to {address} failed with exception {error}") from error
    hold_answer(response, stream=stream)
    return response


def answered(response: requests.Response, path: str) -> Any:
    """The JSON object that an answer is; `ServerError` for one that is no success. See `json_object`."""
    return json_object(response, path, _verify)


def _verify(response: requests.Response, path: str) -> None:
    status = response.status_code
    try:
        fields = json.loads(response.content)
    except ValueError:
        fields = None
    if isinstance(fields, dict):
        code = fields.get("error_code") or "INTERNAL_ERROR"
        message = fields.get("message", f"Response: {fields}")
        raise ServerError(f"{code}: {message}", str(code), fields)
    raise ServerError(
        f"API request to endpoint {path} failed with error code {status} != {OK}. Response body: '{response.text}'"
    )


def _surroundings(server: str, verify: bool | str, cert: str | None) -> dict[str, Any]:
    """The proxies and certificates of a request to a server."""
    found = tuple(map(os.environ.get, _LOOKED_AT))
    return _looked_up(os.getpid(), server, verify, cert, found, time.monotonic() // _ANEW)


@functools.lru_cache(maxsize=16)
def _looked_up(pid: int, server: str, verify: bool | str, cert: str | None, *_: object) -> dict[str, Any]:
    around = _session(pid).merge_environment_settings(server, {}, None, verify, cert)
    return {what: around[what] for what in ("proxies", "verify", "cert")}


@functools.lru_cache(maxsize=1)
def _session(_pid: int) -> requests.Session:
    """One for all servers, as under MLflow; a forked child has one of its own."""
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, _KeptAlive())
    bound(session)
    return session


class _KeptAlive(HTTPAdapter):
    """Has the system look after idle connections, as MLflow's adapter: one that is dead fails at once."""

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        super().init_poolmanager(*args, socket_options=_socket_options(), **named)

    def proxy_manager_for(self, proxy: Any, **named: Any) -> Any:
        return super().proxy_manager_for(proxy, socket_options=_socket_options(), **named)


def _socket_options() -> list[tuple[int, int, int]]:
    options: list[Any] = list(HTTPConnection.default_socket_options)
    if not is_true({"MLFLOW_HTTP_TCP_KEEPALIVE": "true", **os.environ}, "MLFLOW_HTTP_TCP_KEEPALIVE"):
        return options
    options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
    for option, name, default in (
        ("TCP_KEEPIDLE", "IDLE", 30),
        ("TCP_KEEPALIVE", "IDLE", 30),  # macOS' name for it
        ("TCP_KEEPINTVL", "INTERVAL", 10),
        ("TCP_KEEPCNT", "COUNT", 3),
    ):
        if hasattr(socket, option):
            seconds = int(os.environ.get(f"MLFLOW_HTTP_TCP_KEEPALIVE_{name}", default))
            options.append((socket.IPPROTO_TCP, getattr(socket, option), seconds))
    return options
