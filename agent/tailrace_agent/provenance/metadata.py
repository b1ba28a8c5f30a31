"""Run metadata: where each new run comes from, gathered by the agent and sent beside everything else.

* The training process sends what it alone knows (`records.Facts`, masked); git, packages, GPUs and machine are read
  here, in a worker of their own, so that a repository that takes minutes holds up nothing.
* What was gathered is in the run's state, and the files are staged before that is written. So an agent that is killed
  leaves its successor either all of it or nothing, and what is sent twice is the same.
* On another machine (`tailrace sync` after a move) only what the training process sent is stored: git and packages
  there are not the run's.
* It is outside of the ledger, which counts what the program has logged.
"""

from __future__ import annotations

import shlex
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_state import Description, RunState
from tailrace_agent.files.ownership import write_own
from tailrace_agent.ipc.records import Facts, RunSpec, run_hex
from tailrace_agent.ipc.staging import discard, make
from tailrace_agent.log import Log
from tailrace_agent.provenance.git import GitFacts, git_facts
from tailrace_agent.provenance.machine import gpus, machine, packages
from tailrace_agent.retry import IDLE
from tailrace_agent.text.masking import mask_text

__all__ = ["FOLDER", "Metadata"]

FOLDER: Final = "environment"
"""Where the files lie among the run's artifacts."""
_LONGEST_TAG: Final = 4000  # characters; MLflow's bound is 8,000
_CONFIG_BYTES: Final = 1 << 20
_FRESH: Final = 10.0
"""Seconds for which packages and GPUs are not looked at again: a search starts many runs in a row."""

_PACKAGES: Final = frozenset({"site-packages", "dist-packages"})


class _Around(NamedTuple):
    """What runs of one interpreter share."""

    at: float
    packages: list[str]
    gpus: list[str]


class _Look(NamedTuple):
    """What git has said, and when it was asked: by the clock of deadlines, and by that of runs' starts."""

    at: float
    time_ms: int
    found: GitFacts | None


class Metadata:
    """Gathers for the runs of a session.

    Args:
        book: The runs.
        staging: The session's `artifacts/` directory.
        host: This machine's name.
        log: Where operators read.

    Not thread-safe: one thread calls `step`.
    """

    def __init__(self, book: RunBook, staging: Path, host: str, log: Log) -> None:
        self._book, self._staging, self._host, self._log = book, staging, host, log
        self._around: dict[tuple[str, str | None], _Around] = {}
        self._looks: dict[tuple[object, ...], _Look] = {}

    def step(self, now: float) -> float:
        """Gathers for one run; when to be called again (monotonic seconds)."""
        for state in self._book.all_unfinished():
            facts = state.spec.facts
            if facts is not None and state.description is None and not state.gone:
                self._describe(state, facts, now)
                return now
        return now + IDLE

    def _describe(self, state: RunState, facts: Facts, now: float) -> None:
        began = time.monotonic()
        try:
            description = self._gather(state.spec, facts, now)
        except Exception as error:  # noqa: BLE001 - a run must not wait for ever for what the machine does not answer
            self._log.error("metadata not gathered", run=run_hex(state.run), error=repr(error))
            description = Description({}, None)  # so that it is not tried for ever, and the run can be finalized
        self._book.update(state.run, description=description)
        self._log.info("metadata gathered", run=run_hex(state.run), seconds=round(time.monotonic() - began, 3))

    def _gather(self, spec: RunSpec, facts: Facts, now: float) -> Description:
        here = facts.host == self._host
        around = self._look_around(facts, now) if here else _Around(now, [], [])
        git = self._look_at_git(spec, facts, now) if here else None
        given = spec.tags
        tags = {key: value for key, value in _tags(facts, git, around.gpus).items() if value and key not in given}
        if spec.parent is not None:  # the files of a nested run are its parent's
            return Description(tags, None)
        name = f"{FOLDER}-{run_hex(spec.run)}"
        discard(self._staging, name)  # an agent that was killed in the middle has left a part of it
        folder = make(self._staging, name)
        about = _about(spec, facts, git, around.gpus, here=here)
        write_own(folder / "environment.json", msgspec.json.format(msgspec.json.encode(about), indent=2))
        if around.packages:
            write_own(folder / "requirements.txt", "".join(f"{line}\n" for line in around.packages).encode())
        if git is not None and git.diff:
            write_own(folder / "git.diff", git.diff)
        for path in facts.config_files if here else ():
            _copy_config(Path(path), folder)
        return Description(tags, folder.name)

    def _look_around(self, facts: Facts, now: float) -> _Around:
        key = facts.executable, facts.environment.get("CUDA_VISIBLE_DEVICES")
        known = self._around.get(key)
        if known is None or now - known.at > _FRESH:
            known = self._around[key] = _Around(now, packages(facts.executable), gpus(key[1]))
        return known

    def _look_at_git(self, spec: RunSpec, facts: Facts, now: float) -> GitFacts | None:
        """Runs of one process share a look that was taken after they had begun: before it, it may have been changed.

        A notebook's cells, an `importlib.reload` and a loop that commits what it tries change it between two runs.
        """
        key = facts.pid, spec.cwd, facts.script, spec.git_diff
        known = self._looks.get(key)
        if known is None or now - known.at > _FRESH or known.time_ms <= spec.start_time:
            self._looks = {key: look for key, look in self._looks.items() if now - look.at <= _FRESH}
            time_ms = time.time_ns() // 1_000_000
            known = self._looks[key] = _Look(now, time_ms, _git(spec, facts))
        return known.found


