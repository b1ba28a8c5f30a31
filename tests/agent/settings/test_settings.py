"""The settings as a whole: their defaults, and where state is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.settings_at import settings_at
from tailrace_agent.settings.settings import Settings, state_dir


def test_without_any_source_all_settings_have_their_defaults(place: Path) -> None:
    assert settings_at(place) == Settings()
    assert Settings().ring_bytes == 8 * 1024 * 1024
    assert Settings().spool_max_bytes == 4 * 1024**3


def test_the_state_directory_is_the_setting_or_the_users_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_dir(Settings(dir="/data/state")) == Path("/data/state")
    monkeypatch.setenv("XDG_STATE_HOME", str(place))
    assert state_dir(Settings()).name == "tailrace"
    assert not (place / "tailrace").exists()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().nice = 3  # type: ignore[misc]


def test_a_state_directory_that_is_not_set_is_in_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/ada")
    assert state_dir(Settings()) == Path("/home/ada/.local/state/tailrace")
