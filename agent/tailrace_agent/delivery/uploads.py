"""Uploads: what was staged as an artifact reaches the run's artifact store, beside the metrics and never before them.

Invariants
----------
1. Nothing that cannot be stored stands before something that can: what failed waits by itself, and the next one is
   tried.
2. What fails again and again while others pass becomes a dead letter with the reason (see `trials`). When nothing else
   passes, a small file of ours is offered to find out whether the store takes anything.
3. A file that is refused costs itself, and not the directory that it lies in.
4. Uploading again what was uploaded before writes the same bytes to the same place, so a lost answer costs only time.
   A staged copy is deleted after the spool knows, through a power cut, that it has arrived.

What tailrace itself stores beside them is in `run_files`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from tailrace_agent.decoding import msgpack_decoder
from tailrace_agent.delivery.artifact_pieces import Pieces
from tailrace_agent.delivery.artifact_source import ArtifactSource, CutShort, NoTable, artifact_file
from tailrace_agent.delivery.deliver import Delivery
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_files import RunFiles
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.delivery.trials import DEADLY, Trials
from tailrace_agent.errors import Refused, RunGone, Unavailable
from tailrace_agent.ipc import staging
from tailrace_agent.ipc.notices import Notice, Topic
from tailrace_agent.ipc.reasons import Reason
from tailrace_agent.ipc.records import Artifact, ModelOutcome, ModelSpec
from tailrace_agent.log import Log
from tailrace_agent.retry import IDLE, Backoff
from tailrace_agent.settings.uris import unmask_uri
from tailrace_agent.sinks.base import Renamed, Sink
from tailrace_agent.spool.blocks import Block, Outcome
from tailrace_agent.spool.store import Spool
from tailrace_agent.text.quoting import quoted

__all__ = ["Uploads"]

_NO_SINK_YET: Final = 0.1
_NOT_OUR_TURN: Final = 0.1
_THE_PATH: Final = frozenset({400, 405, 414, 415, 422})
"""HTTP statuses that, from a server that takes everything else, are about this one artifact's name or form."""
_TELL_AFTER: Final = 3
_DOUBT_AFTER: Final = 3
_CHECK: Final = "upload-check.txt"
_CHECK_TEXT: Final = "Written by tailrace, to find out whether artifacts can be stored while one of them cannot.\n"
_decoder = msgpack_decoder(Artifact)


