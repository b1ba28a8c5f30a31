"""How much faster is the bulk way, by the server's route and into a database, than a bare loop of `log_batch`?

PostgreSQL and MySQL are measured where `TAILRACE_BENCH_POSTGRESQL` and `TAILRACE_BENCH_MYSQL` are the URIs of empty
databases.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from bench import Bench
from figures import Figure, Samples, interleave, judged


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    databases = {"SQLite": (None, bench.sqlite(), 10.0, 6.0)}
    for name, least_routed, least_direct in (("PostgreSQL", 8.0, 4.0), ("MySQL", 4.0, 3.0)):
        if given := os.environ.get(f"TAILRACE_BENCH_{name.upper()}"):
            databases[name] = (given, given, least_routed, least_direct)
    for name, (behind, directly, least_routed, least_direct) in databases.items():
        ways = {
            "the route of a server": (bench.app_server(behind), least_routed),
            "no server": (directly, least_direct),
        }
        for way, (uri, least) in ways.items():
            yield _judged(bench, f"{name}, {way}", uri, least)


def _judged(bench: Bench, where: str, uri: str, least: float) -> Figure:
    points = {"bare": bench.scale(20_000, 10_000), "ours": bench.scale(200_000, 100_000)}

    def rate(side: str) -> Any:
        return bench.child("delivery_rate", side, uri=uri, points=points[side])

    found = interleave(bench.scale(5, 2), {side: lambda side=side: rate(side) for side in points})  # type: ignore[misc]
    pairs = Samples(mine / theirs for mine, theirs in zip(found["ours"], found["bare"], strict=True))
    return judged(
        f"delivery / a bare log_batch loop, {where}",
        pairs,
        least=least,
        unit="x",
        note=f"{Samples(found['ours']).median:,.0f} against {Samples(found['bare']).median:,.0f} points/s",
    )
