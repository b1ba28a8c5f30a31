"""What runs here, for people: a script, a notebook, or `python`.

A notebook runs in a kernel, whose command line names the kernel's launcher and not the notebook. Who started the kernel
may have recorded which notebook it is for: Jupyter's server in a variable of the environment, VS Code in the kernel's
own namespace. Nothing is requested over a network. Colab gives its kernels nothing: there it is `notebook`.

Nothing is imported for it. Thread safety: every function from any thread.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

__all__ = ["arguments", "in_notebook", "notebook_shell", "program_file", "program_name"]

_PYTHON: Final = "python"
_NOTEBOOK: Final = "notebook"
_NO_FILE: Final = ("", "-c", "-m")
_VARIABLES: Final = ("__vsc_ipynb_file__", "IPYNB_FILE", "JPY_SESSION_NAME")
"""Where the path of the notebook may stand: in the kernel's namespace, then in the environment."""
_KERNELS: Final = frozenset({"ipykernel", "spyder_kernels"})
"""Packages that are started as `python -m`."""


def arguments() -> list[str]:
    """`sys.argv`, of which a program that embeds Python may have none, or one that holds no text."""
    given = getattr(sys, "argv", None)
    return [argument for argument in given if isinstance(argument, str)] if isinstance(given, list) else []


def program_name() -> str:
    """The name of the script's or notebook's file; `notebook` where a notebook's is not known, else `python`."""
    if in_notebook():
        known = _notebook_path()
        return Path(known).name if known else _NOTEBOOK
    given = arguments()
    return Path(given[0]).name if given and given[0] not in _NO_FILE else _PYTHON


def program_file() -> str | None:
    """The absolute path of the script or notebook; None where there is none, or where it is not known."""
    if in_notebook():
        known = _notebook_path()
        path = Path(known) if known else None
        return _absolute(path) if path is not None and (path.is_absolute() or path.exists()) else None
    return _absolute(Path(arguments()[0])) if program_name() != _PYTHON else None


def in_notebook() -> bool:
    """Whether this program is a notebook: not a script that runs in its kernel (`%run`), or that it has started."""
    given = arguments()
    argument = Path(given[0]) if given else Path()
    if argument.name.endswith("kernel_launcher.py") or argument.parent.name in _KERNELS:
        return True
    return str(argument) in (".", *_NO_FILE) and notebook_shell() is not None


def notebook_shell() -> Any:
    """IPython's shell, where a kernel runs it, so that what is printed belongs to a cell; None elsewhere."""
    get = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get() if callable(get) else None
    return shell if getattr(shell, "kernel", None) is not None else None


def _absolute(path: Path) -> str | None:
    try:
        return str(path.absolute())
    except OSError:  # the working directory was deleted
        return None


def _notebook_path() -> str | None:
    """The notebook's path, as far as this kernel has it."""
    for where in (vars(sys.modules.get("__main__", sys)), os.environ):
        for name in _VARIABLES:
            known = where.get(name)
            if isinstance(known, str) and known.strip("/"):  # a session's name may be `/`: that is none
                return known
    return None
