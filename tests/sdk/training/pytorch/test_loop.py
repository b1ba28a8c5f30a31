"""The loop trains as one by hand does, to the last bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset

from helpers.training import ListTracker, blobs, classifier, loader
from tailrace import CallError
from tailrace.training import Callback, Trainer


def trained(model: nn.Module, **arguments: Any) -> ListTracker:
    tracker = arguments.pop("tracker", None) or ListTracker()
    optimizer = arguments.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.1)
    data = arguments.pop("data") if "data" in arguments else loader()
    Trainer(
        model,
        data,
        arguments.pop("val", None),
        optimizer,
        arguments.pop("criterion", nn.CrossEntropyLoss()),
        progress=False,
        tracker=tracker,
        device="cpu",
        **arguments,
    ).train()
    return tracker


def by_hand(model: nn.Module, *, epochs: int = 1, every: int = 1, clip: float | None = None) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    batches = loader()
    for _ in range(epochs):
        model.train()
        for n, (x, y) in enumerate(batches, 1):
            loss = nn.functional.cross_entropy(model(x), y)
            losses.append(loss.item())
            (loss / every).backward()
            if n % every == 0 or n == len(batches):
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
    return losses


@pytest.mark.parametrize(
    "how", [{}, {"accumulate": 4}, {"max_grad_norm": 0.1}, {"accumulate": 4, "max_grad_norm": 0.1}], ids=str
)
def test_weights_and_losses_are_those_of_a_loop_by_hand(how: dict[str, Any]) -> None:
    ours, theirs = classifier(), classifier()
    torch.manual_seed(0)
    tracker = trained(ours, num_epochs=2, **how)
    torch.manual_seed(0)
    losses = by_hand(theirs, epochs=2, every=how.get("accumulate", 1), clip=how.get("max_grad_norm"))
    assert [value for _, value in tracker.of("train/loss_step")] == losses
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))


def test_the_epochs_loss_is_the_mean_over_samples_and_not_over_batches() -> None:
    x, y = blobs(10)
    model = classifier().eval()
    frozen = torch.optim.SGD(model.parameters(), lr=0.0)
    tracker = trained(model, optimizer=frozen, val=[(x[:8], y[:8]), (x[8:], y[8:])])
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.eval()(x), y).item()
    ((_, value),) = tracker.of("epoch/val_loss")
    assert value == pytest.approx(expected, rel=1e-6)


def test_a_loss_that_is_summed_over_a_batch_is_a_mean_over_samples_in_the_epoch() -> None:
    def losses(reduction: str, rate: float) -> list[float]:
        model = classifier().eval()
        model.train = lambda mode=True: model  # type: ignore[method-assign, assignment]  # no dropout: equal steps
        tracker = trained(
            model,
            data=loader(20),
            val=loader(12, seed=1),
            criterion=nn.CrossEntropyLoss(reduction=reduction),
            optimizer=torch.optim.SGD(model.parameters(), lr=rate),
        )
        (epoch,) = (values for _, values in tracker.logged if "epoch/train_loss" in values)
        return [epoch["epoch/train_loss"], epoch["epoch/val_loss"]]

    assert losses("sum", 0.0) == pytest.approx(losses("mean", 0.0))


def test_dropout_is_off_while_it_validates_and_on_while_it_trains() -> None:
    modes: dict[bool, int] = {}

    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes[self.training] = modes.get(self.training, 0) + 1
            return self.inner(x)  # type: ignore[no-any-return]

    trained(Noting(), val=loader(16), num_epochs=2)
    assert modes == {True: 12, False: 4}


class Stream(IterableDataset[Any]):
    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __iter__(self) -> Any:
        return iter(list(zip(*blobs(self._samples), strict=True)))


def test_a_loader_without_a_length_is_trained_on_to_its_end_and_the_last_batches_count() -> None:
    tracker = trained(classifier(), data=DataLoader(Stream(20), 8), accumulate=2, num_epochs=2)
    assert [step for step, _ in tracker.of("train/loss_step")] == [0, 1, 2, 3, 4, 5]


def test_a_stream_that_gives_nothing_is_an_error() -> None:
    with pytest.raises(CallError, match="train_loader gave no batch"):
        trained(classifier(), data=DataLoader(Stream(0), 8))
    with pytest.raises(CallError, match="val_loader gave no batch"):
        trained(classifier(), val=DataLoader(Stream(0), 8))


class Mapped(nn.Module):
    def __init__(self, key: str) -> None:
        super().__init__()
        self.inner, self.key = classifier(), key

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.key: self.inner(pixels)}


def test_batches_and_outputs_that_are_mappings_are_trained_on() -> None:
    data: Any = [{"pixels": x, "labels": y} for x, y in loader()]
    tracker = trained(Mapped("logits"), data=data)
    assert len(tracker.of("train/accuracy_step")) == 6


def test_a_model_whose_outputs_cannot_be_found_is_an_error_that_says_what_to_do() -> None:
    data: Any = [{"pixels": x, "labels": y} for x, y in loader()]
    with pytest.raises(CallError, match="returns a dict of scores"):
        trained(Mapped("scores"), data=data)


def test_targets_of_another_type_or_shape_are_trained_on() -> None:
    x, y = blobs(16)
    assert len(trained(classifier(), data=[(x, y.to(torch.int16))]).of("train/accuracy_step")) == 1
    model = nn.Linear(4, 1)
    expected = nn.functional.mse_loss(model(x)[:, 0], y.float()).item()
    ((_, loss),) = trained(model, data=[(x, y)], criterion=nn.MSELoss()).of("train/loss_step")
    assert loss == pytest.approx(expected)  # of 16 differences, not of 16 times 16


def test_a_loss_that_is_nan_ends_it_and_the_run_is_told() -> None:
    x, y = blobs(16)
    tracker = ListTracker()
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1 \(epoch 1\)"):
        trained(classifier(), data=[(x, y), (x * math.nan, y)], tracker=tracker)
    assert [type(error) for error in tracker.errors] == [FloatingPointError]
    assert [step for step, _ in tracker.of("train/loss_step")] == [0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_a_batch_raises_goes_through_as_it_is(error: type[BaseException], tmp_path: Any) -> None:
    raised = error("in the data")

    def batches() -> Any:
        yield blobs(8)
        raise raised

    class Twice:
        epochs = 0

        def __iter__(self) -> Any:
            Twice.epochs += 1
            return iter([blobs(8), blobs(8)]) if Twice.epochs == 1 else batches()

    tracker = ListTracker()
    with pytest.raises(error) as caught:
        trained(classifier(), data=Twice(), num_epochs=3, tracker=tracker, checkpoint_dir=tmp_path)
    assert caught.value is raised
    assert caught.value.__cause__ is None
    assert tracker.errors == [raised]
    assert "checkpoints/last_checkpoint.pt" in tracker.files
    assert torch.load(tmp_path / "last_checkpoint.pt", weights_only=True)["epoch"] == 1


def test_schedulers_step_when_they_are_made_to() -> None:
    rates = {}
    for name, made in {
        "epoch": lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5),
        "batch": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.4, total_steps=12),
        "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(
            o, patience=0, threshold=10, threshold_mode="abs"
        ),
    }.items():
        model = classifier()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        tracker = trained(model, optimizer=optimizer, scheduler=made(optimizer), num_epochs=2)
        rates[name] = [rate for _, rate in tracker.of("train/learning_rate")]
    assert rates["epoch"] == [0.1] * 6 + [0.05] * 6
    assert len(set(rates["batch"])) == 12
    assert rates["plateau"] == [0.1] * 12


def test_half_precision_trains_and_leaves_weights_in_single() -> None:
    model = classifier()
    tracker = trained(model, precision="bf16", num_epochs=3)
    losses = [value for _, value in tracker.of("epoch/train_loss")]
    assert losses[-1] < losses[0]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_callbacks_see_each_step_epoch_and_the_end_and_may_end_it() -> None:
    seen: list[Any] = []

    class Seeing(Callback):
        def on_start(self, config: Any) -> None:
            seen.append(config["model"]["class"])

        def on_step(self, step: int) -> None:
            seen.append(step)

        def on_epoch_end(self, epoch: int, metrics: Any) -> None:
            seen.append((epoch, sorted(metrics)))
            if epoch == 2:
                raise StopIteration

    with pytest.raises(StopIteration):
        trained(classifier(), data=loader(16), num_epochs=5, callbacks=[Seeing()])
    assert seen == [
        "Sequential",
        0,
        1,
        (1, ["train_accuracy", "train_loss"]),
        2,
        3,
        (2, ["train_accuracy", "train_loss"]),
    ]


def test_half_precision_does_not_round_what_a_regression_aims_at() -> None:
    x, y = blobs(16)
    losses = []
    for precision in ("32", "bf16"):
        model = nn.Linear(4, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        tracker = trained(model, data=[(x, y + 1000.5)], criterion=nn.MSELoss(), precision=precision)
        losses.append(tracker.of("train/loss_step"))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("sized", [True, False])
def test_what_a_loader_raises_came_of_nothing_else(sized: bool) -> None:
    """A traceback that begins with an error of the Trainer's own would be read as the cause."""

    class Broken:
        def __iter__(self) -> Any:
            yield next(iter(loader()))
            raise RuntimeError("the third file is damaged")

    class Sized(Broken):
        def __len__(self) -> int:
            return 6

    with pytest.raises(RuntimeError, match="the third file is damaged") as raised:
        trained(classifier(), data=Sized() if sized else Broken())
    assert (raised.value.__context__, raised.value.__cause__) == (None, None)


