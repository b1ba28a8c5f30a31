"""What do 16 ranks on a node cost beside one process, and what does a call cost in a rank that is not logged?

The ranks are plain processes with the variables that torchrun gives to its own: torch itself, in 16 processes, would be
most of what is measured, and tailrace looks at the variables alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

from bench import Bench
from figures import Figure, Samples, interleave, judged, shown
from training import empty, loop, undisturbed

_RANKS = 16
_TRAINER = """
import os, sys, tailrace
run = tailrace.start_run(run_name="ranks", tracking_uri=sys.argv[1])
for step in range(200):
    tailrace.log(step=step, loss=0.25, accuracy=0.5, lr=0.001, grad_norm=1.5, throughput=1234.5)
if os.environ.get("RANK", "0") == "0":
    run.flush(120)
print("ready", flush=True)
sys.stdin.read()
os._exit(0)
"""


def _started(bench: Bench, uri: str, ranks: int, *, console: bool = False) -> dict[str, float]:
    """The agents of so many processes, once all have begun and what rank 0 has logged is there.

    With `console` also the tees that keep what the processes print, as they do by default.
    """
    job, ours = str(uuid.uuid4()), list[subprocess.Popen[str]]()
    try:
        for rank in range(ranks):
            places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "TORCHELASTIC_RESTART_COUNT": 0}
            sizes = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "TORCHELASTIC_RUN_ID": job}
            variables = {name: str(value) for name, value in {**places, **sizes}.items()} if ranks > 1 else {}
            command = [sys.executable, "-c", _TRAINER, uri]
            environ = {**bench.environment(), **variables, **({"TAILRACE_CONSOLE": "true"} if console else {})}
            pipe = subprocess.PIPE
            ours.append(
                subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environ)
            )
        for process in ours:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError("a rank failed")
        time.sleep(1.0)
        return _agents(bench, {process.pid for process in ours})
    finally:
        for process in ours:
            process.kill()
            process.communicate()
        bench.clear()


def _agents(bench: Bench, others: set[int]) -> dict[str, float]:
    """How many there are, and what they have taken together."""
    import psutil

    state, found = str(bench.state), {"agents": 0.0, "memory": 0.0, "own": 0.0, "shares": 0.0, "cpu": 0.0}
    for process in psutil.process_iter(["cmdline"]):
        if process.pid not in others and state in " ".join(process.info["cmdline"] or ()):
            times = process.cpu_times()
            found["agents"] += 1
            memory = process.memory_full_info()
            found["memory"] += memory.rss
            found["own"] += memory.uss
            found["shares"] += memory.pss
            found["cpu"] += times.user + times.system
    return found


def _shares(bench: Bench, uri: str, ranks: int) -> float:
    """Bytes of all that tailrace runs beside so many processes that print; of shared pages its share."""
    return _started(bench, uri, ranks, console=True)["shares"]


def calls(uri: str, rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds of a call in rank 1 of two, and of an empty function, in turn."""
    place = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ["TORCHELASTIC_RUN_ID"] = str(uuid.uuid4())
    import tailrace as sdk

    sdk.start_run(run_name="ranks", tracking_uri=uri)
    both = {"log": sdk.log, "empty": empty}
    arms = {name: partial(undisturbed, partial(loop, call, calls)) for name, call in both.items()}
    return {name: values[len(values) // 10 :] for name, values in interleave(rounds, arms).items()}


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    ranks = bench.scale(_RANKS, 8)
    for name, uri in bench.stores().items():
        found: dict[str, list[dict[str, float]]] = {"one": [], "ranks": []}
        for turn in range(bench.scale(5, 1)):
            for which in ("one", "ranks") if turn % 2 == 0 else ("ranks", "one"):
                found[which].append(_started(bench, uri, 1 if which == "one" else ranks))
        yield from _compared(f"{ranks} ranks on a node, {name}", found)
        kept = interleave(
            bench.scale(3, 1),
            {which: partial(_shares, bench, uri, number) for which, number in (("one", 1), ("ranks", ranks))},
        )
        ours, one = Samples(kept["ranks"]), Samples(kept["one"])
        yield shown(
            f"{ranks} ranks on a node, {name}: memory of the agents and of what keeps the consoles / of one process's",
            ours.over(one),
            unit="x",
            note=f"{ours.median / 1e6:.0f} / {one.median / 1e6:.0f} MB, pages by their shares",
        )
    rounds = bench.child("ranks", "calls", uri=bench.sqlite(), rounds=bench.scale(400, 60), calls=1000)
    log, plain = Samples(rounds["log"]), Samples(rounds["empty"])
    yield judged(
        "log() of a rank that is not logged / an empty function that takes **keywords",
        Samples(a / b for a, b in zip(rounds["log"], rounds["empty"], strict=True)),
        most=1.2,
        unit="x",
        note=f"{log.median * 1e6:.2f} / {plain.median * 1e6:.2f} µs",
    )


def _compared(what: str, found: dict[str, list[dict[str, Any]]]) -> Iterator[Figure]:
    ours, one = found["ranks"], found["one"]
    yield judged(f"{what}: agents", Samples(each["agents"] for each in ours), most=1, unit="n")
    for name, words, most, unit, scale in (
        ("memory", "memory of the agents (with what they share with the ranks)", 1.3, "MB", 1e6),
        ("own", "memory of the agents' own", 1.3, "MB", 1e6),
        ("cpu", "processor time of the agents at the start", 1.5, "s", 1),
    ):
        base = Samples(each[name] for each in one)
        yield judged(
            f"{what}: {words} / of one process's",
            Samples(each[name] for each in ours).over(base),
            most=most,
            unit="x",
            note=f"{Samples(each[name] for each in ours).median / scale:.2f} / {base.median / scale:.2f} {unit}",
        )
