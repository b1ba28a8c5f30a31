"""The endpoint for Prometheus: the latest values and the agent's health, read when somebody scrapes.

* A port that is taken is no dead end: the next ones are tried, and where it serves is reported. An address that cannot
  be used is tried again every half minute. Nothing of this concerns the delivery.
* A metric becomes the gauge `tailrace_metric_<name>`, with `_` for what Prometheus takes in no name; the label `metric`
  holds the name as it was logged, so two names that become one stay two series.
* A run is shown while it lasts, and for `_AFTERWARDS` seconds after its end.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.log import Log
from tailrace_agent.observers.last_values import LastValues
from tailrace_agent.observers.scrape_server import ScrapeServer
from tailrace_agent.retry import IDLE
from tailrace_agent.spool.store import Spool

__all__ = ["Endpoint", "RunCollector"]

_TRY_AGAIN: Final = 30.0  # seconds
_PORTS: Final = 20  # several agents of one machine, each with the same setting
_AFTERWARDS: Final = 300.0
_NO_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")
_LABELS: Final = ("run_id", "run_name", "experiment")


class Endpoint:
    """Serves a collector over HTTP.

    Args:
        collector: What is served.
        host: Address to listen on.
        port: Port to try first; 0 for any that is free.
        report: Called with a line for the user when it serves elsewhere than configured, or nowhere.
        log: Where operators read.

    Attributes:
        url: Where it serves, once it does.

    Thread safety: `step` from one thread, all else from any.
    """

    def __init__(self, collector: Collector, host: str, port: int, report: Callable[[str], None], log: Log) -> None:
        # Own, not prometheus_client's global one; and not described: that would collect before there is anything.
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        self._host, self._port, self._report, self._log = host, port, report, log
        self._server: ScrapeServer | None = None
        self.url: str | None = None

    def step(self, now: float) -> float:
        """Begins to serve; when to be called again (monotonic seconds)."""
        if self._server is not None:
            return now + IDLE
        try:
            self._server = self._serve()
        except (OSError, UnicodeError, RuntimeError) as error:  # no host's name at all; no thread to be had
            reason = getattr(error, "strerror", None) or str(error)
            self._log.warning("metrics are not served", host=self._host, port=self._port, reason=reason)
            self._report(f"metrics cannot be served to Prometheus on {self._host} port {self._port}: {reason}")
            return now + _TRY_AGAIN
        port = self._server.port
        self.url = f"http://{_shown(self._host)}:{port}/metrics"
        self._log.info("metrics are served", url=self.url)
        if port != self._port:
            taken = f"port {self._port} is taken: " if self._port else ""
            self._report(f"{taken}metrics are served to Prometheus at {self.url}")
        return now + IDLE

    def close(self) -> None:
        """Ends it."""
        server, self._server, self.url = self._server, None, None
        if server is not None:
            server.stop()

    def after_fork(self) -> None:
        """In a forked child, where no thread serves: its copy of the socket would keep the port taken."""
        if self._server is not None:
            self._server.after_fork()

    def _serve(self) -> ScrapeServer:
        server = self._listen()
        try:
            server.start()
        except RuntimeError:
            server.server_close()
            raise
        return server

    def _listen(self) -> ScrapeServer:
        names = {name.lower() for name in (self._host, os.uname().nodename) if name}
        last = min(self._port + _PORTS, 65536) if self._port else 1
        for port in range(self._port, last):
            try:
                return ScrapeServer(self._host, port, names, self._registry, self._log)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or port == last - 1:
                    raise
        raise AssertionError("no port was tried")  # pragma: no cover


def _shown(host: str) -> str:
    """The host as a URL has it."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - requested by the user
        return os.uname().nodename
    return f"[{host}]" if ":" in host else host


