"""Metrics over a pass: those of torchmetrics, functions, and the accuracy that needs nobody's word."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor
from torchmetrics import ConfusionMatrix, MeanAbsoluteError, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from helpers.training import CLASSES
from tailrace import CallError
from tailrace.training.pytorch.scores import NAMED, Scores, mode_of, score_names

OUTPUTS = torch.randn(30, CLASSES, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(CLASSES, (30,), generator=torch.Generator().manual_seed(2))


def alone(values: Tensor) -> Tensor:
    return values


def passed(scores: Scores, outputs: Tensor = OUTPUTS, targets: Tensor = TARGETS) -> dict[str, float]:
    for batch in range(0, len(outputs), 8):  # the last batch is smaller
        scores.update(outputs[batch : batch + 8], targets[batch : batch + 8])
    return scores.compute()


def test_without_a_word_it_is_the_accuracy_where_targets_are_classes() -> None:
    found = passed(Scores(None, alone))
    assert found == {"accuracy": pytest.approx(accuracy_score(TARGETS, OUTPUTS.argmax(1)))}
    assert passed(Scores(None, alone), torch.zeros(30), torch.ones(30)) == {}


def test_names_are_torchmetrics_over_the_whole_pass() -> None:
    found = passed(Scores(["accuracy", "f1_macro"], alone))
    guesses = OUTPUTS.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(TARGETS, guesses), abs=1e-6)
    assert found["f1_macro"] == pytest.approx(f1_score(TARGETS, guesses, average="macro"), abs=1e-6)


@pytest.mark.parametrize("name", [name for name, (path, _) in NAMED.items() if "{}" in path])
def test_each_name_of_a_classification_is_computed_for_two_classes_and_for_more(name: str) -> None:
    assert 0 <= passed(Scores([name], alone))[name] <= 1
    assert 0 <= passed(Scores([name], alone), OUTPUTS[:, 0], (TARGETS > 0).int())[name] <= 1


@pytest.mark.parametrize("name", [name for name, (path, _) in NAMED.items() if "{}" not in path])
def test_each_name_of_a_regression_is_computed(name: str) -> None:
    targets = torch.linspace(0, 1, 30)
    assert passed(Scores([name], alone), targets + 0.1, targets)[name] == pytest.approx(
        {"mae": 0.1, "mse": 0.01, "rmse": 0.1, "r2": 0.888}[name], abs=1e-3
    )


def test_functions_are_averaged_over_the_samples_of_all_processes() -> None:
    scores = Scores({"first": lambda outputs, targets: outputs[:, 0].mean()}, lambda values: values * 2)
    assert passed(scores)["first"] == pytest.approx(float(OUTPUTS[:, 0].mean()), abs=1e-6)


def test_each_pass_begins_anew_and_a_metric_that_is_shared_is_copied() -> None:
    metric = MulticlassAccuracy(CLASSES, average="micro")
    train, val = Scores({"acc": metric}, alone), Scores({"acc": metric}, alone)
    train.update(OUTPUTS, OUTPUTS.argmax(1))
    assert passed(val)["acc"] == pytest.approx(accuracy_score(TARGETS, OUTPUTS.argmax(1)), abs=1e-6)
    assert train.compute()["acc"] == 1.0
    assert passed(train)["acc"] < 1.0


def test_a_name_that_nobody_knows_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(CallError, match=r"'f1_makro'.*did you mean 'f1_macro'"):
        score_names(["accuracy", "f1_makro"])
    with pytest.raises(CallError, match="a list of names"):
        score_names("accuracy")
    with pytest.raises(CallError, match=r"metrics\['cost'\] is no metric"):
        score_names({"cost": 0.5})
    with pytest.raises(CallError, match="metrics has 'loss', which is the criterion's"):
        score_names({"loss": len})
    with pytest.raises(CallError, match=r"metrics\['f1'\] is the class MulticlassF1Score; pass an instance"):
        score_names({"f1": MulticlassF1Score})


def test_a_vector_and_a_mapping_of_values_are_values_by_name() -> None:
    each = f1_score(TARGETS, OUTPUTS.argmax(1), average=None)
    found = passed(
        Scores(
            {
                "f1": MulticlassF1Score(CLASSES, average=None),
                "all": MetricCollection({"micro": MulticlassAccuracy(CLASSES, average="micro")}),
                "mean": lambda outputs, targets: outputs.mean(0),
            },
            alone,
        )
    )
    assert [found[f"f1_{number}"] for number in range(CLASSES)] == pytest.approx(each, abs=1e-6)
    assert found["all_micro"] == pytest.approx(accuracy_score(TARGETS, OUTPUTS.argmax(1)), abs=1e-6)
    assert found["mean_2"] == pytest.approx(float(OUTPUTS[:, 2].mean()), abs=1e-6)
    with pytest.raises(CallError, match=r"'matrix' is of shape \(3, 3\)"):
        passed(Scores({"matrix": ConfusionMatrix("multiclass", num_classes=CLASSES)}, alone))


@pytest.mark.parametrize("ignored", [-100, 1])
def test_targets_that_the_criterion_ignores_count_nowhere(ignored: int) -> None:
    targets = TARGETS.clone()
    targets[::3] = ignored
    counts = targets != ignored
    expected = accuracy_score(targets[counts], OUTPUTS.argmax(1)[counts])
    assert passed(Scores(None, alone, ignored), targets=targets)["accuracy"] == pytest.approx(expected)
    assert passed(Scores(["accuracy"], alone, ignored), targets=targets)["accuracy"] == pytest.approx(expected)
    assert Scores(None, alone, ignored).update(OUTPUTS, targets) == pytest.approx(expected)
    assert Scores(None, alone, ignored).update(OUTPUTS, torch.full_like(targets, ignored)) is None


def test_where_targets_are_no_classes_a_steps_accuracy_is_that_of_the_metrics() -> None:
    outputs, targets = OUTPUTS[:, 0], (TARGETS > 0).float()
    scores = Scores(["mae", "accuracy"], alone)
    expected = accuracy_score(targets[:8], outputs[:8] > 0)
    assert scores.update(outputs[:8], targets[:8]) == pytest.approx(expected)
    assert Scores(["mae"], alone).update(outputs, targets) is None
    passed(scores, outputs[8:], targets[8:])


def test_a_metric_of_torchmetrics_says_itself_what_is_better() -> None:
    wanted = {
        "hits": MulticlassAccuracy(CLASSES),
        "hits_off": MeanAbsoluteError(),
        "all": MetricCollection({"f1": MulticlassF1Score(CLASSES), "off": MeanAbsoluteError()}),
        "bias": lambda outputs, targets: (outputs - targets).mean(),
        "matrix": ConfusionMatrix("multiclass", num_classes=CLASSES),
    }
    assert {
        name: mode_of(wanted, name)
        for name in (
            "val_hits",
            "train_hits_0",
            "val_hits_off",
            "val_all_f1",
            "val_all_off",
            "val_bias",
            "val_loss",
            "val_matrix",
        )
    } == {
        "val_hits": "max",
        "train_hits_0": "max",
        "val_hits_off": "min",
        "val_all_f1": "max",
        "val_all_off": "min",
        "val_bias": "auto",
        "val_loss": "auto",
        "val_matrix": "auto",
    }
    assert mode_of(["f1_macro"], "val_f1_macro") == mode_of(None, "val_loss") == "auto"
