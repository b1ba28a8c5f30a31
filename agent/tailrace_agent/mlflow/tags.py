"""The tags that a run is opened with: cut where they would keep it from being opened, since all else waits for it.

A database holds only so many characters, and a proxy before the server takes only so large a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from tailrace_agent.mlflow.errors import too_large

__all__ = ["send_cut"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LEAST: Final = 250
"""Characters that are left of a tag: what a store does not take with these, it does not take at all."""


def send_cut(tags: Mapping[str, str], limit: int, send: Callable[[list[tuple[str, str]]], T]) -> T:
    """Sends tags in one request, each cut to `limit` characters, and shorter while the request is too large.

    Raises:
        Exception: What `send` raises for another reason, or with tags that cannot be cut further.
    """
    while True:
        for key, value in tags.items():
            if len(value) > limit:
                _log.warning("the tag %s has %d characters; MLflow keeps the first %d", key, len(value), limit)
        try:
            # Cut again from the whole values: each try keeps the most that its limit allows.
            return send([(key, value[:limit]) for key, value in tags.items()])
        except Exception as error:
            longest = max(map(len, tags.values()), default=0)
            # Only a size is mended by cutting; the sum of many short tags is not.
            if not too_large(error) or min(limit, longest) <= _LEAST:
                raise
            limit = max(_LEAST, min(limit, longest) // 2)
