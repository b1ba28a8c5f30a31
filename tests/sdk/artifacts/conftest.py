"""Where the tests of artifacts stage what they take."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "session" / "artifacts"
