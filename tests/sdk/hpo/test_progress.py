"""How far a search is: a line for each trial, or a bar."""

from __future__ import annotations

import io

import optuna

from tailrace.hpo.progress import Progress


class Terminal(io.StringIO):
    """A stream that is one."""

    def isatty(self) -> bool:
        return True


def _add(study: optuna.Study, state: str, value: float | None = None) -> None:
    study.add_trial(optuna.create_trial(state=optuna.trial.TrialState[state], value=value))


def test_each_trial_that_has_ended_since_is_a_line_once() -> None:
    study = optuna.create_study(direction="maximize")
    _add(study, "COMPLETE", 9.0)
    out = io.StringIO()
    progress = Progress(study, "acc", 5, out)
    _add(study, "COMPLETE", 0.5)
    study.ask()
    progress.show()
    progress.show()
    _add(study, "PRUNED")
    progress.say("a worker was killed")
    progress.close()
    assert out.getvalue().splitlines() == [
        "trial 1: COMPLETE acc 0.5 (best 9, trial 0)",
        "a worker was killed",
        "trial 3: PRUNED (best 9, trial 0)",
    ]


def test_on_a_terminal_there_is_a_bar() -> None:
    study = optuna.create_study(direction="maximize")
    out = Terminal()
    progress = Progress(study, "acc", 2, out)
    _add(study, "COMPLETE", 0.5)
    progress.show()
    progress.say("a worker was killed")
    progress.close()
    assert "1/2" in out.getvalue()
    assert "best acc 0.5, trial 0" in out.getvalue()
    assert "a worker was killed" in out.getvalue()
