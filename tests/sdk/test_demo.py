"""The demo: its batches, its learning rate, and what is seen of it."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest

from tailrace import demo
from tailrace.demo import _batches, _cosine, _Shown


def test_an_epoch_holds_each_row_once_at_most_and_only_its_last_batch_ends_it() -> None:
    batches = list(_batches(100, 7))
    assert len(batches) == 7
    assert {len(rows) for rows, _ in batches} == {32}
    assert [ends for _, ends in batches] == [False, False, True, False, False, True, False]
    first = np.concatenate([rows for rows, _ in batches[:3]])
    assert len(set(first.tolist())) == 96
    assert not np.array_equal(batches[0][0], batches[3][0]), "shuffled anew"


def test_the_learning_rate_falls_to_a_twentieth() -> None:
    rates = [_cosine(step, 100) for step in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(rates[0] / 20)


def test_elsewhere_than_on_a_terminal_a_few_lines_show_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with _Shown(1000) as shown:
        for step in range(1000):
            shown.step(step, 0.5, 0.9)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 8
    assert said[-1] == "step 1,000 of 1,000: loss 0.500, accuracy 90%"


def test_ctrl_c_ends_the_training_at_the_next_step_and_is_handed_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _Shown(1000) as shown:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            shown.step(0, 0.5, 0.9)
    assert signal.getsignal(signal.SIGINT) is before


def test_no_steps_are_an_error_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--steps", "0"])
    with pytest.raises(SystemExit, match="2"):
        demo.main()
    assert "--steps must be at least 1" in capsys.readouterr().err


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo"])
    monkeypatch.setitem(sys.modules, "sklearn", None)  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match="the demo needs scikit-learn: pip install scikit-learn"):
        demo.main()
