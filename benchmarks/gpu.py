"""What does logging a loss that is on the GPU cost a training loop there?

The usual `loss.item()` waits for the device: the program's next step cannot be queued meanwhile, and a GPU that is fed
step by step stands still. Each way runs in an interpreter of its own; blocks with and without a call alternate in it,
and each block is timed until the device is done.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench import Bench
from figures import Figure, Samples, judged, shown

_BATCHES = {512: "CPU", 16_384: "GPU"}
"""Rows of data, and which processor a step then waits for: with few, the GPU is done before the next kernel comes."""
_LABELS = {
    "tensor": "sdk.log(loss=loss), the tensor itself",
    "five": "sdk.log of five tensors",
    "older": "sdk.log(loss=loss), with TAILRACE_GPU_SLOTS=0",
    "clone": "loss.detach().clone()",
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


def _five(uri: str) -> Callable[[int, Any], object]:
    log = _tailrace(uri).log
    return lambda step, loss: log(step=step, a=loss, b=loss, c=loss, d=loss, e=loss)


def _older(uri: str) -> Callable[[int, Any], object]:
    os.environ["TAILRACE_GPU_SLOTS"] = "0"
    return _tensor(uri)


def _item(uri: str) -> Callable[[int, Any], object]:
    log = _tailrace(uri).log
    return lambda step, loss: log(step=step, loss=loss.item())


def _mlflow(uri: str) -> Callable[[int, Any], object]:
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.start_run()
    return lambda step, loss: mlflow.log_metric("loss", loss.item(), step=step, synchronous=False)


_WAYS = {
    "tensor": _tensor,
    "five": _five,
    "older": _older,
    "clone": lambda _: lambda _, loss: loss.detach().clone(),
    "item": _item,
    "mlflow": _mlflow,
    "nothing": lambda _: lambda _, loss: loss.item(),
}
_IN_THE_CALL = {"tensor": 25e-6, "five": 45e-6}
"""Seconds that a call is to take at most, between steps that the CPU holds up."""
_SLOWDOWN = 15e-6
"""Seconds by which a step that the device holds up may become longer."""


def tight(uri: str, rounds: int) -> dict[str, list[float]]:
    """Seconds a call in a loop of nothing else, with a tensor on the device and with a float."""
    import torch

    log = _tailrace(uri).log
    found: dict[str, list[float]] = {"tensor": [], "float": []}
    values = {"tensor": torch.ones((), device="cuda"), "float": 1.0}
    for _ in range(rounds):
        for name, value in values.items():
            # Fewer than a device's queue holds: a full one is waited for, by whoever launches anything.
            torch.cuda.synchronize()
            began = time.perf_counter()
            for step in range(200):
                log(step=step, loss=value)
            found[name].append((time.perf_counter() - began) / 200)
            time.sleep(0.02)
    return found


def lag(uri: str, rounds: int) -> list[float]:
    """Seconds from the moment at which the device has computed a value until MLflow has it."""
    import torch

    sdk = _tailrace(uri)
    run = sdk.start_run(tracking_uri=uri, nested=True)
    found = []
    for step in range(rounds):
        torch.cuda._sleep(50_000_000)
        run.log(step=step, loss=torch.ones((), device="cuda") * step)
        torch.cuda.synchronize()
        began = time.perf_counter()
        while run.ledger().of("metric").delivered <= step and time.perf_counter() - began < 10:
            time.sleep(0.005)
        found.append(time.perf_counter() - began)
    return found


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
            slowdown = f"{label}: slowdown of a step of {bare * 1e3:.2f} ms, {bound}-bound"
            note = f"{statistics.median(slower) / bare:.1%} of the step; {found['device']}"
            bounded = way in _IN_THE_CALL and bound == "GPU"
            yield judged(slowdown, Samples(slower), most=_SLOWDOWN if bounded else None, note=note)
            target = _IN_THE_CALL.get(way) if bound == "CPU" else None
            in_the_call = f"{label}: in the call, between such steps, {bound}-bound"
            yield judged(in_the_call, Samples(found["call"]), most=target, note=str(found["device"]))
    each = bench.child("gpu", "tight", uri=bench.sqlite(), rounds=bench.scale(60, 10))
    yield judged("sdk.log(loss=loss) in a tight loop, a tensor on the GPU", Samples(each["tensor"]), most=3e-6)
    yield shown("the same with a float", Samples(each["float"]))
    lags = Samples(bench.child("gpu", "lag", uri=bench.sqlite(), rounds=bench.scale(40, 5)))
    late = lags.quantile(0.95)
    yield judged("from the device's end to MLflow, p95", lags, value=late, most=1.0)
