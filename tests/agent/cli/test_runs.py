"""`tailrace runs`, and which run of this machine a person means."""

from __future__ import annotations

import msgspec
import pytest

from helpers.left_sessions import spooled_session
from helpers.stored_runs import AllKinds
from tailrace_agent.cli._app import Fail
from tailrace_agent.cli._move import Moved
from tailrace_agent.cli._runs import LocalRun, delivered_keys, find_local, known_runs, meant
from tailrace_agent.cli._views import RunView
from tailrace_agent.ipc import status
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ipc.session import Session
from tailrace_agent.reading.reader import Choose
from tailrace_agent.settings.sources import load_settings
from tailrace_agent.spool.blocks import Outcome
from tailrace_agent.spool.store import Spool


def test_runs_lists_what_mlflow_has(world: AllKinds) -> None:
    text = world.run("runs").stdout
    assert text.splitlines()[0].split() == ["RUN", "NAME", "EXPERIMENT", "STATUS", "STARTED", "TOOK", "val/loss"]
    assert len(text.splitlines()) == len(world.ids) + 1
    assert next(line for line in text.splitlines() if " better " in line).split()[-1] == "0.05"


def test_runs_are_searched_sorted_and_limited(world: AllKinds) -> None:
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
def test_runs_says_what_is_wrong(world: AllKinds, arguments: list[str], code: int, said: str) -> None:
    result = world.run("runs", *arguments)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output


def _local(session: Session, run: str, name: str | None, started: float, run_id: str | None = None) -> LocalRun:
    view = RunView(
        run=run, run_id=run_id, run_name=name, state="FINISHED", store="http://a:1", url=None, accepted=1, delivered=1,
        pending=0, dead=0, dropped={}, lag=0.0, problem=None, started=started,
    )  # fmt: skip
    return LocalRun(session, view)


@pytest.fixture
def known() -> list[LocalRun]:
    session = spooled_session()
    return [
        _local(session, "a1" * 8, "base", 100),
        _local(session, "a2" * 8, "base", 200),
        _local(session, "b3" * 8, "wide", 300),
        _local(session, "c4" * 8, "a1" * 8, 400),
    ]


def _meant(text: str, known: list[LocalRun], choose: Choose | None = None) -> list[str]:
    return [entry.run.run[:2] for entry in meant(load_settings(), text, known, lambda entry: entry, choose)]


def test_a_run_is_meant_by_the_surest_way_in_which_any_fits(known: list[LocalRun]) -> None:
    assert _meant("A1" * 8, known) == ["a1"], "a whole id before a name that reads the same"
    assert _meant("wide", known) == ["b3"]
    assert _meant("b3", known) == ["b3"], "the beginning of an id"
    assert _meant("nosuch", known) == _meant("", known) == []


def test_of_two_runs_with_one_name_the_newest_is_meant_where_somebody_only_looks(known: list[LocalRun]) -> None:
    chosen: list[tuple[str, str]] = []
    assert _meant("base", known, lambda *which: chosen.append(which)) == ["a2"]
    assert [run for _, run in chosen] == ["a2" * 8]
    with pytest.raises(Fail, match="'base' fits 2 runs of"):
        _meant("base", known)


def test_a_beginning_that_fits_two_runs_is_an_error_for_everybody(known: list[LocalRun]) -> None:
    with pytest.raises(Fail, match="'a' fits 2 runs of"):
        _meant("a", known, lambda *_: None)


def test_two_sessions_that_log_to_one_run_are_one_run(known: list[LocalRun]) -> None:
    both = [entry._replace(run=msgspec.structs.replace(entry.run, run_id="f" * 32)) for entry in known[:2]]
    assert [entry.run.run[:2] for entry in find_local(load_settings(), both, "a1" * 8, None)] == ["a1", "a2"]


def test_a_run_is_looked_for_in_the_store_that_is_named(known: list[LocalRun]) -> None:
    assert len(find_local(load_settings(), known, "wide", None, uri="http://ada:pw@A:1/")) == 1
    assert find_local(load_settings(), known, "wide", None, uri="http://b:1") == []


def test_what_an_earlier_store_took_is_not_expected_of_the_new_one() -> None:
    session = spooled_session()
    spool = Spool(session.dir / "spool.db")
    spool.settle(Outcome(7, "metric", [], 0, keys=[("loss", 10), ("acc", 4)]))
    spool.close()
    entry = known_runs(load_settings())[0]
    assert delivered_keys(entry) == {"loss": 10, "acc": 4}
    note = Moved(store="http://a:1", run_id=None, keys={"loss": 7, "acc": 4})
    status.write(session.dir / f"moved-{run_hex(7)}.json", note)
    assert delivered_keys(entry) == {"loss": 3}
