"""`tailrace verify`: which run it means, and where it looks for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import tailrace
from helpers.stored_runs import AllKinds, SameNames


def test_verify_looks_into_the_store_in_force_first(same_names: SameNames, monkeypatch: pytest.MonkeyPatch) -> None:
    def verified(*arguments: str) -> dict[str, Any]:
        result = same_names.tailrace("verify", *arguments, "--json")
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    assert verified("base", "--tracking-uri", same_names.uris[1])["run_id"] == same_names.ids[2]
    assert verified("base", "--tracking-uri", same_names.uris[0])["run_id"] == same_names.ids[1]
    assert verified("base")["run_id"] == same_names.ids[2], "none is set: the newest of all"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", same_names.uris[0])
    assert verified("base")["run_id"] == same_names.ids[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", same_names.uris[1])
    assert verified("base")["run_id"] == same_names.ids[2]
    elsewhere = same_names.tailrace("verify", "run_1")
    assert elsewhere.exit_code == 0, elsewhere.output
    assert f"'run_1' is in {same_names.uris[0]}, not in the store that is set" in elsewhere.stderr
    assert same_names.tailrace("verify", "run_1", "--tracking-uri", same_names.uris[1]).exit_code == 4, (
        "it was asked for"
    )
    assert same_names.tailrace("verify", "").exit_code == 4


def test_verify_knows_a_run_of_this_machine_under_another_address(same_names: SameNames, tmp_path: Path) -> None:
    copy = shutil.copyfile(same_names.uris[1].removeprefix("sqlite:///"), tmp_path / "moved.db")
    result = same_names.tailrace("verify", "base", "--tracking-uri", f"sqlite:///{copy}", "--json")
    found = json.loads(result.stdout)
    assert (found["run_id"], found["by_key"]) == (same_names.ids[2], True), (
        "by the session, not by the totals of the tag"
    )


def test_a_run_that_tailrace_has_not_logged_cannot_be_compared(world: AllKinds) -> None:
    result = world.run("verify", "good")
    assert result.exit_code == 1
    assert "carries no ledger (the tag tailrace.ledger)" in result.stderr


def test_a_run_of_which_only_the_tag_is_left_is_compared_by_it(world: AllKinds) -> None:
    ledger = {"kinds": {"metric": {"delivered": 5, "merged": 2}}, "pending": 0, "dead": 1, "dropped": {"bad": 2}}
    world.client.set_tag(world.ids["good"], "tailrace.ledger", json.dumps(ledger))
    told = world.json("verify", world.ids["good"])
    assert (told["equal"], told["by_key"], told["delivered"], told["found"]) == (True, False, 3, 3)
    shown = world.run("verify", world.ids["good"]).stdout
    assert "equal. 3 points delivered, 3 in MLflow; compared in total" in shown
    assert ("1 dead letter: `tailrace dead list`" in shown, "2 dropped: bad" in shown) == (True, True)
    world.client.log_metric(world.ids["good"], "more", 1.0)
    more = world.run("verify", world.ids["good"])
    assert (more.exit_code, "all metrics together" in more.stdout, "+1" in more.stdout) == (1, True, True)


def test_a_store_that_is_not_there_is_named_beside_the_run_that_nobody_knows(tmp_path: Path) -> None:
    result = tailrace("verify", "nosuch", "--tracking-uri", f"sqlite:///{tmp_path}/none.db")
    assert result.exit_code == 4
    assert f"this machine knows no run 'nosuch', and there is no store {tmp_path}/none.db" in result.stderr
