"""What does a call of five floats cost in the other trackers, in the same loop on the same machine?

Asked with `--rivals` only: they are installed into a venv of their own (`benchmarks/out/rivals`), about 281 MB.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import Bench
from figures import Figure, Samples, shown, timed
from training import Step, call_times, pairs

_PACKAGES = {"tensorboardX": "tensorboardX", "trackio": "trackio", "wandb": "wandb"}
_LABELS = {"tensorboardX": "TensorBoard (tensorboardX)", "trackio": "trackio", "wandb": "wandb, offline"}


def install() -> tuple[Path, list[str]]:
    """The interpreter of their venv, made when it is missing, and what could not be installed."""
    venv = Path(__file__).resolve().parent / "out" / "rivals"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    # Wheels only: what would have to be compiled is left out, and said so.
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    failed = []
    for package in _PACKAGES.values():
        done = subprocess.run([*pip, package], check=False, timeout=600)
        if done.returncode:
            failed.append(package)
    return python, failed


def train(tracker: str, rounds: int, steps: int, directory: str) -> dict[str, Any]:
    """The slowdown of a loop of 1 ms steps, the time in the call, and the end."""
    call, end = _TRACKERS[tracker](directory)
    step = Step(0.001)
    # The first call of each opens files and starts threads.
    call(step=0, loss=0.25, accuracy=0.5, lr=0.001, grad_norm=1.5, throughput=1234.5)
    found = pairs(step, call, rounds, steps)
    return {**found, "each": call_times(call, rounds, step), "end": [timed(end)]}


def _tensorboard(directory: str) -> tuple[Callable[..., object], Callable[[], object]]:
    from tensorboardX import SummaryWriter  # type: ignore[import-not-found,unused-ignore]

    writer = SummaryWriter(f"{directory}/tensorboard")

    def call(step: int, **values: float) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    return call, writer.close


def _trackio(directory: str) -> tuple[Callable[..., object], Callable[[], object]]:
    import os

    os.environ["TRACKIO_DIR"] = f"{directory}/trackio"
    import trackio  # type: ignore[import-not-found,unused-ignore]

    trackio.init(project="bench", embed=False)
    return lambda step, **values: trackio.log(values, step=step), trackio.finish


def _wandb(directory: str) -> tuple[Callable[..., object], Callable[[], object]]:
    import wandb  # type: ignore[import-not-found,unused-ignore]

    run = wandb.init(project="bench", mode="offline", dir=directory)
    return lambda step, **values: run.log(values), run.finish  # noqa: ARG005 - its steps must grow, so it counts


_TRACKERS = {"tensorboardX": _tensorboard, "trackio": _trackio, "wandb": _wandb}


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    if bench.rivals is None:
        return
    for tracker, label in _LABELS.items():
        try:
            found = bench.child(
                "rivals",
                "train",
                python=bench.rivals,
                tracker=tracker,
                rounds=bench.scale(100, 15),
                steps=20,
                directory=str(bench.dir),
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            yield Figure(f"{label}, between 1 ms steps", "", "not measured", None, reason)
            continue
        each = Samples(found["each"])
        yield shown(
            f"{label}, between 1 ms steps",
            Samples(found["calm"]),
            value=statistics.fmean(found["calm"]),
            note=f"slowdown of the loop, plain mean; in the call {each.middle_mean * 1e6:.0f} µs, "
            f"p99 {each.quantile(0.99) * 1e6:.0f}; end {found['end'][0]:.2f} s",
        )
