"""Another destination for runs that have not reached theirs: refused, lost, or at another address now.

A store that knows a run already (it has moved) goes on with it. In any other store the run begins anew with what is
left; what the first store took is written down beside the spool (`moved-<run>.json`), so that `verify` compares the
second store with what was delivered there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from tailrace_agent.cli._app import count
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.errors import StoreRefused
from tailrace_agent.hosts.log_file import open_log
from tailrace_agent.hosts.process import open_sink
from tailrace_agent.ipc import status
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ipc.session import Session
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.settings.uris import check_uri, mask_uri, resolve_uri
from tailrace_agent.sinks.base import Sink

__all__ = ["Moved", "move", "moved"]

_DRAIN_FOR: Final = 10.0  # seconds; a ring's damaged frame is given up after five


class Moved(msgspec.Struct, kw_only=True):
    """What an earlier store took: its URI, MLflow's id of the run there, and rows by metric key."""

    store: str | None
    run_id: str | None
    keys: dict[str, int]


def moved(session: Session, run: int) -> Moved | None:
    """What is known of a run's earlier store."""
    return status.read(_note(session, run), Moved)


def move(
    session: Session, lock: int, tracking_uri: str, credentials: dict[str, str], report: Callable[[str], None]
) -> dict[str, str]:
    """Changes the destination of every run that still wants something.

    Args:
        session: The session.
        lock: Descriptor that holds its agent lock; closed when something goes wrong.
        tracking_uri: The new destination, with its password.
        credentials: `user:password` by masked URI.
        report: Called with a line on what becomes of each run.

    Returns:
        Credentials that the session's rings held.

    Raises:
        StoreRefused, Unavailable: The new store cannot be used; nothing has changed.
    """
    try:
        fault = check_uri(tracking_uri, os.environ)
        if fault is not None:
            raise StoreRefused(f"MLflow cannot use {mask_uri(tracking_uri)[0]}: {fault}")
        here = str(Path.cwd())
        uri = resolve_uri(tracking_uri, here)
        # Before anything changes: a store that cannot be used leaves the session as it is.
        sink = open_sink(uri, here, request_timeout=session.info.settings.request_timeout)
        log = open_log(session.dir / "agent.log", session.info.settings.log_level, pid=os.getpid(), host="sync")
        pipeline = Pipeline.open(session, open_sink, log, host="sync", credentials=credentials)
        try:
            _take_over_rings(pipeline)
            _move_runs(session, pipeline, sink, mask_uri(uri)[0], report)
            held = [(known, pipeline.book.credentials(known)) for known, _ in pipeline.book.destinations() if known]
        finally:
            pipeline.close()
    except BaseException:
        os.close(lock)
        raise
    return {known: secret for known, secret in held if secret}


def _take_over_rings(pipeline: Pipeline) -> None:
    """Rings into the spool: what is in them may name the old destination."""
    deadline = time.monotonic() + _DRAIN_FOR
    while not pipeline.deserted and time.monotonic() < deadline:
        time.sleep(max(0.0, min(pipeline.drain(time.monotonic()) - time.monotonic(), 0.1)))
    pipeline.drain(time.monotonic())


def _move_runs(session: Session, pipeline: Pipeline, sink: Sink, uri: str, report: Callable[[str], None]) -> None:
    for state in pipeline.book.all():
        if state.finalized or state.spec.tracking_uri == uri:  # finalized: all of it is where it was to go
            continue
        ref = state.ref
        # By MLflow's id, which is random: a store that has it is the same one, or a copy of it.
        same = ref is not None and any(found.ref.run_id == ref.run_id for found in sink.find_runs(ref.run_id))
        changes: dict[str, Any] = {"tracking_uri": uri} if same else _fresh(state, uri)
        spec = msgspec.structs.replace(state.spec, **changes)
        delivered = {} if same else pipeline.spool.counts.delivered_keys(state.run)
        if delivered:
            # The note first: killed in between, it says what the store took where the run still is, which is read as
            # such. The other way round, the run would begin anew and be compared with what the first store took.
            status.write(
                _note(session, state.run),
                Moved(store=state.spec.tracking_uri, run_id=ref.run_id if ref else None, keys=delivered),
            )
        pipeline.book.update(
            state.run, spec=spec, ref=ref if same else None, attempts=state.attempts if same else 0, refused=None
        )
        name = f"run {run_hex(state.run)[:8]}"
        if same:
            report(f"{name} goes on in {uri}")
            continue
        stays = f"; {count(sum(delivered.values()), 'point')} stay where they were delivered" if delivered else ""
        report(f"{name} begins anew in {uri}{stays}")


def _fresh(state: RunState, uri: str) -> dict[str, Any]:
    """What an id of the old store names does not exist in the new one."""
    changes: dict[str, Any] = {"tracking_uri": uri, "experiment_id": None, "parent_run_id": None, "run_id": None}
    if state.ref is not None and state.spec.run_name is None:
        changes["run_name"] = state.ref.run_name  # MLflow made it up, and people know the run by it
    return changes


def _note(session: Session, run: int) -> Path:
    return session.dir / f"moved-{run_hex(run)}.json"
