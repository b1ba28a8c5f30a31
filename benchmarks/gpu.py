"""What does logging a loss that is on the GPU cost a training loop there?

The usual `loss.item()` waits for the device: the program's next step cannot be queued meanwhile, and a GPU that is fed
step by step stands still. Each way runs in an interpreter of its own; blocks with and without a call alternate in it,
and each block is timed until the device is done.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench import Bench
from figures import Figure, Samples, shown

_BATCHES = {512: "CPU", 16_384: "GPU"}
"""Rows of data, and which processor a step then waits for: with few, the GPU is done before the next kernel comes."""
_LABELS = {
    "tensor": "sdk.log(loss=loss), the tensor itself",
    "item": "sdk.log(loss=loss.item())",
    "mlflow": "mlflow.log_metric(loss.item(), synchronous=False)",
    "nothing": "an empty function with loss.item()",
}


def train(way: str, uri: str, rounds: int, steps: int, batches: list[int]) -> list[dict[str, Any]]:
    """For batches of these sizes: seconds a step, with the call after each and without, and seconds in the call."""
    import torch

    call = _WAYS[way](uri)
    return [_trained(torch, call, rounds, steps, batch) for batch in batches]


def _trained(torch: Any, call: Callable[[int, Any], object], rounds: int, steps: int, batch: int) -> dict[str, Any]:
    body = [part for _ in range(4) for part in (torch.nn.Linear(1024, 1024), torch.nn.ReLU())]
    model = torch.nn.Sequential(*body, torch.nn.Linear(1024, 1)).cuda()
    # So small that the loss stays finite, however many steps there are.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    data = torch.randn(batch, 1024, device="cuda")
    found: dict[str, Any] = {"bare": [], "logged": [], "call": [], "device": torch.cuda.get_device_name(0)}

    def block(logs: bool) -> float:
        # The device's queue is empty when the clock starts, and when it stops.
        torch.cuda.synchronize()
        began = time.perf_counter()
        for number in range(steps):
            optimizer.zero_grad()
            loss = model(data).square().mean()
            loss.backward()
            optimizer.step()
            if logs:
                entered = time.perf_counter()
                call(number, loss)
                found["call"].append(time.perf_counter() - entered)
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / steps

    # Warms up: kernels are compiled, pinned memory is made.
    block(True), block(False)
    for turn in range(rounds):
        for logs in (False, True) if turn % 2 else (True, False):
            found["logged" if logs else "bare"].append(block(logs))
    return found


def _tailrace(uri: str) -> Any:
    import tailrace as sdk

    run = sdk.start_run(tracking_uri=uri)
    assert run.run_id
    return sdk


def _tensor(uri: str) -> Callable[[int, Any], object]:
    log = _tailrace(uri).log
    return lambda step, loss: log(step=step, loss=loss)


def _item(uri: str) -> Callable[[int, Any], object]:
    log = _tailrace(uri).log
    return lambda step, loss: log(step=step, loss=loss.item())


def _mlflow(uri: str) -> Callable[[int, Any], object]:
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.start_run()
    return lambda step, loss: mlflow.log_metric("loss", loss.item(), step=step, synchronous=False)


_WAYS = {"tensor": _tensor, "item": _item, "mlflow": _mlflow, "nothing": lambda _: lambda _, loss: loss.item()}


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question; one that says so where there is no GPU."""
    try:
        import torch

        there = torch.cuda.is_available()
    except ImportError:
        there = False
    if not there:
        yield Figure("a loss on the GPU, logged in its loop", "", "not measured", None, "needs a CUDA device and torch")
        return
    for way, label in _LABELS.items():
        rounds = bench.scale(16, 4)
        every = bench.child(
            "gpu", "train", way=way, uri=bench.sqlite(), rounds=rounds, steps=50, batches=list(_BATCHES)
        )
        for bound, found in zip(_BATCHES.values(), every, strict=True):
            slower = [on - off for on, off in zip(found["logged"], found["bare"], strict=True)]
            bare = statistics.median(found["bare"])
            yield shown(
                f"{label}: slowdown of a step of {bare * 1e3:.2f} ms, {bound}-bound",
                Samples(slower),
                note=f"{statistics.median(slower) / bare:.1%} of the step; in the call "
                f"{Samples(found['call']).median * 1e6:.0f} µs; {found['device']}",
            )
