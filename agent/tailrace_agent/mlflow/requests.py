"""Requests to an MLflow server through MLflow's own functions, each sent once; and files through its artifact proxy.

What this module promises of a request:

* It is MLflow's own, with its authentication and headers, and is sent once, within the bounds of `http_bounds`.
* No redirect is followed, and so no credentials go where the tracking URI does not point. What a redirect answers to
  a write is no word on what was written; and who reads one address writes to it.
* An answer counts when it is one of MLflow's (see `answers`).

An artifact server at another address than the tracking server is spoken to without credentials: whoever makes an
experiment chooses that address.

Loading this module imports MLflow.
"""

from __future__ import annotations

import copy
import posixpath
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import requests
from mlflow.entities.multipart_upload import CreateMultipartUploadResponse, MultipartUploadPart
from mlflow.environment_variables import (
    MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD,
    MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE,
    MLFLOW_S3_IGNORE_TLS,
)
from mlflow.exceptions import _UnsupportedMultipartUploadException
from mlflow.store.artifact.artifact_repo import verify_artifact_path
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.file_utils import read_chunk
from mlflow.utils.request_utils import _get_request_session
from mlflow.utils.rest_utils import http_request, verify_rest_response

from tailrace_agent.mlflow.answers import believing, hold_answer, json_object
from tailrace_agent.mlflow.http_bounds import bound
from tailrace_agent.mlflow.proxied_files import ARTIFACTS, ProxiedFiles, check_status

__all__ = ["PromptUploads", "answered", "origin", "send_once"]

_OUR_OWN: Final[dict[str, Any]] = {
    "max_retries": 0,
    "backoff_factor": 0,
    "backoff_jitter": 0.0,
    "retry_codes": frozenset(),
    "raise_on_status": False,
    "respect_retry_after_header": False,
}
"""What MLflow keeps a session for: one that nobody else uses, since nobody else goes without any retry."""


def send_once(creds: Any, path: str, method: str, timeout: float, **content: Any) -> requests.Response:
    """One request through MLflow's own `http_request`, without its retries.

    Returns:
        The answer, held; with `stream=True` only its head.

    Raises:
        Exception: There was none, or it cannot be believed.
    """
    # The very session that `http_request` finds for these arguments in its cache: it takes none from its caller.
    bound(_get_request_session(**_OUR_OWN))
    # Ours: MLflow's call always streams, since the body is bounded only where it is read here.
    stream = content.pop("stream", False)
    response: requests.Response = http_request(
        creds,
        path,
        method,
        timeout=timeout,
        retry_timeout_seconds=max(1, int(timeout)),  # of the Databricks SDK, which takes 0 for "unset"
        allow_redirects=False,
        stream=True,
        **_OUR_OWN,
        **content,
    )
    hold_answer(response, stream=stream)
    return response


def answered(response: requests.Response, path: str) -> Any:
    """The JSON object that an answer is; MLflow's own errors for one that is no success. See `json_object`."""
    return json_object(response, path, verify_rest_response)


