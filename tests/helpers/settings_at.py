"""Settings as they are found in a directory, and the error when one of them is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace_agent.errors import SettingsError
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.sources import load_settings

__all__ = ["error_at", "settings_at"]


def settings_at(place: Path, overrides: dict[str, object] | None = None, **environ: str) -> Settings:
    return load_settings(overrides, environ=environ, start_dir=place)


def error_at(place: Path, overrides: dict[str, object] | None = None, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        settings_at(place, overrides, **environ)
    return str(caught.value)
