"""trackio's databases: a file of SQLite for each project, `<project>.db`, with rows of metrics as JSON.

Nothing of it is changed. A run has no end there: it is FINISHED with its last row, and goes on when more has come.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from tailrace_agent.errors import NotFound, TailraceError
from tailrace_agent.ipc.records import Point
from tailrace_agent.reading.foreign.foreign_run import ForeignRun, as_float, flat, origin_of

__all__ = ["trackio_directory", "trackio_runs"]

_NUMBERS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def trackio_directory() -> Path:
    """Where trackio keeps its databases."""
    given, home = os.environ.get("TRACKIO_DIR"), os.environ.get("HF_HOME")
    if given:
        return Path(given)
    return Path(home) / "trackio" if home else Path.home() / ".cache" / "huggingface" / "trackio"


_NAMED: Final = {
    key: {
        "runs": f"SELECT {key}, max(run_name) FROM metrics GROUP BY {key}",  # noqa: S608 - one of two words, here and below
        "bounds": f"SELECT min(timestamp), max(timestamp), max(id) FROM metrics WHERE {key} = ?",  # noqa: S608
        "config": f"SELECT config FROM configs WHERE {key} = ?",  # noqa: S608
        "rows": f"SELECT step, timestamp, metrics FROM metrics WHERE {key} = ? ORDER BY id",  # noqa: S608
        "samples": f"SELECT timestamp, metrics FROM system_metrics WHERE {key} = ? ORDER BY id",  # noqa: S608
    }
    for key in ("run_id", "run_name")
}
"""The queries, by what a run is known by."""


def trackio_runs(directory: Path) -> Iterator[ForeignRun | TailraceError]:
    """All runs of all projects; an error in the place of a database, or a run, that cannot be read.

    Args:
        directory: Where the databases are, or one of them.

    Raises:
        NotFound: There are none.
    """
    paths = [directory] if directory.is_file() else sorted(directory.glob("*.db"))
    found = False
    for path in paths:
        try:
            # Read only; what a program that still runs has committed is seen.
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
                columns = {row[1] for row in database.execute("PRAGMA table_info(metrics)")}
                if not {"run_name", "step", "metrics", "timestamp"} <= columns:
                    continue
                found = True
                key = "run_id" if "run_id" in columns else "run_name"  # older ones know runs by their names
                for run_id, name in database.execute(_NAMED[key]["runs"]).fetchall():
                    try:
                        yield _read(database, path, key, run_id, name)
                    except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
                        yield TailraceError(f"{path}: the run {name} cannot be read: {error}")
        except sqlite3.Error as error:
            found = True
            yield TailraceError(f"{path} cannot be read: {error}")
    if not found:
        raise NotFound(f"there are no databases of trackio (<project>.db) in {directory}")


def _read(database: sqlite3.Connection, path: Path, key: str, run_id: str, name: str) -> ForeignRun:
    first, last, rows = database.execute(_NAMED[key]["bounds"], (run_id,)).fetchone()
    config = database.execute(_NAMED[key]["config"], (run_id,)).fetchone()
    values = flat(json.loads(config[0])) if config else {}
    samples = [*_samples(database, key, run_id)]
    return ForeignRun(
        origin=origin_of("trackio", path.stem, str(run_id)),
        name=name,
        experiment=path.stem,
        start_time=_moment(first),
        end_time=_moment(last),
        state=f"{rows}:{len(samples)}:{config}",
        points=lambda: _points(path, key, run_id, samples),
        params={name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()},
        tags={"trackio.run": str(run_id)},
        files=[*_files(database, path, key, run_id)],
    )


def _points(path: Path, key: str, run_id: str, samples: list[Point]) -> Iterator[Point]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        for step, at, values in _rows(database, key, run_id):
            for name, value in values.items():
                number = _NUMBERS.get(value, value) if isinstance(value, str) else value
                if isinstance(number, (int, float)):
                    yield Point(name, as_float(number), at, step)
    yield from samples


def _rows(database: sqlite3.Connection, key: str, run_id: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    for step, at, metrics in database.execute(_NAMED[key]["rows"], (run_id,)):
        yield int(step), _moment(at), flat(json.loads(metrics))


def _samples(database: sqlite3.Connection, key: str, run_id: str) -> Iterator[Point]:
    """What trackio has measured of the machine; numbered, since it has no steps."""
    if not database.execute("PRAGMA table_info(system_metrics)").fetchall():
        return
    for step, (at, metrics) in enumerate(database.execute(_NAMED[key]["samples"], (run_id,))):
        for name, value in flat(json.loads(metrics)).items():
            if isinstance(value, (int, float)):
                yield Point(f"system/trackio/{name}", as_float(value), _moment(at), step)


def _files(database: sqlite3.Connection, path: Path, key: str, run_id: str) -> Iterator[tuple[Path, str | None]]:
    """Images and the like, which lie beside the databases."""
    media = path.absolute().parent / "media"
    for step, _, values in _rows(database, key, run_id):
        for name, value in values.items():
            if not name.endswith(".file_path") or not isinstance(value, str):
                continue
            file = (media / value).resolve()
            if file.is_relative_to(media.resolve()) and file.is_file():
                yield file, f"media/{name.removesuffix('.file_path')}/step_{step}"


def _moment(text: str) -> int:
    """Milliseconds since the epoch."""
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return int((found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp() * 1000)
