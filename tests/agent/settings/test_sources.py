"""Where settings come from: the nearest source wins, and a wrong setting is one clear error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from helpers.settings_at import error_at, settings_at
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.sources import INTERNAL_VARIABLES, load_settings

# ── Where settings come from ──────────────────────────────────────────────────────────────────────────────────────────


def test_arguments_win_over_variables_over_files_over_mlflow(place: Path) -> None:
    mlflow = {"MLFLOW_EXPERIMENT_NAME": "from mlflow", "MLFLOW_TRACKING_URI": "http://mlflow"}
    assert settings_at(place, None, **mlflow).experiment_name == "from mlflow"
    assert settings_at(place, None, **mlflow).tracking_uri == "http://mlflow"
    (place / "tailrace.toml").write_text('experiment_name = "from file"\nnice = 3\n')
    assert settings_at(place, None, **mlflow).experiment_name == "from file"
    variables = mlflow | {"TAILRACE_EXPERIMENT_NAME": "from variable"}
    assert settings_at(place, None, **variables).experiment_name == "from variable"
    resolved = settings_at(place, {"experiment_name": "from argument"}, **variables)
    assert resolved.experiment_name == "from argument"
    assert (resolved.nice, resolved.tracking_uri) == (3, "http://mlflow")


_VALUES = {
    "agent": st.sampled_from(["process", "thread", "off"]),
    "tracking_uri": st.sampled_from(["http://a", "http://b:5000", "postgresql://ada@c/d"]),
    "experiment_name": st.text("abc é'\\", min_size=1).filter(str.strip),
    "strict": st.booleans(),
    "ring_bytes": st.integers(64 * 1024, 2**36),
    "end_timeout": st.floats(0, 86400).map(lambda x: round(x, 3)),
    "nice": st.integers(0, 19),
    "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
}
_MIXTURE = st.fixed_dictionaries({}, optional=_VALUES)


def _toml(values: dict[str, Any]) -> str:
    def literal(value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            return msgspec.json.encode(value).decode()
        return repr(value)

    return "".join(f"{key} = {literal(value)}\n" for key, value in values.items())


@given(arguments=_MIXTURE, variables=_MIXTURE, file=_MIXTURE, table=st.booleans(), mlflow=st.booleans())
@hypothesis_settings(max_examples=60, deadline=None)
def test_any_mixture_of_sources_resolves_key_by_key(
    tmp_path_factory: pytest.TempPathFactory,
    arguments: dict[str, Any],
    variables: dict[str, Any],
    file: dict[str, Any],
    table: bool,
    mlflow: bool,
) -> None:
    place = tmp_path_factory.mktemp("place")
    (place / ".git").mkdir()
    head, name = ("[tool.tailrace]\n", "pyproject.toml") if table else ("", "tailrace.toml")
    (place / name).write_text(head + _toml(file), encoding="utf-8")
    environ = {f"TAILRACE_{key.upper()}": str(value) for key, value in variables.items()}
    own = {"experiment_name": "from mlflow"} if mlflow else {}
    environ |= {"MLFLOW_EXPERIMENT_NAME": "from mlflow"} if mlflow else {}
    expected = own | file | variables | arguments
    assert load_settings(arguments, environ=environ, start_dir=place) == msgspec.convert(expected, Settings)


def test_none_as_an_argument_and_an_empty_variable_count_as_not_given(place: Path) -> None:
    resolved = settings_at(place, {"nice": None}, TAILRACE_NICE="4", TAILRACE_AGENT=" ", MLFLOW_TRACKING_URI="")
    assert (resolved.nice, resolved.agent, resolved.tracking_uri) == (4, "process", None)


def test_internal_and_foreign_variables_are_no_settings(place: Path) -> None:
    environ = dict.fromkeys(INTERNAL_VARIABLES, "x") | {"TAILRACEX": "x", "PATH": "/bin"}
    assert settings_at(place, None, **environ) == Settings()


def test_the_process_environment_is_read_when_none_is_given(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_NICE", "7")
    assert load_settings(start_dir=place).nice == 7


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_nearest_file_upwards_is_the_only_one_read(place: Path) -> None:
    (place / "tailrace.toml").write_text("nice = 1\nquiet = true\n")
    inner = place / "a" / "b"
    inner.mkdir(parents=True)
    assert settings_at(inner).nice == 1
    (place / "a" / "pyproject.toml").write_text("[tool.tailrace]\nnice = 2\n")
    assert (settings_at(inner).nice, settings_at(inner).quiet) == (2, False)


def test_tailrace_toml_comes_before_pyproject_toml_of_the_same_directory(place: Path) -> None:
    (place / "pyproject.toml").write_text("[tool.tailrace]\nnice = 2\n")
    (place / "tailrace.toml").write_text("nice = 1\n")
    assert settings_at(place).nice == 1


def test_a_pyproject_without_our_table_does_not_end_the_search(place: Path) -> None:
    (place / "tailrace.toml").write_text("nice = 1\n")
    inner = place / "a"
    inner.mkdir()
    (inner / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["tailrace"]\n')
    assert settings_at(inner).nice == 1


def test_a_broken_pyproject_of_somebody_else_is_nobody_s_business(place: Path) -> None:
    (place / "pyproject.toml").write_text("not toml at all [")
    assert settings_at(place) == Settings()


def test_the_search_ends_at_the_root_of_the_repository(place: Path) -> None:
    (place / "tailrace.toml").write_text("nice = 1\n")
    inner = place / "a"
    (inner / ".git").mkdir(parents=True)
    assert settings_at(inner).nice == 10


def test_the_search_ends_at_the_home_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "tailrace.toml").write_text("nice = 1\n")
    home = place / "home"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    assert settings_at(home / "project").nice == 10
    (home / "tailrace.toml").write_text("nice = 2\n")
    assert settings_at(home / "project").nice == 2


def test_a_deleted_working_directory_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert load_settings(environ={}) == Settings()


def test_relative_paths_in_a_file_are_meant_from_its_directory(place: Path) -> None:
    (place / "tailrace.toml").write_text('tracking_uri = "sqlite:///mlflow.db"\ndir = "state"\nring_dir = "/rings"\n')
    inner = place / "a"
    inner.mkdir()
    resolved = settings_at(inner)
    assert resolved.tracking_uri == f"sqlite:///{place}/mlflow.db"
    assert (resolved.dir, resolved.ring_dir) == (str(place / "state"), "/rings")


def test_relative_paths_elsewhere_are_meant_from_the_working_directory(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", "/home/ada")
    resolved = settings_at(
        place, {"ring_dir": Path("rings")}, TAILRACE_DIR="state", TAILRACE_TRACKING_URI="sqlite:///m.db"
    )
    assert (resolved.dir, resolved.ring_dir) == (str(place / "state"), str(place / "rings"))
    assert resolved.tracking_uri == "sqlite:///m.db"
    assert settings_at(place, {"dir": "~/state"}).dir == "/home/ada/state"


@pytest.mark.parametrize(
    ("text", "line"),
    [(b"nice = 1\nquiet = tru\n", "line 2"), (b"nice = 1\n\n\nquiet = \xff\n", "line 4"), (b"\n[", "line 2")],
)
def test_a_file_that_is_no_toml_is_an_error_with_file_and_line(place: Path, text: bytes, line: str) -> None:
    (place / "tailrace.toml").write_bytes(text)
    message = error_at(place)
    assert str(place / "tailrace.toml") in message
    assert line in message


def test_a_table_that_is_no_table_is_an_error(place: Path) -> None:
    (place / "pyproject.toml").write_text("[tool]\ntailrace = 3\n")
    assert "must be a table" in error_at(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_an_error_that_names_it(place: Path) -> None:
    (place / "tailrace.toml").touch(mode=0)
    assert str(place / "tailrace.toml") in error_at(place)


# ── Wrong settings ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("agent", "proces", "process, node, thread or off"),
        ("on_error", "ignore", "warn or raise"),
        ("strict", "maybe", "true or false"),
        ("nice", "20", "0 to 19"),
        ("nice", "1.5", "0 to 19"),
        ("ring_bytes", "1 KiB", "64 KiB"),
        ("ring_bytes", "8 MBit", "64 KiB"),
        ("ring_bytes", "0.0000001 KB", "64 KiB"),
        ("ring_bytes", "1e300TB", "64 KiB"),
        ("spool_max_bytes", "-1", "1 MiB"),
        ("spool_max_bytes", str(10**40), "1 MiB"),
        ("flush_interval", "0", "more than 0"),
        ("flush_interval", "2min", "60 seconds"),
        ("flush_interval", "soon", "60 seconds"),
        ("end_timeout", "nan", "86400"),
        ("end_timeout", "1e999", "86400"),
        ("linger", "-1", "86400"),
        ("keep_days", "inf", "days"),
        ("keep_days", "-1", "days"),
        ("log_level", "loud", "debug, info, warning or error"),
        ("artifact_snapshot", "hardlink", "copy or link"),
    ],
)
def test_a_wrong_value_is_an_error_with_key_value_source_and_what_is_allowed(
    place: Path, key: str, value: str, allowed: str
) -> None:
    variable = f"TAILRACE_{key.upper()}"
    message = error_at(place, None, **{variable: value})
    assert all(part in message for part in (variable, repr(value), allowed))
    message = error_at(place, {key: value})
    assert all(part in message for part in (f"argument '{key}'", repr(value), allowed))
    (place / "tailrace.toml").write_text(_toml({key: value}))
    message = error_at(place)
    assert all(part in message for part in (str(place / "tailrace.toml"), key, repr(value), allowed))


def test_a_wrong_setting_is_an_error_even_where_a_stronger_source_overrides_it(place: Path) -> None:
    assert "TAILRACE_NICE" in error_at(place, {"nice": 3}, TAILRACE_NICE="many")


def test_an_unknown_name_is_an_error_that_offers_the_nearest_one(place: Path) -> None:
    assert "did you mean 'flush_interval'?" in error_at(place, {"flush_intervall": 1})
    assert "did you mean TAILRACE_TRACKING_URI?" in error_at(place, None, TAILRACE_TRACKING_URL="x")
    assert "known settings: enabled, backend, agent" in error_at(place, {"qqqqqq": 1})
    (place / "tailrace.toml").write_text("retry-max-delay = 3\n")
    message = error_at(place)
    assert "'retry-max-delay'" in message
    assert "did you mean 'retry_max_delay'?" in message
    assert str(place / "tailrace.toml") in message


def test_no_password_gets_into_a_message_or_a_repr(place: Path) -> None:
    secret = "https://ada:hunter2@host?token=hunter2"
    assert "hunter2" not in repr(settings_at(place, {"tracking_uri": secret}))
    assert settings_at(place, {"tracking_uri": secret}).tracking_uri == secret
    for key in ("agent", "ring_bytes", "end_timeout", "nice", "strict", "log_level"):
        assert "hunter2" not in error_at(place, {key: secret})
    assert "hunter2" not in error_at(place, {"my_password": "hunter2"})
    assert "hunter2" not in error_at(place, None, TAILRACE_PASSWORD="hunter2")


def test_a_very_long_value_is_cut_in_the_message(place: Path) -> None:
    assert len(error_at(place, {"agent": "x" * 10_000})) < 300
