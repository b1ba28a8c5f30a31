"""What goes wrong while talking to MLflow becomes one of our own errors: here, and nowhere else.

What this module promises:

* `Refused` is raised only when the store itself has judged the request: an answer in MLflow's own words, an answer that
  the body is too large, or a value that cannot be encoded at all. It costs the row its delivery.
* Everything that may be mended from outside is `Unavailable`: networks, locks, overload, proxies that answer in
  MLflow's place, and credentials too, since they concern every row and none in particular.
* A deleted run is `RunGone`, and a URI that MLflow can make no use of is `StoreRefused`.
* No message holds a password, token or key: `masking` defines what is one. Here users of URIs are hidden too.

Foreign exceptions are recognised without importing what raises them, so this module costs nothing to load.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from tailrace_agent.errors import Lack, Refused, RunGone, SinkError, StoreRefused, TailraceError, Unavailable
from tailrace_agent.mlflow.clocks import http_date
from tailrace_agent.retry import kept_wait
from tailrace_agent.settings.uris import mask_uri, public_uri
from tailrace_agent.text.masking import mask_text
from tailrace_agent.text.quoting import plain

__all__ = [
    "attach",
    "mask",
    "opening_failed",
    "refused_code",
    "retry_after",
    "stored_already",
    "too_large",
    "translate",
    "was_cut_off",
]

_MOVED: Final = (301, 302, 303, 307, 308)
# Where MLflow's own paths begin: what stands before them in an address is a tracking URI.
_API: Final = re.compile(r"/+(?:ajax-)?api/\d")
_RESPONSE: Final = "tailrace_response"
_GONE: Final = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_LATER: Final = frozenset(
    (
        "ENDPOINT_NOT_FOUND",
        "TEMPORARILY_UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "CANCELLED",
        "ABORTED",
        "PERMISSION_DENIED",
        "CUSTOMER_UNAUTHORIZED",
        "UNAUTHENTICATED",
    )
)
# What MLflow makes of any exception of its own: the code says nothing of whose fault it was.
_INTERNAL: Final = ("INTERNAL_ERROR", "INVALID_STATE", "DATA_LOSS")

_USERS = (
    # A database password may hold a slash, others end before it.
    (re.compile(r"((?:postgresql|mysql|mssql)[+\w]*://)[^\s'\"]*@"), r"\1***@"),
    (re.compile(r"(\w://)[^\s/'\"]*@"), r"\1***@"),
)
_LOOKED_AT: Final = 4_000
"""Characters of a message that are looked through: a server's may have millions."""
_GATEWAY_TIMEOUT: Final = 504
_BUSY: Final = (429, 502, 503, _GATEWAY_TIMEOUT)
_GATEWAY: Final = {
    502: "gets no sensible answer from the server behind it",
    _GATEWAY_TIMEOUT: "got no answer in time from the server behind it",
}
_LARGER: Final = (
    "raise the limit of the proxy before it (in nginx client_max_body_size), and `tailrace dead retry` sends it again"
)
_NO_FILE: Final = re.compile(r"Could not find .*TLS .*invalid path")
_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d{3})")
_TITLE: Final = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)
_TAGS: Final = re.compile(r"<[^>]*>")
_LOGIN: Final = "asks for other credentials"
_UNAUTHORIZED: Final = 401
_PROXY_UNAUTHORIZED: Final = 407
_LACKS: Final[dict[int, Lack]] = {_UNAUTHORIZED: "login", _PROXY_UNAUTHORIZED: "variables"}
# PostgreSQL's and MySQL's own words for it.
_LOCKED_OUT = re.compile(
    r"password authentication failed[^\n]*|no password supplied|no pg_hba\.conf entry[^\n]*|Access denied for user"
)
_SQL_LINK = re.compile(r"\s*\(Background on this error at: [^)]*\)")
_DELETED = re.compile(r"'active' (state|lifecycle)", re.IGNORECASE)
_SQL = re.compile(r"sqlalche\.me|sqlite3\.|psycopg|pymysql|MySQLdb|pyodbc")
_SQL_PAYLOAD = re.compile(r"DataError|IntegrityError|sqlalche\.me/e/\d+/(9h9h|gkpj)")  # the links of these two
_STORED = re.compile(
    r"(?:IntegrityError|UniqueViolation).*"
    r"(?:UNIQUE constraint|Duplicate entry|PRIMARY KEY|duplicate key).*"
    r"INSERT INTO \W?metrics\W",
    re.DOTALL,
)
# MLflow answers these with a 500, and always will: the value itself does not fit the database.
_POISON = re.compile(r"NUL \(0x00\)|too large to convert|surrogates not allowed|Incorrect string value|out of range")


