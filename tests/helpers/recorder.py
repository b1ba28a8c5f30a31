"""An MLflow server that answers from a list, and keeps each request as it came."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

__all__ = ["RUN_ID", "Recorded", "Recorder", "recording"]

RUN_ID = "0123456789abcdef" * 2
_INFO = {
    "run_id": RUN_ID, "run_uuid": RUN_ID, "run_name": "vision", "experiment_id": "7", "status": "FINISHED",
    "start_time": 1, "end_time": 2, "artifact_uri": f"mlflow-artifacts:/7/{RUN_ID}/artifacts",
    "lifecycle_stage": "active", "user_id": "ada",
}  # fmt: skip
_DATA = {
    "metrics": [{"key": "system/cpu", "value": "NaN", "timestamp": "3", "step": "4"}, {"key": "loss", "value": 0.5}],
    "params": [{"key": "lr", "value": "0.1"}],
    "tags": [{"key": "mlflow.runName", "value": "vision"}],
}
_RUN = {"run": {"info": _INFO, "data": _DATA, "inputs": {}, "outputs": {}}}
_EXPERIMENT = {
    "experiment_id": "7",
    "name": "e",
    "lifecycle_stage": "active",
    "artifact_location": "mlflow-artifacts:/7",
}
_ANSWERS: dict[str, Any] = {
    "runs/create": _RUN,
    "runs/get": _RUN,
    "runs/search": {"runs": [_RUN["run"]], "next_page_token": "more"},
    "runs/update": {"run_info": _INFO},
    "runs/delete": {},
    "runs/log-batch": {},
    "experiments/get-by-name": {"experiment": _EXPERIMENT},
    "experiments/create": {"experiment_id": "8"},
    "experiments/search": {"experiments": [_EXPERIMENT]},
    "metrics/get-history": {
        "metrics": [{"key": "loss", "value": 1.0, "step": 1, "timestamp": "5"}],
        "next_page_token": "on",
    },
    "metrics/get-history-bulk-interval": {
        "metrics": [
            {"key": "loss", "value": "NaN", "timestamp": "7", "step": "3", "run_id": RUN_ID},
            {"key": "loss", "value": 1.7976931348623157e308, "timestamp": "6", "step": "1", "run_id": RUN_ID},
        ]
    },
}


class Recorded(NamedTuple):
    """A request: the query with its address, the body as it came."""

    method: str
    address: str
    headers: dict[str, str]
    body: bytes


class Recorder(ThreadingHTTPServer):
    """The server.

    Attributes:
        requests: As they came.
        answers: What it answers, by the last part of an address; a pair of status and body is sent as it stands.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[Recorded] = []
        self.answers: dict[str, Any] = dict(_ANSWERS)
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Recorder
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(Recorded(self.command, self.path, dict(self.headers.items()), body))
        answer = self.server.answers.get(urlsplit(self.path).path.partition("/mlflow/")[2])
        if answer is None:  # an artifact's
            files = [{"path": "a.txt", "is_dir": False, "file_size": 3}]
            answer = {"files": files} if "path=" in self.path else (200, "abc" if self.command == "GET" else "{}")
        status, text = answer if isinstance(answer, tuple) else (200, json.dumps(answer))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815  # http.server's names

    def log_message(self, *args: object) -> None:
        """Nothing: the test's output is its own."""


@contextmanager
def recording() -> Iterator[Recorder]:
    with Recorder() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
