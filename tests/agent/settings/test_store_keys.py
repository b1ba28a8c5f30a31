"""Two spellings of one store are one, and two stores are two."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace_agent.settings.store_keys import default_uri, store_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sqlite:///x.db", "sqlite:////srv/x.db"),
        ("sqlite+pysqlite:////srv/./x.db?timeout=9", "sqlite:////srv/x.db"),
        ("./mlruns", "file:///srv/mlruns"),
        ("file://localhost/srv/mlruns", "/srv/mlruns/"),
        ("http://ada:pw@Host:5000/", "http://host:5000"),
        ("https://host/mlflow/", "https://ada@host/mlflow"),
        ("postgresql+psycopg2://ada:pw@db/mlflow?x=1", "postgresql://ada@db/mlflow"),
        (None, "sqlite:////srv/mlflow.db"),
    ],
)
def test_two_spellings_of_one_store_are_one(one: str | None, other: str) -> None:
    assert store_key(one, "/srv") == store_key(other, "/srv")
    assert "pw" not in store_key(one, "/srv")


def test_two_stores_are_two(tmp_path: Path) -> None:
    uris = [None, "sqlite:///x.db", "sqlite:///y.db", "http://a:1", "http://a:2", "https://a:1", "http://a:1/b"]
    uris += ["mlruns", "databricks", "databricks://x", "postgresql://a@h/d", "postgresql://b@h/d", "mysql://a@h/d"]
    assert len({store_key(uri, str(tmp_path)) for uri in uris}) == len(uris)
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    assert default_uri(str(tmp_path)) == (tmp_path / "mlruns").as_uri()


def test_the_default_is_a_database_beside_the_program_also_where_the_directory_may_not_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_uri(str(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"

    def refused(self: Path, pattern: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "glob", refused)
    assert default_uri(str(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_store_behind_a_link_is_the_one_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for scheme in ("sqlite:///", "file://", ""):
        assert store_key(f"{scheme}{tmp_path}/link/x", "/") == store_key(f"{scheme}{tmp_path}/real/x", "/")
