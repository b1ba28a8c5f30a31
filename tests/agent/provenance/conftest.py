"""A repository of git."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.repositories import git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit."""
    root = tmp_path / "repository"
    (root / "src").mkdir(parents=True)
    (root / "src" / "model.py").write_text("LAYERS = 2\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root
