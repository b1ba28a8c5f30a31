"""`tailrace gc`: which runs go, which stay, and when it asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from helpers.sdk_tools import tracking
from helpers.stored_runs import AllKinds, SameNames, copied
from tailrace_agent.cli import gc, main
from tailrace_agent.settings.sources import load_settings


def test_gc_takes_what_fits_everything_that_is_asked_for(world: AllKinds) -> None:
    assert world.going("--status", "FAILED,killed") == {"failed-old", "failed-new", "empty", "files"}
    assert world.going("--status", "FAILED", "--older-than", "30d") == {"failed-old"}
    assert world.going("--empty") == {"empty"}, "neither the one with a file nor the one that is running"
    assert world.going("--older-than", "3d", "--experiment", "other") == {"evil \x1b[31m"}
    assert world.going("--older-than", "365d") == set()


def test_gc_keeps_what_somebody_still_needs(world: AllKinds) -> None:
    kept = {run["run_name"]: run["why"] for run in world.json("gc", "--status", "FAILED", "--dry-run")["kept"]}
    assert kept["model"] == "it holds a registered model"
    assert kept["nested parent"] == f"run {world.ids['nested child'][:8]} is nested under it, and stays"
    together = world.going("--older-than", "12h", "--experiment", "Default")
    assert {"nested parent", "nested child"} <= together, "a parent may go with its children"
    assert "live" not in together


def test_gc_asks_and_refuses_where_nobody_answers(world: AllKinds) -> None:
    before = len(world.json("runs")["runs"])
    for arguments, stdin, code in ((["--json"], None, 2), ([], None, 2), ([], "n\n", 1)):
        result = world.run("gc", "--empty", *arguments, stdin=stdin)
        assert result.exit_code == code, result.output
    assert "--yes" in world.run("gc", "--empty").stderr
    assert world.run("gc").exit_code == 2, "without a criterion it would be everything"
    assert len(world.json("runs")["runs"]) == before


def test_gc_deletes_into_mlflows_bin_or_for_good(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = AllKinds(copied(sqlite_template, tmp_path))
    result = world.run("gc", "--empty", stdin="y\n")
    assert "1 run deleted; `mlflow runs restore --run-id ID` brings one back" in result.stdout
    assert world.client.get_run(world.ids["empty"]).info.lifecycle_stage == "deleted"
    folder = Path(world.client.get_run(world.ids["files"]).info.artifact_uri.removeprefix("file://"))
    assert folder.is_dir()
    assert world.run("gc", "--status", "KILLED", "--permanently", "--yes").exit_code == 0
    assert not folder.exists()
    with pytest.raises(Exception, match="not found"):
        world.client.get_run(world.ids["files"])
    assert world.run("gc", "--status", "KILLED", "--yes").stdout == "nothing to delete\n"


def test_gc_keeps_a_run_to_which_something_is_on_its_way(world: AllKinds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "_busy", lambda settings: {world.ids["failed-old"]})
    assert "failed-old" not in world.going("--status", "FAILED")


def test_a_run_of_a_live_program_has_something_on_its_way(sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as tracker, tracker.start_run() as run:
        run.flush()
        assert run.run_id in gc._busy(load_settings())
    assert gc._busy(load_settings()) == set()


def test_a_server_deletes_nothing_for_good(mlflow_server: str) -> None:
    client = MlflowClient(mlflow_server)
    run_id = client.create_run(client.create_experiment("gc-server"), 1000).info.run_id
    client.set_terminated(run_id, "FAILED", 2000)
    arguments = ["gc", "--status", "FAILED", "--experiment", "gc-server", "--yes", "--tracking-uri", mlflow_server]
    result = CliRunner().invoke(main, [*arguments, "--permanently"])
    assert (result.exit_code, "mlflow gc" in result.stderr) == (3, True), result.output
    assert client.get_run(run_id).info.lifecycle_stage == "active"
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"


def test_nothing_is_deleted_from_an_experiment_whose_name_is_the_id_of_another(same_names: SameNames) -> None:
    client = MlflowClient(same_names.uris[1])
    one = client.create_experiment("one")
    other = client.create_experiment(one)
    try:
        asked = ["gc", "--empty", "--dry-run", "--tracking-uri", same_names.uris[1], "--experiment"]
        refused = same_names.tailrace(*asked, one)
        assert refused.exit_code == 4
        assert f"'{one}' is the name of experiment {other} of" in refused.stderr
        assert f"write {other} for the one, 'one' for the other" in refused.stderr
        assert [same_names.tailrace(*asked, name).exit_code for name in (other, "one")] == [0, 0]
    finally:
        client.delete_experiment(other)
