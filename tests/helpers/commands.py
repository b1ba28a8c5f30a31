"""The command line in the process of a test: what it prints and how it ends."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from tailrace_agent.cli import main

__all__ = ["json_of", "tailrace"]


def tailrace(*arguments: object, stdin: str | None = None) -> Result:
    """Runs a command in this process; what it raises unexpectedly is raised."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def json_of(result: Result) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed
