"""wandb's offline runs: directories `offline-run-…` (and `run-…`) with a file `run-<id>.wandb` in each.

The file is a log of records in blocks of 32 KiB, as LevelDB writes them, each record a message of protobuf, of which
wandb's package knows what is in it. A record that is only half there is the end for now.

A run that was resumed has a file for each program, in the order of their dates. What its summary alone has comes with
its end: until then it changes.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from tailrace_agent.errors import NotFound, TailraceError
from tailrace_agent.ipc.records import Point
from tailrace_agent.reading.foreign.foreign_run import ForeignRun, as_float, flat, origin_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["wandb_runs"]

_BLOCK: Final = 32 * 1024
_FILE_HEAD: Final = 7
_HEAD: Final = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_INTERNAL: Final = "_"
"""Begins the names of what wandb itself puts into each row: `_step`, `_timestamp`."""
_DATE: Final = re.compile(r"run-(\d{8}_\d{6})")
_LATEST: Final = 1 << 40  # seconds since the epoch
_NOT_OURS: Final = frozenset(("wandb-metadata.json", "wandb-summary.json", "config.yaml"))


def wandb_runs(directory: Path) -> Iterator[ForeignRun | TailraceError]:
    """All runs in a directory `wandb`, or the one in a directory of its own; an error in the place of a damaged one.

    One of which nothing is known yet, since its program has only begun, is left for the next time.

    Raises:
        TailraceError: wandb is not installed.
        NotFound: There are no such files.
    """
    parse = _parser()
    files = {*directory.glob("*.wandb"), *directory.glob("*run-*/*.wandb"), *directory.glob("wandb/*run-*/*.wandb")}
    if not files:
        raise NotFound(f"there are no runs of wandb (run-….wandb) in {directory}")
    by_run: dict[tuple[str, ...], list[Path]] = {}
    # By date, whether it was online or not: an earlier part never comes behind a later one.
    for path in sorted(files, key=lambda path: (_date(path), str(path))):
        try:
            known = _project(path, parse)
        except TailraceError as error:
            yield error
            continue
        if known is not None:  # one id may be a run of each of several projects
            by_run.setdefault((*known, path.stem.removeprefix("run-")), []).append(path)
    for (*_, run_id), parts in by_run.items():
        try:
            yield _WandbRun(run_id, parts, parse).read()
        except TailraceError as error:
            yield error


def _date(path: Path) -> str:
    found = _DATE.search(path.parent.name)
    return found[1] if found else ""


def _project(path: Path, parse: Callable[[bytes], Any]) -> tuple[str, str] | None:
    """Whose run it is; None where that is not written yet."""
    for record in _parsed(path, _Records(path), parse):
        if record.WhichOneof("record_type") == "run":
            return record.run.entity, record.run.project
    return None


def _parsed(path: Path, records: Iterable[bytes], parse: Callable[[bytes], Any]) -> Iterator[Any]:
    for number, body in enumerate(records):
        try:
            record = parse(body)
        except Exception as error:  # noqa: BLE001 - protobuf's DecodeError, whose module depends on its version
            raise TailraceError(f"{path} is damaged: record {number:,}: {error}") from None
        yield record


class _WandbRun:
    """The files of one run."""

    def __init__(self, run_id: str, paths: list[Path], parse: Callable[[bytes], Any]) -> None:
        self._id, self._paths, self._parse = run_id, paths, parse
        self._run: Any = None
        self._config: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}
        self._texts: dict[str, str] = {}
        self._last_step = 0
        self._exit: int | None = None
        self._last = 0.0
        self._state: list[str] = []
        self._left_out: dict[str, int] = {}

    def read(self) -> ForeignRun:
        """What there is of it now; the points are read when they are needed.

        Raises:
            TailraceError: A file is damaged, or none of wandb's.
        """
        for _ in self._rows():  # what stands between the rows
            pass
        run = self._run
        began = run.start_time.ToMilliseconds() if run is not None and run.HasField("start_time") else 0
        tags = self._tags()
        return ForeignRun(
            origin=origin_of("wandb", getattr(run, "entity", ""), getattr(run, "project", ""), self._id),
            name=getattr(run, "display_name", "") or self._id,
            experiment=getattr(run, "project", "") or "wandb",
            start_time=began or int(self._paths[0].stat().st_mtime * 1000),
            end_time=None if self._exit is None else int(self._last * 1000) or began,
            status="FAILED" if self._exit else "FINISHED",
            state=" ".join(self._state),
            points=self._points,
            params={key: _as_text(value) for key, value in flat(self._config).items()},
            tags=tags,
            files=[*self._files()],
            left_out=dict(self._left_out),
        )

    def _tags(self) -> dict[str, str]:
        run = self._run
        found = {"wandb.id": self._id}
        if run is not None:
            facts = {"entity": run.entity, "group": run.run_group, "job_type": run.job_type, "host": run.host}
            found |= {f"wandb.{key}": value for key, value in facts.items() if value}
            found |= dict.fromkeys(run.tags, "true")
            if run.notes:
                found["mlflow.note.content"] = run.notes
        return found | self._texts

    def _files(self) -> Iterator[tuple[Path, str | None]]:
        for path in self._paths:
            root = path.parent / "files"
            for file in sorted(each for each in root.rglob("*") if each.is_file()):
                folder = file.parent.relative_to(root).as_posix()
                if file.name in _NOT_OURS and folder == ".":
                    folder = "wandb"
                yield file, None if folder == "." else folder

    def _points(self) -> Iterator[Point]:
        logged: set[str] = set()
        for step, at, values in self._rows():
            for key, value in values.items():
                if isinstance(value, (int, float)):
                    logged.add(key)
                    yield Point(key, as_float(value), at, step)
        # What was set in the summary alone.
        for key, value in self._summary.items() if self._exit is not None else ():
            if key not in logged and isinstance(value, (int, float)):
                yield Point(key, as_float(value), int(self._last * 1000), self._last_step)

    def _rows(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        self._state, self._left_out = [], {}
        samples = 0
        for path in self._paths:
            records = _Records(path)
            for record in _parsed(path, records, self._parse):
                kind = record.WhichOneof("record_type")
                try:
                    if kind == "history":
                        row = self._row(record.history)
                    elif kind == "stats":
                        values = {item.key: _loaded(item.value_json) for item in record.stats.item}
                        row = samples, record.stats.timestamp.ToMilliseconds(), _system(values)
                        samples += 1
                    else:
                        self._take(kind, record)
                        continue
                except (ValueError, TypeError, OverflowError, RecursionError) as error:  # written by something else
                    raise TailraceError(f"{path} is damaged before byte {records.read:,}: {error}") from None
                yield row
            self._state.append(f"{path.parent.name}:{records.read}")

    def _row(self, history: Any) -> tuple[int, int, dict[str, Any]]:
        values = {".".join(item.nested_key) or item.key: _loaded(item.value_json) for item in history.item}
        at = float(values.get("_timestamp", self._last))
        if not 0 <= at < _LATEST:
            raise ValueError(f"a time of {at}")
        self._last = max(self._last, at)
        step = history.step.num if history.HasField("step") else int(values.get("_step", 0))
        self._last_step = step
        kept = _kept(values)
        self._texts |= {key: value for key, value in kept.items() if isinstance(value, str)}
        # A histogram stands in the row itself; other media are files beside it.
        kinds = [value for key, value in flat(values).items() if key.endswith("._type")]
        self._count("histograms", kinds.count("histogram"))
        self._count("lists", sum(isinstance(value, list) for value in kept.values()))
        return step, int(at * 1000), kept

    def _count(self, what: str, number: int) -> None:
        if number:
            self._left_out[what] = self._left_out.get(what, 0) + number

    def _take(self, kind: str | None, record: Any) -> None:
        if kind == "run":
            self._run = record.run
            self._update(self._config, record.run.config.update)
            self._set(record.run.summary.update)
        elif kind == "config":
            self._update(self._config, record.config.update)
        elif kind == "summary":
            self._set(record.summary.update)
        elif kind == "exit":
            self._exit = record.exit.exit_code

    def _set(self, items: Iterable[Any]) -> None:
        """What the summary says: the last values of metrics, and what was set beside them."""
        kept = _kept({".".join(item.nested_key) or item.key: _loaded(item.value_json) for item in items})
        self._summary |= kept
        self._texts |= {key: each for key, each in kept.items() if isinstance(each, str)}

    def _update(self, into: dict[str, Any], items: Iterable[Any]) -> None:
        for item in items:
            name = ".".join(item.nested_key) or item.key
            if not name.startswith(("_wandb", "wandb_version")):
                into[name] = _loaded(item.value_json)


class _Records:
    """The records of a file, in order, up to the first that is not whole.

    Attributes:
        read: How far they are whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.read = 0

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            head = file.read(_FILE_HEAD)
            if head[:4] != b":W&B":
                if head:
                    raise TailraceError(f"{self._path} is no file of wandb")
                return
            at, parts = _FILE_HEAD, list[bytes]()
            while True:
                left = _BLOCK - at % _BLOCK
                if left < _HEAD.size:  # the rest of a block is padding
                    file.seek(left, 1)
                    at += left
                piece = file.read(_HEAD.size)
                if len(piece) < _HEAD.size:
                    return
                checksum, length, kind = _HEAD.unpack(piece)
                body = file.read(length)
                if len(body) < length or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
                    return
                if crc32(body, crc32(bytes((kind,)))) != checksum:
                    raise TailraceError(f"{self._path} is damaged at byte {at:,}")
                at += _HEAD.size + length
                if kind in (_FULL, _FIRST):
                    parts = []
                parts.append(body)
                if kind in (_FULL, _LAST):
                    self.read = at
                    yield b"".join(parts)


def _parser() -> Callable[[bytes], Any]:
    try:
        from wandb.proto.wandb_internal_pb2 import Record
    except ImportError as error:
        raise TailraceError(
            f"offline runs of wandb are read by its own package ({error}): `pip install wandb`"
        ) from None
    parse: Callable[[bytes], Any] = Record.FromString
    return parse


def _loaded(text: str) -> Any:
    value = json.loads(text) if text else None
    if isinstance(value, str):
        return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value, value)
    return value


def _kept(values: dict[str, Any]) -> dict[str, Any]:
    """Without what wandb adds, and what describes a file: `{"_type": "image-file", "width": …}`."""
    named = flat(values)
    described = {key.rpartition(".")[0] for key in named if key.endswith("._type")}
    return {
        key: value
        for key, value in named.items()
        if not key.startswith(_INTERNAL) and not any(key.startswith(f"{each}.") for each in described)
    }


def _system(values: dict[str, Any]) -> dict[str, Any]:
    return {f"system/wandb/{key}": value for key, value in flat(values).items()}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, (dict, list)) else str(value)
