from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from tailrace.hpo.journal import Journal


def test_a_journal_is_optunas_own(tmp_path: Path) -> None:
    path = str(tmp_path / "study.journal")
    ours = optuna.create_study(study_name="s", storage=optuna.storages.JournalStorage(Journal(path)))
    ours.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    theirs = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    assert len(optuna.load_study(study_name="s", storage=theirs).trials) == 3


@pytest.mark.parametrize(("replaced", "reason"), [(False, "No such file"), (True, "replaced by another one")])
def test_one_that_is_removed_or_replaced_on_the_way_is_neither_begun_anew_nor_read_on(
    tmp_path: Path, replaced: bool, reason: str
) -> None:
    path = tmp_path / "study.journal"
    storage = optuna.storages.JournalStorage(Journal(str(path)))
    study = optuna.create_study(study_name="s", storage=storage)
    if replaced:
        (tmp_path / "other").touch()
        (tmp_path / "other").replace(path)
    else:
        path.unlink()
    with pytest.raises(OSError, match=reason):
        study.ask()
    assert path.exists() == replaced
    if replaced:
        assert path.read_bytes() == b""
