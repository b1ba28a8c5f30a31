"""How Python is started, by whatever here starts one: with the places where packages are found, and no others.

Python itself puts the working directory, or that of the script, before everything else. What lies there is the
program's own, or comes from somebody else (a clone, a download): a file named `mlflow.py` there must neither stop the
delivery nor be run by a command. So what is started finds modules

* where that Python finds them by itself, and in the absolute directories of `PYTHONPATH`;
* then where this process finds them besides (Bazel's runfiles, a PEX), its working directory and script aside;
* in tailrace's own directory first of all, if it is not among those.

`environment` is for everything that is started, so that what *that* starts keeps to it, too: Python 3.11 and later by
`PYTHONSAFEPATH`. `command` is for code of ours. Thread safety: every function from any thread.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from tailrace_agent.runtime.places import absolute, working_directory
from tailrace_agent.runtime.program import arguments

__all__ = ["HAS_SAFE_PATH", "WITHOUT_HERE", "command", "environment", "module_command"]

HAS_SAFE_PATH: Final = sys.version_info >= (3, 11)
"""Whether the environment of a Python like this one can make it leave the working directory out."""
WITHOUT_HERE: Final = """\
import sys
if sys.path[:1] == [""]:
    del sys.path[0]
"""
"""What code for `python -c` begins with, whichever Python it is."""
# tailrace's own directory first, if it is not on the path already; what else there is comes last, and covers nothing.
_HEAD: Final = """\
root, *more = sys.argv.pop(1).split("\\n")
sys.path[:0] = [] if root in sys.path else [root]
sys.path += [path for path in more if path not in sys.path]
"""
_MODULE: Final = "import runpy\nrunpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)\n"


def command(code: str, *given: str) -> list[str]:
    """The command line that runs a piece of code in a Python like this one.

    Args:
        code: What is run; it finds `sys` imported.
        *given: Its arguments: `sys.argv[1:]`.
    """
    # The places as one argument: a variable would be inherited by whatever the code starts.
    return [sys.executable, "-c", WITHOUT_HERE + _HEAD + code, "\n".join(_places()), *given]


def module_command(name: str, *given: str) -> list[str]:
    """The command line that runs a module as `python -m` does, from where it is installed."""
    return command(_MODULE, name, *given)


def environment() -> dict[str, str]:
    """This process's environment, for a Python that it starts."""
    variables = {**os.environ, "PYTHONSAFEPATH": "1"}
    if "PYTHONPATH" in variables:
        own = _own()
        kept = [path for path in variables["PYTHONPATH"].split(os.pathsep) if _is_absolute(path) and path not in own]
        variables["PYTHONPATH"] = os.pathsep.join(kept)
        if not kept:  # empty, it would mean the working directory
            del variables["PYTHONPATH"]
    return variables


def _places() -> list[str]:
    """Where tailrace itself is, and then all other places that this process finds packages in."""
    own = _own()
    found = [path for path in sys.path if _is_absolute(path) and path not in own]
    configured = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if _is_absolute(path)]
    return [str(Path(__file__).resolve().parents[2]), *found, *configured]


def _own() -> set[str]:
    """The directories of the program, as `sys.path` may have them: what lies there is no package of ours."""
    here = working_directory()
    given = arguments()
    if not given or not given[0]:
        return {here}
    script = absolute(given[0])
    return {here, os.path.normpath(script.parent), os.path.dirname(os.path.realpath(script))}  # noqa: PTH120 - as above


def _is_absolute(path: str) -> bool:
    return os.path.isabs(path) and "\n" not in path  # noqa: PTH117 - no Path for each
