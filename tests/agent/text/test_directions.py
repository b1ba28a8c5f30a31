"""The name of a metric says in which direction it gets better, or that nobody knows."""

from __future__ import annotations

import pytest
from sklearn.metrics import get_scorer_names

from tailrace_agent.text.directions import direction_by_name

_SMALLER = [
    "val_loss",
    "train/loss_step",
    "val/logloss_round",
    "val_rmse",
    "train_mae",
    "val_mape",
    "val_smape",
    "val_msle",
    "val/rmsle_round",
    "error_rate",
    "brier_score",
    "val/multi_error_round",
    "log_loss",
    "perplexity",
    "val_nll",
    "wer",
    "cross_entropy",
    "mean_absolute_error",
    "fid",
    "f1_loss",
    "neg_log_likelihood",
    "val/l2_round",
    "val/mlogloss_round",
    "hamming_loss",
    "val_ece",
    "max_error",
]
_LARGER = [
    "val_accuracy",
    "val_acc",
    "train/accuracy_step",
    "val_f1_macro",
    "val_f1_0",
    "val_auroc",
    "auc",
    "val/aucpr_round",
    "val_top5",
    "top2",
    "r2",
    "val_map",
    "map50",
    "mAP",
    "val_mcc",
    "cohen_kappa",
    "dice",
    "mean_iou",
    "mIoU",
    "ndcg@10",
    "bleu",
    "psnr",
    "neg_log_loss",
    "score",
    "balanced_accuracy",
    "val_top_5",
    "matthews_corrcoef",
    "explained_variance",
    "log_likelihood",
    "reward",
    "precision_macro",
    "val/auc_round",
    "specificity",
]


@pytest.mark.parametrize("name", _SMALLER)
def test_an_error_is_better_when_smaller(name: str) -> None:
    assert direction_by_name(name) == "minimize"


@pytest.mark.parametrize("name", _LARGER)
def test_a_score_is_better_when_larger(name: str) -> None:
    assert direction_by_name(name) == "maximize"


@pytest.mark.parametrize("name", ["bias", "value", "val_parameters", "step", "mapped", "accumulated", "", "topology"])
def test_what_no_word_speaks_of_is_not_guessed(name: str) -> None:
    assert direction_by_name(name) is None


def test_no_scorer_of_scikit_learn_is_taken_the_wrong_way() -> None:
    """All of them are better when larger."""
    assert {direction_by_name(name) for name in get_scorer_names()} <= {"maximize", None}
