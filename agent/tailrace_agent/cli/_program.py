"""Commands that are programs of their own: users of tailrace, which the machinery does not import."""

from __future__ import annotations

import subprocess
from typing import NoReturn

from tailrace_agent.cli._app import App, leave
from tailrace_agent.runtime import interpreter

__all__ = ["run_module"]


def run_module(app: App, module: str, *arguments: str) -> NoReturn:
    """Runs a module as a program, and ends the command with its exit code."""
    program = subprocess.Popen(interpreter.module_command(module, *arguments), env=app.environment())
    while True:
        try:
            code = program.wait()
            break
        except KeyboardInterrupt:  # the terminal has sent it to the program too, which ends its runs
            continue
    # Of a signal, as a shell has it.
    leave(code if code >= 0 else 128 - code)
