"""`tailrace compare`, and what MLflow holds against what the ledger counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.left_sessions import spooled_session
from helpers.spools import block
from helpers.stored_runs import AllKinds
from tailrace_agent.cli._app import Fail
from tailrace_agent.cli._compare import Finding, compare_with_sessions
from tailrace_agent.cli._runs import known_runs
from tailrace_agent.settings.sources import load_settings


@pytest.mark.slow
def test_compare_shows_what_differs_and_draws_it(world: AllKinds, tmp_path: Path) -> None:
    lines = world.run("compare", "good", world.ids["better"][:10]).stdout.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines[1:-1]}
    assert lines[0].split() == ["good", "better"]
    assert (table["lr"], table["val/loss"]) == (["0.1", "0.2"], ["0.1", "0.05"])
    assert "seed" not in table
    assert lines[-1] == "1 param or metric is the same; --all shows them"
    everything = world.run("compare", "good", "better", "--all", "--metric", "val/*", "--plot", "runs.png")
    assert "seed" in everything.stdout
    assert "0.1  (0.1 … 0.3)" in everything.stdout
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
    told = world.json("compare", "good", "better")
    assert told["differing"] == ["params.lr", "metrics.val/loss"]
    assert [run["metrics.val/loss"] for run in told["runs"]] == [0.1, 0.05]
    assert world.run("compare", "good", "nobody").exit_code == 4
    assert world.run("compare", "good", "--plot", "runs.abc").exit_code == 1


def test_compare_leaves_system_metrics_out_unless_they_are_asked_for(world: AllKinds) -> None:
    for name in ("good", "better"):
        world.client.log_metric(world.ids[name], "system/load", len(name))
    runs = (world.ids["good"], world.ids["better"])
    plain = world.run("compare", *runs).stdout
    assert "system/load" not in plain
    assert plain.splitlines()[-1] == ("1 param or metric is the same, 1 system metric is left out; --all shows them")
    for arguments in (["--all"], ["--metric", "system/*"]):
        assert "system/load" in world.run("compare", *runs, *arguments).stdout
    assert world.json("compare", *runs)["differing"] == ["params.lr", "metrics.val/loss"]
    assert "metrics.system/load" in world.json("compare", *runs, "--metric", "system/load")["differing"]


def test_what_a_run_does_not_have_is_a_dash_and_in_json_null(world: AllKinds) -> None:
    bounds = ["--metric", "val/*"]
    lines = world.run("compare", "good", "empty", *bounds).stdout.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert (table["lr"], table["val/loss"]) == (["0.1", "-"], ["0.1", "(0.1", "…", "0.3)", "-", "(-", "…", "-)"])
    shown = world.json("compare", "good", "empty", *bounds)["runs"]
    assert [(run["params.lr"], run["metrics.val/loss.min"]) for run in shown] == [("0.1", 0.1), (None, None)]


def _finding(differing: dict[str, tuple[int, int]], **changes: Any) -> Finding:
    return Finding(
        run_id="r", run_name=None, store="s", by_key=True, delivered=0, found=0, keys=0, pending=0, dead=0, dropped={},
        differing=differing, **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "alone", "with_others"), [(None, True, True), (8, False, False), (11, False, True)], ids=str
)
def test_more_than_was_delivered_is_right_only_where_others_may_have_written(
    found: int | None, alone: bool, with_others: bool
) -> None:
    differing = {} if found is None else {"loss": (10, found)}
    assert _finding(differing).equal == alone
    assert _finding(differing, live=True).equal == _finding(differing, shared=True).equal == with_others


def test_a_run_that_is_not_in_mlflow_yet_is_named_with_what_waits_for_it() -> None:
    session = spooled_session(blocks=[block(3, run=7)])
    with pytest.raises(Fail, match="is not in MLflow yet: 3 entries are pending; `tailrace sync` delivers them"):
        compare_with_sessions(load_settings(), known_runs(load_settings()), None)
    assert session.dir.exists()
