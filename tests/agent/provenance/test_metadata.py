"""Run metadata: where a run comes from reaches MLflow, without a secret, and without being in anybody's way."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.kept_log import KeptLog
from helpers.repositories import git
from helpers.sdk_tools import Store, eventually, forget, named, script, tracking
from tailrace._runs.run_part import core_of
from tailrace_agent.delivery.deliver import Delivery
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_files import RunFiles
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.errors import RunGone, Unavailable
from tailrace_agent.ipc.records import End, Facts, RunSpec, Start
from tailrace_agent.provenance import metadata as metadata_module
from tailrace_agent.provenance.git import GitFacts, git_facts
from tailrace_agent.provenance.metadata import Metadata
from tailrace_agent.sinks.memory import MemorySink
from tailrace_agent.spool.store import Spool

# ── Gathered and sent ────────────────────────────────────────────────────────────────────────────────────────────────


class MetadataRig:
    """The agent's parts that have to do with metadata, with a clock that only the test moves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sink, self.now = folder, MemorySink(), 1000.0
        self.spool = Spool(folder / "spool.db")
        self.staging = folder / "artifacts"
        self.staging.mkdir()
        self.restart()

    def restart(self) -> None:
        """An agent was killed: another one goes on with what is on the disk."""
        self.book = RunBook(self.spool.runs(), self.spool.save_run)
        more: Any = {"retry_max_delay": 30.0, "log": KeptLog(), "monotonic": lambda: self.now}
        self.metadata = Metadata(self.book, self.staging, "here", KeptLog())
        self.delivery = Delivery(None, self.spool, self.book, lambda: self.sink, flush_interval=0.5, **more)
        self.files = RunFiles(self.delivery, self.book, self.staging, **more)
        self.book.waiters.set_barriers(self.spool.waiting.last_id())

    def start(self, **spec: Any) -> None:
        facts = Facts(command=["python", "x.py"], script=None, executable="", python="3.11.7", pid=7, host="here")
        spec = {"run": 1, "start_time": 5, "cwd": str(self.folder), "facts": facts, **spec}
        self.spool.save_run(spec["run"], self.book.start(Start(RunSpec(**spec)), "ring"))

    def deliver(self) -> None:
        for _ in range(2000):
            wait = min(self.delivery.step(self.now), self.files.step(self.now)) - self.now
            if wait > 600:
                return
            self.now += max(0.0, wait)
        pytest.fail("it does not come to rest")

    def end(self) -> None:
        state = self.book.end(End(1, "FINISHED", 6))
        assert state is not None
        self.spool.save_run(1, state)
        self.book.waiters.set_barriers(self.spool.waiting.last_id())

    @property
    def state(self) -> RunState:
        state = self.book.get(1)
        assert state is not None
        return state

    @property
    def stored(self) -> Any:
        return next(iter(self.sink.runs.values()))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[MetadataRig]:
    rig = MetadataRig(tmp_path)
    yield rig
    rig.spool.close()


def test_a_run_is_closed_after_its_metadata(rig: MetadataRig) -> None:
    rig.start()
    rig.end()
    for _ in range(4):  # for a moment it waits, to be created with what is gathered
        rig.now = rig.delivery.step(rig.now)
    assert (rig.state.closed, rig.stored.status) == (False, "RUNNING")
    rig.metadata.step(rig.now)
    seen: list[str] = []
    rig.sink.fail = seen.append
    rig.deliver()
    assert rig.stored.status == "FINISHED"
    assert seen[-1] == "end_run"
    assert "environment/environment.json" in rig.stored.artifacts


def test_a_run_waits_some_seconds_for_its_metadata_and_is_finalized_when_it_is_there(rig: MetadataRig) -> None:
    rig.start()
    rig.end()
    rig.deliver()
    assert rig.now <= 1007.0
    assert (rig.state.closed, rig.state.finalized, rig.stored.status) == (True, False, "FINISHED")
    assert rig.metadata.step(rig.now) == rig.now
    assert rig.metadata.step(rig.now) > rig.now
    rig.deliver()
    assert rig.state.finalized
    assert rig.stored.tags["tailrace.command"] == "python x.py"
    assert rig.stored.tags["tailrace.host"] == "here"
    assert {"environment/environment.json", "environment/requirements.txt"} <= set(rig.stored.artifacts)
    assert list(rig.staging.iterdir()) == []


def test_an_agent_that_is_killed_leaves_the_metadata_to_the_next(rig: MetadataRig) -> None:
    rig.start()
    rig.restart()  # before anything was gathered
    rig.metadata.step(rig.now)
    rig.restart()  # gathered, and not sent
    rig.deliver()
    assert rig.stored.tags["tailrace.python"] == "3.11.7"
    assert "environment/environment.json" in rig.stored.artifacts
    before = dict(rig.stored.artifacts)
    rig.restart()  # all done: nothing is sent twice
    assert rig.metadata.step(rig.now) > rig.now
    rig.deliver()
    assert rig.stored.artifacts == before


