"""What is still to be done when this process ends, however it ends in an orderly way.

`atexit` is for the main program. Children of `multiprocessing` that were forked end by `os._exit`, past it; they have
finalizers of their own (`multiprocessing.util.Finalize`). A child of a bare `os.fork`, and a daemonic one (a pool's or
a data loader's worker, which its parent terminates with a signal), may end without either: there nothing can be left
for later, and `lasts` is False. Nor can it be in a child that has come to its finalizers: threads of its own that are
no daemons go on after that.

Importing this module imports nothing of multiprocessing; it looks at what the program has imported.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, Final

__all__ = ["at_end", "lasts", "uncaught"]

_OUTERMOST: Final = ("<module>", "_run_module_as_main")
"""Where a program begins: a script or `-c`, and `-m`."""

_tasks: list[Callable[[], None]] = []
_forked = False
_hooked = False


def at_end(task: Callable[[], None]) -> None:
    """Calls a function when this process ends, and its children when they end. It may be called twice."""
    _tasks.append(task)


def lasts() -> bool:
    """Whether what is left for later will be done: whether the end of this process is sure to come by."""
    child = _child()
    if child is None:
        # A bare `os.fork`: the child may leave by `os._exit`, which runs nothing of ours.
        return not _forked
    _hook_child()
    return not (child.daemon or sys.modules["multiprocessing.util"].is_exiting())


def uncaught() -> BaseException | None:
    """The exception that ends this process; in an interactive session an old one does not count."""
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        return None
    # multiprocessing calls its finalizers in a `finally` around the child's function, so the error is still under way.
    if _child() is not None and (error := sys.exc_info()[1]) is not None:
        return error if not isinstance(error, SystemExit) else None
    return getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)  # `last_exc` since Python 3.12


def _child() -> Any:
    """This process as a child of multiprocessing, if it is one."""
    # The main program has no parent process; `current_process()` alone would give an object for it, too.
    process: Any = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return None
    return process.current_process()


def _hook_child() -> None:
    global _hooked
    util: Any = sys.modules.get("multiprocessing.util")
    if not _hooked and util is not None:
        _hooked = True
        # At 0 or above, finalizers run before children are joined; a higher number runs sooner.
        util.Finalize(None, _run, exitpriority=10)


def _run() -> None:
    try:
        for task in _tasks:
            task()
    finally:
        if _child() is None and _interrupted(uncaught()):
            _end_as_interrupted()


def _interrupted(error: BaseException | None) -> bool:
    """Whether Python is about to end this process by SIGINT, as it does after a Ctrl-C that nothing has caught."""
    if type(error) is not KeyboardInterrupt or error.__traceback__ is None:
        return False
    # One that a console of the program has shown (IPython's `embed`) came up in a function of its, and ends nothing.
    return error.__traceback__.tb_frame.f_code.co_name in _OUTERMOST


def _end_as_interrupted() -> None:
    """Has Python remember it: it forgets with each text that is executed, and so with an import of a named tuple.

    A shell goes by that: after an exit code of 1 its loop over programs would go on.
    """
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")  # noqa: S102 - only what is compiled and run in one is remembered


class _Anchor:
    """multiprocessing forgets who is not referred to."""


_anchor = _Anchor()
_anchored = False


def _before_fork() -> None:
    """multiprocessing clears its finalizers in a child, and then calls what was registered here."""
    global _anchored
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None and not _anchored:
        _anchored = True
        util.register_after_fork(_anchor, _begin_child)


def _begin_child(_: object) -> None:
    _hook_child()


def _after_fork_in_child() -> None:
    global _forked, _hooked
    # Its copy of the finalizers is cleared, so the child needs a hook of its own.
    _forked, _hooked = True, False


# Exit handlers run last in, first out: registered with this import, so those that the program adds come before.
atexit.register(_run)
os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
