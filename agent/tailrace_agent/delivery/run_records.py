"""A run's record as the spool has it, read whatever its bytes are: a damaged disk, or another version's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from tailrace_agent.decoding import convert, decode_json
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.ipc.records import RunSpec, run_hex
from tailrace_agent.ipc.status import SessionInfo
from tailrace_agent.ipc.stored import UNREADABLE, converted
from tailrace_agent.settings.uris import resolve_uri

__all__ = ["StandIn", "nowhere", "restored", "stand_in"]

StandIn = Callable[[int], RunSpec]
"""What to take for the spec of a run whose own cannot be read."""

_PASSING: Final = {"problem", "retry_at", "lacks"}
"""Fields that hold how things stand, and are soon set anew."""
_DECOR: Final = {"tags", "description", "facts", "git_diff", "run_name"}
"""Fields of a spec without which the run is still the one that was meant."""
_LOST: Final = (
    "the record of this run could not be read whole (a damaged disk, or another version of tailrace): what is there of "
    "it is delivered"
)


def nowhere(run: int) -> RunSpec:
    """Where nobody knows more than the id."""
    return RunSpec(run=run, start_time=0, cwd="/", owned=False)


def restored(run: int, encoded: bytes, stand_in: StandIn = nowhere) -> RunState:
    """A run's state from its bytes, whatever they are: what cannot be read of it is as if it had not been written.

    Args:
        run: tailrace's id, which the spool has apart from the bytes.
        encoded: As they were found.
        stand_in: What to take for the spec where that is lost.
    """
    try:
        state = decode_json(encoded, RunState)
        if state.run == run:  # another id means damage: then it is read field by field
            return state
    except UNREADABLE:
        pass
    raw: dict[str, Any] = {}
    with suppress(*UNREADABLE):
        raw = decode_json(encoded, dict[str, Any])
    spec, rebuilt = _spec(raw.get("spec"), run, stand_in)
    ring = raw.get("ring") if isinstance(raw.get("ring"), str) else ""
    read = converted({**raw, "spec": msgspec.to_builtins(spec), "ring": ring}, RunState)
    state = read.value
    if rebuilt or set(read.lost) - _PASSING:
        # An attempt to create it may be among what is lost: the run is looked for first. So may counts and extremes be.
        state.attempts, state.partial, state.noted = max(1, state.attempts), True, True
        state.notices = [*state.notices, _LOST]
    state.rebuilt = state.rebuilt or rebuilt
    return state  # type: ignore[no-any-return]


def stand_in(session: SessionInfo, run: int) -> RunSpec:
    """What a run of this session most likely is, where nothing records it.

    Nobody's, so that a run that is found under its id keeps the status that it has.
    """
    settings = session.settings
    return RunSpec(
        run=run,
        start_time=int(session.created * 1000),
        cwd=session.cwd,
        tracking_uri=resolve_uri(settings.tracking_uri, session.cwd) if settings.tracking_uri else None,
        experiment_name=settings.experiment_name,
        run_name=f"recovered-{run_hex(run)[:8]}",
        owned=False,
    )


def _spec(raw: object, run: int, stand_in: StandIn) -> tuple[RunSpec, bool]:
    """What is left of a spec, and whether so much is lost that it is not the one that was meant."""
    known: dict[str, Any] = {}
    lost: set[str] = set()
    for field in msgspec.structs.fields(RunSpec):
        try:
            known[field.name] = convert(raw[field.name], field.type)  # type: ignore[index]
        except UNREADABLE:
            lost.add(field.name)
        except (TypeError, LookupError):  # no object, or an older one
            if field.required:
                lost.add(field.name)
    if known.get("run") != run:
        lost.add("run")
    return msgspec.structs.replace(stand_in(run), **{**known, "run": run}), bool(lost - _DECOR)
