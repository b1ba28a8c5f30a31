"""`TrackingConfig`: its fields, mistakes in them, and no password that is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailrace import SettingsError, TrackingConfig, load_config


def test_all_fields_of_the_config_object_may_stand_alone() -> None:
    fields: dict[str, Any] = {
        "tracking_uri": "http://localhost:5000", "experiment_name": "digits", "run_name": "first",
        "log_params": False, "log_metrics": False, "log_artifacts": False, "log_model": False,
        "log_input_example": False, "log_model_signature": False, "register_model": True, "model_name": "digits",
        "model_stage": "Staging", "model_description": "small", "registry_uri": "http://localhost:5001",
        "tags": {"team": "a"},
    }  # fmt: skip
    assert load_config(fields) == TrackingConfig(**fields)


MISTAKES = {
    "a key that is misspelt": ({"tracking": {"mlflow": {"tracking_url": "x"}}}, "did you mean 'tracking_uri'?"),
    "a field that is misspelt": ({"tracking": {"run_nam": "x"}}, "[tracking] run_nam is no key of tailrace; did you"),
    "a key beside the experiment's": ({"mlflow_tracing": True}, "did you mean 'mlflow_tracking'?"),
    "a key beside tailrace's own": ({"enabled": True, "qqqqqq": 1}, "the config: qqqqqq is no key of tailrace; there"),
    "a flag that is none": ({"tracking": {"enabled": 5}}, "[tracking] enabled is 5; allowed: true or false"),
    "a backend that is none": ({"tracking": {"backend": "wandb"}}, "is 'wandb'; allowed: mlflow, local or none"),
    "a seed that is none": ({"seed": "x"}, "the config: seed is 'x'; allowed: a whole number"),
    "a seed with a fraction": ({"seed": 1.5}, "the config: seed is 1.5; allowed: a whole number"),
    "a name that is none": ({"name": 5}, "the config: name is 5; allowed: a text that is not empty"),
    "tags that are none": ({"tracking": {"tags": 3}}, "[tracking] tags is 3; allowed: a table"),
    "settings that are none": ({"tracking": {"settings": [1]}}, "[tracking.settings] must be a table, not [1]"),
    "a source that is none": (5, "a configuration is a file, a dictionary or a TrackingConfig, not int"),
    "a table that is none": ({"tracking": {"mlflow": 3}}, "[tracking.mlflow] must be a table, not 3"),
    "a setting out of bounds": ({"tracking": {"settings": {"nice": 99}}}, "[tracking.settings] nice is 99; allowed"),
    "a variable that is not set": ({"tracking": {"run_name": "${NOPE_}"}}, "variable NOPE_, which is not set"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_an_error_that_names_it_and_the_mend(mistake: str) -> None:
    document, message = MISTAKES[mistake]
    with pytest.raises(SettingsError) as caught:
        load_config(document)
    assert message in str(caught.value)


def test_an_object_built_by_hand_is_checked_too() -> None:
    with pytest.raises(SettingsError, match="log_model is 'maybe'"):
        TrackingConfig(log_model="maybe")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"settings.nise is no key of tailrace; did you mean 'nice'"):
        TrackingConfig(settings={"nise": 1})
    with pytest.raises(SettingsError, match="settings is 5; allowed: a table"):
        TrackingConfig(settings=5)  # type: ignore[arg-type]


def test_an_object_shows_no_password_wherever_it_stands() -> None:
    uri = "http://ada:hunter2@host"
    config = TrackingConfig(tags={"at": uri}, settings={"tracking_uri": uri}, experiment={"stores": [{"db": uri}]})
    assert "hunter2" not in repr(config)
    assert config.experiment["stores"][0]["db"] == uri


@pytest.mark.parametrize("uri", ["http://ada:hunter2@host", "http://ada:${PW:-hunter2}@host"])
def test_a_password_in_a_file_is_warned_about_and_never_shown(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PW", raising=False)
    path = tmp_path / "config.toml"
    path.write_text(f'[tracking.mlflow]\ntracking_uri = "{uri}"\n')
    config = load_config(path)
    assert config.tracking_uri == "http://ada:hunter2@host"
    assert "hunter2" not in repr(config)
    assert f"{path}: [tracking.mlflow] tracking_uri holds a password" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_password_from_a_variable_is_fine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PW", "hunter2")
    path = tmp_path / "config.toml"
    path.write_text('[tracking.mlflow]\ntracking_uri = "http://ada:${PW}@host"\n')
    assert load_config(path).tracking_uri == "http://ada:hunter2@host"
    assert caplog.text == ""
