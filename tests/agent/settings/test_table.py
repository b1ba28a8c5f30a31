"""The table of settings: what each may be, and how it is written."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import msgspec
import pytest

from helpers.settings_at import error_at, settings_at
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.table import TABLE


def test_every_setting_can_be_set_and_is_described(place: Path) -> None:
    docstring = inspect.getdoc(Settings) or ""
    for key in Settings.__struct_fields__:
        assert "; allowed: " in error_at(place, {key: object()})
        assert f"\n    {key}: " in docstring


def test_the_table_has_every_setting_in_the_order_of_the_class() -> None:
    assert tuple(TABLE) == Settings.__struct_fields__
    assert all(setting.scope in ("run", "agent") and setting.description for setting in TABLE.values())


def test_every_default_is_a_value_that_is_allowed(place: Path) -> None:
    defaults = {key: value for key, value in msgspec.structs.asdict(Settings()).items() if value not in (None, ())}
    assert settings_at(place, defaults) == Settings()
    assert (
        settings_at(place, None, **{f"TAILRACE_{key.upper()}": str(value) for key, value in defaults.items()})
        == Settings()
    )


def test_a_tracking_uri_may_be_a_path_object(place: Path) -> None:
    assert settings_at(place, {"tracking_uri": Path("/data/my runs")}).tracking_uri == "file:///data/my%20runs"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nice", True),
        ("nice", 1.5),
        ("strict", 1),
        ("agent", 3),
        ("ring_bytes", True),
        ("ring_bytes", [8]),
        ("ring_bytes", math.inf),
        ("end_timeout", True),
        ("end_timeout", math.nan),
        ("keep_days", math.nan),
        ("keep_days", True),
        ("experiment_name", 3),
        ("experiment_name", ""),
        ("tracking_uri", b"http://x"),
        ("dir", 3),
        ("dir", ""),
        ("log_level", object()),
    ],
)
def test_an_argument_of_the_wrong_type_is_an_error(place: Path, key: str, value: object) -> None:
    assert f"argument '{key}' is " in error_at(place, {key: value})


@pytest.mark.parametrize("yes", ["1", "true", "YES", " On "])
@pytest.mark.parametrize("no", ["0", "False", "no", "OFF"])
def test_flags_from_the_environment_are_read_in_every_common_spelling(place: Path, yes: str, no: str) -> None:
    resolved = settings_at(place, None, TAILRACE_STRICT=yes, TAILRACE_QUIET=no)
    assert (resolved.strict, resolved.quiet) == (True, False)
