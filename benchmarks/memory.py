"""How much memory do the training process and the agent take, and what does an idle agent do to the processor?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from bench import Bench
from figures import Figure, Samples, judged, shown

_BARE = "import sys; print('ready', flush=True); sys.stdin.read()"
_TRAINER = """
import sys, tailrace
run = tailrace.start_run(tracking_uri=sys.argv[1])
for step in range(20000):
    tailrace.log(step=step, loss=0.25, accuracy=0.5, lr=0.001, grad_norm=1.5, throughput=1234.5)
run.flush(300)
print('ready', flush=True)
sys.stdin.read()
import os; os._exit(0)
"""


def _memory(process: Any) -> tuple[float, float]:
    full = process.memory_full_info()
    return float(full.rss), float(full.uss)


def _bare(bench: Bench) -> tuple[float, float]:
    import psutil

    with bench.script(_BARE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        return _memory(psutil.Process(child.pid))


def _trainer(bench: Bench, uri: str, idle: float) -> dict[str, float]:
    """Memory after 20,000 calls that were delivered, then the agent's processor time while nothing happens."""
    import psutil

    with bench.script(_TRAINER, uri) as child:
        assert child.stdout is not None
        if child.stdout.readline().strip() != "ready":
            raise RuntimeError("the trainer failed")
        trainer = psutil.Process(child.pid)
        # An agent is nobody's child.
        agents = [p for p in psutil.process_iter(["cmdline"]) if str(bench.state) in " ".join(p.info["cmdline"] or ())]
        (agent,) = (agent for agent in agents if agent.pid != child.pid)
        time.sleep(2)
        rss, uss = _memory(trainer)
        agent_rss, agent_uss = _memory(agent)
        before, mine, began = agent.cpu_times(), trainer.cpu_times(), time.monotonic()
        time.sleep(idle)
        after, mine_after, seconds = agent.cpu_times(), trainer.cpu_times(), time.monotonic() - began
    return {
        "rss": rss,
        "uss": uss,
        "agent_rss": agent_rss,
        "agent_uss": agent_uss,
        "idle": (after.user + after.system - before.user - before.system) / seconds,
        "trainer_idle": (mine_after.user + mine_after.system - mine.user - mine.system) / seconds,
    }


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    idle = float(bench.scale(40, 20))
    found: dict[str, list[dict[str, float]]] = {"SQLite": [], "HTTP": []}
    bare: list[tuple[float, float]] = []
    for _ in range(bench.scale(3, 1)):
        for name, uri in bench.stores().items():
            bare.append(_bare(bench))
            found[name].append(_trainer(bench, uri, idle))
    base = Samples(rss for rss, _ in bare).median
    base_own = Samples(uss for _, uss in bare).median
    both = [taken for taking in found.values() for taken in taking]
    own = Samples(taken["uss"] - base_own for taken in both)
    yield judged(
        "training process, RSS over bare Python",
        Samples(taken["rss"] - base for taken in both),
        most=40e6,
        unit="MB",
        note=f"bare {base / 1e6:.1f} MB; of its own (USS) {own.median / 1e6:.1f} MB; "
        "the RSS counts the ring (8 MiB), which the agent shares",
    )
    for name, taking in found.items():
        own = Samples(taken["agent_uss"] for taken in taking)
        yield judged(
            f"agent, RSS, {name}",
            Samples(taken["agent_rss"] for taken in taking),
            most=200e6 if name == "SQLite" else 70e6,
            unit="MB",
            note=f"of its own (USS) {own.median / 1e6:.1f} MB{'; most of it is MLflow' if name == 'SQLite' else ''}",
        )
    yield judged(
        "agent, idle, share of one core",
        Samples(taken["idle"] for taken in both),
        most=0.005,
        unit="share",
        note=f"over {idle:.0f} s of an open run without calls, in {len(both)} runs",
    )
    yield shown(
        "training process, idle, share of one core", Samples(taken["trainer_idle"] for taken in both), unit="share"
    )
