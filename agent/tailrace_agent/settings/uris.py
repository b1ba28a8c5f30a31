"""Tracking URIs, understood without importing MLflow, SQLAlchemy, or even `urllib`.

What this module promises:

* `mask_uri` takes every password out of a URI, so that the rest may be printed and written to disk; `unmask_uri` puts
  it back, character for character.
* `resolve_uri` makes a URI mean the same from every working directory. MLflow's own default is not touched.
* `check_uri` returns why MLflow would refuse a URI, as far as that can be known from the outside. None means "let
  MLflow decide": plug-ins may provide any scheme.

Where the password ends differs: in a database URL it ends at the first `@` and may contain `/`, as in SQLAlchemy; in
any other URL user and password end before the first `/`, as in RFC 3986.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

__all__ = [
    "PLUG_IN",
    "check_uri",
    "mask_service",
    "mask_uri",
    "mask_url",
    "missing_file",
    "misspelt",
    "public_uri",
    "resolve_uri",
    "shown_uri",
    "unmask_uri",
    "without_plug_in",
]

PLUG_IN: Final = "tailrace+"
"""Before the scheme of a store: MLflow is to log to it through tailrace."""
_DATABASES: Final = ("postgresql", "mysql", "sqlite", "mssql")
_HINT: Final = "for a local store, write sqlite:///mlflow.db; for a server, http://host:5000"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9.+_-]+):")  # two characters at least: `C:` is a drive of Windows
_DATABASE_USER = re.compile(r"(//[^:/]*):([^@]*)@")
_OTHER_USER = re.compile(r"(//[^:/?#]*):([^/?#]*)@")
# `odbc_connect` holds a whole connection string, with its password.
_QUERY_SECRET = re.compile(
    r"([?&](?:[a-z_]*(?:password|passwd|token|secret)|pwd|api_?key|odbc_connect)=)([^&]*)", re.IGNORECASE
)
_URL_HOST = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#]*@)?([^/?#@]*)")
_SERVICE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}")
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")
_BARE_HOST = re.compile(
    r"[A-Za-z0-9.-]+:[0-9]+(/|$)|(localhost|[0-9]+(\.[0-9]+){3}):?$|\[[0-9A-Fa-f:.]+\](:[0-9]*)?(/|$)"
)
_BARE_USER = re.compile(r"[^/@?#]+@([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?(/|$)")
_BARE_PORT = re.compile(r":[0-9]+(/|$)")
_NO_COLON = re.compile(r"(https?)/+(?=[^/])")  # `http//host`, `https/host`: a colon or a slash was lost


def mask_uri(uri: str) -> tuple[str, str | None]:
    """Cuts the password out of a URI.

    Args:
        uri: Any tracking URI, or a path.

    Returns:
        The URI without its password (the user name stays), and what was cut out, or None when there was nothing:
        `user:password`, followed by one line `name=value` for each secret in the query. It is meant for `unmask_uri`.

    Example:
        >>> mask_uri("https://ada:pw@host:5000")
        ('https://ada@host:5000', 'ada:pw')
    """
    masked, credentials = uri, ""
    user = _userinfo(uri)
    if user:
        masked = uri[: user.end(1)] + uri[user.end(2) :]
        credentials = f"{user[1][2:]}:{user[2]}"
    secrets = _QUERY_SECRET.findall(masked)  # after the user: a password may look like a query
    if any(value for _, value in secrets):
        masked = _QUERY_SECRET.sub(r"\1", masked)
        credentials += "".join(f"\n{name[1:]}{value}" for name, value in secrets)
    return masked, credentials or None


def mask_url(url: str) -> str:
    """What may be shown of a URL whose path is itself a secret, as a webhook's is: scheme, host and port.

    Example:
        >>> mask_url("https://ada:pw@hooks.example.org/services/T0/B0")
        'https://hooks.example.org/…'
    """
    match = _URL_HOST.match(url)
    if match is None:
        return "…"
    rest = url[match.end() :].strip("/")
    return f"{match[1]}{match[2]}{'/…' if rest else ''}"


def mask_service(url: str) -> str:
    """What may be shown of an address of Apprise's, in which every part may be a token: its scheme.

    Example:
        >>> mask_service("slack://T0/B0/secret/#training")
        'slack://…'
    """
    scheme, mark, _ = url.partition("://")
    return f"{scheme}://…" if mark and _SERVICE.fullmatch(scheme) else "…"


def public_uri(uri: str) -> str:
    """A server's URI as it may be shown and linked: without user name and password.

    Example:
        >>> public_uri("https://ada:pw@host:5000/")
        'https://host:5000'
    """
    return _USERINFO.sub("", uri).rstrip("/")


def unmask_uri(masked: str, credentials: str | None) -> str:
    """Puts back what `mask_uri` cut out.

    Args:
        masked: A URI without its password.
        credentials: From `mask_uri`. Credentials of another user are not for this URI and change nothing.
    """
    if not credentials:
        return masked
    userinfo, *secrets = credentials.split("\n")
    uri = _fill_query(masked, [secret.partition("=") for secret in secrets])
    user, colon, password = userinfo.partition(":")
    if uri is None or not colon:
        return uri or masked
    head, mark, tail = uri.partition(f"//{user}@")
    ours = mark and head.endswith(":") and "/" not in head  # else a path may hold `//ada@` somewhere behind the host
    return f"{head}//{user}:{password}@{tail}" if ours else masked


def _fill_query(uri: str, secrets: list[tuple[str, str, str]]) -> str | None:
    """Fills the emptied parameters of the query in their order; None when they are not those of this URI."""
    found = list(_QUERY_SECRET.finditer(uri)) if secrets else []
    if [match[1][1:-1] for match in found] != [name for name, _, _ in secrets]:
        return None
    # From the end, so that the places before it stay where they are.
    for match, (_, _, value) in zip(reversed(found), reversed(secrets), strict=True):
        uri = uri[: match.end(1)] + value + uri[match.end() :]
    return uri


def resolve_uri(uri: str, cwd: str) -> str:
    """Makes a relative SQLite or file URI absolute, as seen from `cwd`; all others come back as they are.

    Args:
        uri: A tracking URI or a path.
        cwd: An absolute directory.

    Example:
        >>> resolve_uri("sqlite:///mlflow.db", "/home/ada")
        'sqlite:////home/ada/mlflow.db'
    """
    uri = without_plug_in(uri)
    scheme = _scheme(uri)
    if scheme is None:
        return _absolute(uri, cwd) if uri and uri not in _NAMES else uri
    head, colon, rest = uri.partition(":")
    if scheme == "file" and not rest.startswith("/"):
        return f"{head}://{_absolute(rest, cwd)}"
    if scheme.partition("+")[0] == "sqlite" and rest.startswith("///"):
        path, mark, query = rest[3:].partition("?")
        if path and not path.startswith(("/", ":memory:", "file:")):
            return f"{head}{colon}///{_absolute(path, cwd)}{mark}{query}"
    return uri


def without_plug_in(uri: str) -> str:
    """The store that a URI of the store plug-in leads to; any other URI comes back as it is.

    Example:
        >>> without_plug_in("tailrace+https://host")
        'https://host'
    """
    return uri[len(PLUG_IN) :] if uri[: len(PLUG_IN)].lower() == PLUG_IN else uri


def check_uri(uri: str, environ: Mapping[str, str]) -> str | None:
    """Why this URI cannot work, and the mend; None when nothing is known against it.

    Args:
        uri: A tracking URI or a path. The reason never shows its password.
        environ: The process environment.
    """
    if not uri.strip():
        return f"it is empty; {_HINT}"
    if uri in _NAMES:
        return _NAMES[uri]
    # Before the scheme is looked at: `localhost:5000` has one, by the letter of RFC 3986.
    if (fault := misspelt(uri)) is not None:
        return fault
    scheme = _scheme(uri)
    if scheme is None or scheme == "file":
        return _check_file(uri, environ)
    if scheme in ("http", "https"):
        return None
    if scheme == "postgres":  # removed in SQLAlchemy 1.4, and still what Heroku and others hand out
        return "SQLAlchemy knows this database as postgresql://"
    dialect, *drivers = scheme.split("+")
    if dialect.startswith(_DATABASES):
        return _check_database(uri, dialect, drivers)
    return _NAMES.get(scheme)


def misspelt(uri: str) -> str | None:
    """What is wrong with the address of a server as it stands, whatever is installed and whoever listens; or None.

    Example:
        >>> misspelt("localhost:5000")
        'a server needs a scheme; write http://localhost:5000'
    """
    if uri != uri.strip():
        return "it begins or ends with a blank"
    if _BARE_USER.match(uri):
        return f"a server needs a scheme; write http://…@{uri.rpartition('@')[2]}"  # what stands there may be a secret
    if _BARE_PORT.match(uri):
        return f"a server needs a scheme and a host; write http://localhost{uri}"
    host = uri.removeprefix("//")
    if _BARE_HOST.match(host):
        return f"a server needs a scheme; write http://{host}"
    if found := _NO_COLON.match(uri):
        return f"a scheme ends with a colon; write {found[1]}://{uri[found.end() :]}"
    scheme = _scheme(uri)
    return _no_host(uri, scheme) if scheme in ("http", "https") else None


def _no_host(uri: str, scheme: str) -> str | None:
    """What is wrong with the host and the port of a server's address."""
    if not re.match(r"//[^/?#]", uri[len(scheme) + 1 :]):
        return f"it names no host; write {scheme}://host:5000"
    try:
        host, _ = urlsplit(uri).hostname or "", urlsplit(uri).port
    except ValueError:
        return f"its port is none; write {scheme}://host:5000"
    if all(0 < len(label) < 64 for label in host.removesuffix(".").split(".")):
        return None
    return f"no host has such a name, with a part that is empty or too long; write {scheme}://host:5000"


