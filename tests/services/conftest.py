"""The services, each started once, when the first test asks for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.backends import BUCKET, S3, Backend, authenticated_server, directly, object_store, over_postgresql
from services.mysql import MySQL, mysql
from services.postgresql import PostgreSQL, postgresql


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MySQL]:
    with mysql() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    with object_store() as server:
        yield server


@pytest.fixture
def file_backend(tmp_path: Path) -> Backend:
    return Backend(str(tmp_path / "mlruns"), {"MLFLOW_ALLOW_FILE_STORE": "true"}, appends_blindly=True)


@pytest.fixture
def sqlite_backend(sqlite_uri: str) -> Backend:
    return Backend(sqlite_uri)


@pytest.fixture
def http_backend(mlflow_server: str) -> Backend:
    return Backend(mlflow_server)


@pytest.fixture(scope="session")
def auth_backend(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    directory = tmp_path_factory.mktemp("auth")
    database = Path(shutil.copyfile(sqlite_template, directory / "mlflow.db"))
    with authenticated_server(directory, database) as backend:
        yield backend


@pytest.fixture(scope="session")
def postgresql_backend(postgresql_server: PostgreSQL) -> Backend:
    return directly(postgresql_server)


@pytest.fixture(scope="session")
def mysql_backend(mysql_server: MySQL) -> Backend:
    return directly(mysql_server, "+pymysql")


@pytest.fixture(scope="session")
def http_postgresql_backend(
    postgresql_server: PostgreSQL, s3: S3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    with over_postgresql(tmp_path_factory.mktemp("over"), postgresql_server, s3) as backend:
        yield backend


@pytest.fixture
def s3_backend(sqlite_uri: str, s3: S3) -> Backend:
    return Backend(sqlite_uri, s3.variables, artifacts=f"s3://{BUCKET}/direct", bucket=s3)


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A store of the matrix, by its name, and this process's environment made for it."""
    found: Backend = request.getfixturevalue(f"{request.param}_backend")
    for name, value in found.variables.items():
        monkeypatch.setenv(name, value)
    return found
