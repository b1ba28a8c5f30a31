"""What does one `log()` of five floats cost in a tight loop, and what when nothing ever lets the agent catch up?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench import Bench
from figures import Figure, Samples, interleave, judged, shown
from tailrace._runs.run_part import core_of
from training import call_times, drained, empty, loop, undisturbed

_NAMES = "step, loss, accuracy, lr, grad_norm, throughput"


def _named(*, step: int, loss: float, accuracy: float, lr: float, grad_norm: float, throughput: float) -> None:
    """The same keywords by name, so that no dictionary has to be made for them."""


def _log(uri: str) -> tuple[Any, Any]:
    import tailrace as sdk

    run = sdk.start_run(tracking_uri=uri)
    assert run.run_id  # waited for: the agent has loaded MLflow and delivers
    return sdk.log, run


def bursts(uri: str, rounds: int, calls: int, singles: int) -> dict[str, list[float]]:
    """Loops that fit the ring, with an agent that drains and delivers meanwhile."""
    log, run = _log(uri)

    arms: dict[str, Callable[[], float]] = {
        name: partial(undisturbed, partial(loop, call, calls))
        for name, call in (("log", log), ("empty", empty), ("named", _named))
    }
    found: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds):
        for name, values in interleave(10, arms).items():
            found[name] += values if turn else []  # the first turn warms up
        assert drained(run)
    each: list[float] = []
    for _ in range(singles):
        each += call_times(log, 4 * calls)
        assert drained(run)
    return {**found, "each": each}


def disabled(rounds: int, calls: int) -> dict[str, list[float]]:
    """The same loop with tracking off, through the module's function and through the run's."""
    import tailrace as sdk

    run = sdk.start_run(enabled=False, reports_dir=tempfile.mkdtemp(), quiet=True)
    arms: dict[str, Callable[[], float]] = {
        name: partial(undisturbed, partial(loop, call, calls))
        for name, call in (("module", sdk.log), ("run", run.log), ("empty", empty))
    }
    return interleave(rounds, arms)


def kinds(uri: str, rounds: int, calls: int) -> dict[str, list[float]]:
    """One value a call: a float, and what NumPy and torch make of one in the processor's memory."""
    import numpy as np
    import torch

    log, run = _log(uri)
    of_torch = torch.tensor(0.25)
    values: dict[str, Any] = {"float": 0.25, "numpy": np.float32(0.25), "array": np.array(0.25), "torch": of_torch}
    values["grad"] = of_torch.clone().requires_grad_()
    arms = {name: partial(undisturbed, partial(_loop_of_one, log, value, calls)) for name, value in values.items()}
    found: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds):
        for name, taken in interleave(10, arms).items():
            found[name] += taken if turn else []
        assert drained(run)
    return found


def _loop_of_one(log: Any, value: Any, calls: int) -> float:
    began = time.perf_counter()
    for step in range(calls):
        log(step=step, loss=value)
    return (time.perf_counter() - began) / calls


def skipped(uri: str, rounds: int, calls: int) -> dict[str, list[float]]:
    """A loop of whose values all, or two of five, are skipped, beside one of which everything is logged."""
    import tailrace as sdk

    rules = {"log": None, "all": {"*": 10**9}, "some": {"l*": 10**9}}
    # A tracker each: a second run of one would be nested.
    runs = {name: sdk.Tracker().start_run(tracking_uri=uri, every=every) for name, every in rules.items()}
    arms: dict[str, Callable[[], float]] = {}
    for name, run in runs.items():
        assert run.run_id
        arms[name] = partial(undisturbed, partial(loop, run.log, calls))
    found: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds):
        for name, values in interleave(10, arms).items():
            found[name] += values if turn else []
        assert all(drained(run) for run in runs.values())
    return found