def mask(text: str) -> str:
    """The text without secrets, whoever wrote it, and without the users of URIs."""
    for pattern, kept in _USERS:
        text = pattern.sub(kept, text)
    return mask_text(text)


def attach(error: BaseException, response: object) -> None:
    """Notes on an exception which HTTP response it was made from; `translate` reads it."""
    # MLflow's RestException keeps the body's JSON, but neither the status nor `Retry-After`.
    setattr(error, _RESPONSE, response)


def refused_code(error: BaseException, code: str) -> bool:
    """Whether MLflow has answered with this error code."""
    return getattr(error, "error_code", None) == code


def too_large(error: BaseException) -> bool:
    """Whether a request was refused for its size: by a server, or a proxy before it."""
    return getattr(_response(error), "status_code", None) == 413


def stored_already(error: BaseException) -> bool:
    """Whether a database has refused metrics since they are there: older MLflow does so to a repeated NaN.

    MySQL says so of one whose key differs from that of another one in case or accents only, too.
    """
    return _STORED.search(str(error)) is not None


def _response(error: BaseException) -> Any:
    response = getattr(error, _RESPONSE, None)
    # `is None`, not `or`: a response of `requests` is false for every 4xx and 5xx.
    return getattr(error, "response", None) if response is None else response


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds from a `Retry-After` header, which holds seconds or a date; None when it holds neither.

    An hour at most, as in `retry.kept_wait`.
    """
    if value is None:
        return None
    try:
        return kept_wait(float(value))
    except ValueError:
        then = http_date(value)
        now = now or datetime.now(timezone.utc)
        return None if then is None else kept_wait((then - now).total_seconds())


def translate(error: Exception, uri: str, *, remote: bool, about_run: bool, upload: bool = False) -> TailraceError:
    """The error of ours that a foreign exception stands for.

    Args:
        error: Anything that came out of MLflow, or out of a library below it.
        uri: The tracking URI, for the message.
        remote: Whether the store is behind HTTP, so that only an answer can be a refusal.
        about_run: Whether the request named a run, so that "does not exist" means the run.
        upload: Whether the request was for an artifact: what is not found then is the place for it, and not the server.
    """
    if isinstance(error, TailraceError):
        return error
    response = _response(error)
    if getattr(response, "status_code", None) is not None:
        return _answered(error, response, public_uri(uri), about_run, upload)
    # Raised while the request was encoded, so nothing was sent, and never will be.
    if isinstance(error, (UnicodeError, OverflowError)):
        return Refused(_short(error))
    if remote:
        return _unreachable(error, public_uri(uri))
    verdict = _locked_out(error, uri) or _by_code(getattr(error, "error_code", None), error, about_run)
    return verdict or Unavailable(_short(error))


def opening_failed(error: Exception, uri: str) -> TailraceError:
    """The error of ours for a store that could not be opened. A database that is away may come back."""
    if isinstance(error, TailraceError):
        return error
    if (locked_out := _locked_out(error, uri)) is not None:
        return locked_out
    # With the bases: drivers raise subclasses of the names that PEP 249 gives them.
    names = {base.__name__ for link in _chain(error) for base in type(link).__mro__}
    away = {"OperationalError", "ProgrammingError", "IntegrityError", "InternalError", "TimeoutError", "OSError"}
    where = mask(uri)
    # The last ones: Alembic, while the program's own MLflow opens a database in another thread, with the same state.
    if names & away or refused_code(error, "TEMPORARILY_UNAVAILABLE") or isinstance(error, (KeyError, NameError)):
        return Unavailable(f"{where} cannot be opened: {_short(error)}")
    if names & {"ImportError", "NoSuchModuleError"}:
        return StoreRefused(
            f"{where} needs a driver that is not installed here ({_short(error)}): install it next to MLflow"
        )
    return StoreRefused(f"MLflow cannot use {where}: {_short(error)}")


def _locked_out(error: Exception, uri: str) -> Unavailable | None:
    """A database's refusal to let anybody in with this name and password."""
    found = _LOCKED_OUT.search(str(error))
    if found is None or "://" not in uri:  # a file has no login
        return None
    where, detail = mask_uri(uri)[0], mask(" ".join(found[0].split()))
    return Unavailable(f"{where} {_LOGIN} ({detail}): give the right password in the tracking URI", lacks="login")


