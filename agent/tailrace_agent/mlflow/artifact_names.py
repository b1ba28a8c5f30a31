"""Names of artifacts as MLflow's server keeps them, without importing MLflow: a test compares both for many names.

MLflow puts a name into the request's address as it stands, so that `why?.txt` and `loss#1.txt` arrive as `why` and
`loss`, over whatever lay there. Here it is quoted. The server then decodes it as often as it can (`50%20off` becomes
`50 off`), leaves out line breaks and tabs, and refuses `#`: what cannot be had under its own name gets another one that
no other file has, and the uploader reports it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Final
from urllib.parse import unquote, urlparse, urlunparse
from urllib.request import url2pathname
from zlib import crc32

__all__ = ["media_type", "safe_path", "stored_name"]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# What may not come through; a `%` does where nothing can be decoded from it.
_NOT_KEPT: Final = re.compile(rf"[#%]|{_CONTROL.pattern}")
_DECODED_AT_MOST: Final = 10  # times
_TEXT: Final = frozenset(
    [
        "txt",
        "log",
        "err",
        "cfg",
        "conf",
        "cnf",
        "cf",
        "ini",
        "properties",
        "prop",
        "hocon",
        "toml",
        "yaml",
        "yml",
        "xml",
        "json",
        "js",
        "py",
        "py3",
        "csv",
        "tsv",
        "md",
        "rst",
        "ipynb",
        "MLmodel",
        "MLproject",
    ]
)
"""Extensions of what MLflow takes for text."""


def stored_name(path: str) -> str:
    """The name under which MLflow's server keeps an artifact: its own, or one that is like it and nobody else's.

    Example:
        >>> stored_name("plots/why?.txt"), stored_name("plots/loss#1.txt")
        ('plots/why?.txt', 'plots/loss_1-54a9ffa7.txt')
    """
    return "/".join(part if _is_kept(part) else _renamed(part) for part in path.split("/"))


def safe_path(path: str) -> str:
    """A path that stays below the directory that it is put into, as MLflow reads it (`validate_path_is_safe`).

    Raises:
        ValueError: It leads elsewhere.
    """
    path = _CONTROL.sub(lambda found: f"%{ord(found[0]):02x}", _decoded(path))
    if "#" in path:
        raise ValueError("Invalid path")
    if urlparse(path).scheme == "file":
        path = url2pathname(urlparse(path).path if path.startswith("file:") else path)
    if ".." in path.split("/") or PureWindowsPath(path).is_absolute() or PurePosixPath(path).is_absolute():
        raise ValueError("Invalid path")
    return path


def media_type(name: str) -> str:
    """What MLflow calls a file's contents in a request."""
    extension = posixpath.splitext(name)[1].replace(".", "") or name
    if extension in _TEXT:
        return "text/plain"
    from mimetypes import guess_type  # reads the system's tables

    return guess_type(name)[0] or "application/octet-stream"


def _decoded(path: str) -> str:
    for _ in range(_DECODED_AT_MOST):
        decoded = urlunparse(urlparse(unquote(path)))
        if decoded == path:
            return path
        path = decoded
    raise ValueError("Failed to decode url")


def _is_kept(part: str) -> bool:
    try:
        return not _NOT_KEPT.search(part) or bool(safe_path(part) == part and part.isprintable())
    except ValueError:
        return False


def _renamed(part: str) -> str:
    stem, extension = posixpath.splitext(_NOT_KEPT.sub("_", part))
    # The sum is of the whole name: two that differ only in what is replaced stay two, and a retry gets the same.
    return f"{stem}-{crc32(part.encode(errors='surrogateescape')):08x}{extension}"
