"""A server that lies: whatever it answers, nothing counts as stored that is not, and neither time nor memory is lost.

Each lie stands in front of a real MLflow server, which takes everything once the lie is over.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from mlflow import MlflowClient

from faults.lies import BOMB, LIES, page
from faults.oracle import eventually
from faults.proxy import Action, Answer, Proxy, Request, Say, on
from faults.server import tracked
from tailrace_agent.errors import SinkError, Unavailable
from tailrace_agent.ipc.records import ModelSpec, Point, RunSpec
from tailrace_agent.mlflow.registry import Registry
from tailrace_agent.mlflow.stores import open_registry, open_repository
from tailrace_agent.reading.reader import Reader, open_reader
from tailrace_agent.retry import LONGEST
from tailrace_agent.sinks.base import Sink
from tailrace_agent.sinks.mlflow import open_sink

_TIMEOUT = 0.4
_QUICK = {
    "answers with nothing",
    "answers with a page",
    "answers with somebody else's object",
    "answers 204",
    "redirects with 302 to a login page",
    "asks to wait for ever",
    "drips its body",
    "sends chunks without end",
    "promises more than it sends",
}
EVERY = [pytest.param(lie, marks=() if lie in _QUICK else pytest.mark.faults) for lie in LIES]
"""All lies: the delivery meets each of them in every run of the tests, everything else in those of the faults."""


class Liar(NamedTuple):
    """A proxy, what speaks to it, and a run that the real server knows."""

    proxy: Proxy
    sink: Sink
    reader: Reader
    registry: Registry
    run_id: str
    experiment: str
    client: MlflowClient


@pytest.fixture(scope="module")
def liar(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Liar]:
    cwd = str(tmp_path_factory.mktemp("liar"))
    with Proxy(int(mlflow_server.rpartition(":")[2])) as proxy:
        sink = open_sink(proxy.url, cwd, request_timeout=10)
        run = sink.open_run(spec(1), None, find_first=False)
        # Without MLflow, as an agent does; what reads and registers goes through it.
        sink = open_sink(proxy.url, cwd, request_timeout=_TIMEOUT, own_process=True)
        reader = open_reader(proxy.url, cwd, request_timeout=_TIMEOUT)
        registry = Registry(open_registry(proxy.url, proxy.url, _TIMEOUT))
        yield Liar(proxy, sink, reader, registry, run.run_id, run.experiment_id, MlflowClient(mlflow_server))


def spec(number: int, name: str = "lies") -> RunSpec:
    return RunSpec(run=number, start_time=1, cwd="/", owned=True, experiment_name=name)


def refused(liar: Liar, lie: str, ask: Callable[[], object]) -> Unavailable:
    """What comes of a request while the server lies: patience, and a message that a terminal can show."""
    with liar.proxy.faulty(LIES[lie]) as seen, pytest.raises(SinkError) as raised:
        ask()
    assert seen, "nothing was asked"
    told = raised.value
    assert isinstance(told, Unavailable), f"{told!r} would cost what was sent"
    assert str(told).isprintable()
    assert len(str(told)) < 900
    assert liar.proxy.url in str(told)
    assert told.retry_after is None or 0 <= told.retry_after <= LONGEST
    return told


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES)
def test_points_are_delivered_once_the_truth_is_told_and_not_before(liar: Liar, lie: str) -> None:
    key = f"lie/{list(LIES).index(lie)}"
    batch = [Point(key, float(step), 1_700_000_000_000, step) for step in range(3)]
    refused(liar, lie, lambda: liar.sink.log_batch(liar.run_id, metrics=batch))
    assert not liar.client.get_metric_history(liar.run_id, key)
    honest(lambda: liar.sink.log_batch(liar.run_id, metrics=batch))
    assert [point.value for point in liar.client.get_metric_history(liar.run_id, key)] == [0.0, 1.0, 2.0]


def honest(ask: Callable[[], object]) -> None:
    """Asks until it works, as the agent does: the time-out of these tests is short for a machine that is busy."""
    done: list[object] = []

    def asked() -> bool:
        try:
            done.append(ask())
        except Unavailable:
            return False
        return True

    eventually(asked, 30, "the honest server takes it")


@pytest.mark.slow
@pytest.mark.parametrize("lie", EVERY)
def test_a_run_is_opened_once_the_truth_is_told_and_not_before(liar: Liar, lie: str) -> None:
    number = 1000 + list(LIES).index(lie)
    refused(liar, lie, lambda: liar.sink.open_run(spec(number), None, find_first=False))
    refused(liar, lie, lambda: liar.sink.end_run(liar.run_id, "FINISHED", 5))
    refused(liar, lie, lambda: liar.sink.log_batch(liar.run_id, tags=[("a", "b")]))
    assert not liar.client.search_runs([liar.experiment], f"tags.`tailrace.run` LIKE '%{number:x}'")
    assert liar.client.get_run(liar.run_id).info.status == "RUNNING"


@pytest.mark.slow
@pytest.mark.parametrize("lie", EVERY)
def test_nothing_is_read_from_a_lie(liar: Liar, lie: str) -> None:
    refused(liar, lie, lambda: liar.reader.find(liar.run_id))
    refused(liar, lie, lambda: liar.reader.search([liar.experiment]))
    refused(liar, lie, lambda: list(liar.reader.history(liar.run_id, "m")))
    refused(liar, lie, lambda: liar.sink.find_runs("lies"))


@pytest.mark.slow
@pytest.mark.parametrize("lie", EVERY)
def test_an_artifact_is_stored_once_the_truth_is_told_and_not_before(liar: Liar, lie: str, tmp_path: Path) -> None:
    honest(lambda: liar.sink.fetch_artifact(liar.run_id, "none", tmp_path))  # from here on it is known where they lie
    file = tmp_path / f"{list(LIES).index(lie)}.txt"
    file.write_text("kept")
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "else.txt").write_text("else")
    refused(liar, lie, lambda: liar.sink.log_artifact(liar.run_id, file, "lies"))
    refused(liar, lie, lambda: liar.sink.log_artifacts(liar.run_id, tmp_path / "back", "lies"))
    refused(liar, lie, lambda: liar.sink.fetch_artifact(liar.run_id, f"lies/{file.name}", tmp_path))
    stored = f"lies/{file.name}"
    assert stored not in [info.path for info in liar.client.list_artifacts(liar.run_id, "lies")]
    honest(lambda: liar.sink.log_artifact(liar.run_id, file, "lies"))
    honest(lambda: liar.sink.fetch_artifact(liar.run_id, stored, tmp_path / "back"))
    assert (tmp_path / "back" / stored).read_text() == "kept"


@pytest.mark.slow
@pytest.mark.parametrize("lie", EVERY)
def test_a_model_is_registered_once_the_truth_is_told_and_not_before(liar: Liar, lie: str) -> None:
    name = f"lie-{list(LIES).index(lie)}"
    wanted = ModelSpec(name="m", token=name, registered_name=name)

    def register() -> object:
        with liar.reader.translated_errors(about_run=False):
            return liar.registry.register(wanted, "models:/x", liar.run_id, None, None)

    refused(liar, lie, register)
    refused(liar, lie, lambda: _in_edge(liar, lambda: liar.registry.store.create_registered_model(name, [], None)))
    refused(liar, lie, lambda: _in_edge(liar, lambda: liar.registry.point("lies", "1", ("best",), None)))
    assert not liar.client.search_registered_models(f"name = '{name}'")


def _in_edge(liar: Liar, ask: Callable[[], object]) -> object:
    with liar.reader.translated_errors(about_run=False):
        return ask()


@pytest.mark.slow
def test_a_redirect_is_told_with_its_target_and_nobody_else_is_asked(
    liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cr3t")
    with Proxy(9) as other:
        for status in (301, 302, 303, 307, 308):
            there = Answer(status, (("Location", f"{other.url}/base/api/2.0/mlflow/runs/log-batch"),))
            for ask in (
                lambda: liar.sink.log_batch(liar.run_id, metrics=[Point("a", 1.0, 1, 0)]),
                lambda: liar.reader.search([liar.experiment]),
                lambda: liar.reader.find(liar.run_id),
            ):
                with liar.proxy.faulty(there), pytest.raises(Unavailable) as told:
                    ask()
                assert f"points to {other.url}/base: make that the tracking URI" in str(told.value)
        assert not other.seen


@pytest.mark.slow
def test_a_bomb_costs_no_more_memory_than_an_answer_may(liar: Liar) -> None:
    patient = open_sink(liar.proxy.url, "/", request_timeout=60, own_process=True)
    tracemalloc.start()
    try:
        with liar.proxy.faulty(BOMB), pytest.raises(Unavailable, match="larger than"):
            patient.log_batch(liar.run_id, metrics=[Point("a", 1.0, 1, 0)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 << 20


@pytest.mark.slow
def test_what_a_server_wants_kept_is_not_sent_back_to_it(liar: Liar) -> None:
    heads: list[bytes] = []

    def cookie(request: Request) -> Answer | None:
        heads.append(request.head)
        return Answer(500, (("Set-Cookie", f"a={'x' * 60_000}; Path=/"),)) if len(heads) == 1 else None

    with liar.proxy.faulty(cookie):
        with pytest.raises(Unavailable):
            liar.sink.log_batch(liar.run_id, metrics=[Point("b", 1.0, 1, 0)])
        honest(lambda: liar.sink.log_batch(liar.run_id, metrics=[Point("b", 1.0, 1, 0)]))
    assert not any(b"cookie:" in head.lower() for head in heads)


@pytest.mark.slow
def test_a_download_that_ends_early_is_no_file(liar: Liar, tmp_path: Path) -> None:
    (tmp_path / "whole.txt").write_text("whole")
    (tmp_path / "back").mkdir()
    honest(lambda: liar.sink.log_artifact(liar.run_id, tmp_path / "whole.txt", None))
    for short in (page(b"who", "Content-Length: 5"), page(b"who", "Content-Length: 3"), page(b"")):
        with liar.proxy.faulty(on("whole.txt", short)), pytest.raises(Unavailable):
            liar.sink.fetch_artifact(liar.run_id, "whole.txt", tmp_path / "back")


_ENDLESS = Say(lambda: itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n"], itertools.repeat(b"x" * (1 << 16))))
_NOTHING = page(b"", "Content-Length: 0")
_PACKED = gzip.compress(b"<html>please log in</html>")
_PACKED_PAGE = page(_PACKED, "Content-Type: text/html", "Content-Encoding: gzip", f"Content-Length: {len(_PACKED)}")


def _kept_by_nobody(request: Request, download: Action) -> Action | None:
    """Swallows uploads, and answers downloads with this."""
    if "/mlflow-artifacts/artifacts/" not in request.path:
        return None
    return _NOTHING if request.method == "PUT" else download


@pytest.mark.slow
@pytest.mark.parametrize("download", [_PACKED_PAGE, _ENDLESS], ids=["a packed page", "a body without end"])
def test_what_comes_instead_of_a_file_is_no_word_that_it_was_stored(
    liar: Liar, download: Action, tmp_path: Path
) -> None:
    file = tmp_path / "precious.txt"
    file.write_text("precious")
    honest(lambda: liar.sink.fetch_artifact(liar.run_id, "none", tmp_path))
    rule = functools.partial(_kept_by_nobody, download=download)
    with liar.proxy.faulty(rule), pytest.raises(Unavailable, match="does not have it"):
        liar.sink.log_artifact(liar.run_id, file, "swallowed")


@pytest.mark.slow
def test_a_file_that_arrives_packed_is_stored_if_the_listing_has_it(liar: Liar, tmp_path: Path) -> None:
    file = tmp_path / "packed.txt"
    file.write_text("precious")
    honest(lambda: liar.sink.log_artifact(liar.run_id, file, "stored"))
    with liar.proxy.faulty(functools.partial(_kept_by_nobody, download=_PACKED_PAGE)):
        honest(lambda: liar.sink.log_artifact(liar.run_id, file, "stored"))


@pytest.mark.slow
def test_a_download_without_end_stops_at_the_size_that_was_listed(liar: Liar, tmp_path: Path) -> None:
    (tmp_path / "listed.txt").write_text("listed")
    (tmp_path / "back").mkdir()
    honest(lambda: liar.sink.log_artifact(liar.run_id, tmp_path / "listed.txt", None))
    with liar.proxy.faulty(on("listed.txt", _ENDLESS)), pytest.raises(Unavailable, match="than the 6 bytes it lists"):
        liar.sink.fetch_artifact(liar.run_id, "listed.txt", tmp_path / "back")
    assert not list((tmp_path / "back").iterdir())


@pytest.mark.slow
def test_a_download_of_no_known_size_leaves_room_on_the_disk(
    liar: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unlisted.txt").write_text("unlisted")
    honest(lambda: liar.sink.log_artifact(liar.run_id, tmp_path / "unlisted.txt", None))
    uri = liar.client.get_run(liar.run_id).info.artifact_uri
    repository = open_repository(uri, liar.proxy.url, _TIMEOUT)
    room = iter([1 << 30, 1 << 30, 1 << 30, 1])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Room(next(room)))
    with liar.proxy.faulty(on("unlisted.txt", _ENDLESS)), pytest.raises(Unavailable, match="is larger than the room"):
        repository._download_file("unlisted.txt", str(tmp_path / "back.txt"))
    assert not (tmp_path / "back.txt").exists()


class _Room(NamedTuple):
    free: int


_SOME = ["answers with nothing", "answers with somebody else's object", "asks to wait for ever", "sends a bomb"]


def _deliver_through(lies: list[str], mlflow_server: str) -> None:
    with Proxy(int(mlflow_server.rpartition(":")[2])) as proxy, tracked(proxy.url, request_timeout=0.7) as tracker:
        run = tracker.start_run(experiment_name="through lies")
        assert run.run_id
        for number, lie in enumerate(lies):
            with proxy.faulty(LIES[lie]) as seen:
                run.log({"number": number}, step=number)
                run.log_text(lie, f"lies/{number}.txt")
                eventually(lambda seen=seen: any(s.until for s in seen), 10, f"the server {lie}")  # type: ignore[misc]
                delivered = run.ledger().of("metric").delivered
                assert delivered <= number, lie
        assert run.flush(60).settled
        run.end()
        client, run_id = MlflowClient(mlflow_server), run.run_id
    stored = client.get_metric_history(run_id, "number")
    assert sorted(point.value for point in stored) == [float(number) for number in range(len(lies))]
    assert {info.path for info in client.list_artifacts(run_id, "lies")} == {f"lies/{n}.txt" for n in range(len(lies))}
    assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_an_agent_delivers_everything_once_after_a_few_lies(mlflow_server: str) -> None:
    _deliver_through(_SOME, mlflow_server)


@pytest.mark.faults
def test_an_agent_delivers_everything_once_after_every_lie(mlflow_server: str) -> None:
    waits = [lie for lie in LIES if LIES[lie].__class__ is Answer and "asks to wait" in lie]
    _deliver_through([lie for lie in LIES if lie not in waits], mlflow_server)


def _in_parts(proxy: Proxy, part: Answer, complete: Answer) -> Callable[[Request], Answer | None]:
    credential = {"url": f"{proxy.url}/bucket/part", "part_number": 1, "headers": {}}
    created = json.dumps({"upload_id": "u", "credentials": [credential]}).encode()

    def rule(request: Request) -> Answer | None:
        if "/mpu/create/" in request.path:
            return Answer(200, body=created)
        if request.endpoint == "part":
            return part
        return complete if "/mpu/" in request.path else None

    return rule


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "complete", "stored"),
    [
        (Answer(200, (("ETag", "e"),), b""), Answer(200, body=b"{}"), True),
        (Answer(200, (("ETag", "e"),), b""), Answer(200, body=b""), False),
        (Answer(200, (("ETag", "e"),), b""), Answer(302, (("Location", "/login"),)), False),
        (Answer(307, (("Location", "/elsewhere"),)), Answer(200, body=b"{}"), False),
    ],
)
def test_a_file_in_parts_is_stored_when_every_part_and_the_whole_were_answered(
    liar: Liar, part: Answer, complete: Answer, stored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "10")
    (tmp_path / "large.bin").write_bytes(b"x" * 100)
    sink = open_sink(liar.proxy.url, str(tmp_path), request_timeout=_TIMEOUT, own_process=True)  # with that set
    honest(lambda: sink.fetch_artifact(liar.run_id, "none", tmp_path))
    with liar.proxy.faulty(_in_parts(liar.proxy, part, complete)) as seen:
        if stored:
            sink.log_artifact(liar.run_id, tmp_path / "large.bin", None)
        else:
            with pytest.raises(Unavailable):
                sink.log_artifact(liar.run_id, tmp_path / "large.bin", None)
    assert any(each.endpoint == "part" and each.size == 100 for each in seen)
    assert not any("elsewhere" in each.path or "login" in each.path for each in seen)
