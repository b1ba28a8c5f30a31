"""What went over the network interfaces since the start, and how fast."""

from __future__ import annotations

from typing import Final

import psutil

from tailrace_agent.sampler.rates import Rates
from tailrace_agent.sampler.source import SourceGone

__all__ = ["NetworkSource"]

_MEGA: Final = 1e6
"""MLflow's megabyte."""


class NetworkSource:
    """Megabytes since the first sample by MLflow's names and of the interfaces that MLflow counts (all), and rates.

    Interfaces come and go (containers make them); each is counted from when it was first seen.
    """

    name = "network"
    every = 0.0

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, int]] = {}
        self._received = self._sent = 0
        self._rates = Rates()

    def sample(self, now: float) -> dict[str, float]:
        """See `Source`."""
        # `nowrap` would keep every interface's history; one whose counters have fallen is dealt with below.
        interfaces = psutil.net_io_counters(pernic=True, nowrap=False)
        if not interfaces:
            raise SourceGone("there is no network interface")
        totals = {name: (one.bytes_recv, one.bytes_sent) for name, one in interfaces.items()}
        for name, (received, sent) in totals.items():
            before = self._before.get(name, (received, sent))
            self._received += max(0, received - before[0])
            self._sent += max(0, sent - before[1])
        self._before = totals
        values = {
            "network_receive_megabytes": self._received / _MEGA,
            "network_transmit_megabytes": self._sent / _MEGA,
        }
        rates = self._rates.update(now, values)
        return values | {f"{name}_per_second": rate for name, rate in rates.items()}

    def tags(self) -> dict[str, str]:
        """See `Source`."""
        return {}

    def totals(self) -> dict[str, float]:
        """See `Source`."""
        return {}

    def close(self) -> None:
        """See `Source`."""