class Uploads:
    """Uploads the artifacts of all runs that go to one tracking URI, one at a time.

    Args:
        delivery: The delivery to the same URI; it opens the sink and creates the runs.
        files: What stores tailrace's own files there.
        spool: Where the artifact rows wait.
        book: The runs.
        artifacts: The session's `artifacts/` directory.
        retry_max_delay: Longest pause between tries in seconds.
        log: Where operators read.
        monotonic: The clock of all deadlines.

    Not thread-safe: one thread calls `step`.
    """

    def __init__(
        self,
        delivery: Delivery,
        files: RunFiles,
        spool: Spool,
        book: RunBook,
        artifacts: Path,
        *,
        retry_max_delay: float,
        log: Log,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delivery, self._files, self._spool, self._book = delivery, files, spool, book
        self._staging, self._stored = artifacts, 0
        self._log, self._monotonic = log, monotonic
        self._source = ArtifactSource(artifacts)
        self._backoff = Backoff(cap=retry_max_delay)
        self._trials = Trials(retry_max_delay, spool.artifacts.failures())
        self._pieces: dict[int, Pieces] = {}  # by block: directories that have failed as a whole
        self._doubts = 0  # failures in a row after which it is the store that is doubted
        self._durable: set[int] = set()  # blocks whose copy is on the disk, or cannot be brought there

    def step(self, now: float) -> float:
        """Uploads one artifact, or makes one that has to wait durable; when to be called again (monotonic seconds)."""
        deadline = self._upload_one(now)
        return now if deadline > now and self._make_durable() else deadline

    def _make_durable(self) -> bool:
        """One artifact, here where none can be uploaded and the disk may take its time; whether there are others."""
        waiting = self._not_durable()
        if waiting is None:
            return False
        self._durable.add(waiting.id)
        try:
            staging.make_durable(self._staging, _decoder.decode(waiting.body).staged)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._log.warning("an artifact may not survive a power cut", reason=str(error))
        return self._not_durable() is not None

    def _not_durable(self) -> Block | None:
        for state in self._with_artifacts():
            if (block := self._spool.artifacts.next(state.run, self._durable)) is not None:
                return block
        return None

    def _with_artifacts(self) -> list[RunState]:
        """Runs of this destination for which some wait."""
        runs = self._spool.waiting.runs_with("artifact")
        if not runs:
            return []
        unfinished = self._book.unfinished(self._delivery.tracking_uri)
        return [state for state in unfinished if state.run in runs and not state.gone]

    def _upload_one(self, now: float) -> float:
        if now < self._backoff.ready_at:
            return self._backoff.ready_at
        if self._delivery.probing:  # one probe at a time, and no way round a Retry-After
            return now + _NOT_OUR_TURN
        if self._files.stored != self._stored:  # evidence, as good as an artifact of another run
            self._stored = self._files.stored
            self._trials.worked()
        resting = self._trials.resting(now)
        deadline = now + IDLE
        for state in self._with_artifacts():
            sink = self._delivery.sink
            if sink is None or state.ref is None:
                deadline = min(deadline, now + (IDLE if self._delivery.refused else _NO_SINK_YET))
                continue
            if (block := self._spool.artifacts.next(state.run, resting)) is not None:
                return self._try(sink, state, block, now)
        return min(deadline, max(now, self._trials.next_ready(resting)))

    # -- one artifact ------------------------------------------------------------------------------------------------

    def _try(self, sink: Sink, state: RunState, block: Block, now: float) -> float:
        try:
            record = _decoder.decode(block.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._settle(state, block, dropped="unreadable block")
            return now
        try:
            self._upload(sink, state, block, record)
        except (Refused, RunGone) as error:
            self._bury(state, block, record, str(error))
        except Unavailable as error:
            if error.answered in _THE_PATH and not self._delivery.probing:
                self._bury(state, block, record, str(error))
                return now
            return self._failed(sink, state, block, record, error, now)
        self._backoff.worked()
        self._doubts = 0
        return now

    def _upload(self, sink: Sink, state: RunState, block: Block, record: Artifact) -> None:
        assert state.ref is not None
        run_id = state.ref.run_id
        # As in the delivery: or a power cut would leave in MLflow what no ledger knows of.
        self._spool.sync(block.id)
        try:
            source = self._source.open(record, sink, run_id, resumed=state.spec.run_id is not None)
        except NoTable as error:
            self._settle(state, block, dead=[(record.staged, block.body, str(error))])
            self._book.notice(state.run, f"a part of a table was left out: {error}")
            return
        except CutShort as error:
            self._settle(state, block, dropped="cut short by a power cut")
            self._book.notice(state.run, f"artifact {quoted(str(error))}: not uploaded")
            self._source.discard(record)
            return
        if source is None:
            self._settle(state, block, dropped="staged copy is gone")
            self._book.notice(state.run, f"artifact {record.staged} is gone from {self._staging}: not uploaded")
            return
        if record.model is not None:
            self._upload_model(sink, state, source, record.model)
        else:
            for wanted, name in self._send(sink, run_id, source, record, block.id).items():
                self._book.notice(
                    state.run, f"artifact {quoted(wanted)} is stored as {quoted(name)}: MLflow keeps no such name"
                )
        self._arrived(state, block, record)
        self._log.info("artifact uploaded", name=source.name, run_id=run_id)

    def _send(self, sink: Sink, run_id: str, source: Path, record: Artifact, block: int) -> Renamed:
        """Uploads a file or a directory. A directory that has failed as a whole goes file by file."""
        pieces = self._pieces.get(block)
        try:
            if pieces is not None:
                return pieces.send(sink, run_id)
            send = sink.log_artifacts if record.contents else sink.log_artifact
            return send(run_id, source, record.artifact_path)
        except (Refused, Unavailable) as error:
            if pieces is not None or not source.is_dir():
                raise
            name = artifact_file(record, self._staging)
            under = record.artifact_path if record.contents else name
            self._pieces[block] = Pieces(source, under)
            # The store may be away: it goes file by file at the next try.
            if isinstance(error, Unavailable) and error.answered not in _THE_PATH:
                raise
            return self._pieces[block].send(sink, run_id)

    def _upload_model(self, sink: Sink, state: RunState, source: Path, spec: ModelSpec) -> None:
        assert state.ref is not None
        if spec.registry_uri is not None:
            whole = unmask_uri(spec.registry_uri, self._book.credentials(spec.registry_uri))
            outcome = sink.log_model(state.ref.run_id, source, msgspec.structs.replace(spec, registry_uri=whole))
        else:
            outcome = sink.log_model(state.ref.run_id, source, spec)
        # Before it counts as refused: the message then says where it is logged all the same.
        self._book.model(state.run, spec.token, outcome)
        if outcome.error is not None:
            raise Refused(outcome.error)

    def _arrived(self, state: RunState, block: Block, record: Artifact) -> None:
        """All of it that the store takes is there."""
        pieces = self._pieces.get(block.id)
        rest = pieces.rest(state.run, self._staging) if pieces is not None else []
        self._settle(state, block, dead=[(each.artifact_file, each.body, each.reason) for each in rest], whole=True)
        for each in rest:
            self._book.notice(state.run, f"artifact {quoted(each.artifact_file)} was refused: {each.reason}")
        self._trials.worked(block.id)
        self._book.waiters.uploads_work(state.run)
        self._spool.sync()  # or a power cut would bring the record back, and not the copy
        self._source.discard(record)

    # -- when it does not work ---------------------------------------------------------------------------------------

    def _failed(
        self, sink: Sink, state: RunState, block: Block, record: Artifact, error: Unavailable, now: float
    ) -> float:
        name, reason = artifact_file(record, self._staging), str(error)
        self._trials.failed(block.id, self._monotonic(), error.retry_after, blameless=error.here)
        failures, counted = self._trials.failures(block.id), self._trials.counted(block.id)
        self._spool.artifacts.failed(block.id, counted, reason)
        self._book.waiters.upload_failed(state.run, now)
        self._log.warning("upload failed", name=name, reason=reason, failures=failures, counted=counted)
        if counted >= DEADLY:
            self._bury(state, block, record, f"{reason} (others were stored meanwhile)")
            return now
        if failures == _TELL_AFTER:
            text = f"artifact {quoted(name)} cannot be uploaded ({reason}); tailrace keeps trying"
            self._book.notice(state.run, Notice(text, Topic(asks_login=error.lacks == "login")))
        try:
            works = error.here or (not error.away and self._store_works(sink, state))
        except RunGone as gone:
            self._bury(state, block, record, str(gone))
            works = True
        # The store works, so the next artifact is tried at once.
        if works:
            self._backoff.worked()
            return now
        return self._backoff.failed(self._monotonic(), error.retry_after)

    def _store_works(self, sink: Sink, state: RunState) -> bool:
        """Whether the store takes anything for this run; found out with a file of ours when there is reason to try."""
        assert state.ref is not None
        self._doubts += 1
        if self._doubts < _DOUBT_AFTER:
            return False
        with tempfile.TemporaryDirectory(prefix="tailrace-") as folder:
            file = Path(folder, _CHECK)
            file.write_text(_CHECK_TEXT)
            try:
                sink.log_artifact(state.ref.run_id, file, "tailrace")
            except (Refused, Unavailable) as error:
                self._log.info("the artifact store takes nothing", reason=str(error))
                return False
        self._trials.worked()
        return True

    def _bury(self, state: RunState, block: Block, record: Artifact, reason: str) -> None:
        pieces = self._pieces.get(block.id)
        # A part of it is there: what is left becomes dead letters, each file by itself.
        if pieces is not None and pieces.sent:
            pieces.give_up()
            self._arrived(state, block, record)
            return
        name = artifact_file(record, self._staging)
        self._source.forget_compressed(record)
        self._settle(state, block, dead=[(name, block.body, reason)])
        self._trials.forget(block.id)
        if record.model is None:
            self._book.notice(state.run, f"artifact {quoted(name)} was refused: {reason}")
            return
        logged = state.models.get(record.model.token, ModelOutcome())
        self._book.model(state.run, record.model.token, ModelOutcome(logged.uri, None, reason))
        what = f"is logged as {logged.uri}, but {reason}" if logged.uri else f"was refused: {reason}"
        self._book.notice(state.run, f"model {quoted(record.model.name)} {what}")

    def _settle(
        self,
        state: RunState,
        block: Block,
        *,
        dead: list[tuple[str, bytes, str]] | None = None,
        dropped: Reason | None = None,
        whole: bool = False,
    ) -> None:
        """Writes down what became of a block. With `whole` it has arrived, but for files that count by themselves."""
        letters = [(name, 1, body, reason) for name, body, reason in dead or ()]
        self._spool.settle(
            Outcome(
                run=block.run,
                kind="artifact",
                blocks=[block.id],
                accepted=len(letters) if whole else 0,
                delivered=1 if whole else 0,
                late=state.closed,
                dead=letters,
                dropped=[(dropped, 1)] if dropped else (),
            )
        )
        self._pieces.pop(block.id, None)
        self._durable.discard(block.id)
        self._book.touch(block.run)
