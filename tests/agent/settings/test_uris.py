"""Tracking URIs: passwords come out and go back in, relative paths become absolute, hopeless ones are told why."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from helpers.sdk_tools import newer_than_mlflow_3_7
from tailrace_agent.settings import uris
from tailrace_agent.settings.uris import check_uri, mask_uri, resolve_uri, unmask_uri

SERVER = "https://host:5000/mlflow"
ALLOWED = {"MLFLOW_ALLOW_FILE_STORE": "true"}


@pytest.mark.parametrize(
    ("uri", "masked", "credentials"),
    [
        ("https://ada:pw@host:5000/x", "https://ada@host:5000/x", "ada:pw"),
        ("https://ada:p@w@host/x", "https://ada@host/x", "ada:p@w"),
        ("https://:pw@host", "https://@host", ":pw"),
        ("postgresql://ada:p/w?d#x@host/db", "postgresql://ada@host/db", "ada:p/w?d#x"),
        ("mysql+pymysql://ada:pw@host/db", "mysql+pymysql://ada@host/db", "ada:pw"),
        ("POSTGRESQL://ada:p/w@host/db", "POSTGRESQL://ada@host/db", "ada:p/w"),
        ("postgresql://host/db?user=a&password=pw&x=1", "postgresql://host/db?user=a&password=&x=1", "\npassword=pw"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dx", "mssql+pyodbc:///?odbc_connect=", "\nodbc_connect=PWD%3Dx"),
        ("http://h/?token=a&token=&api_key=b#f", "http://h/?token=&token=&api_key=", "\ntoken=a\ntoken=\napi_key=b#f"),
        ("mysql://ada:pw@h/db?password=x", "mysql://ada@h/db?password=", "ada:pw\npassword=x"),
    ],
)
def test_a_password_is_cut_out_and_can_be_put_back(uri: str, masked: str, credentials: str) -> None:
    assert mask_uri(uri) == (masked, credentials)
    assert unmask_uri(masked, credentials) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "mlruns",
        "./a:b@c",
        "databricks",
        "databricks://profile",
        "http://host:5000",
        "http://host:5000/a:b@c",
        "https://ada@host",
        "sqlite:///mlflow.db",
        "sqlite:////data/a:b@c.db",
        "file:///data/a:b@c",
        "C:\\mlruns",
    ],
)
def test_a_uri_without_a_password_is_left_alone(uri: str) -> None:
    assert mask_uri(uri) == (uri, None)
    assert unmask_uri(uri, None) == uri


def test_credentials_of_another_user_or_place_are_not_put_into_a_uri() -> None:
    assert unmask_uri("https://bob@host", "ada:pw") == "https://bob@host"
    assert unmask_uri("https://host", "ada:pw") == "https://host"
    assert unmask_uri("https://host/x//ada@y", "ada:pw") == "https://host/x//ada@y"
    assert unmask_uri("https://host/?token=", "\npassword=pw") == "https://host/?token="


_part = st.text("ab:/@?#&=%+.x0-", max_size=8)
_scheme = st.sampled_from(["http", "https", "postgresql", "mysql+pymysql", "sqlite", "file", "mssql", "other+x"])


@given(_scheme, _part, _part, _part, st.sampled_from(["", "?password=hunter2", "?a=1&Token=hunter2&token=", "?pwd="]))
def test_masking_and_unmasking_any_uri_gives_it_back(scheme: str, user: str, pw: str, rest: str, query: str) -> None:
    uri = f"{scheme}://{user}:{pw}@{rest}{query}"
    masked, credentials = mask_uri(uri)
    assert unmask_uri(masked, credentials) == uri
    assert mask_uri(masked) == (masked, None) or scheme not in ("http", "https")


@given(
    st.sampled_from(["postgresql", "mysql+pymysql", "mssql"]),
    st.text("abc", max_size=3),
    st.text("xyz:/?#=", min_size=1),
    st.text("hij.5", min_size=1),
)
def test_a_database_password_ends_where_sqlalchemy_ends_it(scheme: str, user: str, password: str, host: str) -> None:
    uri = f"{scheme}://{user}:{password}@{host}/db"
    assert make_url(uri).password == unquote(password)
    assert mask_uri(uri) == (f"{scheme}://{user}@{host}/db", f"{user}:{password}")


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("sqlite:///mlflow.db", "sqlite:////w/d/mlflow.db"),
        ("sqlite:///../x/mlflow.db?timeout=5", "sqlite:////w/x/mlflow.db?timeout=5"),
        ("sqlite+pysqlite:///m.db", "sqlite+pysqlite:////w/d/m.db"),
        ("sqlite:////abs/m.db", "sqlite:////abs/m.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://", "sqlite://"),
        ("mlruns", "/w/d/mlruns"),
        ("./mlruns", "/w/d/mlruns"),
        ("/abs/mlruns", "/abs/mlruns"),
        ("file:mlruns", "file:///w/d/mlruns"),
        ("file:./mlruns", "file:///w/d/mlruns"),
        ("file:///abs", "file:///abs"),
        ("", ""),
        ("databricks", "databricks"),
        (SERVER, SERVER),
        ("postgresql://host/db", "postgresql://host/db"),
    ],
)
def test_a_relative_store_is_meant_from_the_given_directory(uri: str, resolved: str) -> None:
    assert resolve_uri(uri, "/w/d") == resolved
    assert resolve_uri(resolved, "/elsewhere") == resolved


def test_the_root_directory_adds_no_second_slash() -> None:
    assert resolve_uri("sqlite:///mlflow.db", "/") == "sqlite:////mlflow.db"


@pytest.mark.parametrize(
    "uri",
    [
        "http://localhost:5000",
        SERVER,
        "sqlite:///mlflow.db",
        "sqlite:////data/mlflow.db?timeout=5",
        "postgresql+psycopg2://ada@host/db",
        "mysql://host/db",
        "mssql+pyodbc:///?odbc_connect=x",
        "databricks",
        "databricks://profile",
        "arn:aws:sagemaker:eu-west-1:1:mlflow-tracking-server/x",
        "my-plugin://anything",
    ],
)
def test_nothing_is_said_against_what_mlflow_or_a_plugin_may_take(uri: str) -> None:
    assert check_uri(uri, {}) is None


@pytest.mark.parametrize(
    ("uri", "mend"),
    [
        ("", "sqlite:///mlflow.db"),
        ("  ", "http://host:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("10.0.0.1:5000/", "http://10.0.0.1:5000/"),
        ("localhost", "http://localhost"),
        ("localhost:", "http://localhost:"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("//localhost:5000", "http://localhost:5000"),
        (":5000", "http://localhost:5000"),
        ("ada:s3cr3t@host:5000", "write http://…@host:5000"),
        ("http//host:5000", "http://host:5000"),
        ("http://host:port", "its port is none"),
        ("http://host:99999", "its port is none"),
        (" http://host:5000", "a blank"),
        ("http://", "http://host:5000"),
        ("https:host", "https://host:5000"),
        ("sqlite://mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:///:memory:", "sqlite:///mlflow.db"),
        ("sqlite://", "sqlite:///mlflow.db"),
        ("postgres://host/db", "postgresql://"),
        ("postgresql+a+b://host/db", "+driver"),
        ("postgresql:host/db", "postgresql://user@host/database"),
        ("uc", "databricks"),
        ("databricks-uc://profile", "databricks"),
        ("file://otherhost/mlruns", "file:///path"),
    ],
)
def test_a_uri_that_cannot_work_is_refused_with_the_mend(uri: str, mend: str) -> None:
    assert mend in (check_uri(uri, ALLOWED) or "")


@newer_than_mlflow_3_7("still takes plain files")
@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/data/mlruns", "file:///data/mlruns", "file:mlruns"])
def test_a_file_store_needs_mlflows_permission(uri: str) -> None:
    for environ in ({}, {"MLFLOW_ALLOW_FILE_STORE": "false"}, {"MLFLOW_ALLOW_FILE_STORE": "yes"}):
        assert "MLFLOW_ALLOW_FILE_STORE=true" in (check_uri(uri, environ) or "")
    for value in ("true", "TRUE", "1"):
        assert check_uri(uri, {"MLFLOW_ALLOW_FILE_STORE": value}) is None


def test_an_mlflow_that_still_takes_file_stores_needs_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.12.0")
    assert check_uri("mlruns", {}) is None
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.13.0rc1")
    assert check_uri("mlruns", {}) is not None
    monkeypatch.setattr("importlib.metadata.version", lambda _: "unknown")
    assert check_uri("mlruns", {}) is not None


@pytest.mark.parametrize(
    "uri", ["uc", "databricks-uc://profile", "sqlite://mlflow.db", "postgresql+a+b://host/db", "postgres://host/db"]
)
def test_mlflow_refuses_what_is_refused_here(uri: str) -> None:
    from mlflow.tracking._tracking_service.utils import _get_store

    assert check_uri(uri, {}) is not None
    with pytest.raises(Exception, match=r"(?i)unsupported|not supported|invalid"):
        _get_store(uri)


def test_a_reason_never_shows_a_password() -> None:
    for uri in ("postgres://ada:hunter2@host/db", "mysql+a+b://ada:hunter2@host/db", "http:ada:hunter2@host"):
        assert "hunter2" not in (check_uri(uri, {}) or "")


def test_the_exports_are_sorted_and_exist() -> None:
    assert uris.__all__ == sorted(uris.__all__)
    assert all(hasattr(uris, name) for name in uris.__all__)
