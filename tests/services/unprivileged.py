"""The account of servers that refuse to run as root."""

from __future__ import annotations

import os
import pwd
from typing import Any

from services.missing import missing

__all__ = ["unprivileged"]


def unprivileged(server: str, user: str) -> dict[str, Any]:
    """What `subprocess` needs to run a server as another user; empty if that is not needed.

    Args:
        server: Its name, for the reason of a skip.
        user: Whose account Debian makes for it.
    """
    if os.getuid() != 0:
        return {}
    accounts = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = accounts.get(user) or accounts.get("nobody")
    if entry is None:
        missing(f"{server} does not run as root, and there is neither a user {user} nor nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
