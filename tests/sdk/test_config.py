"""A tracker as a configuration wants it: the environment is stronger, and arguments are stronger still."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace import TrackingConfig, build_tracker_from_config, load_config
from tailrace._api.tracker_part import tracker_core_of


def test_pyproject_and_tailrace_toml_hold_a_table_beside_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.tailrace]\nnice = 5\n[tool.tailrace.tracking]\nexperiment_name = "digits"\n'
    )
    config = load_config()
    assert (config.experiment_name, config.settings, config.experiment) == ("digits", {"nice": 5}, {})
    (tmp_path / "tailrace.toml").write_text("quiet = true\n[tracking]\nenabled = false\n")
    assert load_config().enabled is False
    assert tracker_core_of(build_tracker_from_config()).settings({}).agent == "off"


def test_without_any_file_the_environment_alone_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAILRACE_EXPERIMENT_NAME", "from the environment")
    assert load_config() == TrackingConfig()
    assert tracker_core_of(build_tracker_from_config()).settings({}).experiment_name == "from the environment"


def test_the_environment_is_stronger_than_a_config_and_arguments_are_stronger_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAILRACE_ENABLED", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")
    tracker = build_tracker_from_config({"tracking": {"tracking_uri": "http://config", "settings": {"nice": 3}}})
    settings = tracker_core_of(tracker).settings({"nice": 7})
    assert (settings.agent, settings.tracking_uri, settings.nice) == ("off", "http://config", 7)
