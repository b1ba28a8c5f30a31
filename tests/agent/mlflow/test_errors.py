"""What a database says to a wrong password, in words that a person can act on."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator

import pytest
import requests

from tailrace_agent.errors import Unavailable
from tailrace_agent.mlflow.errors import mask, opening_failed, translate
from tailrace_agent.settings.uris import public_uri

_URI = "postgresql://ada:s3cr3t/x@db:5432/mlflow"
_LINK = "\n(Background on this error at: https://sqlalche.me/e/21/e3q8)"


class OperationalError(Exception):
    """As SQLAlchemy and the drivers call it."""


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        (
            f'(psycopg.OperationalError) failed: FATAL:  password authentication failed for user "ada"{_LINK}',
            'password authentication failed for user "ada"',
        ),
        ("connection to server failed: fe_sendauth: no password supplied", "no password supplied"),
        (
            'FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "ada", database "mlflow", no encryption\n',
            'no pg_hba.conf entry for host "10.0.0.7", user "ada", database "mlflow", no encryption',
        ),
        ("(1045, \"Access denied for user 'ada'@'localhost' (using password: YES)\")", "Access denied for user"),
    ],
)
def test_a_database_that_lets_nobody_in_asks_for_other_credentials(said: str, detail: str) -> None:
    wanted = (
        f"postgresql://ada@db:5432/mlflow asks for other credentials ({detail}): "
        "give the right password in the tracking URI"
    )
    error = OperationalError(said)
    for told in (opening_failed(error, _URI), translate(error, _URI, remote=False, about_run=True)):
        assert isinstance(told, Unavailable)
        assert str(told) == wanted
        assert told.lacks == "login"


@pytest.mark.parametrize(
    "said",
    [
        "500 for url: https://h/x?access_token=SECRET1&api_key=SECRET2",
        "PUT https://b.s3.amazonaws.com/x?X-Amz-Signature=SECRET1&X-Amz-Credential=AKIA%2FSECRET2 failed",
        "PUT https://acc.blob.core.windows.net/x?sv=2024&sig=SECRET1 failed",
        "the header was Authorization: Bearer SECRET1abcdef",
        "hook -v --password SECRET1 ended with 1",
        "postgresql://ada:SECRET1/x@db/mlflow and http://SECRET2@h/x, password=SECRET3",
    ],
)
def test_no_message_of_a_store_holds_a_secret_of_any_form(said: str) -> None:
    error = OperationalError(said)
    for told in (
        opening_failed(error, "postgresql://db/mlflow"),
        translate(error, "sqlite:///x.db", remote=False, about_run=True),
        translate(error, "http://h:5000", remote=True, about_run=True),
    ):
        assert "SECRET" not in str(told)
        assert "***" in str(told)


def test_a_database_that_is_away_asks_for_no_login() -> None:
    told = opening_failed(OperationalError(f"(psycopg.OperationalError) connection refused{_LINK}"), _URI)
    assert isinstance(told, Unavailable)
    assert told.lacks is None
    assert str(told).endswith("cannot be opened: (psycopg.OperationalError) connection refused")


def _answer(status: int, url: str = "", location: str = "") -> requests.Response:
    response = requests.Response()
    response.status_code, response.url = status, url
    if location:
        response.headers["Location"] = location
    return response


@pytest.mark.parametrize("followed", [True, False])
def test_a_server_that_has_moved_is_told_with_the_uri_to_write(followed: bool) -> None:
    path = "/api/2.0/mlflow/runs/create"
    moved = _answer(301, f"http://old:5000/base{path}", f"https://new.example.org/mlflow{path}?x=1")
    last = _answer(404)
    last.history = [moved]
    error = requests.HTTPError("404", response=last if followed else moved)
    told = translate(error, "http://ada:s3cr3t@old:5000", remote=True, about_run=True)
    assert isinstance(told, Unavailable)
    assert str(told) == "http://old:5000 points to https://new.example.org/mlflow: make that the tracking URI"


def test_a_proxy_that_is_away_is_told_by_name_and_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://ada:s3cr3t@127.0.0.1:9")
    with pytest.raises(requests.RequestException) as raised:
        requests.get("https://mlflow.example.org", timeout=5)
    told = translate(raised.value, "https://mlflow.example.org", remote=True, about_run=False)
    assert isinstance(told, Unavailable)
    assert str(told).startswith("the proxy http://127.0.0.1:9 (from https_proxy; NO_PROXY names hosts that need none)")
    assert "mlflow.example.org" in str(told)
    assert "s3cr3t" not in str(told)


def _page(status: int, text: str, kind: str = "text/html; charset=utf-8") -> requests.HTTPError:
    """What comes of an answer that is not MLflow's."""
    response = _answer(status)
    response.headers["Content-Type"] = kind
    response._content = text.encode()
    return requests.HTTPError(f"API request failed with error code {status} != 200. {text}", response=response)


@pytest.mark.parametrize(
    ("status", "text", "wanted"),
    [
        (502, "<title>502 Bad Gateway</title>", "the gateway at http://h:5000 gets no sensible answer from the server"),
        (504, "", "the gateway at http://h:5000 got no answer in time from the server behind it (504)"),
        (503, "<html><title>\n503 Busy</title><p>x</html>", "http://h:5000 answered 503: 503 Busy"),
        (500, "<h1>Oops</h1><br/>at <b>home</b>", "http://h:5000 answered 500: Oops at home"),
        (500, "<br/>", "http://h:5000 answered 500: a web page"),
        (
            400,
            "<title>400 plain HTTP sent to HTTPS port</title>",
            "http://h:5000 speaks TLS: write https",
        ),
        (413, "<title>413</title>", "http://h:5000 takes no request this large (413): raise the limit of the proxy"),
    ],
)
def test_a_page_of_a_gateway_is_told_as_such_and_without_its_tags(status: int, text: str, wanted: str) -> None:
    told = str(translate(_page(status, text), "http://h:5000", remote=True, about_run=True))
    assert told.startswith(wanted)
    assert "<" not in told
    assert "refused" not in told