def _answered(error: Exception, response: Any, uri: str, about_run: bool, upload: bool) -> TailraceError:
    """An HTTP answer that is no success."""
    status: int = response.status_code
    headers = response.headers
    # The server's dates mean its own clock, and ours may be off.
    wait = retry_after(headers.get("Retry-After"), http_date(headers.get("Date", "")))
    code = _code_in(error)
    # Before any code in the body: credentials concern every row, so not even MLflow's own words refuse this one.
    if status in (_UNAUTHORIZED, 403, _PROXY_UNAUTHORIZED):
        return Unavailable(_login(status, uri, error, code), wait, away=True, lacks=_LACKS.get(status))
    if status == 413:
        return Refused(f"{uri} takes no request this large (413): {_LARGER}", too_large=True)
    moved = [each for each in (*getattr(response, "history", ()), response) if each.status_code in _MOVED]
    if moved and status >= 300:
        return Unavailable(_points_to(moved[0], uri), wait, away=True)
    verdict = _by_code(code, error, about_run) if code else None
    # A code knows no wait: with a `Retry-After`, "later" is left to the lines below, which keep it.
    if verdict is not None and not (isinstance(verdict, Unavailable) and wait is not None):
        return verdict
    if status < 300:  # a success whose body `requests.answered` does not take
        return Unavailable(_no_mlflow(uri, _what_came(response)), wait, away=True)
    if upload and status in (404, 405):
        return Unavailable(f"{uri} has no place for this artifact ({status}): {_short(error)}", wait, status)
    if status in (404, 405) and code is None:
        return Unavailable(f"there is no MLflow server at {uri} ({status}); check the tracking URI", wait)
    slow, away = status == _GATEWAY_TIMEOUT, status in _BUSY or wait is not None
    text = _foreign_answer(error, response, uri) if code is None else f"{uri} answered {status}: {_short(error)}"
    return Unavailable(text, wait, status, too_slow=slow, away=away)


def _foreign_answer(error: Exception, response: Any, uri: str) -> str:
    """The reason in an answer that is not MLflow's own: as a rule it comes from who stands between."""
    status: int = response.status_code
    page = _page(response)
    if status == 400 and page and "HTTPS port" in page:
        return f"{uri} speaks TLS: write https://… as the tracking URI"
    proxied = _is_proxied(uri)
    if status in _GATEWAY:
        who = f"{uri}, or {_proxy(uri)}," if proxied else f"the gateway at {uri}"
        return f"{who} {_GATEWAY[status]} ({status}): is MLflow running there?"
    return f"{uri}{f', or {_proxy(uri)},' if proxied else ''} answered {status}: {page or _short(error)}"


def _page(response: Any) -> str | None:
    """The title of a web page, or what stands for it; None for an answer that is none."""
    if "html" not in str(response.headers.get("Content-Type", "")).lower():
        return None
    text = response.content[:_LOOKED_AT].decode(errors="replace")
    title = _TITLE.search(text)
    return plain(mask(_TAGS.sub(" ", title[1] if title else text)), 200) or "a web page"


def _no_mlflow(uri: str, came: str) -> str:
    return f"{uri} answered, but not as an MLflow server does ({came}); check the tracking URI, and log in"


def _what_came(response: Any) -> str:
    """What an answer is, in a few words, where it should be a JSON object of MLflow's."""
    body = response.content
    if response.status_code != 200:
        return f"HTTP {response.status_code}"
    if not body.strip():
        return "nothing"
    kind = plain(str(response.headers.get("Content-Type", "")).partition(";")[0], 60)
    return kind if kind and "json" not in kind else plain(body[:60].decode(errors="replace"), 60)


def _points_to(response: Any, uri: str) -> str:
    """Where a redirect points, which is not followed, as a tracking URI."""
    location = whole = str(response.headers.get("Location") or "")
    try:
        whole = urljoin(response.url or "", location)
        there = plain(public_uri(_API.split(whole, maxsplit=1)[0].partition("?")[0]), 200)
        server = urlsplit(whole).scheme in ("http", "https") and bool(urlsplit(whole).hostname)
    except ValueError:
        there, server = plain(location, 200), False
    if not location or not server:
        return f"{uri} sends on to {there or 'nowhere'}, which is no server: check the tracking URI"
    if there == public_uri(uri):
        return f"{uri} sends on to itself: check the proxy before it, and the tracking URI"
    login = "" if _API.search(whole) else ", or log in if it is a login page"
    return f"{uri} points to {there}: make that the tracking URI{login}"


