"""Which estimators have rounds, and what `fit` is called with so that they are logged."""

from __future__ import annotations

import pytest
from lightgbm import LGBMClassifier
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier, XGBRFClassifier

from tailrace import CallError
from tailrace.training.estimators.boosting_rounds import booster_of, check_early_stopping, round_logging
from tailrace.training.measures.input_data import checked_rows

ROWS = checked_rows([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1])


def test_a_booster_is_known_by_its_class() -> None:
    found = [booster_of(each) for each in (XGBClassifier(), LGBMClassifier(), DecisionTreeClassifier())]
    assert found == ["xgboost", "lightgbm", None]


def test_only_what_has_rounds_gets_arguments_for_them() -> None:
    for plain in (DecisionTreeClassifier(), XGBRFClassifier()):
        with round_logging(plain, ROWS, ROWS, lambda *_: None) as arguments:
            assert arguments == {}
    with round_logging(LGBMClassifier(), ROWS, ROWS, None) as arguments:
        assert arguments == {}, "nobody wants the rounds, and nothing stops by them"
    with round_logging(LGBMClassifier(early_stopping_round=2), ROWS, ROWS, None) as arguments:
        assert arguments["eval_names"] == ["val"]


def test_the_callback_is_gone_again_also_when_the_fit_fails() -> None:
    mine = [object()]
    model = XGBClassifier(callbacks=mine)

    def fail() -> None:
        with round_logging(model, ROWS, None, lambda *_: None):
            assert len(model.callbacks) == 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.callbacks is mine


def test_to_stop_early_without_rows_to_stop_by_is_an_error() -> None:
    check_early_stopping(XGBClassifier(early_stopping_rounds=2), ROWS)
    check_early_stopping(XGBClassifier(), None)
    for model in (XGBClassifier(early_stopping_rounds=2), LGBMClassifier(early_stopping_round=2)):
        with pytest.raises(CallError, match="=2, and no rows by which to stop"):
            check_early_stopping(model, None)
