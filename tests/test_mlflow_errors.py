"""What a database says to a wrong password, in words that a person can act on."""

from __future__ import annotations

import pytest

from tailrace_agent.errors import Unavailable
from tailrace_agent.mlflow_errors import asks_for_login, opening_failed, translate

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
        assert asks_for_login(str(told))


def test_a_database_that_is_away_asks_for_no_login() -> None:
    told = opening_failed(OperationalError(f"(psycopg.OperationalError) connection refused{_LINK}"), _URI)
    assert isinstance(told, Unavailable)
    assert not asks_for_login(str(told))
    assert not asks_for_login(None)
    assert str(told).endswith("cannot be opened: (psycopg.OperationalError) connection refused")
