"""Versions of registered models, the aliases that point to them, and stages."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, INTERNAL_ERROR

from tailrace_agent.errors import NotFound
from tailrace_agent.ipc.records import ModelSpec
from tailrace_agent.mlflow.registry import Registry, stage_of
from tailrace_agent.mlflow.stores import open_registry


@pytest.fixture
def registry(sqlite_uri: str) -> Registry:
    return Registry(open_registry(sqlite_uri, sqlite_uri, 10))


def _registered(registry: Registry, *tokens: str, **spec: Any) -> list[str]:
    return [
        registry.register(ModelSpec(token, "m", registered_name="name", **spec), "/files", None, None, None)
        for token in tokens
    ]


def _aliases(registry: Registry) -> dict[str, list[str]]:
    return {str(version.version): version.aliases for version in registry.versions("name")}


def test_a_token_is_registered_once_and_another_is_another_version(registry: Registry) -> None:
    assert _registered(registry, "a", "a", "b", tags={"colour": "red"}) == ["1", "1", "2"]
    assert registry.find("name").tags["colour"] == "red"
    assert registry.location("name", "1") == "/files"


@pytest.mark.slow
def test_of_twins_of_an_answer_that_was_lost_the_first_stays(registry: Registry) -> None:
    _registered(registry, "a")
    registry.store.create_model_version("name", "/files", None, [ModelVersionTag("tailrace.model", "a")])
    assert _registered(registry, "a") == ["1"]
    assert [str(version.version) for version in registry.versions("name")] == ["1"]


def test_an_alias_points_to_one_version(registry: Registry) -> None:
    _registered(registry, "a", "b")
    registry.point("name", "1", ("best", "first"))
    registry.point("name", "2", ("best",))
    assert _aliases(registry) == {"2": ["best"], "1": ["first"]}


def test_a_stage_is_an_alias_and_mlflows_stage_and_archives_who_had_it(registry: Registry) -> None:
    _registered(registry, "a", "b")
    registry.point("name", "1", stage="production")
    registry.point("name", "2", stage="Production")
    assert _aliases(registry) == {"2": ["production"], "1": []}
    assert [(str(v.version), v.current_stage) for v in registry.versions("name")] == [
        ("2", "Production"),
        ("1", "Archived"),
    ]
    registry.point("name", "2", stage="staging")
    assert (stage_of(registry.find("name")), _aliases(registry)["2"]) == ("staging", ["staging"])


def test_an_archived_version_loses_its_stages_until_it_is_put_into_one_again(registry: Registry) -> None:
    _registered(registry, "a")
    registry.point("name", "1", ("best",), "staging")
    registry.point("name", "1", stage="archived")
    (version,) = registry.versions("name")
    assert (stage_of(version), version.aliases, version.tags["tailrace.stage"]) == ("archived", ["best"], "archived")
    registry.point("name", "1", stage="none")
    (version,) = registry.versions("name")
    assert (stage_of(version), "tailrace.stage" in version.tags) == ("none", False)


def test_any_other_word_for_a_stage_is_an_alias_alone(registry: Registry) -> None:
    _registered(registry, "a")
    registry.point("name", "1", stage="canary")
    assert (_aliases(registry), registry.find("name", stage="canary").version) == ({"1": ["canary"]}, 1)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (NotImplementedError(), True),
        (MlflowException("no such endpoint", ENDPOINT_NOT_FOUND), True),
        (MlflowException("stages are unsupported here", INTERNAL_ERROR), True),
        (MlflowException("the disk is full", INTERNAL_ERROR), False),
    ],
)
def test_a_registry_without_stages_keeps_the_aliases_alone(
    registry: Registry, error: Exception, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _registered(registry, "a")

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(registry.store, "transition_model_version_stage", fails)
    with nullcontext() if passes else pytest.raises(MlflowException, match="the disk is full"):
        registry.point("name", "1", stage="production")
    assert _aliases(registry) == {"1": ["production"]}


def test_a_version_is_found_by_number_alias_or_stage_and_what_is_not_there_is_named(registry: Registry) -> None:
    _registered(registry, "a", "b", "c")
    registry.point("name", "1", ("best",), "production")

    def found(**which: Any) -> int:
        return int(registry.find("name", **which).version)

    assert [found(), found(version="2"), found(alias="best"), found(stage="Production")] == [3, 2, 1, 1]
    registry.store.delete_registered_model_alias("name", "production")
    assert found(stage="production") == 1, "as MLflow has it"
    for which, said in (
        ({"version": "9"}, "has no version 9; its newest version is 3, its aliases: best"),
        ({"alias": "worst"}, "has no alias 'worst'"),
        ({"stage": "staging"}, "has no version in the stage 'staging'"),
    ):
        with pytest.raises(NotFound, match=said):
            found(**which)
    with pytest.raises(NotFound, match="there is no registered model 'other', or it has no version yet"):
        registry.find("other")
