"""What a search has come to, as it is shown."""

from __future__ import annotations

import optuna

from tailrace.hpo import HpoResult, OptunaRunner


def test_a_result_is_short_where_nothing_was_completed() -> None:
    study = optuna.create_study(study_name="empty")
    result = HpoResult(
        study=study, metric="acc", best_value=None, best_params={}, best_trial_number=None,
        counts=OptunaRunner("empty").counts(), parent_run_id=None,
    )  # fmt: skip
    assert repr(result) == "<HpoResult 'empty': 0 trials, 0 completed, 0 pruned, 0 failed; none completed>"
