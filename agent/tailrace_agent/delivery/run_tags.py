"""Tags that tailrace stores with runs of its own accord: those that are good arrive, whatever becomes of the others.

Such a tag is no entry of the ledger. One that the store refuses is logged for operators, and costs no other.
"""

from __future__ import annotations

from collections.abc import Iterable

from tailrace_agent.errors import Refused
from tailrace_agent.log import Log
from tailrace_agent.sinks.base import Sink

__all__ = ["RunTags"]


class RunTags:
    """Stores them, in as few requests as it takes.

    Args:
        log: Where operators read.

    What the sink raises comes out, but for a refusal of a tag. Thread safety: every method from any thread.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def store(self, sink: Sink, run_id: str, tags: Iterable[tuple[str, str]]) -> bool:
        """Stores tags; whether the store has taken all."""
        every, most = list(tags), sink.limits.tags
        taken = [self._store(sink, run_id, every[at : at + most]) for at in range(0, len(every), most)]
        return all(taken)

    def delete(self, sink: Sink, run_id: str, key: str) -> None:
        """Deletes a tag, if the run has it."""
        try:
            sink.delete_tags(run_id, (key,))
        except Refused as error:  # not everybody may delete
            self._log.warning("tag stays", key=key, reason=str(error))

    def _store(self, sink: Sink, run_id: str, tags: list[tuple[str, str]]) -> bool:
        try:
            sink.log_batch(run_id, tags=tags)
        except Refused as error:
            if len(tags) > 1:
                taken = [self._store(sink, run_id, [tag]) for tag in tags]
                return all(taken)
            self._log.warning("tag refused", key=tags[0][0], reason=str(error))
            return False
        return True
