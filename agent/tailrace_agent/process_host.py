"""Where the agent process was started before: for programs that began with an older version, for one release."""

from __future__ import annotations

from tailrace_agent.hosts.process import main

__all__ = ["main"]
