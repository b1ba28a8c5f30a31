"""Settings files with anything in them: read, or one clear error that names the file. Never anything else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzzing.flips import flips
from tailrace import SettingsError, load_config
from tailrace_agent.settings.sources import load_settings

TOML = b"""
tracking_uri = "http://127.0.0.1:5000"
nice = 5
flush_interval = "250ms"
spool_max_bytes = "4 GiB"
every = { "train/*" = 10 }
alerts = ["loss is NaN"]
dir = "~/runs"
strict = false
[tracking.mlflow]
experiment_name = "digits"
"""
PYPROJECT = b"[project]\nname = 'x'\n[tool.tailrace]" + TOML.replace(b"[tracking", b"[tool.tailrace.tracking")
YAML = b"""
name: digits
seed: 42
tracking: {enabled: true, mlflow: {tracking_uri: "sqlite:///a.db", tags: {a: b}}, settings: {nice: 3}}
model: {layers: [64, 10], since: 2026-01-01}
"""
FILES = {"tailrace.toml": TOML, "pyproject.toml": PYPROJECT, "config.yaml": YAML}
BOMB = b"a: &a [x, x]\n" + b"".join(b"a%d: &a [%s]\n" % (n, b", ".join([b"*a"] * 9)) for n in range(12)) + b"name: *a"
by_chance = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\0é.", max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)


def reads(name: str, body: bytes) -> list[str]:
    """What is said of a file, if it is refused; whatever else is raised fails the test."""
    path, said = Path(name), []
    path.write_bytes(body)
    try:
        for read in (load_settings, load_config, lambda: load_config(path)):
            try:
                read()
            except SettingsError as error:
                said.append(str(error))
    finally:
        path.unlink()
    assert all(name in each and len(each) < 2000 for each in said)
    return said


@pytest.mark.parametrize("most", [30, pytest.param(None, marks=pytest.mark.faults)], ids=["some", "all"])
@pytest.mark.parametrize("name", FILES)
def test_a_settings_file_with_one_flipped_byte_is_read_or_refused_by_its_name(name: str, most: int | None) -> None:
    assert not reads(name, FILES[name])
    refused = [bool(reads(name, body)) for _, body in flips(FILES[name], most)]
    assert sum(refused) > len(refused) // 4


@pytest.mark.parametrize("name", FILES)
@by_chance
@given(changes=st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=4)), min_size=1, max_size=4))
def test_a_settings_file_with_changed_bytes_is_read_or_refused(name: str, changes: list[tuple[int, bytes]]) -> None:
    body = FILES[name]
    for at, new in changes:
        body = body[:at] + new + body[at + len(new) :]
    reads(name, body)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("pyproject.toml", b"tool = 3 # tailrace"),
        ("pyproject.toml", b"[[tool]]\ntailrace = 1"),
        ("pyproject.toml", b"tool = {tailrace = [[1]]}"),
    ],
)
def test_a_table_of_tools_that_is_none_holds_nothing_for_tailrace(name: str, body: bytes) -> None:
    assert len(reads(name, body)) in (0, 3)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("tailrace.toml", b"a = " + b"[" * 5000 + b"]" * 5000),
        ("tailrace.toml", b"a = {" * 3000),
        ("tailrace.toml", b"nice = " + b"9" * 5000),
        ("tailrace.toml", b"spool_max_bytes = 0x" + b"f" * 3000),
        ("tailrace.toml", b'dir = "a\\u0000b"'),
        ("tailrace.toml", b'tracking_uri = "sqlite:///\\u0000"'),
        ("config.yaml", b"a: " + b"[" * 600),
        ("config.yaml", b"a: " + b"9" * 5000),
        ("config.yaml", b"a: 2001-99-99"),
        ("config.yaml", b"a: !!int ''"),
        ("config.yaml", b"a: !!bool x"),
        ("config.yaml", b"a: !!timestamp x"),
        ("config.yaml", b"tracking: &a {tags: [*a]}"),
        ("config.yaml", BOMB),
    ],
)
def test_what_is_too_deep_too_long_or_endless_is_refused(name: str, body: bytes) -> None:
    assert reads(name, body)


@by_chance
@given(key=st.sampled_from(["tracking", "tool", "name", "seed", "mlflow_tags", "nice", "every", "dir"]), value=plain)
@example(key="tracking", value={"settings": {"dir": "\0"}})
def test_a_configuration_with_any_value_anywhere_is_read_or_refused(key: str, value: Any) -> None:
    for config in ({key: value}, {"tracking": {"settings": {key: value}}}, {"tracking": {key: value}}):
        with suppress(SettingsError):
            load_config(config)
