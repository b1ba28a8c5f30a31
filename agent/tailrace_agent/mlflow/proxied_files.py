"""Files through the artifact proxy of an MLflow server, whoever sends the requests.

What this module promises: a file lies under a name that the server keeps as it is (`artifact_names`), and an upload
counts when the server has confirmed it. To an upload some versions of MLflow answer nothing: then the file is looked
for.

Loading this module does not import MLflow.
"""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import requests

from tailrace_agent.errors import Unavailable
from tailrace_agent.mlflow.answers import OK, believing
from tailrace_agent.mlflow.artifact_names import media_type, safe_path, stored_name
from tailrace_agent.mlflow.errors import was_cut_off
from tailrace_agent.mlflow.http_bounds import pieces
from tailrace_agent.settings.uris import public_uri
from tailrace_agent.text.quoting import quoted

__all__ = ["ARTIFACTS", "ProxiedFiles", "StoredFile", "check_status", "is_proxied", "list_directory"]

ARTIFACTS: Final = "/mlflow-artifacts/artifacts"
_API: Final = "/api/2.0"
_SMALL: Final = 1 << 20  # bytes that are fetched back sooner than a listing is read
_LEFT_FREE: Final = 256 << 20
"""Bytes that a download leaves free on the disk, for everybody else who writes there."""


class StoredFile(NamedTuple):
    """What a server lists, by MLflow's names."""

    path: str
    is_dir: bool
    file_size: int | None