@pytest.mark.parametrize("status", [403, 502, 503])
def test_an_answer_that_a_proxy_on_the_way_may_have_given_names_it(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://ada:s3cr3t@proxy:3128")
    error = _page(status, "<title>Squid</title>")
    told = str(translate(error, "http://mlflow:5000", remote=True, about_run=True))
    assert told.startswith("http://mlflow:5000, or the proxy http://proxy:3128 (from http_proxy; NO_PROXY names")
    assert str(status) in told
    assert "s3cr3t" not in told
    assert "the proxy http" not in str(translate(error, "https://mlflow:5000", remote=True, about_run=True))
    monkeypatch.setenv("no_proxy", "mlflow")
    assert "the proxy http" not in str(translate(error, "http://mlflow:5000", remote=True, about_run=True))


@pytest.fixture
def forward_proxy(status: int) -> Iterator[str]:
    """A proxy that passes nothing on: its address."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_CONNECT = do_GET  # noqa: N815  # the name is http.server's

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (407, "asks for a login (407): write it into {name}, as http://user:password@host:port"),
        (403, "(403)"),
        (503, "503"),
    ],
)
def test_what_a_proxy_on_the_way_refuses_is_told_as_its_own(
    scheme: str, status: int, said: str, forward_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{scheme}_proxy"
    monkeypatch.setenv(name, f"http://ada:s3cr3t@{forward_proxy}")
    uri = f"{scheme}://mlflow.example.org"
    with pytest.raises(requests.RequestException) as raised:
        requests.get(uri, timeout=5).raise_for_status()
    told = translate(raised.value, uri, remote=True, about_run=True)
    assert isinstance(told, Unavailable)
    assert told.away
    assert told.lacks == ("variables" if status == 407 else None)
    assert f"the proxy http://{forward_proxy} (from {name}; NO_PROXY names hosts that need none)" in str(told)
    assert said.format(name=name) in str(told)
    assert "MLFLOW_TRACKING_" not in str(told)
    assert "s3cr3t" not in str(told)


class _Server(http.server.BaseHTTPRequestHandler):
    """Sends everybody on to somebody who is not there, as a login page behind a firewall."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", "http://127.0.0.1:9/login")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """Its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _told(uri: str) -> str:
    with pytest.raises(requests.RequestException) as raised:
        requests.get(uri, timeout=5)
    told = translate(raised.value, uri, remote=True, about_run=False)
    assert isinstance(told, Unavailable)
    return str(told)


def test_who_does_not_answer_is_named_and_not_who_sent_the_request_on(server: str) -> None:
    told = _told(f"http://{server}")
    assert told.startswith(f"http://127.0.0.1:9/login, to which http://{server} sends on, refused the connection")


def test_a_server_without_tls_is_no_matter_of_certificates(server: str) -> None:
    assert _told(f"https://{server}") == (
        f"https://{server} does not speak TLS: is its address http://…, without the s?"
    )


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("self-signed certificate", "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of its authority"),
        ("Hostname mismatch, certificate is not valid for 'h'", "it is for another name; write one that it is for"),
        ("certificate has expired", "it has to be renewed on the server's side"),
    ],
)
def test_a_certificate_that_does_not_hold_is_told_with_what_to_do(said: str, wanted: str) -> None:
    error = requests.exceptions.SSLError(f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {said}")
    verdict = translate(error, "https://h", remote=True, about_run=True)
    assert isinstance(verdict, Unavailable)
    assert verdict.lacks == "variables"
    told = str(verdict)
    assert told.startswith("no TLS connection to https://h (")
    assert wanted in told


def test_a_certificate_file_that_is_not_there_is_told_with_the_variables_that_name_it(server: str) -> None:
    with pytest.raises(OSError, match="TLS") as raised:
        requests.get(f"https://{server}", verify="/nowhere/ca.pem", timeout=5)
    verdict = translate(raised.value, f"https://{server}", remote=True, about_run=True)
    assert isinstance(verdict, Unavailable)
    assert verdict.lacks == "variables"
    told = str(verdict)
    assert "/nowhere/ca.pem" in told
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in told


def test_a_proxy_that_needs_a_package_is_told_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "socks", None)
    assert _told("http://mlflow.example.org") == (
        "the proxy socks5://127.0.0.1:9 (from ALL_PROXY; NO_PROXY names hosts that need none) speaks SOCKS, "
        "for which Python needs a package: pip install pysocks"
    )


def test_passwords_are_masked_wherever_they_stand() -> None:
    assert mask("at http://u:p@h/x and postgresql+psycopg2://u:p/q@db/x?") == (
        "at http://***@h/x and postgresql+psycopg2://***@db/x?"
    )
    assert mask("mssql://h/x?PWD=geheim&a=1 password=x; ok") == "mssql://h/x?PWD=***"
    assert public_uri("https://u:p@h:1/prefix/") == "https://h:1/prefix"


def test_a_database_that_is_away_may_come_back() -> None:
    class OperationalError(Exception):
        pass

    error = opening_failed(OperationalError("could not connect"), "postgresql://u:secret@h/x")
    assert isinstance(error, Unavailable)
    assert "secret" not in str(error)


@pytest.mark.parametrize("error", [KeyError("script"), NameError("Can't invoke function 'configure'")])
def test_a_database_that_the_program_opens_at_the_same_time_is_tried_again(error: Exception) -> None:
    assert isinstance(opening_failed(error, "sqlite:///mlflow.db"), Unavailable)
