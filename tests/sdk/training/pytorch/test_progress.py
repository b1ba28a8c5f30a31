"""Progress: a bar where one can be drawn, a line for each epoch elsewhere, and never an error."""

from __future__ import annotations

import io
import sys

import pytest

from tailrace.training.pytorch.progress import Progress


def shown(progress: Progress) -> None:
    progress.begin(1, 2)
    progress.step()
    progress.step()
    progress.end(1, {"train_loss": 0.51239, "val_loss": 0.6}, 1.25, best=True)


def test_elsewhere_it_is_one_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    shown(Progress(3, wanted=True))
    assert capsys.readouterr().err == ("tailrace: epoch 1/3  train_loss 0.5124  val_loss 0.6  1.2 s  (best so far)\n")


def test_on_a_terminal_it_is_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    shown(Progress(3, wanted=True))
    assert "epoch 1/3" in terminal.getvalue()
    assert "0/2" in terminal.getvalue()
    assert "train_loss 0.5124" in terminal.getvalue()


def test_nothing_is_shown_where_it_is_not_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    shown(Progress(3, wanted=False))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stderr", [None, io.StringIO()], ids=["none", "closed"])
def test_a_stderr_that_is_gone_stops_nothing(stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if stderr is not None:
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    shown(Progress(3, wanted=True))
