"""What the parts of `Run` have in common: the core of the run that users hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrace._runs.core import RunCore

__all__ = ["RunPart", "core_of"]


class RunPart:
    """What users call, of one kind: a base of `Run`, which gives it the core."""

    def __init__(self, core: RunCore) -> None:
        self._core = core


def core_of(run: RunPart) -> RunCore:
    """The core of a run that users hold."""
    return run._core
