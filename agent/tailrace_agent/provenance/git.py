"""What git knows of a directory: commit, branch, remote, uncommitted changes. It never hurts.

* Each call to git has a deadline, and all of them together have one. What did not answer is left out.
* Nothing is written (`GIT_OPTIONAL_LOCKS=0`), no password is prompted for, nothing is fetched.
* No command runs that a repository brings along: it may have been unpacked from an archive. Hooks, monitors, external
  diffs and text converters are switched off, submodules are left alone, and so are the filters of its own
  configuration; those of the user's configuration, such as LFS, are the user's.
* In a repository of another user (a mounted volume, a container) git reads names alone, and whether it is dirty
  stays unknown; so does that of a work tree elsewhere, which a configuration can name.
* The remote's URL comes without credentials, and the diff is cut at `_DIFF_BYTES`.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from tailrace_agent.settings.uris import mask_uri

__all__ = ["GitFacts", "git_facts"]

_TOGETHER: Final = 20.0  # seconds
_EACH: Final = 8.0  # seconds
_DIFF_BYTES: Final = 5 << 20
_SHORT: Final = 1 << 20  # bytes
_NAMES: Final = ("-c", "safe.directory=*")
"""For calls that read names and run nothing, whoever the repository belongs to."""
_QUIET: Final = (
    "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "-c", "core.quotepath=false",
    "-c", "safe.bareRepository=explicit", "--no-pager",
)  # fmt: skip
_ALONE: Final = ("--ignore-submodules=all", "--submodule=short", "--no-ext-diff", "--no-textconv", "--no-color")
_FILTER: Final = re.compile(r"(filter\..*)\.(?:clean|smudge|process|required)", re.DOTALL)
_OF_THE_USER: Final = ("system", "global", "command")
"""Scopes of a configuration that is not the repository's."""


class GitFacts(NamedTuple):
    """What is known of a repository; None for what git did not report.

    Attributes:
        root: Its top directory.
        commit: The commit that is checked out.
        branch: Its branch; `HEAD` where none is checked out.
        remote: URL of `origin`, without credentials.
        dirty: Whether tracked files differ from the commit.
        diff: What differs, when it was requested and there is anything.
    """

    root: str
    commit: str | None
    branch: str | None
    remote: str | None
    dirty: bool | None
    diff: bytes | None


def git_facts(directory: Path, *, diff: bool = False) -> GitFacts | None:
    """What git knows of the repository that `directory` lies in; None where there is none, or no git."""
    git = _Git(directory, time.monotonic() + _TOGETHER)
    root = git.line("rev-parse", "--show-toplevel")
    if root is None:
        return None
    unfiltered = _unfiltered(git) if _lies_in(directory, root) else None
    changed = None if unfiltered is None else _changed(git, unfiltered)
    remote = git.line("config", "--get", "remote.origin.url")
    return GitFacts(
        root=root,
        commit=git.line("rev-parse", "--verify", "HEAD"),
        branch=git.line("rev-parse", "--abbrev-ref", "HEAD"),
        remote=_without_credentials(remote) if remote else None,
        dirty=None if changed is None else bool(changed.strip()),
        diff=_diff(git, unfiltered) if diff and changed and unfiltered is not None else None,
    )


def _changed(git: _Git, unfiltered: list[str]) -> bytes | None:
    """Names of the files that differ; None for what git did not report."""
    changed = git(*unfiltered, "diff-index", "--name-only", "--ignore-submodules=all", "HEAD", "--", limit=_SHORT)
    if changed:  # stat() may differ where the content does not: let git look into the files
        changed = git(*unfiltered, "diff", "HEAD", "--name-only", *_ALONE, limit=_SHORT)
    return changed


def _lies_in(directory: Path, root: str) -> bool:
    try:
        return directory.resolve().is_relative_to(Path(root).resolve())
    except (OSError, RuntimeError):  # gone, or a circle of links
        return False


def _unfiltered(git: _Git) -> list[str] | None:
    """Options without which git would run the filters that the repository's own configuration names; None: no way."""
    listed = git("config", "--list", "--show-scope", "--name-only", "-z", limit=_SHORT)
    if listed is None or len(listed) >= _SHORT:  # cut off: a filter may stand in what was not read
        return None
    words = listed.decode(errors="surrogateescape").split("\0")
    options: dict[str, None] = {}
    for scope, name in zip(words[::2], words[1::2], strict=False):
        found = _FILTER.fullmatch(name)
        if found is None or scope in _OF_THE_USER:
            continue
        if "=" in found[1]:  # cannot be named on a command line
            return None
        options |= dict.fromkeys(f"{found[1]}.{part}" for part in ("clean=", "smudge=", "process=", "required=false"))
    return [word for option in options for word in ("-c", option)]


def _diff(git: _Git, unfiltered: list[str]) -> bytes | None:
    text = git(*unfiltered, "diff", "HEAD", *_ALONE, limit=_DIFF_BYTES)
    if text is not None and len(text) >= _DIFF_BYTES:
        text += f"\n[cut by tailrace after {_DIFF_BYTES >> 20} MiB]\n".encode()
    return text or None


def _without_credentials(remote: str) -> str:
    masked = mask_uri(remote)[0]
    head, at, tail = masked.partition("@")
    scheme, mark, _ = head.partition("://")
    # `https://token@host`: a user name alone is as good as a password there. `git@host:path` holds none.
    return f"{scheme}://{tail}" if at and mark and scheme in ("http", "https") else masked


class _Git:
    """Calls git in one directory until a deadline."""

    def __init__(self, directory: Path, deadline: float) -> None:
        self._directory, self._deadline = directory, deadline
        self._environ = {
            **os.environ,
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",  # in a partial clone, a diff would fetch what is missing
            "GIT_ALLOW_PROTOCOL": "none",  # for versions that know nothing of the line before
            "LC_ALL": "C",
        }
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_EXTERNAL_DIFF"):  # a hook's, of another tree
            self._environ.pop(name, None)

    def line(self, *args: str) -> str | None:
        """The first line that git prints, in any user's repository; None for none."""
        output = self(*_NAMES, *args, limit=_SHORT)
        return output.decode(errors="replace").splitlines()[0].strip() if output and output.strip() else None

    def __call__(self, *args: str, limit: int) -> bytes | None:
        """What git prints, `limit` bytes at most; None when it failed or took too long."""
        patience = min(_EACH, self._deadline - time.monotonic())
        if patience <= 0:
            return None
        with tempfile.TemporaryFile() as output:  # no pipe: nobody has to read while git is waited for
            try:
                process = subprocess.Popen(
                    ["git", *_QUIET, *args],
                    cwd=self._directory,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.DEVNULL,
                )
            except OSError:  # no git, or no such directory
                return None
            if not _ended(process, patience) or process.returncode != 0:
                return None
            output.seek(0)
            return output.read(limit)


def _ended(process: subprocess.Popen[bytes], patience: float) -> bool:
    """Whether it ended by itself. One that hangs in the kernel is left to itself after its SIGKILL."""
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        return False
    return True