def _login(status: int, uri: str, error: Exception, code: str | None) -> str:
    if status == _UNAUTHORIZED:
        return (
            f"{uri} {_LOGIN} (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if status == _PROXY_UNAUTHORIZED:  # nobody but a proxy requires that
        return _forbidden_by(_proxy(uri), uri, status)
    if code is None and _is_proxied(uri):
        return f"{uri}, or {_forbidden_by(_proxy(uri), uri, status)}"
    detail = f": {_short(error)}" if code else ""
    return (
        f"{uri} does not permit this (403){detail}; give the user of MLFLOW_TRACKING_USERNAME (or "
        "MLFLOW_TRACKING_TOKEN) the right to write, or allow this host name in --allowed-hosts"
    )


def _by_code(code: str | None, error: Exception, about_run: bool) -> SinkError | None:
    """What MLflow's own error code means. None: nothing about this request."""
    text = str(error)
    if code in _GONE:
        return RunGone(_short(error)) if about_run else Refused(_short(error))
    # MLflow has no code for what was deleted: it is INVALID_PARAMETER_VALUE, and these words.
    if _DELETED.search(text):
        return RunGone(_short(error)) if about_run else Refused(_short(error))
    if code is None or code in _INTERNAL:
        poison = any(isinstance(link, (UnicodeError, OverflowError)) for link in _chain(error)) or _POISON.search(text)
        return Refused(_short(error)) if poison else None
    if code in _LATER:
        return Unavailable(_short(error))
    # MLflow answers BAD_REQUEST for whatever SQLAlchemy raises, an exhausted connection pool included.
    if code == "BAD_REQUEST" and _SQL.search(text) and not _SQL_PAYLOAD.search(text):
        return Unavailable(_short(error))
    return Refused(_short(error))


def _code_in(error: Exception) -> str | None:
    """MLflow's error code, if the answer held one. Other servers' errors look like MLflow's INTERNAL_ERROR."""
    body = getattr(error, "json", None)
    code = body.get("error_code") if isinstance(body, dict) else None
    # A number is the HTTP status, which something before the server has put there.
    return code if isinstance(code, str) and not code.isdigit() else None


def _unreachable(error: Exception, uri: str) -> TailraceError:
    """A request that got no answer."""
    links = list(_chain(error))
    names = {type(link).__name__ for link in links}
    # First: a proxy's and TLS's errors are wrapped in those of connections and addresses that are looked for below.
    obstacle = _on_the_way(links, names, uri)
    if obstacle is not None:
        return obstacle
    uri = _redirected(links, uri)
    if names & _NO_ADDRESS:
        return StoreRefused(f"{uri} is not the address of a server; write http://host:5000")
    if any(isinstance(link, socket.gaierror) for link in links) or "NameResolutionError" in names:
        return Unavailable(f"the host name in {uri} cannot be resolved", away=True)
    if any(isinstance(link, ConnectionRefusedError) for link in links):
        return Unavailable(f"{uri} refused the connection: is the server running?", away=True)
    if names & _TIMED_OUT:
        return Unavailable(f"{uri} did not answer in time", too_slow=True, away=True)
    if names & _NO_ANSWER and not names & {"RemoteDisconnected"}:  # which is a BadStatusLine, too
        return Unavailable(_no_mlflow(uri, _short(links[-1])), away=True)
    if names & _CUT_OFF:
        return Unavailable(f"{uri} closed the connection before it answered", away=True)
    return Unavailable(f"no answer from {uri}: {_short(error)}", away=True)


def _on_the_way(links: Sequence[BaseException], names: set[str], uri: str) -> Unavailable | None:
    """What keeps a request from getting to the server: a proxy, or TLS; None where it is neither."""
    if "ProxyError" in names:
        refused = _TUNNEL.search(str(links[-1]))
        if refused is not None:  # it was reached, and has answered CONNECT
            status = int(refused[1])
            return Unavailable(_forbidden_by(_proxy(uri), uri, status), away=True, lacks=_LACKS.get(status))
        return Unavailable(f"{_proxy(uri)} does not pass requests on to {uri} ({_short(links[-1])})", away=True)
    if "InvalidSchema" in names and "SOCKS" in str(links):  # else it would look like a wrong address
        text = f"{_proxy(uri)} speaks SOCKS, for which Python needs a package: pip install pysocks"
        return Unavailable(text, away=True)
    # OpenSSL's word for an answer in plain HTTP.
    if "WRONG_VERSION_NUMBER" in str(links):
        text = f"{_redirected(links, uri)} does not speak TLS: is its address http://…, without the s?"
        return Unavailable(text, away=True)
    if "SSLError" in names or "SSLCertVerificationError" in names:
        return _no_tls(_redirected(links, uri), links[-1], _for_tls(str(links[-1])))
    if _NO_FILE.search(str(links[-1])):
        variables = "MLFLOW_TRACKING_SERVER_CERT_PATH, MLFLOW_TRACKING_CLIENT_CERT_PATH and REQUESTS_CA_BUNDLE"
        return _no_tls(uri, links[-1], f"check {variables}")
    return None


def _no_tls(uri: str, error: BaseException, mend: str) -> Unavailable:
    return Unavailable(f"no TLS connection to {uri} ({_short(error)}): {mend}", away=True, lacks="variables")


def _for_tls(reason: str) -> str:
    """What to do about a certificate."""
    if "mismatch" in reason:
        return "it is for another name; write one that it is for in the tracking URI"
    if "has expired" in reason:
        return "it has to be renewed on the server's side"
    if "CERTIFICATE_VERIFY_FAILED" not in reason:
        return "see to the server, or the proxy before it, and to MLFLOW_TRACKING_SERVER_CERT_PATH"
    return "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of its authority, or to the self-signed one"


def _redirected(links: Iterable[BaseException], uri: str) -> str:
    """Who did not answer: not the server, if that has sent the request on to somebody else."""
    target = next((url for link in links if (url := getattr(getattr(link, "request", None), "url", None))), "")
    other, own = urlsplit(target), urlsplit(uri)
    same = not other.hostname or (other.hostname, other.port) == (own.hostname, own.port)
    return uri if same else f"{public_uri(target)}, to which {uri} sends on,"


def _proxy(uri: str) -> str:
    """The proxy that the environment names for an address, and the variable that does."""
    name = _proxy_variable(uri)
    if name is None:
        return "the proxy of this system"
    return f"the proxy {public_uri(os.environ.get(name, ''))} (from {name}; NO_PROXY names hosts that need none)"


def _proxy_variable(uri: str) -> str | None:
    scheme = uri.partition(":")[0].lower()
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    return next((name for name in names if os.environ.get(name)), None)


def _is_proxied(uri: str) -> bool:
    """Whether an answer from this address may be that of a proxy: it tunnels TLS, and cannot answer inside of that."""
    from requests.utils import get_environ_proxies, select_proxy  # loaded already: an answer came through them

    return urlsplit(uri).scheme == "http" and select_proxy(uri, get_environ_proxies(uri)) is not None


def _forbidden_by(proxy: str, uri: str, status: int) -> str:
    """What a proxy means that does not pass a request on, and what to do."""
    if status == 407:  # never the server's own, so its login belongs into the proxy's variable
        name = _proxy_variable(uri) or "http_proxy"
        return f"{proxy} asks for a login (407): write it into {name}, as http://user:password@host:port"
    refusal = f"does not pass requests on to {uri} ({status})"
    return f"{proxy} {refusal}: have it allow that address" if status == 403 else f"{proxy} {refusal}"


def was_cut_off(error: BaseException) -> bool:
    """Whether the connection was closed before the answer: one that was kept open may have been so for a while."""
    names = {type(link).__name__ for link in _chain(error)}
    return bool(names & _CUT_OFF) and not names & (_TIMED_OUT | _NO_ANSWER)


_CUT_OFF: Final = frozenset({
    "RemoteDisconnected", "ConnectionResetError", "BrokenPipeError", "ProtocolError", "IncompleteRead"
})  # fmt: skip
_TIMED_OUT: Final = frozenset({"Timeout", "ReadTimeout", "ConnectTimeout", "ReadTimeoutError", "TimeoutError"})
_NO_ADDRESS: Final = frozenset({
    "InvalidUrlException", "InvalidURL", "InvalidSchema", "MissingSchema", "LocationParseError", "LocationValueError"
})  # fmt: skip
_NO_ANSWER: Final = frozenset({
    "TooLarge", "ContentDecodingError", "DecodeError", "BadStatusLine", "LineTooLong", "HTTPException", "InvalidHeader",
    "UnknownTransferEncoding", "InvalidChunkLength", "HeaderParsingError",
})  # fmt: skip


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those it came from, the cause last."""
    seen: set[int] = set()  # by hand, or by a `raise` of the same object, a chain can be a circle
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__  # requests raises inside `except`, without `from`


def _short(error: BaseException, limit: int = 500) -> str:
    """One masked line of an exception's message, cut to a length that fits a ledger."""
    # Masked before it is cut to `limit`: half a password would no longer be known as one.
    text = _SQL_LINK.sub("", mask(str(error)[:_LOOKED_AT]))
    return plain(text, limit) or type(error).__name__
