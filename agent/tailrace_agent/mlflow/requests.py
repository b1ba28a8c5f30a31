"""Requests to an MLflow server, each sent once; and files through its artifact proxy.

What this module promises of a request:

* It is MLflow's own, with its authentication and headers, and is sent once, within the bounds of `http_bounds`.
* No redirect is followed, and so no credentials go where the tracking URI does not point. What a redirect answers to
  a write is no word on what was written; and who reads one address writes to it.
* An answer counts when it is the JSON object that MLflow gives. An empty one, a page or a list is none: it comes from
  somebody else, who has stored nothing. (To an upload some versions of MLflow answer nothing: then the file is looked
  for.)

And of a file: it lies under a name that the server keeps as it is.

MLflow puts a name into the request's address as it stands, so that `why?.txt` and `loss#1.txt` arrive as `why` and
`loss`, over whatever lay there. Here it is quoted. The server then decodes it as often as it can (`50%20off` becomes
`50 off`), leaves out line breaks and tabs, and refuses `#`: what cannot be had under its own name gets another one that
no other file has, and the uploader reports it.

An artifact server at another address than the tracking server is spoken to without credentials: whoever makes an
experiment chooses that address.

Loading this module imports MLflow.
"""

from __future__ import annotations

import copy
import json
import posixpath
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit
from zlib import crc32

import requests
from mlflow.entities import FileInfo
from mlflow.entities.multipart_upload import CreateMultipartUploadResponse, MultipartUploadPart
from mlflow.environment_variables import (
    MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD,
    MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE,
    MLFLOW_S3_IGNORE_TLS,
)
from mlflow.exceptions import MlflowException, _UnsupportedMultipartUploadException
from mlflow.store.artifact.artifact_repo import verify_artifact_path
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.file_utils import read_chunk
from mlflow.utils.mime_type_utils import _guess_mime_type
from mlflow.utils.request_utils import _get_request_session
from mlflow.utils.rest_utils import http_request, verify_rest_response
from mlflow.utils.uri import validate_path_is_safe

from tailrace_agent.errors import Unavailable
from tailrace_agent.mlflow.errors import attach, was_cut_off
from tailrace_agent.mlflow.http_bounds import bound, hold, pieces
from tailrace_agent.settings.uris import public_uri
from tailrace_agent.text.quoting import quoted

__all__ = ["PromptUploads", "answered", "believing", "origin", "send_once", "stored_name"]

_ARTIFACTS: Final = "/mlflow-artifacts/artifacts"
_OK: Final = 200
_ERROR_AT_MOST: Final = 8 << 20
_SMALL: Final = 1 << 20
_LEFT_FREE: Final = 256 << 20
"""Bytes that a download leaves free on the disk, for everybody else who writes there."""
_OUR_OWN: Final[dict[str, Any]] = {
    "max_retries": 0,
    "backoff_factor": 0,
    "backoff_jitter": 0.0,
    "retry_codes": frozenset(),
    "raise_on_status": False,
    "respect_retry_after_header": False,
}
"""What MLflow keeps a session for: one that nobody else uses, since nobody else goes without any retry."""
_NOT_KEPT: Final = re.compile(r"[#%\x00-\x1f\x7f]")


def send_once(creds: Any, path: str, method: str, timeout: float, **content: Any) -> requests.Response:
    """One request through MLflow's own `http_request`, without its retries.

    Returns:
        The answer, held; with `stream=True` only its head.

    Raises:
        Exception: There was none, or it cannot be believed.
    """
    bound(_get_request_session(**_OUR_OWN))
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
    if response.status_code != _OK:
        hold(response, _ERROR_AT_MOST)
    elif not stream:
        hold(response)
    return response


def answered(response: requests.Response, path: str) -> Any:
    """The JSON object that an answer is.

    Raises:
        Exception: It reports that something went wrong, or is none that MLflow gives. The response is attached to it.
    """
    with believing(response):
        if response.status_code != _OK:
            verify_rest_response(response, path)
        fields = json.loads(response.content)
        if not isinstance(fields, dict) or response.status_code != _OK:
            raise MlflowException(f"the answer to {path} is no JSON object")
    return fields


@contextmanager
def believing(response: requests.Response) -> Iterator[None]:
    """While an answer is being read: what goes wrong then is the answer's fault."""
    try:
        yield
    except Exception as error:
        attach(error, response)
        raise