def shown_uri(uri: str) -> str:
    """An address for a message, without what may be a secret; also one that has no scheme."""
    return mask_uri(uri)[0] if "://" in uri else uri.rpartition("@")[2]


def missing_file(uri: str) -> Path | None:
    """The file of an SQLite store that does not exist yet, or None."""
    scheme, mark, path = uri.partition(":///")
    file = Path(path.partition("?")[0])
    return file if mark and scheme.partition("+")[0] == "sqlite" and not file.exists() else None


_REGISTRY_ONLY: Final = "MLflow takes Unity Catalog as a model registry only; to track in Databricks, write databricks"
_NAMES: Final[dict[str, str | None]] = {"databricks": None, "databricks-uc": _REGISTRY_ONLY, "uc": _REGISTRY_ONLY}
"""URIs that consist of a scheme alone, and what is against each."""


def _check_file(uri: str, environ: Mapping[str, str]) -> str | None:
    host = re.match(r"file://([^/]+)", uri)
    if host and not host[1].startswith((".", "localhost", "127.0.0.1")):
        return f"a file on another machine ({host[1]}) cannot be reached; write file:///path"
    allowed = environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")
    if allowed or not _file_store_is_refused():
        return None
    return (
        "this MLflow refuses to keep runs in plain files; use a database (sqlite:///mlflow.db, "
        "`mlflow migrate-filestore` moves old runs), or set MLFLOW_ALLOW_FILE_STORE=true"
    )


