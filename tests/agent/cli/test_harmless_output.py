"""Foreign text on a terminal: names of runs and programs, problems, paths. It is shown, and steers nothing."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.text import Text

from helpers.sdk_tools import tracking
from helpers.stored_runs import AllKinds
from tailrace import reports
from tailrace_agent.cli import _app, _progress, main
from tailrace_agent.cli._deliver import Tick
from tailrace_agent.cli._progress import Progress
from tailrace_agent.errors import CallError

NASTY = "\x1b]0;pwned\x07bad [/nope] run"
SHOWN = "x1b]0;pwned\\x07bad [/nope] run"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    stream = _Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_a_bar_shows_names_and_notes_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _terminal(monkeypatch)
    with Progress() as progress:
        progress.begin(NASTY)
        assert progress.name == NASTY
        progress.tick(Tick(1, 2, note=f"note {NASTY}"))
        progress._bar.refresh()
        progress.tick(Tick(1, 2, problem=f"problem {NASTY}"))
    shown = terminal.getvalue()
    assert "\x1b]0;" not in shown
    assert shown.count(SHOWN) >= 3


def test_lines_in_place_of_a_bar_show_names_and_problems_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "_LINE_EVERY", 0.0)
    with Progress() as progress:
        progress.begin(NASTY)
        progress.tick(Tick(1, 2, problem=NASTY))
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert shown.count(SHOWN) == 2


def test_a_styled_text_steers_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _terminal(monkeypatch)
    _app.console().print(Text("program ", style="bold").append(NASTY))
    assert "\x1b]0;" not in terminal.getvalue()
    assert "x1b]0;pwned" in terminal.getvalue()


def test_an_imports_lines_and_errors_steer_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def imported(*_: Any, **__: Any) -> list[reports.ImportedRun]:
        return [reports.ImportedRun(NASTY, "0f", True, Path(NASTY))]

    def refused(*_: Any, **__: Any) -> None:
        raise CallError(f"the report in {NASTY} cannot be read")

    monkeypatch.setattr(reports, "import_reports", imported)
    assert reports._main(["x"]) == 0
    monkeypatch.setattr(reports, "import_reports", refused)
    assert reports._main(["x"]) == 1
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert (shown.out.count(SHOWN), shown.err.count(SHOWN)) == (2, 1)


def test_a_name_cannot_steer_the_terminal(world: AllKinds) -> None:
    for arguments in (["runs"], ["compare", world.ids["evil \x1b[31m"]], ["gc", "--older-than", "1d", "--dry-run"]):
        shown = world.run(*arguments)
        assert "\x1b" not in shown.output
        assert r"evil \x1b[31m" in shown.output, shown.output
    unknown = world.run("compare", "no\x1b[31mbody")
    assert "\x1b" not in unknown.stderr


def test_a_dead_letters_name_cannot_steer_the_terminal(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking(sqlite_uri) as tracker, tracker.start_run(run_name="nasty \x1b[31m") as run:
        for value in (1, 2):  # MLflow refuses the second one
            run.log_param("bad\x1b]0;title\x07!", value)
    result = CliRunner().invoke(main, ["dead", "list"])
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "\x07" not in result.output
    assert r"bad\x1b]0;title\x07!" in result.output
