"""What does the system monitor cost training and the agent, is it on time, and how fast is `latest()`?"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench import Bench
from figures import Figure, Samples, interleave, judged, shown
from training import Step, call_times, drained


def _threads() -> int:
    import psutil

    return int(psutil.Process().num_threads())


def beside(uri: str, rounds: int) -> dict[str, Any]:
    """Steps with a `log()` each, while the monitor runs and while it does not, in turn; threads that it brought."""
    import tailrace as sdk

    run = sdk.start_run(tracking_uri=uri)
    assert run.run_id
    step = Step(0.001)
    monitor = sdk.system_monitor(interval=1.0)
    before = _threads()
    monitor.start()
    while not monitor.latest():
        time.sleep(0.05)
    after = _threads()
    monitor.stop()

    def sampled(on: bool) -> float:
        (monitor.start if on else monitor.stop)()
        return Samples(call_times(sdk.log, 200, step)).middle_mean

    found = interleave(rounds, {"with": lambda: sampled(True), "without": lambda: sampled(False)})
    monitor.start()
    while not monitor.latest():
        time.sleep(0.05)
    reads = []
    for _ in range(20_000):
        began = time.perf_counter_ns()
        monitor.latest()
        reads.append((time.perf_counter_ns() - began) / 1e9)
    fresh = []
    for _ in range(30):
        monitor._board._seen = -1  # type: ignore[union-attr]  # as after each new sample
        began = time.perf_counter_ns()
        monitor.latest()
        fresh.append((time.perf_counter_ns() - began) / 1e9)
    assert drained(run)
    return {**found, "threads": after - before, "reads": reads, "fresh": fresh}


def samples(seconds: float, interval: float) -> dict[str, Any]:
    """A sampler by itself: CPU time of each sample of all host sources, and when each was begun."""
    from tailrace_agent.hosts.worker import Worker
    from tailrace_agent.sampler.config import MonitorConfig
    from tailrace_agent.sampler.sampler import Sampler
    from tailrace_agent.sampler.sources import host_sources
    from tailrace_agent.settings.settings import Settings

    os.nice(Settings().nice)  # as the agent

    class Silent:
        def __getattr__(self, _: str) -> Any:
            return lambda *_, **__: None

    # Without GPUs, whose driver's calls differ from machine to machine.
    config = MonitorConfig(interval=interval, gpu=False, pid=os.getppid())
    took: list[float] = []
    begun: list[float] = []
    sampler = Sampler(host_sources(config), config, lambda _: None, Silent())

    def step(now: float) -> float:
        # Of the thread: on a busy machine wall time would be that of the others.
        count, cpu = sampler.samples, time.thread_time()
        begun.append(time.monotonic())
        deadline = sampler.step(now)
        if sampler.samples > count:
            took.append(time.thread_time() - cpu)
        else:
            begun.pop()
        return deadline

    worker = Worker("sample", step, Silent())
    worker.start()
    began = time.process_time()
    time.sleep(seconds)
    share = (time.process_time() - began) / seconds
    worker.stop(5.0)
    # From the nearest tick of the grid, since a missed one is skipped.
    late = [at - (begun[0] + round((at - begun[0]) / interval) * interval) for at in begun[1:]]
    return {
        "cpu": took[1:],
        "first": took[0],
        "share": share,
        "late": [abs(each) for each in late],
        "skipped": sampler.skipped,
    }


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    found = bench.child("monitor", "beside", uri=bench.sqlite(), rounds=bench.scale(40, 6))
    yield judged(
        "system monitor: threads it adds to the training process",
        Samples([float(found["threads"])]),
        most=0,
        unit="n",
    )
    costs = Samples(a - b for a, b in zip(found["with"], found["without"], strict=True))
    yield shown(
        "… a log() between 1 ms steps, with it less without it",
        costs,
        note=f"± {costs.standard_error * 1e6:.2f} µs: nothing in the training process runs for it; what shows is a "
        "machine whose cores the agent shares",
    )
    fresh = Samples(found["fresh"])
    yield judged(
        "… latest(), p99",
        Samples(found["reads"]),
        value=Samples(found["reads"]).quantile(0.99),
        most=5e-6,
        note=f"the first one after a new sample: {fresh.median * 1e6:.1f} µs",
    )
    calm = bench.child("monitor", "samples", seconds=bench.scale(60, 10), interval=1.0)
    cpu = Samples(calm["cpu"])
    yield judged(
        "… CPU of one sample of CPU, memory, disk, network, process",
        cpu,
        most=1e-3,
        note=f"at an interval of 1 s: mean {sum(cpu.values) / len(cpu.values) * 1e3:.2f} ms, "
        f"p90 {cpu.quantile(0.9) * 1e3:.2f} ms, dearest {max(cpu.values) * 1e3:.2f} ms, "
        f"the first {calm['first'] * 1e3:.2f} ms",
    )
    yield judged("… share of one core, interval 1 s", Samples([calm["share"]]), most=0.003, unit="share")
    # As a training with a process on each core.
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        late = bench.child("monitor", "samples", seconds=bench.scale(60, 10), interval=0.2)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    times = Samples(late["late"])
    yield judged(
        "… lateness of a sample, every core busy, p99",
        times,
        value=times.quantile(0.99),
        most=0.05,
        note=f"of {len(times.values)}, {late['skipped']} skipped; p50 {times.median * 1e3:.2f} ms",
    )
