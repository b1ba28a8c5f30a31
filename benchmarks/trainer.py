"""What does a `Trainer` cost against the same loop written by hand, without any tracking?

All run in one process, epoch by epoch in turn, on the same data with models of the same size: the loops by hand in a
callback at the end of each epoch of the trainer. One by hand computes what the trainer does, the epoch's loss and
accuracy; another one the loss alone, and what its steps take less is what an accuracy costs whoever computes it. What
is compared is the median step of each epoch, from the end of the one before, since a burst of somebody else's work on a
shared machine is longer than a hundredth of an epoch; the checkpoint at the end of an epoch is a row of its own.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

from bench import Bench
from figures import Figure, Samples, judged, shown

WIDTH = 512  # of each layer
_NEAR_ENOUGH = 0.1


def train(
    uri: str, epochs: int, steps: int, milliseconds: float, device: str = "cpu", enabled: bool = True
) -> dict[str, Any]:
    """Seconds of each step by trainer and by hand; of calls of `log()` and of an empty function; of ends of epochs.

    `hand` is the loop with an accuracy, `loss` the one without.
    """
    import torch

    import tailrace as sdk
    from tailrace.training import Trainer

    # Threads of OpenMP spin between steps, and would disturb each other's turns.
    torch.set_num_threads(1)
    rows = _rows(milliseconds, device)
    batches = [_batch(rows, device) for _ in range(steps)]
    hands = {"hand": _ByHand(batches, device, accuracy=True), "loss": _ByHand(batches, device, accuracy=False)}
    found: dict[str, Any] = {"trainer": [], "hand": [], "loss": [], "log": [], "empty": [], "end": []}
    for hand in hands.values():
        hand.epoch()
    model, optimizer = _made(device)
    with sdk.start_run(tracking_uri=uri, enabled=enabled) as run:
        assert run.run_id or not enabled  # the agent is there, and MLflow is imported in it
        Trainer(
            model,
            batches,
            None,
            optimizer,
            torch.nn.CrossEntropyLoss(),
            device,
            epochs,
            callbacks=[_turns(found, hands, steps)],
            tracker=_Timed(sdk, found["log"], found["empty"]),
            progress=False,
        ).train()
    for name in ("trainer", "hand", "loss", "end"):
        del found[name][:1]  # the first epoch warms up
    return found


def _made(device: str) -> tuple[Any, Any]:
    import torch
    from torch import nn

    body = [part for _ in range(3) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    model = nn.Sequential(*body, nn.Linear(WIDTH, 10)).to(device)
    return model, torch.optim.SGD(model.parameters(), lr=1e-6)


def _batch(rows: int, device: str) -> tuple[Any, Any]:
    import torch

    return torch.randn(rows, WIDTH, device=device), torch.randint(10, (rows,), device=device)


def _sync(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


class _ByHand:
    """The loop as people write it: with the loss of the epoch, and its accuracy, which they print."""

    def __init__(self, batches: list[tuple[Any, Any]], device: str, *, accuracy: bool) -> None:
        self._batches, self.device, self._accuracy = batches, device, accuracy
        self._model, self._optimizer = _made(device)

    def epoch(self) -> float:
        """Seconds of a step."""
        import torch

        model, optimizer, on_cpu = self._model, self._optimizer, self.device == "cpu"
        criterion = torch.nn.CrossEntropyLoss()
        model.train()
        total: Any = 0.0
        right: Any = 0.0
        _sync(self.device)
        ends = [time.perf_counter()]
        for x, y in self._batches:
            optimizer.zero_grad()
            outputs = model(x)
            loss = criterion(outputs, y)
            loss.backward()
            optimizer.step()
            # On a GPU `item` would wait for the device at each step.
            total += (loss.item() if on_cpu else loss.detach()) * len(x)
            if self._accuracy:
                hits = (outputs.argmax(1) == y).type(torch.float).sum()
                right += hits.item() if on_cpu else hits
            ends.append(time.perf_counter())
        _sync(self.device)
        return _step(ends, time.perf_counter(), self.device)


def _step(ends: list[float], done: float, device: str) -> float:
    """Seconds of a step: the median; on a GPU, where the loop runs ahead of the device, the mean."""
    if device != "cpu":
        return (done - ends[0]) / (len(ends) - 1)
    return statistics.median(end - began for began, end in itertools.pairwise(ends))


def _turns(found: dict[str, Any], hands: dict[str, _ByHand], steps: int) -> Any:
    """A callback that times the trainer's steps, and lets each loop by hand train an epoch after each of its."""
    from tailrace.training import Callback

    device = hands["hand"].device

    class Turns(Callback):
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.last = 0.0

        def on_start(self, *_: Any) -> None:
            self.ends = [time.perf_counter()]

        def on_step(self, step: int) -> None:
            self.ends.append(time.perf_counter())
            if (step + 1) % steps == 0:
                _sync(device)
                self.last = time.perf_counter()
                found["trainer"].append(_step(self.ends, self.last, device))

        def on_epoch_end(self, *_: Any) -> None:
            found["end"].append(time.perf_counter() - self.last)
            for name, hand in hands.items():
                found[name].append(hand.epoch())
            self.ends = [time.perf_counter()]

    return Turns()


