"""Where settings are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory in which the search for a file ends."""
    (tmp_path / ".git").mkdir()
    return tmp_path