def test_a_loader_that_promises_too_many_batches_loses_none() -> None:
    class Promising:
        def __len__(self) -> int:
            return 10

        def __iter__(self) -> Any:
            return iter(loader())

    ours, theirs = classifier(), classifier()
    trained(ours, data=Promising(), accumulate=4, seed=1)
    trained(theirs, accumulate=4, seed=1)
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))


def test_layers_that_a_callback_adds_to_the_optimizer_are_trained_and_clipped() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    before = model[0].weight.clone()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)

    class Thaws(Callback):
        def on_epoch_end(self, epoch: int, metrics: Any) -> None:
            if epoch == 1:
                optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.01})

    tracker = trained(model, optimizer=optimizer, callbacks=[Thaws()], num_epochs=2, max_grad_norm=1.0)
    assert tracker.of("train/learning_rate_1") == [(step, 0.01) for step in range(6, 12)]
    assert not torch.equal(before, model[0].weight)


def test_a_monitor_that_turns_out_not_to_be_computed_says_what_is() -> None:
    x, y = blobs(16)
    data = [(x, y.float())]
    with pytest.raises(CallError, match=r"monitor is 'val_accuracy', which nobody.*there are train_loss, val_loss"):
        trained(nn.Linear(4, 1), data=data, val=data, criterion=nn.MSELoss(), monitor="val_accuracy")


