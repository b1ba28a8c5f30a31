"""How long does `log_artifact` of 100 MB keep the caller?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bench import Bench
from figures import Figure, Samples, judged, shown, timed

_BYTES = 100_000_000


def take(uri: str, directory: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of `log_artifact`, by copy and by link, and of MLflow's own, in turn. All is delivered in between."""
    import mlflow

    import tailrace as sdk

    checkpoint = Path(directory, "checkpoint.bin")
    # Random bytes: a file system that compresses would copy zeros for nothing.
    checkpoint.write_bytes(os.urandom(_BYTES))
    mlflow.set_tracking_uri(uri)
    found: dict[str, list[float]] = {"copy": [], "link": [], "mlflow": []}
    for _ in range(rounds):
        for way in ("copy", "link"):
            with sdk.start_run(tracking_uri=uri, artifact_snapshot=way) as run:
                found[way].append(timed(lambda run=run: run.log_artifact(checkpoint)))  # type: ignore[misc]
                # Else the upload of this round would compete with the next round's copy for the disk.
                assert run.flush(120).settled
        with mlflow.start_run():
            found["mlflow"].append(timed(lambda: mlflow.log_artifact(str(checkpoint))))
    checkpoint.unlink()
    return found


def reflinks(directory: Path) -> bool:
    """Whether the file system can share blocks between files."""
    from tailrace._artifacts.file_copy import take_file

    source = directory / "reflink"
    source.write_bytes(b"x" * 65536)
    return take_file(str(source), str(directory / "reflink.copy"), link=False)[1] == "reflink"


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    found = bench.child("artifact", "take", uri=bench.sqlite(), directory=str(bench.dir), rounds=bench.scale(10, 2))
    yield judged('log_artifact of 100 MB, artifact_snapshot="link"', Samples(found["link"]), most=0.005)
    copy = Samples(found["copy"])
    if reflinks(bench.dir):
        yield judged("log_artifact of 100 MB, by reflink", copy, most=0.005)
    else:
        rate = _BYTES / copy.median / 1e9
        note = (
            f"{rate:.1f} GB/s; this file system has no reflinks, so the default copies in the kernel, without the GIL"
        )
        yield shown("log_artifact of 100 MB, by copy", copy, note=note)
    yield shown("beside it: mlflow.log_artifact, a local file to a local directory", Samples(found["mlflow"]))
