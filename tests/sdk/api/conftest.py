"""Models that are saved already."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models import Sunk, X, fitted
from tailrace._models.copying import freeze_model
from tailrace._models.saving import save_model


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in MLflow's format."""
    path = tmp_path_factory.mktemp("saved") / "model"
    save_model(freeze_model(fitted(), None, X[:1]), path, signature="infer")
    return path


@pytest.fixture
def sunk(store_uri: str, saved: Path, tmp_path: Path) -> Sunk:
    return Sunk(store_uri, saved, tmp_path)
