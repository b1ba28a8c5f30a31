"""What this process alone knows of where a run comes from. Some ten microseconds; the agent gathers all the rest.

No secret leaves this module: the command line is masked here, before it is written anywhere, and of the environment
only a few variables are looked at.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Final

from tailrace_agent.ipc.records import Facts
from tailrace_agent.runtime.program import arguments, in_notebook, program_file, program_name
from tailrace_agent.settings.sources import settings_file
from tailrace_agent.text.masking import mask_arguments

__all__ = ["facts"]

_MOST_ARGUMENTS: Final = 300  # of a command line, which may have a shell's `*.npz` in it
_LONGEST: Final = 1000  # characters of one argument or variable
_VARIABLES: Final = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
    "SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_NODELIST",
    "GITHUB_REPOSITORY", "GITHUB_WORKFLOW", "GITHUB_RUN_ID", "GITHUB_REF_NAME", "GITHUB_HEAD_REF", "GITHUB_SHA",
    "CI_PROJECT_PATH", "CI_PIPELINE_URL", "CI_JOB_URL", "CI_COMMIT_REF_NAME", "CI_COMMIT_SHA", "BUILD_URL",
)  # fmt: skip
"""Variables that show where a run belongs. None of them holds a secret; all others stay unread."""


def facts(files: Iterable[str] = ()) -> Facts:
    """Of this process, now; `files` are configuration files beside the one with the settings."""
    config = settings_file()
    found = [name for name in _VARIABLES if name in os.environ]
    return Facts(
        command=_command(),
        script=program_file(),
        executable=sys.executable or "",
        python=".".join(map(str, sys.version_info[:3])),
        pid=os.getpid(),
        host=os.uname().nodename,
        environment=dict(zip(found, mask_arguments(os.environ[name][:_LONGEST] for name in found), strict=True)),
        config_files=list(dict.fromkeys([*([str(config)] if config is not None else []), *files])),
    )


def _command() -> list[str]:
    """The command line without the program text of `python -c`; of a notebook its file, not how the kernel began."""
    if in_notebook():
        return [program_file() or program_name()]
    given = arguments()
    command = list(getattr(sys, "orig_argv", None) or given)
    # `sys.argv` begins with "-c" exactly then; another program may have an option of that name.
    if "-c" in command[1:] and given[:1] == ["-c"]:
        command[command.index("-c", 1) + 1] = "…"
    shown = mask_arguments(command[:_MOST_ARGUMENTS])  # before it is cut: half a secret might not be known as one
    return [argument if len(argument) <= _LONGEST else f"{argument[: _LONGEST - 1]}…" for argument in shown]
