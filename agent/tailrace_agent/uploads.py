"""Uploads: what was staged as an artifact reaches the run's artifact store, beside the metrics and never before them.

After the artifacts of a run comes its metadata. It is outside of the ledger, and not worth waiting for ever: an
artifact store that does not take it in `_METADATA_TRIES` does without.

Uploading again what was uploaded before writes the same bytes to the same place, so a lost answer costs only time.
A staged copy is deleted after the spool knows that it has arrived, and so is what was compressed of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tailrace_agent import tables
from tailrace_agent.compress import compressed, forget
from tailrace_agent.delivery import Delivery, Log
from tailrace_agent.errors import Refused, RunGone, Unavailable
from tailrace_agent.records import Artifact, Codec, ModelOutcome, ModelSpec, run_hex
from tailrace_agent.retry import Backoff
from tailrace_agent.runs import RunBook, RunState
from tailrace_agent.sink import Sink
from tailrace_agent.spool import Block, Outcome, Spool
from tailrace_agent.uris import unmask_uri

__all__ = ["Uploads"]

_IDLE = 3600.0
_NO_SINK_YET = 0.1
_NOT_OUR_TURN = 0.1
_THE_PATH = frozenset({400, 405, 414, 415, 422})
"""HTTP statuses that, from a server that takes everything else, are about this one artifact's name or form."""
_METADATA_TRIES = 3
_decoder = msgspec.msgpack.Decoder(Artifact)


