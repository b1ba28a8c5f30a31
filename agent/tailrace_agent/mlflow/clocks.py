"""By how much this machine's clock differs from those of servers, as the dates of their answers say.

Points carry the time of the machine that logs them. Where nodes of a job differ by minutes, MLflow's charts by time
show it, and nobody would think of the clocks.

Thread safety: every function from any thread.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import requests

__all__ = ["ahead_of", "http_date", "note_date"]

_DATE_CHARS: Final = 100  # a date of HTTP has 29
_HALF: Final = 0.5  # of the second, which is the last thing that such a date says
_SERVERS: Final = 64
_ahead: dict[str, float] = {}


def http_date(text: str) -> datetime | None:
    """A date of HTTP, or of whoever writes in its place; None for what is none.

    Example:
        >>> http_date("Sun, 29 Nov 2026 12:00:00 GMT")
        datetime.datetime(2026, 11, 29, 12, 0, tzinfo=datetime.timezone.utc)
    """
    try:
        date = parsedate_to_datetime(text[:_DATE_CHARS])
        return date if date.tzinfo else date.replace(tzinfo=timezone.utc)  # naive for `-0000`
    except (ValueError, TypeError, OverflowError):  # no date; a date that no calendar has
        return None


def note_date(response: requests.Response) -> None:
    """Notes by how much a server's clock differs, as an answer says that has just come."""
    headers = response.headers
    if "Age" in headers:  # a cache's: its date is that of another request
        return
    date = http_date(headers.get("Date", ""))
    where = urlsplit(response.url or "").netloc.rpartition("@")[2]
    if date is not None and where and (where in _ahead or len(_ahead) < _SERVERS):
        _ahead[where] = time.time() - date.timestamp() - _HALF


def ahead_of(uri: str) -> float:
    """Seconds by which this machine's clock is ahead of a server's, to the second; 0 where nothing is known.

    Args:
        uri: The tracking URI.
    """
    return _ahead.get(urlsplit(uri).netloc.rpartition("@")[2], 0.0)