def _git(spec: RunSpec, facts: Facts) -> GitFacts | None:
    """Of the script's repository; of the working directory's for an installed script, or none."""
    places = [Path(spec.cwd)]
    # Their directory is no repository of the user's, though the environment may lie in one.
    if facts.script is not None and not _installed(facts):
        places.insert(0, Path(facts.script).parent)
    return next((found for place in places if (found := git_facts(place, diff=spec.git_diff)) is not None), None)


def _installed(facts: Facts) -> bool:
    """Whether the script is a command that lies beside the interpreter, or a package's that `python -m` has run."""
    folder = Path(facts.script or "").parent
    return bool(facts.executable) and (
        folder == Path(facts.executable).parent or not _PACKAGES.isdisjoint(folder.parts)
    )


def _tags(facts: Facts, git: GitFacts | None, names: list[str]) -> dict[str, str]:
    tags = {
        "tailrace.command": shlex.join(facts.command).replace("'***'", "***")[:_LONGEST_TAG],  # `shlex` quotes the mask
        "tailrace.host": facts.host,
        "tailrace.python": facts.python,
        "tailrace.gpu": _counted(names),
    }
    commit, branch = _from_ci(facts.environment)
    if git is not None:
        commit = git.commit or commit
        branch = git.branch if git.branch not in (None, "HEAD") else branch or git.branch
        tags["mlflow.source.git.repoURL"] = git.remote or ""
        tags["tailrace.git.dirty"] = "" if git.dirty is None else str(git.dirty).lower()
    return {**tags, "mlflow.source.git.commit": commit or "", "mlflow.source.git.branch": branch or ""}


def _from_ci(environment: dict[str, str]) -> tuple[str | None, str | None]:
    """Commit and branch of the CI job: it checks out a commit and no branch, and may have no git where it runs."""
    commit = environment.get("GITHUB_SHA") or environment.get("CI_COMMIT_SHA")
    names = ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME")
    return commit, next((branch for name in names if (branch := environment.get(name))), None)


def _counted(names: list[str]) -> str:
    """`2 x NVIDIA H200`."""
    kinds = {name: names.count(name) for name in names}
    return ", ".join(f"{n} x {name}" if n > 1 else name for name, n in kinds.items())


def _about(spec: RunSpec, facts: Facts, git: GitFacts | None, names: list[str], *, here: bool) -> dict[str, Any]:
    return {
        "started": _iso(spec.start_time / 1000),
        "gathered": _iso(time.time()),
        "command": facts.command,
        "script": facts.script,
        "directory": spec.cwd,
        "host": facts.host,
        "pid": facts.pid,
        "python": {"version": facts.python, "executable": facts.executable},
        "machine": machine() if here else None,
        "gpus": names,
        "git": {name: value for name, value in git._asdict().items() if name != "diff"} if git is not None else None,
        "environment": facts.environment,
        "config_files": facts.config_files,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def _copy_config(path: Path, folder: Path) -> None:
    """A configuration file with its secrets masked; one that is gone, binary or huge is left out."""
    try:
        data = path.read_bytes()
        text = data.decode() if len(data) <= _CONFIG_BYTES else None
    except (OSError, UnicodeDecodeError):
        return
    if text is not None:
        taken = (folder / path.name).exists()  # two of one name: the second with its directory's
        write_own(folder / (f"{path.parent.name}-{path.name}" if taken else path.name), mask_text(text).encode())
