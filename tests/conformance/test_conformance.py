"""What MLflow's fluent API does, tailrace does in its place; where it does something else, a page says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pytest

import tailrace
from conformance import files, mistakes, runs, stores, values
from conformance.mistakes import MISTAKES
from conformance.table import BEHAVIOURS, NEEDS, Behaviour, Place
from tailrace._api.tracker_core import module_core

_PAGE = Path(__file__).parents[2] / "docs" / "migrate" / "mlflow.md"
_TABLES = (runs, values, files, stores)


@pytest.fixture(scope="module")
def uris(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[ModuleType, str]:
    """A store for each of the two, which all behaviours of this file share."""
    made = {}
    for module in (mlflow, tailrace):
        path = tmp_path_factory.mktemp(module.__name__) / "mlflow.db"
        path.write_bytes(sqlite_template.read_bytes())
        made[module] = f"sqlite:///{path}"
    return made


@pytest.fixture(autouse=True)
def _as_a_program_finds_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TAILRACE_AGENT", "thread")
    monkeypatch.setenv("TAILRACE_QUIET", "true")
    core = module_core()
    before, variables = (core.given, core.experiment_id), dict(os.environ)
    yield
    _forget()
    core.given, core.experiment_id = before
    os.environ.clear()
    os.environ.update(variables)


def _forget() -> None:
    """What a program that begins does not know."""
    for module in (mlflow, tailrace):
        while module.active_run() is not None:
            module.end_run()
    for name in [name for name in os.environ if name.startswith("MLFLOW_") and name != "MLFLOW_DISABLE_TELEMETRY"]:
        del os.environ[name]
    mlflow.set_tracking_uri(None)
    mlflow.tracking.fluent._active_experiment_id = None


def raised_with(module: ModuleType, name: str, uri: str, directory: Path) -> Exception | None:
    """What a mistake is answered with by one of the two."""
    _forget()
    place = Place(uri, f"{name}, with {module.__name__}, {directory.name}")
    directory.mkdir()
    os.chdir(directory)
    module.set_tracking_uri(uri)
    module.set_experiment(place.experiment)
    module.start_run()
    try:
        MISTAKES[name](module, place)
    except Exception as error:  # noqa: BLE001 - that is what is asked for
        return error
    return None


def seen_with(module: ModuleType, behaviour: Behaviour, uri: str, directory: Path) -> Any:
    """What a behaviour sees with one of the two in MLflow's place, in a directory of its own."""
    _forget()
    place = Place(uri, behaviour.function.__name__)
    directory.mkdir()
    os.chdir(directory)
    module.set_tracking_uri(uri)
    module.set_experiment(place.experiment)
    return behaviour.function(module, place)


@pytest.mark.slow
@pytest.mark.parametrize("name", BEHAVIOURS)
def test_tailrace_does_as_mlflow_or_as_its_page_says(
    name: str, uris: dict[ModuleType, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    behaviour = BEHAVIOURS[name]
    if name in NEEDS and not hasattr(mlflow, NEEDS[name]):
        pytest.skip(f"this MLflow has no {NEEDS[name]}")
    theirs = seen_with(mlflow, behaviour, uris[mlflow], tmp_path / "mlflow")
    ours = seen_with(tailrace, behaviour, uris[tailrace], tmp_path / "ours")
    if behaviour.why is None:
        assert ours == theirs
        return
    assert ours == behaviour.ours
    assert ours != theirs, "it is no difference any more"


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_caught_under_strict_as_mlflows_and_else_stops_nobody(
    name: str, uris: dict[ModuleType, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = raised_with(mlflow, name, uris[mlflow], tmp_path / "mlflow")
    assert theirs is not None
    assert raised_with(tailrace, name, uris[tailrace], tmp_path / "ours") is None
    monkeypatch.setenv("TAILRACE_STRICT", "true")
    ours = raised_with(tailrace, name, uris[tailrace], tmp_path / "strict")
    kind, code = mistakes.of_mlflow(theirs)
    assert isinstance(ours, kind), ours
    assert code in (None, getattr(ours, "error_code", None))


@pytest.mark.slow
def test_every_difference_has_its_paragraph_in_the_page() -> None:
    headings = {line.lstrip("# ") for line in _PAGE.read_text().splitlines() if line.startswith("### ")}
    assert {behaviour.why for behaviour in BEHAVIOURS.values() if behaviour.why} <= headings


@pytest.mark.slow
def test_the_table_is_whole() -> None:
    own = {name for table in _TABLES for name, value in vars(table).items() if callable(value) and name in BEHAVIOURS}
    assert own == set(BEHAVIOURS)
    assert len(BEHAVIOURS) >= 80
