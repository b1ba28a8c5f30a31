"""Programs see and store by MLflow the same with the store plug-in as without it: `helpers.mlflow_scenarios`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers import mlflow_scenarios
from helpers.databases import copy_database
from helpers.mlflow_scenarios import SCENARIOS
from helpers.sdk_tools import forget, script

_REFUSED_BY_A_SERVER = (
    *(
        "params_do_not_change",
        "params_that_are_too_long_or_badly_named_are_refused",
        "tags_are_set_changed_and_deleted",
    ),
    *("metrics_that_are_no_plain_numbers", "metrics_that_are_badly_named_or_placed_are_refused"),
    *("what_is_refused_asynchronously_is_told_to_who_waits", "steps_and_times_that_are_none"),
)
_RUN = f"runpy.run_path({mlflow_scenarios.__file__!r}, run_name='__main__')"

pytestmark = pytest.mark.timeout(600)
"""Whichever test comes first runs all scenarios in both ways, which takes minutes on a busy machine."""


@pytest.fixture(scope="module", params=["sqlite", pytest.param("server", marks=pytest.mark.services)])
def told(
    request: pytest.FixtureRequest, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What each scenario has seen, by plain MLflow and with the plug-in, each in a program and a store of its own."""
    found = {}
    for way in ("plain", "plug-in"):
        directory = tmp_path_factory.mktemp(f"conformance-{way}")
        if request.param == "sqlite":
            uri = f"sqlite:///{copy_database(sqlite_template, directory)}"
        else:
            uri = request.getfixturevalue("mlflow_server")
        done = script(
            directory,
            "import runpy, sys\nsys.argv[1:] = " + repr([way]) + "\n" + _RUN,
            MLFLOW_TRACKING_URI=uri,
            TAILRACE_METADATA="false",
            MLFLOW_DISABLE_TELEMETRY="true",
        )
        forget(directory)
        found[way] = json.loads(done.stdout.rpartition("TOLD ")[2].split("\n")[0])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_it_is_seen_and_stored_as_without_the_plug_in(
    told: dict[str, dict[str, Any]], name: str, request: pytest.FixtureRequest
) -> None:
    if "server" in request.node.name and name in _REFUSED_BY_A_SERVER:
        pytest.skip("a server refuses in words of its own, and later than MLflow's functions do at the call")
    assert told["plug-in"][name] == told["plain"][name]


@pytest.mark.slow
def test_the_plug_in_was_in_place_in_one_of_them_alone(told: dict[str, dict[str, Any]]) -> None:
    kinds = told["plain"]["kind of store"], told["plug-in"]["kind of store"]
    assert kinds[1] == f"Tailrace{kinds[0]}"