@pytest.mark.parametrize(
    "made",
    [
        lambda o: lr_scheduler.MultiStepLR(o, [1, 2]),
        lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
        lambda o: lr_scheduler.OneCycleLR(o, 0.4, total_steps=18),
        lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, mode="triangular2"),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], [1]
        ),
    ],
    ids=["MultiStepLR", "LambdaLR", "CosineAnnealingWarmRestarts", "OneCycleLR", "CyclicLR", "SequentialLR"],
)
@pytest.mark.filterwarnings("ignore")  # SequentialLR's own call of its schedulers is one that torch has deprecated
def test_learning_rates_go_on_where_they_were(made: Any, tmp_path: Any) -> None:
    def rates(epochs: int, **arguments: Any) -> list[Any]:
        model = classifier()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        tracker = trained(model, optimizer=optimizer, scheduler=made(optimizer), num_epochs=epochs, **arguments)
        return tracker.of("train/learning_rate")

    kept = {"checkpoint_dir": tmp_path, "resume_from": "auto"}
    assert rates(3) == rates(1, **kept) + rates(3, **kept)


def test_an_optimizers_own_way_to_clear_gradients_is_kept() -> None:
    class Counts(torch.optim.SGD):
        cleared = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.cleared += 1
            super().zero_grad(set_to_none)

    model = classifier()
    optimizer = Counts(model.parameters(), lr=0.1)
    trained(model, optimizer=optimizer)
    assert optimizer.cleared == len(loader()) + 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_optimizer_that_is_made_of_another_clears_that_ones_gradients() -> None:
    class Wrapped:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            first = optimizer.param_groups[0]
            self.param_groups, self.defaults = [{**first, "params": first["params"][:1]}], optimizer.defaults
            self.state_dict, self.step, self.zero_grad = optimizer.state_dict, optimizer.step, optimizer.zero_grad

    model = classifier()
    trained(model, optimizer=Wrapped(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_put_around_torchs_way_to_clear_gradients_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cleared = torch.optim.Optimizer.zero_grad, list[object]()

    def counted(self: torch.optim.Optimizer, set_to_none: bool = True) -> None:
        cleared.append(self)
        whole(self, set_to_none)

    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", counted)
    trained(classifier())
    assert len(cleared) == len(loader()) + 1


def test_an_optimizers_zero_grad_may_have_no_argument() -> None:
    class Bare(torch.optim.SGD):
        def zero_grad(self) -> None:
            super().zero_grad()

    model = classifier()
    trained(model, optimizer=Bare(model.parameters(), lr=0.1))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_criterion_of_ones_own_that_ignores_several_classes_is_trained_by() -> None:
    class Own(nn.CrossEntropyLoss):
        def __init__(self) -> None:
            super().__init__()
            self.ignore_index = [7, 8]

        def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(outputs, targets)

    assert len(trained(classifier(), criterion=Own()).of("train/accuracy_step")) == len(loader())


def test_no_gradient_is_left_by_a_training() -> None:
    model = classifier()
    trained(model)
    assert all(parameter.grad is None for parameter in model.parameters())