class RunCollector(Collector):
    """What a scrape sees of one session.

    Args:
        latest: Values.
        book: The runs.
        spool: What waits.
        session: The session's id.
        clock: Seconds since the epoch.

    Thread safety: `collect` from any thread.
    """

    def __init__(
        self, latest: LastValues, book: RunBook, spool: Spool, session: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._latest, self._book, self._spool, self._session, self._clock = latest, book, spool, session, clock
        self._began = clock()

    def collect(self) -> Iterator[Metric]:
        """Every family: the agent's, the runs', and one for each name of a metric."""
        shown = [state for state in self._book.all() if self._is_shown(state)]
        # Here, since only a scrape reads the values: nothing else has to know which runs are over.
        self._latest.keep_only(state.run for state in shown)
        yield from self._of_agent()
        yield from self._of_runs(shown)
        yield from self._of_metrics(shown)

    def _is_shown(self, state: RunState) -> bool:
        over = state.end is not None and self._clock() - state.end.time_ms / 1000 > _AFTERWARDS
        return state.spec.owned and not over

    def _of_agent(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("tailrace_agent_info", "The agent of one session.", labels=("session", "pid"))
        info.add_metric((self._session, str(os.getpid())), 1)
        yield info
        for name, text, value in (
            ("start_timestamp_seconds", "When it began.", self._began),
            ("pending", "Entries of all runs that wait for MLflow.", self._spool.waiting.points),
            ("spool_bytes", "Bytes that wait on disk.", self._spool.waiting.bytes),
            ("metrics_left_out", "Metrics that found no room here; MLflow gets them all.", self._latest.left_out),
        ):
            yield GaugeMetricFamily(f"tailrace_agent_{name}", text, value=value)

    def _of_runs(self, shown: list[RunState]) -> Iterator[Metric]:
        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"tailrace_run_{name}", text, labels=_LABELS)

        def counter(name: str, text: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"tailrace_run_{name}", text, labels=_LABELS)

        running = gauge("running", "1 while the run lasts.")
        step = gauge("step", "Step of the last row that training logged.")
        last = gauge("last_log_timestamp_seconds", "When training logged last.")
        alerts = counter("alerts", "Alerts raised.")
        problem = gauge("problem", "1 while its delivery stumbles over something.")
        pending = gauge("pending", "Entries that wait for MLflow.")
        lag = gauge("lag_seconds", "Age of the oldest metric that waits.")
        delivered = counter("delivered", "Entries that MLflow has.")
        dead = counter("dead", "Entries that MLflow refused.")
        dropped = counter("dropped", "Entries that were given up.")
        for state in shown:
            labels, total = _labels(state), self._spool.counts.ledger(state.run).total
            running.add_metric(labels, state.end is None)
            if (row := self._latest.progress(state.run)) is not None:
                step.add_metric(labels, row.step)
                last.add_metric(labels, row.time_ns / 1e9)
            alerts.add_metric(labels, state.alerts)
            problem.add_metric(labels, bool(state.problem or state.refused or state.gone))
            pending.add_metric(labels, total.pending)
            oldest = self._spool.waiting.oldest_ns(state.run)
            lag.add_metric(labels, max(0.0, self._clock() - oldest / 1e9) if oldest else 0.0)
            delivered.add_metric(labels, total.delivered)
            dead.add_metric(labels, total.dead)
            dropped.add_metric(labels, sum(total.dropped.values()))
        yield from (running, step, last, alerts, problem, pending, lag, delivered, dead, dropped)

    def _of_metrics(self, shown: list[RunState]) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for state in shown:
            labels = _labels(state)
            for key, latest in self._latest.of(state.run).items():
                name = f"tailrace_metric_{_NO_NAME.sub('_', key)}"
                family = families.get(name)
                if family is None:
                    text = "The latest value that was logged under the name in the label `metric`."
                    family = families[name] = GaugeMetricFamily(name, text, labels=(*_LABELS, "metric"))
                family.add_metric((*labels, key), latest.value)
        yield from families.values()


def _labels(state: RunState) -> tuple[str, str, str]:
    """Run id (tailrace's own until MLflow has one), name, and experiment."""
    ref, spec = state.ref, state.spec
    experiment = spec.experiment_name or (ref.experiment_id if ref else spec.experiment_id) or "Default"
    run_id = ref.run_id if ref else run_hex(state.run)
    return run_id, (ref.run_name if ref else spec.run_name) or "", "Default" if experiment == "0" else experiment
