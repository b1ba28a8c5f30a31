"""What the commands find where a test calls them: nothing but what it has made itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.stored_runs import AllKinds, copied


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_mlflow: None) -> None:
    # What `clean` finds in shared memory should be of this test alone.
    (tmp_path / "shm").mkdir()
    monkeypatch.setenv("TAILRACE_RING_DIR", str(tmp_path / "shm"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def world(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AllKinds]:
    """A store with runs of every kind."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("world")
        patch.chdir(directory)
        patch.setenv("COLUMNS", "160")  # so that no name is wrapped
        yield AllKinds(copied(sqlite_template, directory))
