"""The links that `tailrace ui` gives, and a browser to open one in."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from helpers.stored_runs import AllKinds
from tailrace_agent.cli import _looking, main
from tailrace_agent.cli._looking import Links, links_of
from tailrace_agent.settings.settings import Settings

_KIND = "?workflowType=machine_learning"


def test_a_browser_is_opened_on_a_terminal_with_a_display(monkeypatch: pytest.MonkeyPatch, mlflow_server: str) -> None:
    opened: list[str] = []
    monkeypatch.setattr(_looking.webbrowser, "open", lambda link: opened.append(link) or True)
    monkeypatch.setenv("DISPLAY", ":0")
    asked = ["ui", "--tracking-uri", mlflow_server]
    CliRunner().invoke(main, asked)
    assert opened == [], "no terminal"
    monkeypatch.setattr(_looking, "can_browse", lambda: True)
    CliRunner().invoke(main, asked)
    assert len(opened) == 1
    assert opened[0].endswith(_KIND)
    CliRunner().invoke(main, [*asked, "--no-browser"])
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("variables", "may"),
    [
        ({}, sys.platform == "darwin"),
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "1.2.3.4 5 6.7.8.9 22"}, False),
        ({"BROWSER": "code --open", "SSH_CONNECTION": "1.2.3.4 5 6.7.8.9 22"}, True),
    ],
)
def test_where_a_browser_may_be_opened(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], may: bool) -> None:
    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    for name in ("BROWSER", "DISPLAY", "SSH_CONNECTION", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_looking.sys, "stdout", Terminal)
    assert _looking.can_browse() == may


def test_the_runs_to_look_at_are_those_of_the_experiment_that_is_set_else_of_the_newest_run(
    world: AllKinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(**settings: str) -> str | None:
        return links_of(world.uri, "http://127.0.0.1:5000", Settings(**settings)).name

    begun_last = ("failed-new", "nested child")
    assert shown() in begun_last, "in any experiment"
    assert shown(experiment_name="other") == "evil \x1b[31m"
    assert shown(experiment_name="of another store") in begun_last
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", world.other)
    assert shown() == "evil \x1b[31m"
    assert shown(experiment_name="Default") in begun_last
    links = links_of(world.uri, "http://127.0.0.1:5000", Settings())
    run_id = world.ids["evil \x1b[31m"]
    assert links.newest == f"http://127.0.0.1:5000/#/experiments/{world.other}/runs/{run_id}{_KIND}"


def test_a_store_without_runs_shows_its_default_experiment(sqlite_uri: str) -> None:
    assert links_of(sqlite_uri, "http://h:1", Settings()) == Links(f"http://h:1/#/experiments/0{_KIND}", None, None)


def test_a_browser_that_cannot_be_started_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(link: str) -> bool:
        raise _looking.webbrowser.Error("none runs here")

    monkeypatch.setattr(_looking.webbrowser, "open", broken)
    assert _looking.open_browser("http://h") is False


def test_no_browser_is_opened_for_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert _looking.can_browse() is False
