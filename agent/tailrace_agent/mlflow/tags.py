"""The tags that a run is opened with, and those that it is then rid of. They may keep no run from being opened.

All else waits for that. So tags are cut, since a database holds only so many characters, and a proxy before the server
takes only so large a request; and one stays that cannot be deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from tailrace_agent.errors import Unavailable
from tailrace_agent.mlflow.errors import too_large, translate
from tailrace_agent.mlflow.run_store import Run, RunStore

__all__ = ["delete_tags", "send_cut"]

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


def delete_tags(runs: RunStore, uri: str, run: Run, keys: Iterable[str]) -> None:
    """Deletes those of these tags that a run has. One that somebody has deleted before, or that nobody may, is left.

    Raises:
        Unavailable: The store is away.
    """
    for key in keys:
        if key not in run.tags:
            continue
        try:
            runs.delete_tag(run.run_id, key)
        except Exception as error:  # noqa: BLE001  # MLflow, its plug-ins and drivers raise anything
            found = translate(error, uri, remote=runs.remote, about_run=False)
            # Not every server that speaks MLflow's words knows this one: it would be waited for without end.
            if isinstance(found, Unavailable) and (found.away or found.too_slow or not runs.remote):
                raise found from None
            _log.warning("the tag %s of run %s stays: %s", key, run.run_id, found)
