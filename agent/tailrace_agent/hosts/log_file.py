"""The agent's own log: structured JSON lines in a rotating file of the session.

Nothing global is configured, so a thread-hosted agent leaves the user's logging as it is.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
from collections.abc import Mapping, MutableMapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any, cast

import structlog

from tailrace_agent.files.descriptors import open_kept
from tailrace_agent.log import Log
from tailrace_agent.text.masking import mask_text

__all__ = ["open_log"]

_MAX_BYTES = 5 << 20
_BACKUPS = 2


class _Handler(logging.handlers.RotatingFileHandler):
    """Reports no line that cannot be written (full disk, deleted directory): stderr is the user's terminal."""

    def _open(self) -> TextIOWrapper:
        file = open_kept(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return TextIOWrapper(os.fdopen(file, "ab"), self.encoding, line_buffering=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass


def _without_secrets(_: object, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """An error's text may be anybody's."""
    return {key: mask_text(value) if isinstance(value, str) else value for key, value in event.items()}


def open_log(path: Path, level: str, **context: object) -> Log:
    """A structlog logger that writes to `path` (0600), and to two older files of 5 MiB.

    Args:
        path: The file.
        level: `debug`, `info`, `warning` or `error`.
        **context: Fields of every line.

    Raises:
        OSError: The file cannot be written.
    """
    # Not from `getLogger`: it would stay in the registry of the user's process.
    logger = logging.Logger(f"tailrace.{path.parent.name}", logging.getLevelName(level.upper()))  # noqa: LOG001 - see above
    handler = _Handler(path, maxBytes=_MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    bound = structlog.wrap_logger(
        logger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_secrets,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return cast(Log, bound.bind(**context))
