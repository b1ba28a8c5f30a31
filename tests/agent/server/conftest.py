"""A real `mlflow server --app-name tailrace`, one for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from helpers.bulk_cases import open_store
from helpers.databases import copy_database
from helpers.entry_points import lay_entry_points
from helpers.serving import serving


class BulkServer(NamedTuple):
    """Its address, its database as MLflow's store, and its log."""

    uri: str
    store: Any
    log: Path


@pytest.fixture(scope="session")
def bulk_server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BulkServer]:
    directory = tmp_path_factory.mktemp("bulk-server")
    database = f"sqlite:///{copy_database(sqlite_template, directory, 'mlflow-artifacts:/0')}"
    arguments = ["--app-name", "tailrace", "--backend-store-uri", database]
    arguments += ["--artifacts-destination", str(directory / "artifacts")]
    with serving(directory, *arguments, PYTHONPATH=lay_entry_points(directory)) as uri:
        yield BulkServer(uri, open_store(database), directory / "server.log")
