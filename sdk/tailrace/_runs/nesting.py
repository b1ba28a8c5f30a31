"""What a run below another one is called there, and which of their ends comes first."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from tailrace_agent.errors import TailraceError

if TYPE_CHECKING:
    from tailrace._runs.core import RunCore
    from tailrace._session.connection import Connection
    from tailrace_agent.ipc.records import RunSpec

__all__ = ["below", "waits_for"]


def below(parent: RunCore, spec: RunSpec, connection: Connection | None) -> RunSpec:
    """The same under a parent. One of another session is called by MLflow's id, which may have to be waited for."""
    if parent.connection is connection or parent.connection is None:
        return msgspec.structs.replace(spec, parent=int(parent.id, 16))
    with contextlib.suppress(TailraceError, TimeoutError):  # MLflow is away: a run of its own is better than none
        return msgspec.structs.replace(spec, parent_run_id=parent.handle.run_id)
    return spec


def waits_for(parent: RunCore | None, spec: RunSpec, connection: Connection | None) -> bool:
    """Whether the end of a run may be left to that of its parent: the agent knows both, and they go to one store."""
    if parent is None or connection is None or not parent.ours:
        return False
    return parent.connection is connection and parent.spec.tracking_uri == spec.tracking_uri