def sustained(uri: str, calls: int) -> dict[str, Any]:
    """One loop that outruns the agent: the ring fills, and rows go on into the spill file."""
    log, run = _log(uri)
    ring = core_of(run).connection.open_ring()
    slices, spilled = [], 0
    for _ in range(calls // 5000):
        slices.append(loop(log, 5000))
        spilled += ring.words[9] != ring.words[17]  # written and read bytes of the spill file
    began = time.monotonic()
    whole = drained(run, 300.0)
    seconds = time.monotonic() - began
    # The ring is read; the status file with the counts follows within a tenth of a second.
    time.sleep(0.5)
    ledger = run.ledger()
    return {
        "slices": slices,
        "spilled": spilled / len(slices),
        "drained": seconds if whole else None,
        "missing": 5 * 5000 * len(slices) - ledger.accepted + sum(ledger.dropped.values()),
    }


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    uri = bench.sqlite()
    found = bench.child(
        "tight_loop", "bursts", uri=uri, rounds=bench.scale(40, 8), calls=1000, singles=bench.scale(75, 15)
    )
    log, plain, each = Samples(found["log"]), Samples(found["empty"]), Samples(found["each"])
    pairs = Samples(a / b for a, b in zip(found["log"], found["empty"], strict=True))
    yield judged(
        "log() in a tight loop / an empty function that takes **keywords",
        pairs,
        most=8,
        unit="x",
        note=f"{log.median * 1e6:.2f} / {plain.median * 1e6:.2f} µs; "
        f"/ one that names them ({Samples(found['named']).median * 1e6:.2f} µs): "
        f"{log.median / Samples(found['named']).median:.1f} x",
    )
    yield judged(
        "… a single call, p99",
        each,
        value=each.quantile(0.99),
        most=10e-6,
        note=f"of {len(each.values):,}; p50 {each.median * 1e6:.2f}, p99.9 {each.quantile(0.999) * 1e6:.1f} µs",
    )
    one = bench.child("tight_loop", "kinds", uri=uri, rounds=bench.scale(20, 4), calls=1000)
    base = Samples(one["float"]).median
    for name, what, most in (("numpy", "an np.float32", 2), ("torch", "a tensor on the CPU", 4)):
        yield judged(
            f"log() of {what} / of a float",
            Samples(a / b for a, b in zip(one[name], one["float"], strict=True)),
            most=most,
            unit="x",
            note=f"{Samples(one[name]).median * 1e6:.2f} / {base * 1e6:.2f} µs"
            + ("; an array of one element " if name == "numpy" else "; one that requires a gradient ")
            + f"{Samples(one['array' if name == 'numpy' else 'grad']).median * 1e6:.2f} µs",
        )
    off = bench.child("tight_loop", "disabled", rounds=bench.scale(400, 60), calls=1000)
    yield judged(
        "… with tracking off / an empty function that takes **keywords",
        Samples(a / b for a, b in zip(off["module"], off["empty"], strict=True)),
        most=2,
        unit="x",
        note=f"{Samples(off['module']).median * 1e6:.2f} µs; the run's own log(): "
        f"{Samples(a / b for a, b in zip(off['run'], off['empty'], strict=True)).median:.2f} x",
    )
    rare = bench.child("tight_loop", "skipped", uri=uri, rounds=bench.scale(30, 6), calls=1000)
    ratios = {name: Samples(a / b for a, b in zip(rare[name], rare["log"], strict=True)) for name in ("all", "some")}
    yield judged(
        "… whose values are all skipped (every=) / one that logs them",
        ratios["all"],
        most=1,
        unit="x",
        note=f"{Samples(rare['all']).median * 1e6:.2f} µs; two of five skipped: {ratios['some'].median:.2f} x",
    )
    endless = bench.child("tight_loop", "sustained", uri=uri, calls=bench.scale(1_000_000, 150_000))
    slices = Samples(endless["slices"])
    late = "not drained in 300 s" if endless["drained"] is None else f"drained {endless['drained']:.1f} s later"
    yield shown(
        "… in a loop that never pauses (spills to disk)",
        slices,
        note=f"{len(slices.values) * 5000:,} calls, {endless['spilled']:.0%} of the time spilling; {late}; "
        f"{endless['missing']:,} points missing",
    )
