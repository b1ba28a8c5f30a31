"""The tag that names the tables of a run."""

from __future__ import annotations

import json

from tailrace_agent.mlflow.logged_tables import LOGGED_ARTIFACTS, logged_artifacts, with_stored_tables


def test_the_tag_names_each_table_once_and_is_spelled_as_mlflow_spells_it() -> None:
    tag = logged_artifacts(None, "eval.json")
    assert tag == json.dumps([{"path": "eval.json", "type": "table"}])
    assert logged_artifacts(tag, "eval.json") == tag
    assert json.loads(logged_artifacts(tag, "b.json")) == [
        {"path": "eval.json", "type": "table"},
        {"path": "b.json", "type": "table"},
    ]
    for damaged in ("", "{", '{"a": 1}'):
        assert logged_artifacts(damaged, "eval.json") == tag


def test_tables_that_the_run_has_already_stay_in_its_tag() -> None:
    stored, new = logged_artifacts(None, "a.json"), logged_artifacts(None, "b.json")
    both = logged_artifacts(stored, "b.json")
    tags = [("team", "vision"), (LOGGED_ARTIFACTS, new)]
    expected = [("team", "vision"), (LOGGED_ARTIFACTS, both)]
    assert with_stored_tables(tags, lambda: {LOGGED_ARTIFACTS: stored}, 1000) == expected
    assert with_stored_tables(expected, lambda: {LOGGED_ARTIFACTS: both}, 1000) == expected, "written once more"
    assert with_stored_tables(tags, dict, 1000) == tags
    assert with_stored_tables(tags, lambda: {LOGGED_ARTIFACTS: stored}, len(both) - 1) == tags, "no room for both"


def test_nothing_is_asked_of_the_store_for_other_tags() -> None:
    def never() -> dict[str, str]:
        raise AssertionError

    tags = [("team", "vision")]
    assert with_stored_tables(tags, never, 1000) == tags