@pytest.mark.parametrize("error", [Unavailable("no credentials for the bucket"), RunGone("deleted")])
def test_an_artifact_store_that_never_answers_does_not_keep_the_run_open(rig: MetadataRig, error: Exception) -> None:
    def fail(name: str) -> None:
        if name == "log_artifacts":
            raise error

    rig.sink.fail = fail
    rig.start()
    rig.metadata.step(rig.now)
    rig.end()
    rig.deliver()
    assert rig.state.finalized
    assert rig.stored.tags["tailrace.host"] == "here"
    assert rig.stored.artifacts == {}


def test_a_server_that_is_away_gets_the_metadata_later(rig: MetadataRig) -> None:
    failures = iter(range(8))

    def fail(name: str) -> None:
        if name == "log_batch" and next(failures, None) is not None:
            raise Unavailable("away")

    rig.sink.fail = fail
    rig.start()
    rig.metadata.step(rig.now)
    rig.deliver()
    assert "environment/environment.json" in rig.stored.artifacts


def test_on_another_machine_only_what_the_program_said_is_stored(rig: MetadataRig, repository: Path) -> None:
    facts = Facts(command=["x"], script=None, executable="", python="3.11.7", pid=7, host="elsewhere")
    rig.start(facts=facts, cwd=str(repository))
    rig.metadata.step(rig.now)
    rig.deliver()
    assert rig.stored.tags["tailrace.host"] == "elsewhere"
    assert "mlflow.source.git.commit" not in rig.stored.tags
    assert list(rig.stored.artifacts) == ["environment/environment.json"]


@pytest.mark.parametrize("script", [".venv/bin/torchrun", ".venv/lib/python3.11/site-packages/lib/__main__.py"])
def test_a_command_of_an_environment_in_another_repository_is_not_of_that(
    rig: MetadataRig, repository: Path, script: str
) -> None:
    (repository / script).parent.mkdir(parents=True)
    facts = Facts(
        command=["x"],
        script=str(repository / script),
        executable=str(repository / ".venv/bin/python"),
        python="3.11.7",
        pid=7,
        host="here",
    )
    rig.start(facts=facts)  # where there is no repository
    rig.metadata.step(rig.now)
    rig.deliver()
    assert "mlflow.source.git.commit" not in rig.stored.tags


def test_a_ci_job_says_which_branch_it_builds(rig: MetadataRig, repository: Path) -> None:
    job = {"GITHUB_SHA": "f" * 40, "GITHUB_REF_NAME": "7/merge", "GITHUB_HEAD_REF": "feature"}
    facts = Facts(command=["x"], script=None, executable="", python="3.11.7", pid=7, host="here", environment=job)
    git(repository, "checkout", "-q", "--detach")
    rig.start(facts=facts, cwd=str(repository))
    rig.start(run=2, facts=facts)  # where there is no repository
    rig.metadata.step(rig.now)
    rig.metadata.step(rig.now)
    rig.deliver()
    tags = {key: run.tags["mlflow.source.git.commit"] for key, run in rig.sink.runs.items()}
    assert sorted(tags.values()) == sorted([git(repository, "rev-parse", "HEAD"), "f" * 40])
    assert {run.tags["mlflow.source.git.branch"] for run in rig.sink.runs.values()} == {"feature"}


