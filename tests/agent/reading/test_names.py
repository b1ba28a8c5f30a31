"""What people call their runs: names used twice, in several stores, with quotes and wildcards; names in filters."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from helpers.sdk_tools import tracking
from tailrace import CallError, NotFound, Tracker
from tailrace_agent.cli import main
from tailrace_agent.reading.reader import open_reader
from tailrace_agent.settings.store_keys import default_uri, store_key

ODD = ["r%x", "it's", 'say "hi"', 'it\'s "both"', "run_1", "back\\slash", "set[1]", "semi;colon -- x", "cafe", "ünï"]


class World:
    """Two stores of one machine: `base` three times, once in the other store; a bad key in two of them."""

    def __init__(self, directory: Path, template: Path) -> None:
        self.uris = [f"sqlite:///{shutil.copyfile(template, directory / f'{name}.db')}" for name in ("first", "second")]
        self.state = str(directory / "state")
        self.ids: list[str] = []
        for uri, rate in ((self.uris[0], 0.1), (self.uris[0], 0.2), (self.uris[1], 0.3)):
            with (
                tracking(uri, dir=self.state) as tracker,
                tracker.start_run(run_name="base", params={"lr": rate}) as run,
            ):
                run.log({"val/loss": rate, "bad!" if rate < 0.3 else "good": 1.0}, step=0)
            self.ids.append(run.run_id)
        with tracking(self.uris[0], dir=self.state) as tracker, tracker.start_run(run_name="run_1") as run:
            run.log({"a-b c:d": 2.0}, step=0)
        client = MlflowClient(self.uris[0])
        for name in set(ODD) - {"run_1"}:
            client.log_metric(client.create_run("0", run_name=name).info.run_id, "a-b c:d", 2.0)

    def tailrace(self, *arguments: str) -> Result:
        result = CliRunner().invoke(main, ["--dir", self.state, *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result


@pytest.fixture(scope="module")
def world(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILRACE_METADATA", "false")
        yield World(tmp_path_factory.mktemp("names"), sqlite_template)


@pytest.fixture
def tracker(world: World) -> Tracker:
    return Tracker(tracking_uri=world.uris[0])


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_PYTHON_REFRESH", "OMP_NUM_THREADS", "MLFLOW_LOGGING_LEVEL"):  # set by the commands
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


# -- a name that is used twice ----------------------------------------------------------------------------------------


def test_of_two_runs_with_one_name_the_newest_is_read_and_a_warning_tells_of_the_other(
    world: World, tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tailrace"):
        assert tracker.get_run_info("base").run_id == world.ids[1]
        assert tracker.get_run_info("bas").run_id == world.ids[1], "a beginning that means one name"
        assert tracker.metric_history("base", "val/loss")["value"].tolist() == [0.2]
        assert list(tracker.compare_runs(["base", world.ids[0]]).index) == [world.ids[1], world.ids[0]]
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"Taken: {world.ids[1][:8]} (FINISHED, " in told
    assert f"Others: {world.ids[0][:8]} (FINISHED, " in told
    assert ("lr=0.2" in told, "lr=0.1" in told) == (True, True)


def test_a_beginning_that_fits_several_names_is_an_error_that_tells_them_apart(tracker: Tracker) -> None:
    with pytest.raises(NotFound, match=r'fits 2 runs of .*"it\'s" \(RUNNING, .*give more of an id'):
        tracker.get_run_info("it'")


def test_who_changes_something_gets_an_error_for_a_name_used_twice(world: World) -> None:
    with pytest.raises(NotFound, match=r"'base' fits 2 runs of .*lr=0\.2\); .*lr=0\.1\); give more of an id"):
        open_reader(world.uris[0], "/").find("base")


def test_the_commands_that_read_take_the_newest_and_say_so(world: World, tmp_path: Path) -> None:
    for command in (["compare", "base"], ["export", "base", "-o", str(tmp_path / "x.zip")], ["verify", "base"]):
        result = world.tailrace(*command, "--tracking-uri", world.uris[0])
        assert result.exit_code == 0, result.output
        lines = [line for line in result.stderr.splitlines() if "An id chooses" in line]
        assert len(lines) == 1, result.stderr
        assert f"Taken: {world.ids[1][:8]} (FINISHED, " in lines[0]
        assert "lr=0.1" in lines[0]
    exported = world.tailrace("export", "base", "-o", "y.zip", "--json", "--tracking-uri", world.uris[0])
    assert json.loads(exported.stdout)["runs"] == [world.ids[1]]


def test_verify_looks_into_the_store_in_force_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def verified(*arguments: str) -> dict[str, Any]:
        result = world.tailrace("verify", *arguments, "--json")
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    assert verified("base", "--tracking-uri", world.uris[1])["run_id"] == world.ids[2]
    assert verified("base", "--tracking-uri", world.uris[0])["run_id"] == world.ids[1]
    assert verified("base")["run_id"] == world.ids[2], "none is set: the newest of all"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.uris[0])
    assert verified("base")["run_id"] == world.ids[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.uris[1])
    assert verified("base")["run_id"] == world.ids[2]
    elsewhere = world.tailrace("verify", "run_1")
    assert elsewhere.exit_code == 0, elsewhere.output
    assert f"'run_1' is in {world.uris[0]}, not in the store that is set" in elsewhere.stderr
    assert world.tailrace("verify", "run_1", "--tracking-uri", world.uris[1]).exit_code == 4, "it was asked for"
    assert world.tailrace("verify", "").exit_code == 4


def test_verify_knows_a_run_of_this_machine_under_another_address(world: World, tmp_path: Path) -> None:
    copy = shutil.copyfile(world.uris[1].removeprefix("sqlite:///"), tmp_path / "moved.db")
    result = world.tailrace("verify", "base", "--tracking-uri", f"sqlite:///{copy}", "--json")
    found = json.loads(result.stdout)
    assert (found["run_id"], found["by_key"]) == (world.ids[2], True), "by the session, not by the totals of the tag"


def test_dead_letters_of_a_name_used_twice_are_neither_dropped_nor_retried(world: World) -> None:
    for command in (["drop", "--yes"], ["retry"]):
        result = world.tailrace("dead", *command, "--run", "base")
        assert result.exit_code == 4, result.output
        for text in (world.ids[0][:8], world.ids[1][:8], "FINISHED", " ago", "lr=0.1", "lr=0.2"):
            assert text in result.stderr
        assert world.ids[2][:8] not in result.stderr, "it has no dead letters"
    assert world.tailrace("dead", "drop", "--yes", "--run", "").exit_code == 4, "nothing is no beginning of an id"
    assert len(json.loads(world.tailrace("dead", "list", "--json").stdout)["dead_letters"]) == 2


def test_nothing_is_deleted_from_an_experiment_whose_name_is_the_id_of_another(world: World) -> None:
    client = MlflowClient(world.uris[1])
    one = client.create_experiment("one")
    other = client.create_experiment(one)
    try:
        asked = ["gc", "--empty", "--dry-run", "--tracking-uri", world.uris[1], "--experiment"]
        refused = world.tailrace(*asked, one)
        assert refused.exit_code == 4
        assert f"'{one}' is the name of experiment {other} of" in refused.stderr
        assert f"write {other} for the one, 'one' for the other" in refused.stderr
        assert [world.tailrace(*asked, name).exit_code for name in (other, "one")] == [0, 0]
    finally:
        client.delete_experiment(other)


def test_a_session_that_is_meant_by_a_beginning_of_several_is_an_error_that_lists_them(world: World) -> None:
    result = world.tailrace("sync", "20", "--tracking-uri", world.uris[1])
    assert result.exit_code == 4
    assert "fits 4 sessions: 20" in result.stderr
    assert " finished, " in result.stderr
    assert world.tailrace("sync", "").exit_code == 4


# -- names with what filters are made of ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD)
def test_a_run_is_found_by_a_name_or_its_beginning_whatever_is_in_it(tracker: Tracker, name: str) -> None:
    assert tracker.get_run_info(name).run_name == name
    if not 'it\'s "both"'.startswith(name[:-1]):
        assert tracker.get_run_info(name[:-1]).run_name == name
    with pytest.raises(NotFound):
        tracker.get_run_info(name.upper())


def test_a_wildcard_is_no_name(tracker: Tracker) -> None:
    for text in ("%", "_", "r_x", "%e", "ba_e", "run%"):
        with pytest.raises(NotFound, match="has no run"):
            tracker.get_run_info(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sqlite:///x.db", "sqlite:////srv/x.db"),
        ("sqlite+pysqlite:////srv/./x.db?timeout=9", "sqlite:////srv/x.db"),
        ("./mlruns", "file:///srv/mlruns"),
        ("file://localhost/srv/mlruns", "/srv/mlruns/"),
        ("http://ada:pw@Host:5000/", "http://host:5000"),
        ("https://host/mlflow/", "https://ada@host/mlflow"),
        ("postgresql+psycopg2://ada:pw@db/mlflow?x=1", "postgresql://ada@db/mlflow"),
        (None, "sqlite:////srv/mlflow.db"),
    ],
)
def test_two_spellings_of_one_store_are_one(one: str | None, other: str) -> None:
    assert store_key(one, "/srv") == store_key(other, "/srv")
    assert "pw" not in store_key(one, "/srv")


def test_two_stores_are_two(tmp_path: Path) -> None:
    uris = [None, "sqlite:///x.db", "sqlite:///y.db", "http://a:1", "http://a:2", "https://a:1", "http://a:1/b"]
    uris += ["mlruns", "databricks", "databricks://x", "postgresql://a@h/d", "postgresql://b@h/d", "mysql://a@h/d"]
    assert len({store_key(uri, str(tmp_path)) for uri in uris}) == len(uris)
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    assert default_uri(str(tmp_path)) == (tmp_path / "mlruns").as_uri()


# -- names in filters and orders --------------------------------------------------------------------------------------


def test_a_filter_and_an_order_take_names_as_they_are(world: World, tracker: Tracker) -> None:
    found = tracker.search_runs(filter_string="metrics.val/loss < 0.2", order_by=["metrics.val/loss DESC"])
    assert isinstance(found, pd.DataFrame)
    assert found["run_id"].tolist() == [world.ids[0]]
    assert len(tracker.search_runs(filter_string="metrics.a-b c:d = 2 AND tags.mlflow.runName LIKE 'it%'")) == 2
    ordered = tracker.search_runs(filter_string="params.lr != '9'", order_by="metrics.val/loss DESC")
    assert isinstance(ordered, pd.DataFrame)
    assert ordered["run_id"].tolist() == [world.ids[1], world.ids[0]]
    assert tracker.best_run("val/loss", "max", filter_string="metrics.val/loss < 0.2").run_id == world.ids[0]
    assert tracker.best_run("a-b c:d").metrics == {"a-b c:d": 2.0}
    arguments = ["--filter", "metrics.val/loss < 0.2", "--order-by", "metrics.val/loss", "--json"]
    told = world.tailrace("runs", *arguments, "--tracking-uri", world.uris[0])
    assert [run["run_id"] for run in json.loads(told.stdout)["runs"]] == [world.ids[0]]


def test_a_filter_in_the_place_of_the_ids_is_an_error_that_names_the_argument(tracker: Tracker) -> None:
    with pytest.raises(CallError, match=r"search_runs\(filter_string='metrics\.val/loss < 0\.2'\)"):
        tracker.search_runs("metrics.val/loss < 0.2")  # type: ignore[arg-type]
    with pytest.raises(CallError, match=r"experiment_names=\['Default'\]"):
        tracker.search_runs("Default")  # type: ignore[arg-type]
    assert len(tracker.search_runs(experiment_names="Default")) == len(ODD) + 2


def test_a_mistyped_metric_is_answered_with_the_nearest_one(world: World, tracker: Tracker) -> None:
    run = world.ids[0]
    for ask in (
        lambda: tracker.metric_history(run, "lss"),
        lambda: tracker.compare_runs([run], metrics=["val/los"]),
        lambda: tracker.best_run("val_loss"),
    ):
        with pytest.raises(NotFound, match="did you mean 'val/loss'"):
            ask()
    for command in (["compare", run, "--metric", "loss"], ["runs", "--metric", "vall/loss"]):
        result = world.tailrace(*command, "--tracking-uri", world.uris[0])
        assert (result.exit_code, "did you mean 'val/loss'?" in result.stderr) == (4, True), result.output