class Uploads:
    """Uploads the artifacts of all runs that go to one tracking URI, one at a time.

    Args:
        delivery: The delivery to the same URI; it opens the sink and creates the runs.
        spool: Where the artifact rows wait.
        book: The runs.
        staging: The session's `artifacts/` directory.
        retry_max_delay: Longest pause between tries in seconds.
        log: Where operators read.
        monotonic: The clock of all deadlines.

    Not thread-safe: one thread calls `step`.
    """

    def __init__(
        self,
        delivery: Delivery,
        spool: Spool,
        book: RunBook,
        staging: Path,
        *,
        retry_max_delay: float,
        log: Log,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delivery, self._spool, self._book, self._staging = delivery, spool, book, staging
        self._log, self._monotonic = log, monotonic
        self._backoff = Backoff(cap=retry_max_delay)
        self._tries: dict[int, int] = {}

    def step(self, now: float) -> float:
        """Uploads one artifact; when to be called again (monotonic seconds)."""
        if now < self._backoff.ready_at:
            return self._backoff.ready_at
        if self._delivery.asking:  # one probe at a time, and no way round a Retry-After
            return now + _NOT_OUR_TURN
        for state in self._book.unfinished(self._delivery.tracking_uri):
            if self._spool.backlog(state.run).get("artifact") and not state.gone:
                if self._delivery.sink is None or state.ref is None:
                    return now + (_IDLE if self._delivery.refused else _NO_SINK_YET)
                return self._try(self._delivery.sink, state, now)
            if state.description is not None and not state.described and not state.gone:
                if self._delivery.sink is None or state.ref is None:
                    return now + (_IDLE if self._delivery.refused else _NO_SINK_YET)
                return self._describe(self._delivery.sink, state, now)
        return now + _IDLE

    def _describe(self, sink: Sink, state: RunState, now: float) -> float:
        """Stores where a run comes from."""
        assert state.ref is not None
        assert state.description is not None
        tags, staged = state.description.tags, state.description.staged
        try:
            if tags:
                sink.log_batch(state.ref.run_id, tags=list(tags.items()))
            self._tries[state.run] = self._tries.get(state.run, 0) + 1  # from here on it is the artifact store's turn
            if staged is not None and (self._staging / staged).is_dir():
                sink.log_artifacts(state.ref.run_id, self._staging / staged, staged.partition("-")[0])
        except Unavailable as error:
            if self._tries.get(state.run, 0) < _METADATA_TRIES:
                return self._backoff.failed(self._monotonic(), error.retry_after)
            self._log.warning("metadata not stored", run=run_hex(state.run), reason=str(error))
        except (Refused, RunGone) as error:
            self._log.warning("metadata not stored", run=run_hex(state.run), reason=str(error))
        self._tries.pop(state.run, None)
        self._backoff.worked()
        self._book.update(state.run, description=msgspec.structs.replace(state.description, done=True))
        if staged is not None:
            shutil.rmtree(self._staging / staged, ignore_errors=True)
        return now

    def _try(self, sink: Sink, state: RunState, now: float) -> float:
        block = self._spool.waiting(state.run, "artifact", 1)[0]
        try:
            self._upload(sink, state, block)
        except Unavailable as error:
            if error.answered in _THE_PATH and not self._delivery.asking:
                self._refuse(state, block, str(error))
                return now
            ready_at = self._backoff.failed(self._monotonic(), error.retry_after)
            self._log.warning("upload failed", reason=str(error), failures=self._backoff.failures)
            if self._backoff.failures == 3:
                self._book.notice(state.run, f"an artifact cannot be uploaded ({error}); tailrace keeps trying")
            return ready_at
        self._backoff.worked()
        return now

    def _upload(self, sink: Sink, state: RunState, block: Block) -> None:
        assert state.ref is not None
        try:
            record = _decoder.decode(block.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._settle(block, dropped="unreadable block")
            return
        entry = self._staging / record.staged
        try:
            source = self._assemble(sink, state, record, entry) if record.append else next(iter(_entries(entry)), None)
        except ValueError as error:  # no table
            self._settle(block, dead=(record.staged, str(error)))
            self._book.notice(state.run, f"a part of a table was left out: {error}")
            return
        if source is None:
            self._settle(block, dropped="staged copy is gone")
            self._book.notice(state.run, f"artifact {record.staged} is gone from {self._staging}: not uploaded")
            return
        if record.compress is not None:
            source = _compressed(source, record.compress)
        try:
            if record.model is not None:
                self._upload_model(sink, state, source, record.model)
            else:
                send = sink.log_artifacts if record.contents else sink.log_artifact
                send(state.ref.run_id, source, record.artifact_path)
        except (Refused, RunGone) as error:
            self._refuse(state, block, str(error))
            return
        self._settle(block)
        forget(entry)
        shutil.rmtree(entry, ignore_errors=True)
        self._log.info("artifact uploaded", name=source.name, run_id=state.ref.run_id)

    def _upload_model(self, sink: Sink, state: RunState, source: Path, spec: ModelSpec) -> None:
        assert state.ref is not None
        if spec.registry_uri is not None:
            whole = unmask_uri(spec.registry_uri, self._book.credentials(spec.registry_uri))
            outcome = sink.log_model(state.ref.run_id, source, msgspec.structs.replace(spec, registry_uri=whole))
        else:
            outcome = sink.log_model(state.ref.run_id, source, spec)
        self._book.model(state.run, spec.token, outcome)
        if outcome.error is not None:
            raise Refused(outcome.error)

    def _refuse(self, state: RunState, block: Block, reason: str) -> None:
        record = _decoder.decode(block.body)
        entry = self._staging / record.staged
        forget(entry)
        name = _artifact_file(record, entry)
        self._settle(block, dead=(name, reason))
        if record.model is None:
            self._book.notice(state.run, f"artifact {name!r} was refused: {reason}")
            return
        logged = state.models.get(record.model.token, ModelOutcome())
        self._book.model(state.run, record.model.token, ModelOutcome(logged.uri, None, reason))
        what = f"is logged as {logged.uri}, but {reason}" if logged.uri else f"was refused: {reason}"
        self._book.notice(state.run, f"model {record.model.name!r} {what}")

    def _settle(self, block: Block, *, dead: tuple[str, str] | None = None, dropped: str | None = None) -> None:
        self._spool.settle(
            Outcome(
                run=block.run,
                kind="artifact",
                blocks=[block.id],
                delivered=0 if dead or dropped else 1,
                dead=[(dead[0], 1, block.body, dead[1])] if dead else (),
                dropped=[(dropped, 1)] if dropped else (),
            )
        )
        self._book.touch(block.run)

    def _assemble(self, sink: Sink, state: RunState, record: Artifact, entry: Path) -> Path | None:
        """A table that grows: this part joins the earlier ones, and the whole is what is uploaded."""
        artifact_file = _artifact_file(record, entry)
        parts_of = hashlib.sha256(artifact_file.encode()).hexdigest()[:16]
        folder = self._staging / "tables" / run_hex(record.run) / parts_of
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700)
            if state.spec.run_id is not None:
                self._fetch_earlier_rows(sink, state, artifact_file, folder)
        part = folder / f"{record.staged}.part"
        for source in _entries(entry):
            (folder / "name").write_text(source.name)
            # A copy: the staged part stays where it is until it has arrived, since the upload may have to be repeated.
            shutil.copy2(source, part.with_suffix(".new"))
            part.with_suffix(".new").replace(part)
        if not part.exists():
            return None
        whole = folder / (folder / "name").read_text()
        try:
            tables.merge_tables(sorted(folder.glob("*.part"), key=lambda p: p.stat().st_mtime_ns), whole)
        except ValueError:
            part.unlink()
            raise
        return whole

    def _fetch_earlier_rows(self, sink: Sink, state: RunState, artifact_file: str, folder: Path) -> None:
        """A run that was resumed: its table, as it is in MLflow, is the first part."""
        assert state.ref is not None
        try:
            found = sink.fetch_artifact(state.ref.run_id, artifact_file, folder)
            if found is not None:
                found.replace(folder / "0.part")
                os.utime(folder / "0.part", (0, 0))  # parts join in the order of their times
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # so that it is fetched at the next try
            raise


def _entries(entry: Path) -> list[Path]:
    return sorted(entry.iterdir()) if entry.is_dir() else []


def _compressed(source: Path, codec: Codec) -> Path:
    try:
        return compressed(source, codec)
    except OSError as error:  # a full disk, most of all: there may be room later
        raise Unavailable(f"{source.name} cannot be compressed: {error.strerror or error}") from error


def _artifact_file(record: Artifact, entry: Path) -> str:
    """Where in the run's artifacts it is to lie."""
    name = next((source.name for source in _entries(entry)), record.staged)
    return f"{record.artifact_path}/{name}" if record.artifact_path else name
