"""Checks of what is beyond the machine: MLflow, its store, and what waits for it."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from tailrace_agent.cli import _checks_store
from tailrace_agent.cli._app import App
from tailrace_agent.cli._checks_store import gpu, mlflow, sessions, store
from tailrace_agent.cli._views import RunView, SessionView
from tailrace_agent.errors import StateDirError
from tailrace_agent.hosts import process
from tailrace_agent.mlflow import answer_delay
from tailrace_agent.settings.settings import Settings
from tailrace_agent.sinks.base import Limits


@pytest.mark.parametrize(
    ("error", "mend"),
    [(PackageNotFoundError("mlflow"), "pip install mlflow"), (RuntimeError("half of it"), "pip install --upgrade")],
)
def test_an_mlflow_that_is_missing_or_broken_is_a_failure_with_the_command_that_mends_it(
    error: Exception, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mlflow().result == "ok"

    def fails(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", fails)
    found = mlflow()
    assert (found.result, mend in (found.mend or "")) == ("fail", True)


def test_a_store_that_is_not_there_yet_is_well_where_it_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(tracking_uri=f"sqlite:///{tmp_path}/new.db")
    assert (store(App(None), settings).result, (tmp_path / "new.db").exists()) == ("ok", False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = store(App(None), settings)
    assert (found.result, f"{tmp_path} is not writable" in found.text) == ("fail", True)


@pytest.mark.slow
def test_a_store_answers_or_is_named_with_what_to_do(sqlite_uri: str, tmp_path: Path) -> None:
    assert store(App(None), Settings(tracking_uri=sqlite_uri)).text.startswith(f"{sqlite_uri} answers and takes ")
    (tmp_path / "text.db").write_text("no database at all, though long enough to be looked at\n" * 100)
    for uri, mend in (
        ("http://ada:secret@127.0.0.1:9", "start the server"),
        (f"sqlite:///{tmp_path}/text.db", "choose another tracking URI"),
    ):
        found = store(App(None), Settings(tracking_uri=uri))
        assert (found.result, mend in (found.mend or ""), "secret" in found.text) == ("fail", True, False)


class _Answering:
    """A store without runs and without a bulk way."""

    limits = Limits()
    ahead = 0.0

    def find_runs(self, _: str) -> list[object]:
        return []

    def metrics_at_once(self, _: int) -> int:
        return self.limits.metrics

    def clock_ahead(self) -> float:
        return self.ahead


def test_a_clock_that_is_not_the_servers_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    answering = _Answering()
    answering.ahead = -300.0
    monkeypatch.setattr(process, "open_sink", lambda *_, **__: answering)
    monkeypatch.setattr(answer_delay, "answer_delay", lambda *_: None)
    check = store(App(None), Settings(tracking_uri="http://127.0.0.1:9"))
    assert (check.result, check.mend) == ("warn", "timedatectl set-ntp true")
    assert "clock is 5 min behind the server's" in check.text


def test_a_server_that_holds_answers_back_from_others_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "open_sink", lambda *_, **__: _Answering())
    for delay, said in ((0.0402, "waits 40 ms more for each answer"), (None, "")):
        monkeypatch.setattr(answer_delay, "answer_delay", lambda *_, delay=delay: delay)
        text = store(App(None), Settings(tracking_uri="http://127.0.0.1:9")).text
        assert (said in text, "workers" in text) == (True, bool(said))


def _view(state: str, pending: int = 0, dead: int = 0, **more: Any) -> SessionView:
    run = RunView(
        run="0" * 16, run_id=None, run_name=None, state="KILLED", store=None, url=None, accepted=9, delivered=0,
        pending=pending, dead=dead, dropped={}, lag=0.0, problem=None,
    )  # fmt: skip
    return SessionView(
        id=f"s-{state}", state=state, program="x", host="h", created=0.0, directory="/", runs=[run], **more
    )  # type: ignore[arg-type]


def test_what_waits_for_somebody_is_counted_and_another_hosts_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    views = [
        _view("leftover", 3),
        _view("leftover", 1),
        _view("live", 7),
        _view("elsewhere", 100),
        _view("finished", dead=2),
    ]
    monkeypatch.setattr(_checks_store, "look_at_all", lambda _: views)
    assert [(check.text, check.mend) for check in sessions(Settings())] == [
        ("2 sessions left over, 4 entries pending", "tailrace sync"),
        ("2 dead letters: refused by MLflow, and kept", "tailrace dead list"),
    ]


def test_a_session_that_cannot_be_read_is_named_with_its_own_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    views = [_view("unreadable", problem="it is no database", mend="chmod u+r it")]
    monkeypatch.setattr(_checks_store, "look_at_all", lambda _: views)
    (found,) = sessions(Settings())
    assert (found.result, found.text, found.mend) == ("warn", "s-unreadable: it is no database", "chmod u+r it")


def test_nothing_left_over_is_well_and_a_directory_that_cannot_be_read_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks_store, "look_at_all", lambda _: [_view("finished")])
    assert [(check.result, check.text) for check in sessions(Settings())] == [("ok", "1 session, nothing left over")]

    def fails(settings: Settings) -> None:
        raise StateDirError("not to be read")

    monkeypatch.setattr(_checks_store, "look_at_all", fails)
    assert [check.result for check in sessions(Settings())] == ["fail"]


def test_a_machine_without_a_gpu_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert (gpu().result, "none is needed" in gpu().text) == ("ok", True)