def origin(address: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address: to whom credentials belong."""
    url = urlsplit(address)
    # The port written out: `http://host` and `http://host:80` are one server.
    return url.scheme.lower(), url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme.lower())


class PromptUploads(ProxiedFiles, HttpArtifactRepository):  # type: ignore[misc]  # MLflow is untyped
    """Speaks to the artifact proxy without MLflow's retries. Stands before MLflow's class."""

    tailrace_timeout: float
    tailrace_origin: tuple[str, str | None, int | None]
    """Of the tracking server: whoever else keeps the artifacts gets no credentials."""

    def receive(self, address: str, path: str, method: str, **content: Any) -> requests.Response:
        """Sends one request to `path` below `address`."""
        return send_once(self._creds(address), path, method, self.tailrace_timeout, **content)

    def answered(self, response: requests.Response, path: str) -> Any:
        """The JSON object that an answer is."""
        return answered(response, path)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """MLflow's call; see `put`. Who uses it looks for the files afterwards."""
        verify_artifact_path(artifact_path)
        self.put(Path(local_file), posixpath.join(artifact_path or "", Path(local_file).name))

    def put(self, file: Path, artifact_file: str) -> bool:
        """Uploads one file, a large one in parts where that is wanted."""
        # In parts, MLflow sends names its own way, unquoted, and takes the file's own name for the last part.
        unchanged = quote(artifact_file) == artifact_file and file.name == posixpath.basename(artifact_file)
        if unchanged and self._goes_in_parts(file):
            try:
                self._try_multipart_upload(str(file), posixpath.dirname(artifact_file) or None)
                return True
            except _UnsupportedMultipartUploadException:  # the store behind this server has none
                pass
        return super().put(file, artifact_file)

    def list_artifacts(self, path: str | None = None) -> list[Any]:
        """MLflow's call, for which a path may be that of a file: then the list is empty."""
        found = self.list_directory(path)
        # MLflow's own rule: some stores behind a server list a file as a directory that holds itself.
        if path and [(info.path, info.is_dir) for info in found] == [
            (posixpath.join(path, posixpath.basename(path)), False)
        ]:
            return []
        return found

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """MLflow's call."""
        self.exchange(self.artifact_uri, posixpath.join("/", quote(artifact_path or "")), "DELETE")

    def create_multipart_upload(self, local_file: str, num_parts: int = 1, artifact_path: str | None = None) -> Any:
        """MLflow's call."""
        body = {"path": local_file, "num_parts": num_parts}
        try:
            response, fields = self._parts("create", artifact_path, body)
        except requests.HTTPError as error:
            if _is_object(error.response):
                raise
            # MLflow looks into each HTTPError here for its own words, as into a JSON object, and a web page would come
            # out as an error of that, without its status.
            raise requests.RequestException(str(error), response=error.response) from None
        with believing(response):
            return CreateMultipartUploadResponse.from_dict(fields)

    def complete_multipart_upload(
        self, local_file: str, upload_id: str, parts: Any = None, artifact_path: str | None = None
    ) -> None:
        """MLflow's call."""
        body = {"path": local_file, "upload_id": upload_id, "parts": [part.to_dict() for part in parts]}
        self._parts("complete", artifact_path, body)

    def abort_multipart_upload(self, local_file: str, upload_id: str, artifact_path: str | None = None) -> None:
        """MLflow's call."""
        self._parts("abort", artifact_path, {"path": local_file, "upload_id": upload_id})

    @property
    def _host_creds(self) -> Any:
        return self._creds(self.artifact_uri)

    def _creds(self, address: str) -> Any:
        creds = get_default_host_creds(address)
        if origin(address) == self.tailrace_origin:
            return creds
        creds = copy.copy(creds)  # a plug-in may give the same object each time
        creds.username = creds.password = creds.token = creds.auth = creds.client_cert_path = None
        creds.aws_sigv4 = False
        return creds

    def _goes_in_parts(self, file: Path) -> bool:
        enabled: bool = MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD.get()
        return enabled and file.stat().st_size >= MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE.get()

    def _parts(self, what: str, artifact_path: str | None, body: dict[str, Any]) -> Any:
        host, _, path = self.artifact_uri.partition(ARTIFACTS)
        there = posixpath.join(f"/mlflow-artifacts/mpu/{what}", path.strip("/"), artifact_path or "").rstrip("/")
        return self.exchange(host, there, "POST", json=body)

    def _upload_part(self, credential: Any, local_file: str, size: int, start_byte: int) -> Any:
        """MLflow's call: a part goes to the object store, with what the server has signed for it."""
        data = read_chunk(local_file, size, start_byte)
        with requests.Session() as session:
            bound(session)
            response = session.put(
                credential.url,
                data=data,
                headers=credential.headers,
                timeout=self.tailrace_timeout,
                verify=not MLFLOW_S3_IGNORE_TLS.get(),
                allow_redirects=False,
                stream=True,
            )
            hold_answer(response, stream=False)
        check_status(response)
        return MultipartUploadPart(credential.part_number, response.headers.get("ETag", ""), credential.url)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        """MLflow's call: what arrives goes to the disk, piece by piece."""
        self.receive_into(Path(local_path), remote_file_path, None)


def _is_object(response: requests.Response | None) -> bool:
    try:
        return response is not None and isinstance(response.json(), dict)
    except ValueError:
        return False
