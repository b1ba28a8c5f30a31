"""Configuration as people write it: its layouts, its variables, and files that are wrong."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace import SettingsError, load_config
from tailrace._config.files import expand, read_override

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


@pytest.mark.parametrize("name", ["config.yaml", "config.json"])
def test_a_number_with_an_exponent_is_a_number_as_in_json(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"small": 1e-5, "large": -2.5E3, "text": "1e-5"}\n')
    assert load_config(path).experiment == {"small": 1e-5, "large": -2500.0, "text": "1e-5"}
    assert read_override("lr=1e-5", "") == ("lr", 1e-5)
    assert read_override("commit=1e5a", "") == ("commit", "1e5a")


def test_a_table_with_nothing_in_it_is_none() -> None:
    assert load_config({"tracking": {"enabled": False, "mlflow": None}}).enabled is False
