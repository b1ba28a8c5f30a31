"""What a training has come to."""

from __future__ import annotations

import copy
import pickle

import pytest

from tailrace.training import TrainingResult

RESULT = TrainingResult(run_id="0f6a", metrics={"best_val_loss": 0.123456, "best_epoch": 7})


def test_it_is_a_mapping_of_its_metrics() -> None:
    assert RESULT["best_val_loss"] == 0.123456
    assert dict(RESULT) == {"best_val_loss": 0.123456, "best_epoch": 7}
    assert len(RESULT) == 2
    assert RESULT.get("best_val_accuracy") is None


def test_a_metric_that_it_has_not_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(KeyError, match="did you mean 'best_val_loss'"):
        RESULT["best_val_los"]
    with pytest.raises(KeyError, match="there are best_epoch, best_val_loss"):
        RESULT["xyz"]


def test_it_shows_itself_in_one_line() -> None:
    assert repr(RESULT) == "TrainingResult(run_id='0f6a', best_val_loss=0.1235, best_epoch=7)"
    failed = TrainingResult(success=False, error="the loss is nan")
    assert repr(failed) == "TrainingResult(run_id=None, error='the loss is nan')"


def test_the_id_of_a_run_is_asked_for_when_it_is_read_and_once() -> None:
    asked: list[str] = []

    def later() -> str:
        asked.append("0f6a")
        return "0f6a"

    result = TrainingResult(run_id=later, metrics={"best_epoch": 7})
    assert repr(result) == "TrainingResult(best_epoch=7)"
    assert result["best_epoch"] == 7
    assert asked == []
    assert (result.run_id, result.run_id) == ("0f6a", "0f6a")
    assert asked == ["0f6a"]
    assert repr(result) == "TrainingResult(run_id='0f6a', best_epoch=7)"


def test_it_is_passed_to_another_process_with_the_id_that_it_has() -> None:
    result = TrainingResult(run_id=lambda: "0f6a", metrics={"best_epoch": 7})
    assert pickle.loads(pickle.dumps(result)) == result
    assert copy.deepcopy(result).run_id == "0f6a"
