"""What does logging a loss that is on the GPU cost a training loop there?

The usual `loss.item()` waits for the device: the program's next step cannot be queued meanwhile, and a GPU that is fed
step by step stands still. Each way runs in interpreters of its own, in turns whose order alternates; blocks with and
without a call alternate in each, and each block is timed until the device is done.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
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
_OF_ITEM = 300e-6
"""Seconds by which `.item()` makes it longer at least, or the machine shows nothing."""
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


def delivery(uri: str, steps: int) -> dict[str, float]:
    """What delivery takes of the training process while values come: wake-ups and CPU seconds of tailrace's threads."""
    import torch

    sdk = _tailrace(uri)
    run = sdk.start_run(tracking_uri=uri, nested=True)
    loss = torch.ones((), device="cuda")
    for _ in range(2):  # the first one tries whether it lands, and goes the older way
        run.log(step=-1, loss=loss)
        torch.cuda.synchronize()
    run.flush(60)
    before = _of_threads()
    for step in range(steps):
        run.log(step=step, loss=loss)
        time.sleep(0.002)
    after = _of_threads()
    return {what: after[what] - before[what] for what in after}


def _of_threads() -> dict[str, float]:
    """Wake-ups and CPU seconds of tailrace's threads in this process, and how many there are."""
    import threading

    found = {"threads": 0.0, "wake-ups": 0.0, "CPU": 0.0}
    for thread in threading.enumerate():
        if thread.name.startswith("tailrace-") and thread.native_id is not None:
            task = Path(f"/proc/self/task/{thread.native_id}")
            found["threads"] += 1
            found["wake-ups"] += float(
                task.joinpath("status").read_text().split("voluntary_ctxt_switches:")[1].split()[0]
            )
            found["CPU"] += int(task.joinpath("schedstat").read_text().split()[0]) / 1e9
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


def _trained_in_turns(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """What `train` has found of each way, for each size of batches."""
    of_ways: dict[str, list[dict[str, Any]]] = {}
    for turn in range(2):
        for way in list(_LABELS)[:: -1 if turn else 1]:
            args: dict[str, Any] = {"rounds": bench.scale(8, 2), "steps": 50, "batches": list(_BATCHES)}
            every = bench.child("gpu", "train", way=way, uri=bench.sqlite(), **args)
            for found, more in zip(of_ways.setdefault(way, every), every if turn else [], strict=False):
                for what in ("bare", "logged", "call"):
                    found[what] += more[what]
    return of_ways


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
    of_ways = _trained_in_turns(bench)
    calls = {way: Samples(every[0]["call"]) for way, every in of_ways.items()}
    for way, label in _LABELS.items():
        for bound, found in zip(_BATCHES.values(), of_ways[way], strict=True):
            slower = [on - off for on, off in zip(found["logged"], found["bare"], strict=True)]
            bare = statistics.median(found["bare"])
            slowdown = f"{label}: slowdown of a step of {bare * 1e3:.2f} ms, {bound}-bound"
            note = f"{statistics.median(slower) / bare:.1%} of the step; {found['device']}"
            bounded = way in _IN_THE_CALL and bound == "GPU"
            most, least = _SLOWDOWN if bounded else None, _OF_ITEM if way == "item" and bound == "GPU" else None
            yield judged(slowdown, Samples(slower), most=most, least=least, note=note)
            target = _IN_THE_CALL.get(way) if bound == "CPU" else None
            in_the_call = f"{label}: in the call, between such steps, {bound}-bound"
            yield judged(in_the_call, Samples(found["call"]), most=target, note=str(found["device"]))
    for other in ("item", "clone"):
        what = f"in the call, CPU-bound: the tensor itself against {_LABELS[other]}"
        yield judged(what, calls["tensor"].over(calls[other]), most=1.0, unit="x")
    took = bench.child("gpu", "delivery", uri=bench.sqlite(), steps=bench.scale(2000, 200))
    for what, unit in (("threads", "n"), ("wake-ups", "n"), ("CPU", "s")):
        yield judged(
            f"delivery in the training process, while values come: {what}", Samples([took[what]]), most=0.0, unit=unit
        )
    each = bench.child("gpu", "tight", uri=bench.sqlite(), rounds=bench.scale(60, 10))
    yield judged("sdk.log(loss=loss) in a tight loop, a tensor on the GPU", Samples(each["tensor"]), most=3e-6)
    yield shown("the same with a float", Samples(each["float"]))
    lags = Samples(bench.child("gpu", "lag", uri=bench.sqlite(), rounds=bench.scale(40, 5)))
    late = lags.quantile(0.95)
    yield judged("from the device's end to MLflow, p95", lags, value=late, most=1.0)
