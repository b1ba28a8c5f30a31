"""How long does `start_run` keep the caller while the server is away?"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from bench import Bench
from figures import Figure, Samples, judged, timed


def start(uri: str) -> list[float]:
    """Seconds that the first `start_run` of a process takes, and the second."""
    import tailrace as sdk

    took = []
    for _ in range(2):
        took.append(timed(lambda: sdk.start_run(tracking_uri=uri)))
        sdk.log(step=1, loss=0.5)
        # Without a wait, which would be for a server that is away.
        sdk.end_run(timeout=0)
    return took


def measure(bench: Bench) -> Iterator[Figure]:
    """The rows of this question."""
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)  # takes connections and never answers
        closed.bind(("127.0.0.1", 0))  # refuses them
        ways = {"refusing": closed, "silent": silent}
        found: dict[str, list[list[float]]] = {way: [] for way in ways}
        for _ in range(bench.scale(15, 4)):
            for way, end in ways.items():
                uri = f"http://127.0.0.1:{end.getsockname()[1]}"
                found[way].append(bench.child("start_away", "start", uri=uri))
    for place, name in enumerate(("first in the process", "second")):
        for way in ways:
            samples = Samples(took[place] for took in found[way])
            yield judged(
                f"start_run, server {way}, {name}", samples, most=0.050, note=f"worst {samples.values[-1] * 1e3:.0f} ms"
            )
