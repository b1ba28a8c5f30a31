"""Archives and reports that come from anybody: what is wrong with them is said, and nothing else happens."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import socket
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.archives import DESCRIBED, METRICS_FILE, RUN_ID, consumed, files, harmless, manifest, packed
from tailrace import CallError, import_reports
from tailrace._offline.local_report import CONFIG, METRICS, RUN_FILE
from tailrace._offline.report_copy import take_reports
from tailrace.reports import _read
from tailrace_agent.cli import main
from tailrace_agent.errors import ArchiveError
from tailrace_agent.reading import archive as archive_module
from tailrace_agent.reading.archive import ArchivedRun, ArchiveReader, ArchiveWriter


def test_a_good_archive_is_read(tmp_path: Path) -> None:
    assert consumed(packed(tmp_path / "a.zip", files()), tmp_path / "into") == ["first"]
    assert (tmp_path / "into" / RUN_ID / "artifacts" / "a" / "b.txt").read_text() == "hello"


def test_a_manifest_that_becomes_huge_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as into:
        into.writestr("manifest.json", b"[" + b"[]," * (6 << 20) + b"[]]")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ArchiveError, match=r"has a manifest\.json of 18\.0 MiB: too much .* 1\.0 GiB .*--max-size"):
        ArchiveReader(path)


def test_a_description_of_a_run_that_becomes_huge_is_refused_unread(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", files({**DESCRIBED, "run_name": "x" * (17 << 20)}))
    with ArchiveReader(path) as archive, pytest.raises(ArchiveError, match=r"has a runs/a+/run\.json of 17\.0 MiB"):
        archive.runs()


def test_what_becomes_larger_than_may_be_is_refused_until_it_is_allowed(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", files(**{f"runs/{RUN_ID}/artifacts/zeros": bytes(4 << 20)}))
    with pytest.raises(ArchiveError, match=r"becomes 4\.0 MiB when it is unpacked: too much .* 1\.0 MiB"):
        ArchiveReader(path, 1 << 20)
    assert consumed(path, tmp_path / "into", 5 << 20) == ["first"]
    done = CliRunner().invoke(main, ["import", str(path), "--max-size", "1 MiB", "--tracking-uri", "sqlite:///x.db"])
    assert (done.exit_code, "becomes 4.0 MiB" in done.output) == (1, True)
    assert not Path("x.db").exists()
    assert CliRunner().invoke(main, ["import", str(path), "--max-size", "big"]).exit_code == 2


def test_a_file_that_becomes_larger_than_it_is_said_to_be_stops_there(tmp_path: Path) -> None:
    entries = files(**{f"runs/{RUN_ID}/artifacts/zeros": bytes(64 << 20)})
    lying = manifest(entries)
    lying["files"][f"runs/{RUN_ID}/artifacts/zeros"]["bytes"] = 10
    with pytest.raises(ArchiveError, match="zeros is damaged"):
        consumed(packed(tmp_path / "a.zip", entries, lying), tmp_path / "into")
    assert (tmp_path / "into" / RUN_ID / "artifacts" / "zeros").stat().st_size == 0


def test_what_has_no_room_on_the_disk_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module.shutil, "disk_usage", lambda _: _Free(1, 0, 1))
    with pytest.raises(ArchiveError, match=r"1 B are free in .* set TMPDIR"):
        consumed(packed(tmp_path / "a.zip", files()), tmp_path / "into")
    assert list((tmp_path / "into" / RUN_ID).iterdir()) == []


class _Free(NamedTuple):
    total: int
    used: int
    free: int


def test_a_list_of_files_that_is_huge_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "_SMALL", (1 << 10, 1 << 10))
    monkeypatch.setattr(archive_module, "_CHUNK", 1 << 10)
    path = packed(tmp_path / "a.zip", {f"{n}" * 100: b"" for n in range(10)})
    with pytest.raises(ArchiveError, match="would be read at once"):
        ArchiveReader(path)


@pytest.mark.parametrize(
    "name",
    [
        *("../../evil", "/evil", "runs/x/../../../evil", "runs//x", "runs/x/artifacts/..", "C:\\evil", "runs/C:\\evil"),
        *("runs/x/a\nb", "runs/x/\0", "runs/x/\x1b[2J", "runs/x/" + "a" * 256, "runs" + "/x" * 600, "runs/\u202e"),
        *(f"runs/{RUN_ID}/artifacts/a", f"runs/{RUN_ID}/run.json/x", "runs" + "/x" * 64),
    ],
)
def test_a_name_that_is_not_safe_is_refused(tmp_path: Path, name: str) -> None:
    told = manifest(files())
    told["files"][name] = {"bytes": 0, "sha256": "0" * 64}
    with pytest.raises(ArchiveError, match=r"is not safe|too (long|deep)|of a file and of a directory"):
        ArchiveReader(packed(tmp_path / "a.zip", files(), told))


@pytest.mark.parametrize("between", ["", "a!", "a-b", "a.txt"])
def test_a_file_that_is_also_a_directory_is_found_whatever_sorts_between(between: str) -> None:
    names = [f"runs/x/{name}" for name in ("a", "a/b/c", "b", between) if name]
    with pytest.raises(ArchiveError, match=r"'runs/x/a' is that of a file and of a directory"):
        archive_module._check_names(dict.fromkeys(names))
    archive_module._check_names(dict.fromkeys(names[1:]))


def test_the_names_in_an_archive_take_no_more_memory_than_a_few_times_their_length() -> None:
    names = dict.fromkeys(f"runs/{number:05}/" + "/".join([f"{number:015}"] * 60) for number in range(300))
    tracemalloc.start()
    try:
        archive_module._check_names(names)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * sum(map(len, names))


def test_a_pipe_is_no_archive_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ArchiveError, match="no regular file"):
            ArchiveReader(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_takes_as_much_memory_as_it_likes_is_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(ArchiveError, match="compressed in a way"):
        ArchiveReader(packed(tmp_path / "a.zip", files(), method=method))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runs": [RUN_ID, RUN_ID]}, "names a run twice"),
        ({"runs": ["../x"]}, "damaged"),
        ({"runs": ["b"]}, "missing"),
        ({"version": 2}, "upgrade"),
        ({"version": []}, "damaged"),
        ({"files": []}, "damaged"),
        ({"files": {f"runs/{RUN_ID}/run.json": {"bytes": -1, "sha256": "0" * 64}}}, "damaged"),
    ],
)
def test_a_manifest_that_is_forged_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ArchiveError, match=said):
        consumed(packed(tmp_path / "a.zip", files(), {**manifest(files()), **change}), tmp_path / "into")


WRONG: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, "", "x' OR ''='", [], [1], {}, {"a": []}, "\ud800")


@pytest.mark.parametrize("field", list(DESCRIBED))
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_description_with_anything_in_any_field_is_read_or_refused(tmp_path: Path, field: str, value: Any) -> None:
    fault = harmless(packed(tmp_path / "a.zip", files({**DESCRIBED, field: value})), tmp_path / "into")
    assert fault is None or "run.json" in fault or "metrics.parquet" in fault


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"", b"5"])
def test_a_description_that_is_no_description_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"run\.json is damaged"):
        consumed(packed(tmp_path / "a.zip", files(text)), tmp_path / "into")


def test_runs_that_are_nested_in_a_circle_are_read_once_each(tmp_path: Path) -> None:
    ids = ["a", "b", "c"]
    with ArchiveWriter(tmp_path / "a.zip", "store", "now") as into:
        (tmp_path / "m").write_bytes(METRICS_FILE)
        for each, above in zip(ids, [*ids[1:], ids[0]], strict=True):
            tags = {"mlflow.parentRunId": above}
            described = {**DESCRIBED, "run_id": each, "origin": each, "tags": tags, "inputs": []}
            into.add_run(ArchivedRun(**described), tmp_path / "m")
    with ArchiveReader(tmp_path / "a.zip") as archive:
        assert sorted(run.run_id for run in archive.runs()) == ids


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
by_chance = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def flipped(data: st.DataObject, body: bytes) -> bytes:
    """With some bytes changed, and perhaps cut."""
    changed = bytearray(body)
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    return bytes(changed[: data.draw(st.just(len(body)) | st.integers(0, len(body)))])


def altered(data: st.DataObject, value: Any) -> Any:
    """The same with one thing in it replaced or taken out."""
    value = copy.deepcopy(value)
    at = value
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(at[key], (dict, list)) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        if data.draw(st.booleans()):
            at[key] = data.draw(json_values)
        else:
            del at[key]
        return value


@by_chance
@given(st.data())
def test_an_archive_with_changed_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("a")
    path = packed(place / "a.zip", files())
    path.write_bytes(flipped(data, path.read_bytes()))
    harmless(path, place / "into")


@by_chance
@given(st.data())
def test_an_archive_with_anything_in_its_json_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("a")
    entries = files(altered(data, DESCRIBED)) if data.draw(st.booleans()) else files()
    told = manifest(entries)
    told = altered(data, told) if data.draw(st.booleans()) else told
    harmless(packed(place / "a.zip", entries, told), place / "into")


@by_chance
@given(st.data())
def test_an_archive_with_changed_metrics_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("a")
    harmless(packed(place / "a.zip", files(metrics=flipped(data, METRICS_FILE))), place / "into")


TOLD = {"run": "00000000000000ab", "name": "first", "status": "FINISHED", "start_time": 1000, "tags": {"a": "b"}}


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return report(tmp_path / "reports")


def report(directory: Path) -> Path:
    (directory / "figures" / "deep").mkdir(parents=True)
    (directory / "earlier" / "one" / "figures").mkdir(parents=True)
    for place in (directory, directory / "earlier" / "one"):
        (place / METRICS).write_text('{"loss": 0.5, "odd": NaN}')
        (place / CONFIG).write_text("lr: 0.1\n")
        (place / RUN_FILE).write_text(json.dumps(TOLD))
    (directory / "figures" / "deep" / "loss.png").write_bytes(b"png")
    return directory


def refused(reports: Path, **given: Any) -> str:
    """What is said of it; nothing is asked of a store, of which there is none."""
    with pytest.raises(CallError) as caught:
        import_reports(reports, "http://127.0.0.1:9", **given)
    return str(caught.value)


PLACES = [
    *(METRICS, CONFIG, RUN_FILE, "figures", "figures/x.png", "figures/deep"),
    *("earlier", "earlier/two", "earlier/one/run.json"),
]


def cleared(path: Path) -> Path:
    """Nothing is there."""
    if path.is_dir():
        path.rename(path.parent.parent / "away")
    else:
        path.unlink(missing_ok=True)
    return path


@pytest.mark.parametrize("place", PLACES)
def test_a_link_in_a_report_is_refused_wherever_it_leads(reports: Path, tmp_path: Path, place: str) -> None:
    secret = tmp_path / "id_ed25519"
    secret.write_text("private")
    (tmp_path / "keys").mkdir()
    for target in (secret, tmp_path / "keys", tmp_path / "nothing"):
        cleared(reports / place).symlink_to(target)
        assert refused(reports).startswith(f"{reports / place} is a link")
        (reports / place).unlink()


@pytest.mark.parametrize("place", [METRICS, CONFIG, RUN_FILE, "figures/x.png"])
def test_what_is_no_file_of_its_own_in_a_report_is_refused(reports: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_text("private")
    path = cleared(reports / place)
    os.mkfifo(path)
    assert f"{path} is no regular file" in refused(reports)
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(path.parent)
        cleared(path)
        bound.bind(path.name)
        assert f"{path} is no regular file" in refused(reports)
    os.link(tmp_path / "secret", cleared(path))
    assert f"{path} is a hard link" in refused(reports)


def test_reports_that_are_too_large_are_refused_until_it_is_allowed(reports: Path) -> None:
    with (reports / "figures" / "x.png").open("wb") as sparse:
        sparse.truncate(2 << 30)
    assert "x.png has 2.0 GiB, more than the 1.0 GiB" in refused(reports)
    for name in ("x.png", "y.png", "z.png"):
        (reports / "figures" / name).write_bytes(bytes(40_000))
    assert "have more than 97.7 KiB; if you trust" in refused(reports, max_bytes=100_000)
    with (reports / METRICS).open("wb") as sparse:
        sparse.truncate(9 << 20)
    assert "metrics.json has 9.0 MiB" in refused(reports)


def test_a_report_that_is_too_deep_is_refused(reports: Path) -> None:
    deep = reports / "figures" / "/".join("d" * 70)
    deep.mkdir(parents=True)
    assert "too deep" in refused(reports)


LAUGHS = "a: &a [1]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{chr(ord(c) - 1)}'] * 9)}]\n" for c in "bcdefghi")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (METRICS, "["),
        (METRICS, "5"),
        (METRICS, "[" * 100_000),
        (METRICS, "\\ud800"),
        (CONFIG, "a: &a [*a]"),
        (CONFIG, LAUGHS),
        (CONFIG, "[" * 500),
        (CONFIG, "!!python/object/apply:os.system [true]"),
        (CONFIG, "5"),
        (CONFIG, "a: 9999-99-99"),
        (RUN_FILE, "[]"),
        (RUN_FILE, "[" * 100_000),
        (RUN_FILE, json.dumps({**TOLD, "run": "0"})),
        (RUN_FILE, json.dumps({**TOLD, "run": "1' OR '1'='1"})),
        (RUN_FILE, json.dumps({**TOLD, "start_time": 1e300})),
        (RUN_FILE, json.dumps({**TOLD, "status": "RUNNING"})),
        (RUN_FILE, json.dumps({**TOLD, "tags": [1]})),
        (RUN_FILE, json.dumps({**TOLD, "name": 5})),
    ],
)
def test_a_report_that_is_forged_is_refused_by_its_name(reports: Path, name: str, text: str) -> None:
    (reports / name).write_text(text)
    assert f"the report in {reports} cannot be read: {name}: " in refused(reports)


@by_chance
@given(st.data())
def test_a_report_with_anything_in_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("a")
    directory = report(place / "reports")
    path = directory / data.draw(st.sampled_from([METRICS, CONFIG, RUN_FILE]))
    path.write_bytes(flipped(data, path.read_bytes()))
    (place / "into").mkdir()
    with contextlib.suppress(CallError):
        for taken in take_reports(directory, place / "into", 1 << 20):
            _read(taken)


def test_what_is_taken_is_what_was_looked_at(reports: Path, tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    earlier, last = take_reports(reports, tmp_path / "into", 1 << 20)
    assert (earlier.path, last.path) == (reports / "earlier" / "one", reports)
    assert sorted(str(path.relative_to(last.copy)) for path in last.copy.rglob("*") if path.is_file()) == [
        *(CONFIG, "figures/deep/loss.png", METRICS, RUN_FILE)
    ]
    assert last.copy.joinpath(METRICS).stat().st_mtime == reports.joinpath(METRICS).stat().st_mtime