class ProxiedFiles:
    """The artifacts of one run; who sends the requests is said by a subclass.

    Attributes:
        artifact_uri: The address of the run's artifacts, `…/api/2.0/mlflow-artifacts/artifacts/…`.
    """

    artifact_uri: str

    def receive(self, address: str, path: str, method: str, **content: Any) -> requests.Response:
        """Sends one request to `path` below `address`: the answer, held; with `stream=True` only its head."""
        raise NotImplementedError

    def answered(self, response: requests.Response, path: str) -> Any:
        """The JSON object that an answer is."""
        raise NotImplementedError

    def upload(self, files: Sequence[tuple[Path, str]], *, confirmed: bool = True) -> dict[str, str]:
        """Uploads files, each `(file, where it is to lie)`: which of them lie elsewhere, by where they were to lie.

        With `confirmed` those are looked for whose upload was answered with nothing.
        """
        names = {wanted: stored_name(wanted) for _, wanted in files}
        unconfirmed = [(file, names[wanted]) for file, wanted in files if not self.put(file, names[wanted])]
        if unconfirmed and confirmed:
            self.confirm(unconfirmed)
        return {wanted: name for wanted, name in names.items() if name != wanted}

    def put(self, file: Path, artifact_file: str) -> bool:
        """Uploads one file, to where it is to lie in the run's artifacts.

        Returns:
            Whether the server has confirmed that it is there. If not, it answered nothing, and `confirm` checks.
        """
        address = quote(artifact_file)
        try:
            return self._put(file, address)
        except Exception as error:
            if not was_cut_off(error):  # a time-out is not tried again here: the server may be at work on it
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
            # Only what is there without a size is looked for in the other way; what is missing stays missing.
            unknown = {name: size for name, size in unknown.items() if name in found and found[name] is None}
        for name, size in sizes.items():
            if found.get(name) != size:
                raise Unavailable(
                    f"{self._where} answered the upload of {quoted(name)} with nothing, and does not have it: check "
                    "the tracking URI, and log in"
                )

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
        # The name comes from the server's listing, and could lead out of the directory.
        file = directory / safe_path(artifact_file)
        file.parent.mkdir(parents=True, exist_ok=True)
        self.receive_into(file, artifact_file, size)
        return file

    def list_directory(self, path: str | None = None) -> list[StoredFile]:
        """What lies in a directory, or in the root of the artifacts; `path` is known to be no file."""
        host, _, root = self.artifact_uri.partition(ARTIFACTS)
        root = root.lstrip("/")
        whole = posixpath.join(root, path) if path else root
        response, fields = self.exchange(host, ARTIFACTS, "GET", params={"path": whole})
        with believing(response):
            found = [_stored_file(each, path) for each in (fields["files"] if fields else [])]
        return sorted(found, key=lambda info: info.path)

    def exchange(self, address: str, path: str, method: str, **content: Any) -> tuple[requests.Response, Any]:
        """One request: the response, and the JSON object in it."""
        response = self.receive(address, path, method, **content)
        check_status(response)
        return response, self.answered(response, path)

    def receive_into(self, file: Path, artifact_file: str, most: int | None) -> None:
        """Downloads one file: what arrives goes to the disk, piece by piece."""
        response = self.receive(self.artifact_uri, f"/{quote(artifact_file)}", "GET", stream=True)
        check_status(response)
        try:
            with file.open("wb") as into, closing(pieces(response)) as body:
                for piece in body:
                    if most is not None and into.tell() + len(piece) > most:
                        raise Unavailable(
                            f"{self._where} sends more of {quoted(artifact_file)} than the {most:,} bytes it lists"
                        )
                    # For each piece (64 KiB): others write to this disk meanwhile, and a listing may give no size.
                    if shutil.disk_usage(file.parent).free < _LEFT_FREE + len(piece):
                        raise Unavailable(
                            f"{quoted(artifact_file)} is larger than the room in {file.parent}: make some there",
                            here=True,
                        )
                    into.write(piece)
        except BaseException:  # Ctrl-C too: half a file would look like the artifact
            file.unlink(missing_ok=True)
            raise

    @property
    def _where(self) -> str:
        """The server, as people write it in a tracking URI."""
        return public_uri(self.artifact_uri.partition(ARTIFACTS)[0].removesuffix(_API))

    def _put(self, file: Path, address: str) -> bool:
        headers = {"Content-Type": media_type(file.name)}
        with file.open("rb") as body:
            response = self.receive(self.artifact_uri, f"/{address}", "PUT", data=body, extra_headers=headers)
        check_status(response)
        if not response.content:
            return False
        with believing(response):
            if self.answered(response, address):  # `{}` is false; any field is somebody else's answer
                raise ValueError("the answer to an upload is not that of an artifact server")
        return True

    def _sizes_listed(self, sizes: Mapping[str, int]) -> dict[str, int | None]:
        """What the listings of their directories hold. None: there, but without a size."""
        directories = {posixpath.dirname(name) for name in sizes}
        listings = [self.list_directory(directory or None) for directory in directories]
        return {info.path: info.file_size for listing in listings for info in listing if info.path in sizes}

    def _sizes_sent(self, sizes: Mapping[str, int]) -> dict[str, int | None]:
        """How much arrives of each, and not much more than there should. None: packed, and nobody knows by whom."""
        return {name: self._size_sent(name, size) for name, size in sizes.items()}

    def _size_sent(self, artifact_file: str, most: int) -> int | None:
        response = self.receive(self.artifact_uri, f"/{quote(artifact_file)}", "GET", stream=True)
        check_status(response)
        # A proxy may have packed the file, or the file is stored packed: neither length is the one that was sent.
        if "Content-Encoding" in response.headers:
            response.close()
            return None
        size = 0
        with closing(pieces(response)) as body:
            for piece in body:
                size += len(piece)
                if size > most:  # a body without end would be read for ever
                    break
        return size


def check_status(response: requests.Response) -> None:
    """Raises requests' errors, not MLflow's: an artifact that is not found is no run that is gone."""
    response.raise_for_status()
    if response.status_code != OK:
        raise requests.HTTPError(f"{response.status_code} is no answer of MLflow's", response=response)


def is_proxied(repository: Any) -> bool:
    """Whether the MLflow server keeps these artifacts, so that what goes wrong is its answer or its absence."""
    return isinstance(repository, ProxiedFiles)


def list_directory(repository: Any, path: str | None = None) -> list[Any]:
    """What lies in a directory of any artifact repository; `path` is known to be no file."""
    # Not MLflow's call on a server, which takes `model/` for a file where all that it holds is a file `model`.
    listed: list[Any] = (repository.list_directory if is_proxied(repository) else repository.list_artifacts)(path)
    return listed


def _stored_file(found: Any, directory: str | None) -> StoredFile:
    name = safe_path(found["path"])
    size = found.get("file_size")
    whole = posixpath.join(directory, name) if directory else name
    return StoredFile(whole, bool(found["is_dir"]), None if size is None else int(size))
