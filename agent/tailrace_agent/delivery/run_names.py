"""The names of runs in MLflow, as the delivery needs them.

The tag with the name that was logged is in MLflow before anything is sent under the clean one.

Thread safety: several threads, each with a run of its own.
"""

from __future__ import annotations

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.delivery.run_tags import RunTags
from tailrace_agent.errors import Refused
from tailrace_agent.ipc.notices import Notice, Topic
from tailrace_agent.log import Log
from tailrace_agent.mlflow.names import name_tag
from tailrace_agent.mlflow.stored_names import StoredNames, Texts, cut
from tailrace_agent.sinks.base import Sink
from tailrace_agent.spool.store import Spool
from tailrace_agent.text.quoting import quoted

__all__ = ["NamesOfRuns"]


class NamesOfRuns:
    """The names of all runs that go to one tracking URI.

    Args:
        spool: Knows what was delivered.
        book: Tells a run's user.
        log: Where operators read.
    """

    def __init__(self, spool: Spool, book: RunBook, log: Log) -> None:
        self._spool, self._book, self._log = spool, book, log
        self._tags = RunTags(log)
        self._of: dict[int, StoredNames] = {}

    def of(self, sink: Sink, state: RunState) -> StoredNames:
        """The names of a run that MLflow has."""
        run = state.run
        if run not in self._of:
            self._of[run] = StoredNames(
                sink.check, lambda: self._texts(sink, state), lambda: self._spool.counts.delivered_keys(run)
            )
        return self._of[run]

    def send_fresh(self, sink: Sink, state: RunState) -> None:
        """Sends the tags that MLflow lacks.

        Raises:
            Unavailable, RunGone: As from any request; then they are sent with the next batch.
        """
        names = self._of.get(state.run)
        if names is None or not names.fresh or state.ref is None:
            return
        longest = sink.limits.tag_chars
        tags = ((name_tag(stored), cut(name, longest)) for stored, name in names.fresh.items())
        # Refused or not: what is logged under the clean names is worth more than these.
        self._tags.store(sink, state.ref.run_id, tags)
        stored, name = next(iter(names.fresh.items()))
        text = (
            f"MLflow cannot have {quoted(name)} for a name: it is stored as {quoted(stored)}, and the run's tag "
            f"{quoted(name_tag(stored))} holds what was logged. So it is with all such names"
        )
        self._book.notice(state.run, Notice(text, Topic("clean names")))
        names.fresh.clear()

    def forget(self, run: int) -> None:
        """The run is finished."""
        self._of.pop(run, None)

    def _texts(self, sink: Sink, state: RunState) -> Texts:
        try:
            return sink.texts_of(state.ref.run_id) if state.ref is not None else Texts({}, {})
        except Refused as error:  # it may be written to, and not be read
            self._log.warning("tags not read", run=state.run, reason=str(error))
            return Texts({}, {})