def origin(address: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address: to whom credentials belong."""
    url = urlsplit(address)
    return url.scheme.lower(), url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme.lower())


def stored_name(path: str) -> str:
    """The name under which MLflow's server keeps an artifact: its own, or one that is like it and nobody else's.

    Example:
        >>> stored_name("plots/why?.txt"), stored_name("plots/loss#1.txt")
        ('plots/why?.txt', 'plots/loss_1-54a9ffa7.txt')
    """
    return "/".join(part if _is_kept(part) else _renamed(part) for part in path.split("/"))


class PromptUploads(HttpArtifactRepository):  # type: ignore[misc]  # MLflow is untyped
    """Speaks to the artifact proxy without MLflow's retries."""

    tailrace_timeout: float
    tailrace_origin: tuple[str, str | None, int | None]
    """Of the tracking server: whoever else keeps the artifacts gets no credentials."""

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """MLflow's call; see `put`. Who uses it looks for the files afterwards."""
        verify_artifact_path(artifact_path)
        self.put(Path(local_file), posixpath.join(artifact_path or "", Path(local_file).name))

    def put(self, file: Path, artifact_file: str) -> bool:
        """Uploads one file, to where it is to lie in the run's artifacts.

        Returns:
            Whether the server has confirmed that it is there. If not, it answered nothing, and `confirm` checks.
        """
        address = quote(artifact_file)
        if self._goes_in_parts(file) and address == artifact_file and file.name == posixpath.basename(artifact_file):
            try:
                self._try_multipart_upload(str(file), posixpath.dirname(artifact_file) or None)
                return True
            except _UnsupportedMultipartUploadException:  # the store behind this server has none
                pass
        try:
            return self._put(file, address)
        except Exception as error:
            if not was_cut_off(error):
                raise
            # A server that refuses an upload does not read it to its end, and closes the connection that is kept for
            # the next one. That one is sent whole once more.
            return self._put(file, address)

    def confirm(self, files: Sequence[tuple[Path, str]]) -> None:
        """Makes sure that files are there whose upload was answered with nothing: `(file, where it is to lie)`.

        MLflow's own answer is `{}`, or nothing at all where uvicorn serves it (in 3.17); and nothing is also the answer
        of a proxy that has thrown the file away. A small file is fetched itself, since a listing may be long; many
        are looked up in the listings of their directories.

        Raises:
            Unavailable: One of them is not.
            Exception: The server does not answer.
        """
        sizes = {name: file.stat().st_size for file, name in files}
        ways = [self._sizes_listed, self._sizes_sent]
        if len(sizes) == 1 and sum(sizes.values()) <= _SMALL:
            ways.reverse()
        found: dict[str, int | None] = {}
        unknown = sizes
        for way in ways:
            found |= way(unknown)
            unknown = {name: size for name, size in unknown.items() if name in found and found[name] is None}
        for name, size in sizes.items():
            if found.get(name) != size:
                where = public_uri(self.artifact_uri.split(_ARTIFACTS, maxsplit=1)[0])
                raise Unavailable(
                    f"{where} answered the upload of {quoted(name)} with nothing, and does not have it: check the "
                    "tracking URI, and log in"
                )

    def _sizes_listed(self, sizes: Mapping[str, int]) -> dict[str, int | None]:
        """What the listings of their directories hold. None: there, but without a size."""
        directories = {posixpath.dirname(name) for name in sizes}
        listings = [self.list_artifacts(directory or None) for directory in directories]
        return {info.path: info.file_size for listing in listings for info in listing if info.path in sizes}

    def _sizes_sent(self, sizes: Mapping[str, int]) -> dict[str, int | None]:
        """How much arrives of each, and not much more than there should. None: packed, and nobody knows by whom."""
        return {name: self._size_sent(name, size) for name, size in sizes.items()}

    def _size_sent(self, artifact_file: str, most: int) -> int | None:
        response = send_once(self._host_creds, f"/{quote(artifact_file)}", "GET", self.tailrace_timeout, stream=True)
        _check(response)
        if "Content-Encoding" in response.headers:
            response.close()
            return None
        size = 0
        with closing(pieces(response)) as body:
            for piece in body:
                size += len(piece)
                if size > most:
                    break
        return size

    def fetch(self, artifact_file: str, directory: Path, size: int | None) -> Path:
        """Downloads one file, to where it lies in the run's artifacts, into a directory.

        Args:
            artifact_file: Its path in the run's artifacts.
            directory: Made for it.
            size: That the listing gives it.

        Raises:
            Unavailable: More than that arrives, or more than the disk here has room for. Nothing is left of it.
            Exception: The server does not answer.
        """
        file: Path = directory / validate_path_is_safe(artifact_file)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._receive(artifact_file, file, size)
        return file

    def list_artifacts(self, path: str | None = None) -> list[Any]:
        """MLflow's call."""
        root = self.artifact_uri.split(_ARTIFACTS, maxsplit=1)[1].lstrip("/")
        whole = posixpath.join(root, path) if path else root
        host = self.artifact_uri.split(_ARTIFACTS, maxsplit=1)[0]
        response, fields = self._exchange(_ARTIFACTS, "GET", host=host, params={"path": whole})
        with believing(response):
            found = [_file_info(each, path) for each in (fields["files"] if fields else [])]
        if path and [(info.path, info.is_dir) for info in found] == [
            (posixpath.join(path, posixpath.basename(path)), False)
        ]:
            return []  # it is a file itself
        return sorted(found, key=lambda info: str(info.path))

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """MLflow's call."""
        self._exchange(posixpath.join("/", quote(artifact_path or "")), "DELETE")

    def create_multipart_upload(self, local_file: str, num_parts: int = 1, artifact_path: str | None = None) -> Any:
        """MLflow's call."""
        body = {"path": local_file, "num_parts": num_parts}
        response, fields = self._parts("create", artifact_path, body)
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
        creds = copy.copy(creds)
        creds.username = creds.password = creds.token = creds.auth = creds.client_cert_path = None
        creds.aws_sigv4 = False
        return creds

    def _goes_in_parts(self, file: Path) -> bool:
        enabled: bool = MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD.get()
        return enabled and file.stat().st_size >= MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE.get()

    def _put(self, file: Path, address: str) -> bool:
        headers = {"Content-Type": _guess_mime_type(file.name)}
        with file.open("rb") as body:
            response = send_once(
                self._host_creds, f"/{address}", "PUT", self.tailrace_timeout, data=body, extra_headers=headers
            )
        _check(response)
        if not response.content:
            return False
        with believing(response):
            if answered(response, address):
                raise MlflowException("the answer to an upload is not that of an artifact server")
        return True

    def _parts(self, what: str, artifact_path: str | None, body: dict[str, Any]) -> Any:
        host, path = self._construct_artifact_uri_and_path(f"/mlflow-artifacts/mpu/{what}", artifact_path)
        return self._exchange(path, "POST", host=host, json=body)

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
            hold(response, _ERROR_AT_MOST)
        _check(response)
        return MultipartUploadPart(credential.part_number, response.headers.get("ETag", ""), credential.url)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        """MLflow's call: what arrives goes to the disk, piece by piece."""
        self._receive(remote_file_path, Path(local_path), None)

    def _receive(self, artifact_file: str, file: Path, most: int | None) -> None:
        address = posixpath.join("/", quote(artifact_file))
        response = send_once(self._host_creds, address, "GET", self.tailrace_timeout, stream=True)
        _check(response)
        try:
            with file.open("wb") as into, closing(pieces(response)) as body:
                for piece in body:
                    if most is not None and into.tell() + len(piece) > most:
                        where = public_uri(self.artifact_uri.split(_ARTIFACTS, maxsplit=1)[0])
                        raise Unavailable(
                            f"{where} sends more of {quoted(artifact_file)} than the {most:,} bytes it lists"
                        )
                    if shutil.disk_usage(file.parent).free < _LEFT_FREE + len(piece):
                        raise Unavailable(
                            f"{quoted(artifact_file)} is larger than the room in {file.parent}: make some there",
                            here=True,
                        )
                    into.write(piece)
        except BaseException:
            file.unlink(missing_ok=True)
            raise

    def _exchange(self, path: str, method: str, *, host: str | None = None, **content: Any) -> Any:
        """One request: the response, and the JSON object in it."""
        response = send_once(self._creds(host or self.artifact_uri), path, method, self.tailrace_timeout, **content)
        _check(response)
        return response, answered(response, path)


def _check(response: requests.Response) -> None:
    """Raises requests' errors, not MLflow's: an artifact that is not found is no run that is gone."""
    response.raise_for_status()
    if response.status_code != _OK:
        raise requests.HTTPError(f"{response.status_code} is no answer of MLflow's", response=response)


def _file_info(found: Any, directory: str | None) -> Any:
    name = validate_path_is_safe(found["path"])
    size = found.get("file_size")
    whole = posixpath.join(directory, name) if directory else name
    return FileInfo(whole, bool(found["is_dir"]), None if size is None else int(size))


def _is_kept(part: str) -> bool:
    try:
        return not _NOT_KEPT.search(part) or bool(validate_path_is_safe(part) == part and part.isprintable())
    except MlflowException:
        return False


def _renamed(part: str) -> str:
    stem, extension = posixpath.splitext(_NOT_KEPT.sub("_", part))
    return f"{stem}-{crc32(part.encode(errors='surrogateescape')):08x}{extension}"