def _file_store_is_refused() -> bool:
    """MLflow refuses since 3.13. Only a user of the file store pays for this import."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        major, minor = version("mlflow").split(".")[:2]
        return (int(major), int(minor)) >= (3, 13)
    except (PackageNotFoundError, ValueError):
        return True


def _check_database(uri: str, dialect: str, drivers: list[str]) -> str | None:
    if dialect not in _DATABASES or len(drivers) > 1:
        return f"MLflow knows the databases {', '.join(_DATABASES)}, each with at most one +driver"
    rest = uri.partition(":")[2]
    if dialect != "sqlite":
        return None if rest.startswith("//") else f"write {dialect}://user@host/database"
    path = rest[3:].partition("?")[0]
    if not rest.startswith("///") and rest != "//":
        return "SQLite takes three slashes before a relative path, four before an absolute one: sqlite:///mlflow.db"
    if path in ("", ":memory:"):
        return "a database in memory is gone when the agent ends; write sqlite:///mlflow.db"
    return None


def _scheme(uri: str) -> str | None:
    match = _SCHEME.match(uri)
    return match[1].lower() if match else None


def _userinfo(uri: str) -> re.Match[str] | None:
    scheme = _scheme(uri)
    if scheme is None:
        return None
    pattern = _DATABASE_USER if scheme.startswith(_DATABASES) else _OTHER_USER
    return pattern.match(uri, len(scheme) + 1)


def _absolute(path: str, cwd: str) -> str:
    return path if path.startswith("/") else os.path.normpath(f"{cwd.rstrip('/')}/{path}")