class _Timed:
    """A tracker whose calls of `log` are timed, in turn with those of an empty function in their place.

    Whichever comes first after a step finds the processor's caches full of the model, and pays for that.
    """

    def __init__(self, tracker: Any, seconds: list[float], empty_seconds: list[float]) -> None:
        self._tracker, self._log, self._seconds, self._empty_seconds = tracker, tracker.log, seconds, empty_seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)

    def log(self, metrics: Any, step: int) -> None:
        empty_first = step % 2
        call, seconds = (_empty, self._empty_seconds) if empty_first else (self._log, self._seconds)
        entered = time.perf_counter()
        call(metrics, step=step)
        seconds.append(time.perf_counter() - entered)
        if empty_first:
            self._log(metrics, step=step)


def _empty(metrics: Any, step: int) -> None:
    pass


def _rows(milliseconds: float, device: str) -> int:
    """The size of a batch with which a step takes so long."""
    rows, took = 64, 0.0
    for _ in range(12):
        took = _alone(rows, device) * 1e3
        if abs(took / milliseconds - 1) < _NEAR_ENOUGH:
            break
        # A step's time grows with its rows, but for what the optimizer takes.
        rows = max(1, round(rows * min(4.0, max(0.25, milliseconds / took))))
    return rows


def _alone(rows: int, device: str) -> float:
    """Seconds of a step: the median of half a second."""
    import torch

    model, optimizer = _made(device)
    x, y = _batch(rows, device)
    times: list[float] = []
    until = time.perf_counter() + 0.5
    while time.perf_counter() < until:
        began = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        _sync(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    import torch

    epochs, steps = bench.scale(40, 8), bench.scale(200, 60)
    devices = [("cpu", 0.01, 0.001), *([("cuda", 0.005, None)] if torch.cuda.is_available() else [])]
    for device, most, most_logging in devices:
        found = bench.child(
            "trainer", "train", uri=bench.sqlite(), epochs=epochs, steps=steps, milliseconds=5.0, device=device
        )
        pairs = zip(found["trainer"], found["hand"], strict=True)
        slower = Samples(ours / theirs - 1 for ours, theirs in pairs)
        step = statistics.median(found["hand"])
        yield judged(
            f"a Trainer's step against one by hand, {device}: slowdown",
            slower,
            value=slower.middle_mean,
            error=slower.standard_error,
            most=most,
            unit="share",
            note=f"steps of {step * 1e3:.2f} ms, {len(found['hand'])} epochs of {steps} each",
        )
        pairs = zip(found["trainer"], found["loss"], strict=True)
        without = Samples(ours / theirs - 1 for ours, theirs in pairs)
        yield shown(
            f"the same against one by hand that computes no accuracy, {device}",
            without,
            value=without.middle_mean,
            unit="share",
        )
        logging = Samples(seconds / step for seconds in found["log"])
        call = Samples(found["log"])
        empty = Samples(found["empty"]).middle_mean
        note = (
            f"{call.middle_mean * 1e6:.1f} µs a call, p99 {call.quantile(0.99) * 1e6:.0f} µs "
            f"(an empty function there: {empty * 1e6:.1f} µs)"
        )
        what = f"of which log(), {device}"
        if most_logging is None:
            yield shown(what, logging, value=logging.middle_mean, unit="share", note=note)
        else:
            yield judged(what, logging, value=logging.middle_mean, most=most_logging, unit="share", note=note)
        off = bench.child(
            "trainer",
            "train",
            uri=bench.sqlite(),
            epochs=epochs,
            steps=steps,
            milliseconds=5.0,
            device=device,
            enabled=False,
        )
        alone = Samples(ours / theirs - 1 for ours, theirs in zip(off["trainer"], off["hand"], strict=True))
        yield shown(
            f"the same with tracking off, {device}: slowdown",
            alone,
            value=alone.middle_mean,
            unit="share",
            note="what is left of the slowdown is the agent at work on the same cores",
        )
        yield shown(f"the end of an epoch with its checkpoint of 3 MB, {device}", Samples(found["end"]))
