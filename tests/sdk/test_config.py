"""`TrackingConfig` and what reads one: layouts, variables, mistakes, secrets."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace import SettingsError, TrackingConfig, build_tracker_from_config, load_config
from tailrace._api.tracker_part import tracker_core_of
from tailrace._config.files import expand

TOML = """
[tracking]
enabled = true
backend = "mlflow"

[tracking.mlflow]
tracking_uri = "sqlite:///runs.db"
experiment_name = "digits"

[model]
layers = [64, 10]
"""
YAML = """
name: digits-baseline
seed: 42
mlflow_tracking: false
mlflow_experiment_name: digits
model:
  layers: 3
lr: 0.1
"""


def test_the_toml_layout_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(TOML)
    config = load_config(path)
    assert (config.enabled, config.backend, config.experiment_name) == (True, "mlflow", "digits")
    assert config.tracking_uri == f"sqlite:///{tmp_path}/runs.db", "relative to the file"
    assert config.experiment == {"model": {"layers": [64, 10]}}
    assert config.source == str(path)


def test_the_yaml_layout_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(YAML)
    config = load_config(str(path))
    assert (config.name, config.seed, config.enabled, config.experiment_name) == (
        "digits-baseline",
        42,
        False,
        "digits",
    )
    assert config.experiment == {"name": "digits-baseline", "seed": 42, "model": {"layers": 3}, "lr": 0.1}


def test_all_fields_of_the_config_object_may_stand_alone() -> None:
    fields: dict[str, Any] = {
        "tracking_uri": "http://localhost:5000", "experiment_name": "digits", "run_name": "first",
        "log_params": False, "log_metrics": False, "log_artifacts": False, "log_model": False,
        "log_input_example": False, "log_model_signature": False, "register_model": True, "model_name": "digits",
        "model_stage": "Staging", "model_description": "small", "registry_uri": "http://localhost:5001",
        "tags": {"team": "a"},
    }  # fmt: skip
    assert load_config(fields) == TrackingConfig(**fields)


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


def test_variables_are_filled_in_where_tracking_is_configured() -> None:
    document = {
        "tracking": {
            "run_name": "${USER_OF}-$${HOME}",
            "mlflow": {"tracking_uri": "http://${HOST:-localhost}:${PORT:-5000}", "registry_uri": "${NONE:-}"},
            "tags": {"team": "${TEAM:-none}"},
        },
        "data": "${HOME}/data",
    }
    config = load_config(document, environ={"USER_OF": "ada", "PORT": "80"})
    assert config.tracking_uri == "http://localhost:80"
    assert (config.run_name, config.registry_uri, config.tags) == ("ada-${HOME}", None, {"team": "none"})
    assert config.experiment == {"data": "${HOME}/data"}, "it is logged, so no secret may get into it"


@given(st.text(alphabet="ab${}:-_ ", max_size=20))
def test_only_variables_are_replaced_in_any_text(text: str) -> None:
    expanded = expand(text, {name: f"<{name}>" for name in _names("ab_", 4)}, "here")
    assert re.sub(r"<\w+>", "", expanded).count("$") <= text.count("$")
    if "${" not in text:
        assert expanded == text


def _names(letters: str, longest: int) -> Iterator[str]:
    return ("".join(name) for n in range(1, longest) for name in itertools.product(letters, repeat=n))


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


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "[tracking\n", "a.toml is no valid TOML"),
        ("a.yaml", "a: [1\n", "a.yaml is no valid YAML"),
        ("a.yaml", "- 1\n", "a.yaml must hold keys and values, not list"),
        ("a.ini", "", "a configuration is a .toml, .yaml, .yml or .json file"),
        (
            "a.toml",
            "[tracking]\nenabeld = true\n",
            "a.toml: [tracking] enabeld is no key of tailrace; did you",
        ),
        ("missing.toml", None, "missing.toml cannot be read: No such file"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_config(tmp_path / name)
    assert message in str(caught.value)


def test_an_object_built_by_hand_is_checked_too() -> None:
    with pytest.raises(SettingsError, match="log_model is 'maybe'"):
        TrackingConfig(log_model="maybe")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"settings.nise is no key of tailrace; did you mean 'nice'"):
        TrackingConfig(settings={"nise": 1})
    with pytest.raises(SettingsError, match="settings is 5; allowed: a table"):
        TrackingConfig(settings=5)  # type: ignore[arg-type]


def test_a_table_with_nothing_in_it_is_none() -> None:
    assert load_config({"tracking": {"enabled": False, "mlflow": None}}).enabled is False


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
