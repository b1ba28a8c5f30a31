"""What neptune's exporter has written, in MLflow; made here with the columns that it has."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.commands import tailrace
from helpers.sdk_tools import named
from tailrace_agent.errors import NotFound, TailraceError
from tailrace_agent.reading.foreign.neptune_export import neptune_runs

BEGAN = datetime(2026, 1, 1, tzinfo=timezone.utc)
SCHEMA = pa.schema(
    [
        ("project_id", pa.string()),
        ("run_id", pa.string()),
        ("attribute_path", pa.string()),
        ("attribute_type", pa.string()),
        ("step", pa.decimal128(18, 6)),
        ("timestamp", pa.timestamp("ms", "UTC")),
        ("int_value", pa.int64()),
        ("float_value", pa.float64()),
        ("string_value", pa.string()),
        ("bool_value", pa.bool_()),
        ("datetime_value", pa.timestamp("ms", "UTC")),
        ("string_set_value", pa.list_(pa.string())),
        ("file_value", pa.struct([("path", pa.string())])),
        (
            "histogram_value",
            pa.struct([("type", pa.string()), ("edges", pa.list_(pa.float64())), ("values", pa.list_(pa.float64()))]),
        ),
    ]
)
LONG = "deep/" * 60 + "name"


def row(path: str, kind: str, **values: Any) -> dict[str, Any]:
    return {"project_id": "team/digits", "run_id": "DIG-1", "attribute_path": path, "attribute_type": kind, **values}


def series(path: str, steps: list[str], start: int = 0) -> list[dict[str, Any]]:
    return [
        row(
            path, "float_series", step=Decimal(step), float_value=float(number),
            timestamp=BEGAN + timedelta(seconds=number),
        )
        for number, step in enumerate(steps, start)
    ]  # fmt: skip


def write(directory: Path, rows: list[dict[str, Any]], part: int = 0) -> Path:
    path = directory / "data" / "team_digits" / f"DIG-1_part_{part}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


def test_a_run_arrives_with_all_that_it_has(sqlite_uri: str, tmp_path: Path) -> None:
    (tmp_path / "files" / "DIG-1").mkdir(parents=True)
    (tmp_path / "files" / "DIG-1" / "model.bin").write_bytes(b"weights")
    write(
        tmp_path,
        [
            row("sys/name", "string", string_value="baseline"),
            row("sys/creation_time", "datetime", datetime_value=BEGAN),
            row("sys/modification_time", "datetime", datetime_value=BEGAN + timedelta(minutes=5)),
            row("sys/tags", "string_set", string_set_value=["good"]),
            row("sys/owner", "string", string_value="ada"),
            row("params/lr", "float", float_value=0.1),
            row("params/layers", "int", int_value=3),
            row("params/amp", "bool", bool_value=True),
            row(LONG, "string", string_value="kept"),
            *series("train/loss(mean)", ["0", "1", "2"]),
            *series("eval/half", ["0.5", "1", "1.5"]),
            row("log", "string_series", step=Decimal(1), timestamp=BEGAN, string_value="a line, with a comma"),
            row("hist", "histogram_series", step=Decimal(1), histogram_value={"edges": [0, 1], "values": [3]}),
            row("model", "file", file_value={"path": "DIG-1/model.bin"}),
            row("evil", "file", file_value={"path": "../../etc/passwd"}),
            row("../../evil", "string_series", step=Decimal(1), timestamp=BEGAN, string_value="out of it"),
        ],
    )
    write(tmp_path, series("train/loss(mean)", ["3"], 3), part=10)
    for _ in range(2):
        result = tailrace("import", "neptune", str(tmp_path), "--tracking-uri", sqlite_uri)
        assert result.exit_code == 0, result.output
    assert "is there already" in result.stdout
    found = named(sqlite_uri, "baseline")
    assert found.params["params/lr"] == "0.1"
    assert (found.params["params/layers"], found.params["params/amp"]) == ("3", "True")
    (short,) = [key for key in found.params if key.startswith("deep/")]
    assert (found.params[short], found.tags[f"tailrace.name.{short}"]) == ("kept", LONG)
    (loss,) = [key for key in found.run.data.metrics if key.startswith("train/loss")]
    assert found.history(loss) == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    assert found.history("eval/half") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert found.history("eval/half.step") == [(0, 0.5), (1, 1.0), (2, 1.5)]
    histograms, model, evil, log = found.artifacts()
    assert [histograms, model, log] == ["histograms/hist.json", "model/model.bin", "series/log.csv"]
    assert evil.startswith("series/evil-")
    assert (found.tags["good"], found.tags["neptune.id"]) == ("true", "DIG-1")
    info = found.run.info
    assert (info.end_time - info.start_time, info.status) == (300_000, "FINISHED")
    assert found.client.get_experiment(info.experiment_id).name == "team/digits"


def test_a_run_that_goes_on_is_running_and_gets_what_is_new(sqlite_uri: str, tmp_path: Path) -> None:
    active = [row("sys/name", "string", string_value="on"), row("sys/state", "string", string_value="active")]
    for steps in (2, 4):
        write(tmp_path, [*active, *series("loss", [str(step) for step in range(steps)])])
        assert tailrace("import", "neptune", str(tmp_path), "--tracking-uri", sqlite_uri).exit_code == 0
        found = named(sqlite_uri, "on")
        assert (found.history("loss"), found.status) == ([(step, float(step)) for step in range(steps)], "RUNNING")


def test_what_is_no_export_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there are no files of neptune's exporter"):
        list(neptune_runs(tmp_path))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x_part_0.parquet")
    (error,) = neptune_runs(tmp_path)
    assert isinstance(error, TailraceError)
    assert "is no file of neptune's exporter: it has no" in str(error)
    (tmp_path / "x_part_0.parquet").write_bytes(b"PAR1 not really")
    (error,) = neptune_runs(tmp_path)
    assert "cannot be read" in str(error)
    typed = {name: [None if name == "step" else 5] for name in SCHEMA.names}
    pq.write_table(pa.table(typed), tmp_path / "x_part_0.parquet")
    (error,) = neptune_runs(tmp_path)
    assert "is no file of neptune's exporter" in str(error)