def test_runs_share_a_look_at_git_that_was_taken_after_they_had_begun_and_those_of_another_process_do_not(
    rig: MetadataRig, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = list[Path]()

    def look(directory: Path, *, diff: bool) -> GitFacts | None:
        looked.append(directory)
        return git_facts(directory, diff=diff)

    monkeypatch.setattr(metadata_module, "git_facts", look)

    def begin(run: int, pid: int) -> None:
        facts = Facts(command=["x"], script=None, executable="", python="3.11.7", pid=pid, host="here")
        rig.start(run=run, facts=facts, cwd=str(repository), start_time=time.time_ns() // 1_000_000)

    def commit_of(run: int) -> str:
        state = rig.book.get(run)
        assert state is not None
        assert state.description is not None
        return state.description.tags["mlflow.source.git.commit"]

    def gather() -> None:
        time.sleep(0.002)  # the clock of starts has milliseconds
        while rig.metadata.step(rig.now) == rig.now:
            pass

    first = git(repository, "rev-parse", "HEAD")
    for run in (1, 2, 3):
        begin(run, pid=7)
    begin(4, pid=8)
    gather()
    assert {commit_of(run) for run in (1, 2, 3, 4)} == {first}
    assert len(looked) == 2
    git(repository, "commit", "-q", "--allow-empty", "-m", "what the next run tries")
    begin(5, pid=7)
    gather()
    assert commit_of(5) == git(repository, "rev-parse", "HEAD") != first


def test_configuration_files_are_copied_without_their_secrets(rig: MetadataRig, tmp_path: Path) -> None:
    files = [tmp_path / "tailrace.toml", tmp_path / "one" / "config.yaml", tmp_path / "two" / "config.yaml"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"path: {file.parent.name}\ndb_password: geheim7\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge.yaml").write_text("x: 1\n" * 300_000)
    left_out = [tmp_path / "binary.yaml", tmp_path / "huge.yaml", tmp_path / "gone.yaml", tmp_path]
    facts = Facts(
        command=["x"],
        script=None,
        executable="",
        python="3.11.7",
        pid=7,
        host="here",
        config_files=[str(path) for path in [*files, *left_out]],
    )
    rig.start(facts=facts)
    rig.metadata.step(rig.now)
    rig.deliver()
    copied = {name: data for name, data in rig.stored.artifacts.items() if name.endswith(("yaml", "toml"))}
    assert set(copied) == {f"environment/{name}" for name in ("tailrace.toml", "config.yaml", "two-config.yaml")}
    assert copied["environment/two-config.yaml"] == b"path: two\ndb_password: ***\n"


def test_what_cannot_be_gathered_does_not_keep_the_run_open(rig: MetadataRig) -> None:
    rig.staging.rmdir()
    rig.start()
    rig.metadata.step(rig.now)
    rig.end()
    rig.deliver()
    assert rig.state.finalized


# ── As a user sees it ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_run_says_where_it_comes_from_and_no_secret(
    store_uri: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--lr", "0.1", "--password", "geheim7"])
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("WANDB_API_KEY", "geheim7")
    (repository / "tailrace.toml").write_text('experiment_name = "metadata"\n# old: token = geheim7\n')
    (repository / "src" / "model.py").write_text("LAYERS = 3\n")
    with tracking(store_uri, metadata=True, git_diff=True) as sdk:
        with sdk.start_run(tags={"tailrace.host": "mine"}) as run:
            sdk.log(step=0, loss=0.5)
            with sdk.start_run(nested=True, git_diff=True) as child:
                pass
        with sdk.start_run(run_id=run.run_id) as resumed:
            pass
        assert core_of(resumed).spec.facts is None
    store, nested = Store(store_uri, run), Store(store_uri, child)
    for tags in (store.tags, nested.tags):
        assert tags["mlflow.source.git.commit"] == git(repository, "rev-parse", "HEAD")
        assert tags["mlflow.source.git.branch"] == "trunk"
        assert (tags["tailrace.git.dirty"], tags["tailrace.python"]) == ("true", sys.version.split()[0])
        assert tags["tailrace.command"] == "python train.py --lr 0.1 --password ***"
    assert store.tags["tailrace.host"] == "mine"
    assert store.artifacts() == [
        "environment/environment.json",
        "environment/git.diff",
        "environment/requirements.txt",
        "environment/tailrace.toml",
    ]
    assert nested.artifacts() == []
    assert (run.ledger().accepted, set(run.ledger().kinds)) == (1, {"metric"})
    files = {name: Path(store.client.download_artifacts(run.run_id, name)).read_text() for name in store.artifacts()}
    about = json.loads(files["environment/environment.json"])
    assert (about["directory"], about["environment"]["SLURM_JOB_ID"]) == (str(repository), "42")
    assert about["git"]["root"] == str(repository)
    assert about["config_files"] == [str(repository / "tailrace.toml")]
    assert "+LAYERS = 3" in files["environment/git.diff"]
    assert "token = ***" in files["environment/tailrace.toml"]
    kept = [path for path in (tmp_path / "tailrace").rglob("*") if path.is_file()]
    assert kept
    assert [path for path in kept if b"geheim7" in path.read_bytes()] == []
    assert "geheim7" not in "".join([*files.values(), *store.tags.values()])


@pytest.mark.slow
def test_a_run_whose_program_is_killed_says_where_it_comes_from(
    sqlite_uri: str, repository: Path, tmp_path: Path
) -> None:
    code = f"""
    import os, signal
    import tailrace as sdk

    os.chdir({str(repository)!r})
    sdk.start_run(tracking_uri={sqlite_uri!r}, run_name="killed", metadata=True, quiet=True)
    sdk.log(step=0, loss=0.5)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    script(tmp_path, code, check=False)
    forget(tmp_path)
    store = eventually(lambda: named(sqlite_uri, "killed"))
    assert store.status == "KILLED"
    assert store.tags["tailrace.command"].endswith("train.py")
    assert store.tags["mlflow.source.git.commit"] == git(repository, "rev-parse", "HEAD")
    assert "environment/requirements.txt" in store.artifacts()
