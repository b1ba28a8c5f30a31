"""What MLflow holds of a run, against what the ledger counts as delivered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tailrace_agent.cli._app import Code, Fail, count
from tailrace_agent.cli._credentials import known_credentials
from tailrace_agent.cli._look import Busy
from tailrace_agent.cli._runs import LocalRun, delivered_keys
from tailrace_agent.decoding import decode_json
from tailrace_agent.errors import NotFound
from tailrace_agent.hosts.process import open_sink
from tailrace_agent.ipc import status
from tailrace_agent.ipc.status import RunStatus
from tailrace_agent.ipc.tags import LEDGER_TAG, RUN_TAG
from tailrace_agent.ledger import Ledger
from tailrace_agent.reading.reader import Choose, open_reader
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.uris import mask_uri, missing_file, unmask_uri
from tailrace_agent.sinks.base import Sink

__all__ = ["Finding", "compare_with_sessions", "compare_with_tag", "find_stored"]


class Finding(msgspec.Struct, kw_only=True):
    """What was found. `differing` is `{key: [delivered, in MLflow]}`; by key only where `by_key`."""

    run_id: str
    run_name: str | None
    store: str
    by_key: bool
    delivered: int
    found: int
    keys: int
    pending: int
    dead: int
    dropped: dict[str, int]
    live: bool = False
    shared: bool = False
    differing: dict[str, tuple[int, int]] = {}

    @property
    def equal(self) -> bool:
        """Whether MLflow holds what the ledger counts as delivered."""
        if self.live or self.shared:  # more may have arrived since, or from others
            return all(found >= delivered for delivered, found in self.differing.values())
        return not self.differing


def compare_with_sessions(settings: Settings, local: list[LocalRun], tracking_uri: str | None) -> Finding:
    """Compares every key with what the sessions have delivered; totals where one of them is live.

    Raises:
        Fail: The run is not in MLflow yet.
    """
    first = local[0]
    run_id = next((entry.run.run_id for entry in local if entry.run.run_id), None)
    if run_id is None:
        pending = count(sum(entry.run.pending for entry in local), "entry is", "entries are")
        raise Fail(f"run {first.run.run[:8]} is not in MLflow yet: {pending} pending; `tailrace sync` delivers them")
    sink, store = _open(settings, tracking_uri or first.run.store, first.session.info.cwd)
    expected: Counter[str] = Counter()
    live = 0
    for entry in local:
        try:
            expected.update(delivered_keys(entry))
        except Busy:  # only its agent may open the spool: its own totals are taken
            live += _rows_of(entry)
    # After the ledger: what is delivered meanwhile is then more in MLflow, and never less.
    found = sink.count_metrics(run_id)
    # Others have logged to it, so more than this may be there.
    known = sink.find_runs(run_id)
    resumed = len(local) > 1 or any(stored.tags.get(RUN_TAG) != first.run.run for stored in known)
    # So have other nodes of its job, whose sessions are not here.
    resumed = resumed or any(len(ledger_tags(stored.tags)) > 1 for stored in known)
    finding = Finding(
        run_id=run_id,
        run_name=first.run.run_name,
        store=store,
        by_key=not live,
        delivered=sum(expected.values()) + live,
        found=sum(found.values()),
        keys=len(found),
        pending=sum(entry.run.pending for entry in local),
        dead=sum(entry.run.dead for entry in local),
        dropped=dict(sum((Counter(entry.run.dropped) for entry in local), Counter())),
        live=bool(live),
        shared=resumed,
    )
    finding.differing = _differing(expected, found) if finding.by_key else _totals(finding)
    return finding


def compare_with_tag(settings: Settings, uri: str, run: Any) -> Finding:
    """Compares the totals with the ledger that was stored with the run.

    Args:
        settings: The settings in force.
        uri: The store.
        run: As `find_stored` gives it.

    Raises:
        Fail: It carries no ledger.
    """
    info, tags = run.info, ledger_tags(run.data.tags)
    if not tags:
        raise Fail(
            f"run {info.run_id} carries no ledger (the tag tailrace.ledger), and its session is not on this machine: "
            "tailrace did not log it, or has not settled it yet"
        )
    # As plain data: of another version, it may have more.
    ledgers = [decode_json(tag, dict[str, Any]) for tag in tags.values()]
    metrics = [ledger["kinds"].get("metric", {"delivered": 0, "merged": 0}) for ledger in ledgers]
    sink, store = _open(settings, uri, str(Path.cwd()))
    found = sink.count_metrics(info.run_id)
    finding = Finding(
        run_id=info.run_id,
        run_name=info.run_name,
        store=store,
        by_key=False,
        # Rows: MLflow keeps one for identical points.
        delivered=sum(metric["delivered"] - metric["merged"] for metric in metrics),
        found=sum(found.values()),
        keys=len(found),
        pending=sum(ledger["pending"] for ledger in ledgers),
        dead=sum(ledger["dead"] for ledger in ledgers),
        dropped=dict(sum((Counter(ledger["dropped"]) for ledger in ledgers), Counter())),
    )
    finding.differing = _totals(finding)
    return finding


def ledger_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The ledgers that are stored with a run: of several nodes each has its own."""
    return {key: value for key, value in tags.items() if key == LEDGER_TAG or key.startswith(f"{LEDGER_TAG}.")}


def find_stored(settings: Settings, uri: str, run: str, choose: Choose) -> Any:
    """The run in its store, as MLflow has it.

    Raises:
        Fail: There is no such store.
        NotFound: It has no such run, or the beginning of an id or a name fits several.
        SinkError, StoreRefused: It is away, or cannot be used.
    """
    absent = missing_file(uri)
    if absent is not None:
        text = f"this machine knows no run {run!r}, and there is no store {absent}; give --tracking-uri"
        raise Fail(text, Code.UNKNOWN)
    try:
        reader = open_reader(_whole(settings, uri)[0], str(Path.cwd()), request_timeout=settings.request_timeout)
        return reader.find(run, choose)
    except NotFound as error:
        raise NotFound(f"this machine knows no run {run!r}, and {error}; is --tracking-uri right?") from error


def _rows_of(entry: LocalRun) -> int:
    """Distinct metric rows that a live agent has delivered by its own account."""
    found = status.read(entry.session.shared / status.run_file(int(entry.run.run, 16)), RunStatus)
    metric = found.ledger.of("metric") if found is not None else None
    return metric.delivered - metric.merged if metric is not None else 0


def _open(settings: Settings, tracking_uri: str | None, cwd: str) -> tuple[Sink, str]:
    """The store, and its name for people."""
    whole, name = _whole(settings, tracking_uri)
    return open_sink(whole, cwd, request_timeout=settings.request_timeout), name


def _whole(settings: Settings, tracking_uri: str | None) -> tuple[str | None, str]:
    """The URI with the password that was given for it, and without one."""
    if not tracking_uri:
        return None, "MLflow's default store"
    name = mask_uri(tracking_uri)[0]
    credentials = known_credentials(settings).get(name)
    return (unmask_uri(tracking_uri, credentials) if credentials else tracking_uri), name


def _differing(expected: Counter[str], found: dict[str, int]) -> dict[str, tuple[int, int]]:
    return Ledger().shortage(found, expected)


def _totals(finding: Finding) -> dict[str, tuple[int, int]]:
    return {"*": (finding.delivered, finding.found)} if finding.delivered != finding.found else {}
