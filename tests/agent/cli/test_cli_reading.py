"""The commands that read MLflow and clean it: `runs`, `compare`, `gc`; foreign text must not steer a terminal."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from helpers.sdk_tools import tracking
from tailrace_agent.cli import _litter, gc, main
from tailrace_agent.cli._app import number
from tailrace_agent.files import ownership
from tailrace_agent.ipc import session
from tailrace_agent.settings.sources import load_settings
from tailrace_agent.text.quoting import visible

DAY = 86_400_000
NOW = int(time.time() * 1000)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_PYTHON_REFRESH", "OMP_NUM_THREADS", "MLFLOW_LOGGING_LEVEL"):  # set by the commands
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


class World:
    """A store with runs of every kind; `run` calls the command line on it."""

    def __init__(self, uri: str) -> None:
        self.uri, self.client = uri, MlflowClient(uri)
        self.ids: dict[str, str] = {}
        self.other = self.client.create_experiment("other")
        self.add("good", "FINISHED", 40, loss=0.1, params={"lr": "0.1", "seed": "7"})
        self.add("better", "FINISHED", 2, loss=0.05, params={"lr": "0.2", "seed": "7"})
        self.add("failed-old", "FAILED", 40, loss=1.0)
        self.add("failed-new", "FAILED", 1, loss=1.0)
        self.add("empty", "KILLED", 3)
        self.add("files", "KILLED", 3)
        self.client.log_text(self.ids["files"], "x", "x.txt")
        self.add("live", None, 50)
        self.add("evil \x1b[31m", "FINISHED", 5, loss=9.0, experiment=self.other)
        self.add("nested parent", "FAILED", 60, loss=1.0)
        self.add("nested child", "FINISHED", 1, loss=1.0, tags={"mlflow.parentRunId": self.ids["nested parent"]})
        self.add("model", "FAILED", 70, loss=1.0)
        self.client.create_registered_model("kept")
        self.client.create_model_version("kept", "file:///nowhere", self.ids["model"])

    def add(
        self,
        name: str,
        status: str | None,
        days: int,
        *,
        loss: float | None = None,
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
        experiment: str = "0",
    ) -> None:
        at = NOW - days * DAY
        run_id = self.ids[name] = self.client.create_run(experiment, at, tags, name).info.run_id
        points = [Metric("val/loss", loss * (3 - step), at, step) for step in range(3)] if loss else []
        self.client.log_batch(run_id, points, [Param(*each) for each in (params or {}).items()])
        if status is not None:
            self.client.set_terminated(run_id, status, at + 60_000)

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, [*arguments, "--tracking-uri", self.uri], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def going(self, *arguments: str) -> set[str]:
        return {run["run_name"] for run in self.json("gc", "--dry-run", *arguments)["deleted"]}


def copied(template: Path, directory: Path) -> str:
    shutil.copyfile(template, directory / "mlflow.db")
    return f"sqlite:///{directory}/mlflow.db"


@pytest.fixture(scope="module")
def world(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("world")
        patch.chdir(directory)
        patch.setenv("COLUMNS", "160")  # so that no name is wrapped
        yield World(copied(sqlite_template, directory))


def test_runs_lists_what_mlflow_has(world: World) -> None:
    text = world.run("runs").stdout
    assert text.splitlines()[0].split() == ["RUN", "NAME", "EXPERIMENT", "STATUS", "STARTED", "TOOK", "val/loss"]
    assert len(text.splitlines()) == len(world.ids) + 1
    assert next(line for line in text.splitlines() if " better " in line).split()[-1] == "0.05"


def test_runs_are_searched_sorted_and_limited(world: World) -> None:
    def names(*arguments: str) -> list[str]:
        return [run["run_name"] for run in world.json("runs", *arguments)["runs"]]

    assert names("--order-by", "metrics.val/loss ASC", "--limit", "2") == ["better", "good"]
    assert names("--filter", "params.lr = '0.2'") == ["better"]
    assert names("--experiment", "other") == ["evil \x1b[31m"]
    assert world.run("runs", "--limit", "2").stdout.endswith("the first 2 runs; --limit shows more\n")
    assert world.run("runs", "--filter", "params.lr = 'none'").stdout.endswith("has no such run\n")
    shown = world.run("runs", "--filter", "params.lr = '0.2'", "--param", "lr", "--metric", "val/*").stdout
    assert shown.splitlines()[1].split()[-2:] == ["0.2", "0.05"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--filter", "metrics.x <<<"], 2, "Invalid clause"),
        (["--experiment", "othr"], 4, "did you mean 'other'"),
        (["--metric", "acc"], 4, "no metric fits 'acc'"),
    ],
)
def test_runs_says_what_is_wrong(world: World, arguments: list[str], code: int, said: str) -> None:
    result = world.run("runs", *arguments)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output


def test_compare_shows_what_differs_and_draws_it(world: World, tmp_path: Path) -> None:
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


def test_compare_leaves_system_metrics_out_unless_they_are_asked_for(world: World) -> None:
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


def test_a_name_cannot_steer_the_terminal(world: World) -> None:
    for arguments in (["runs"], ["compare", world.ids["evil \x1b[31m"]], ["gc", "--older-than", "1d", "--dry-run"]):
        shown = world.run(*arguments)
        assert "\x1b" not in shown.output
        assert r"evil \x1b[31m" in shown.output, shown.output
    unknown = world.run("compare", "no\x1b[31mbody")
    assert "\x1b" not in unknown.stderr


def test_a_dead_letters_name_cannot_steer_the_terminal(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking(sqlite_uri) as tracker, tracker.start_run(run_name="nasty \x1b[31m") as run:
        run.log({"bad\x1b]0;title\x07!": 1.0}, step=1)
    result = CliRunner().invoke(main, ["dead", "list"])
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "\x07" not in result.output
    assert r"bad\x1b]0;title\x07!" in result.output


def test_gc_takes_what_fits_everything_that_is_asked_for(world: World) -> None:
    assert world.going("--status", "FAILED,killed") == {"failed-old", "failed-new", "empty", "files"}
    assert world.going("--status", "FAILED", "--older-than", "30d") == {"failed-old"}
    assert world.going("--empty") == {"empty"}, "neither the one with a file nor the one that is running"
    assert world.going("--older-than", "3d", "--experiment", "other") == {"evil \x1b[31m"}
    assert world.going("--older-than", "365d") == set()


def test_gc_keeps_what_somebody_still_needs(world: World) -> None:
    kept = {run["run_name"]: run["why"] for run in world.json("gc", "--status", "FAILED", "--dry-run")["kept"]}
    assert kept["model"] == "it holds a registered model"
    assert kept["nested parent"] == f"run {world.ids['nested child'][:8]} is nested under it, and stays"
    together = world.going("--older-than", "12h", "--experiment", "Default")
    assert {"nested parent", "nested child"} <= together, "a parent may go with its children"
    assert "live" not in together


def test_gc_asks_and_refuses_where_nobody_answers(world: World) -> None:
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
    world = World(copied(sqlite_template, tmp_path))
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


def test_gc_keeps_a_run_to_which_something_is_on_its_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_clean_with_json_never_asks(tmp_path: Path, sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as tracker, tracker.start_run():
        pass
    result = CliRunner().invoke(main, ["clean", "--older-than", "0d", "--json"], input="y\n")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("looks", [1, 2, 3, 4])
def test_clean_passes_over_what_another_program_gives_back_meanwhile(
    looks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_RING_DIR", str(tmp_path / "rings"))
    going = tmp_path / "rings" / f"tailrace-{os.getuid()}-20000101-000000-abcdef"
    going.mkdir(parents=True, mode=0o700)
    os.utime(going, (1, 1))
    seen = []

    def is_private(directory: Path) -> bool:
        there = ownership.is_private(directory)
        seen.append(directory)
        if len(seen) == looks:
            shutil.rmtree(going, ignore_errors=True)
        return there

    for module in (_litter, session):
        monkeypatch.setattr(module, "is_private", is_private)
    result = CliRunner().invoke(main, ["clean", "--older-than", "0d", "--yes", "--json"])
    assert result.exit_code == 0, result.output
    assert seen[looks - 1] == going
    assert not going.exists()


def test_numbers_and_names_are_shown_for_people() -> None:
    assert [number(value) for value in (None, 3.0, 1_234_567.0, 0.123456789, 1e-9)] == [
        "-", "3", "1,234,567", "0.12346", "1e-09",
    ]  # fmt: skip
    assert visible("läuft, ok\nnext") == "läuft, ok\nnext"
    assert visible("\x1b[0m\x9b\u202e") == r"\x1b[0m\x9b\u202e"
