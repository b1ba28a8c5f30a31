"""Files through MLflow's artifact proxy: each sent once, under a name that the server keeps as it is.

MLflow puts a name into the request's address as it stands, so that `why?.txt` and `loss#1.txt` arrive as `why` and
`loss`, over whatever lay there. Here it is quoted. The server then decodes it as often as it can (`50%20off` becomes
`50 off`), leaves out line breaks and tabs, and refuses `#`: what cannot be had under its own name gets another one that
no other file has, and whoever uploads it says so.

Loading this module imports MLflow.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from zlib import crc32

import requests
from mlflow.environment_variables import MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import verify_artifact_path
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.utils.mime_type_utils import _guess_mime_type
from mlflow.utils.rest_utils import http_request
from mlflow.utils.uri import validate_path_is_safe

from tailrace_agent.mlflow_errors import was_cut_off

__all__ = ["PromptUploads", "send_once", "stored_name"]

_NOT_KEPT: Final = re.compile(r"[#%\x00-\x1f\x7f]")


def send_once(creds: Any, path: str, method: str, timeout: float, **content: Any) -> requests.Response:
    """One request through MLflow's own `http_request`, without its retries."""
    response: requests.Response = http_request(
        creds,
        path,
        method,
        max_retries=0,
        retry_codes=frozenset(),
        raise_on_status=False,
        respect_retry_after_header=False,
        timeout=timeout,
        retry_timeout_seconds=max(1, int(timeout)),  # of the Databricks SDK, which takes 0 for "unset"
        **content,
    )
    return response


def stored_name(path: str) -> str:
    """The name under which MLflow's server keeps an artifact: its own, or one that is like it and nobody else's.

    Example:
        >>> stored_name("plots/why?.txt"), stored_name("plots/loss#1.txt")
        ('plots/why?.txt', 'plots/loss_1-54a9ffa7.txt')
    """
    return "/".join(part if _is_kept(part) else _renamed(part) for part in path.split("/"))


class PromptUploads(HttpArtifactRepository):  # type: ignore[misc]  # MLflow is untyped
    """Sends files to the artifact proxy without MLflow's retries, if they are not large enough to go up in parts."""

    tailrace_timeout: float

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """MLflow's call; see `put`."""
        verify_artifact_path(artifact_path)
        self.put(Path(local_file), posixpath.join(artifact_path or "", Path(local_file).name))

    def put(self, file: Path, artifact_file: str) -> None:
        """Uploads one file, to where it is to lie in the run's artifacts."""
        address = quote(artifact_file)
        in_parts = file.stat().st_size >= MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE.get()
        if in_parts and address == artifact_file and file.name == posixpath.basename(artifact_file):
            super().log_artifact(str(file), posixpath.dirname(artifact_file) or None)
            return
        try:
            response = self._put(file, address)
        except Exception as error:
            if not was_cut_off(error):
                raise
            # A server that refuses an upload does not read it to its end, and closes the connection that is kept for
            # the next one. That one is sent whole once more.
            response = self._put(file, address)
        response.raise_for_status()

    def _put(self, file: Path, address: str) -> requests.Response:
        headers = {"Content-Type": _guess_mime_type(file.name)}
        with file.open("rb") as body:
            return send_once(
                self._host_creds, f"/{address}", "PUT", self.tailrace_timeout, data=body, extra_headers=headers
            )


def _is_kept(part: str) -> bool:
    try:
        return not _NOT_KEPT.search(part) or bool(validate_path_is_safe(part) == part and part.isprintable())
    except MlflowException:
        return False


def _renamed(part: str) -> str:
    stem, extension = posixpath.splitext(_NOT_KEPT.sub("_", part))
    return f"{stem}-{crc32(part.encode(errors='surrogateescape')):08x}{extension}"
