"""Programs under fire: a trainer in a process of its own, its agent, and who is doing what when a kill strikes."""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from faults.oracle import Journal, MlflowDatabase, StoredRun, eventually
from tailrace_agent.ipc import status
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import AgentStatus
from tailrace_agent.settings.settings import Settings

__all__ = ["HERE", "ROOT", "STAGES", "Program", "environment", "run_script"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

STAGES = {
    "write": (0, "Rr"),
    "commit": (0, "Cc"),
    "send": (1, "S"),
    "ack": (1, "A"),
}
"""Where a kill of the agent can fall: the byte of its stage file, and the letters that mean it.

The last letter of each but the send is a place where the agent can be made to stand still (`hold`): before the commit,
between the commit and the moving of the tail, between MLflow's answer and its settling.

write: rows read from a ring, not in the spool yet. commit: in the transaction, or after it and before the ring's tail
has moved. send: the request to MLflow is under way. ack: MLflow has answered, the spool does not know.
"""


def environment(**more: str) -> dict[str, str]:
    """The environment of test programs: both source roots and the stage hooks on the path."""
    path = [str(HERE / "stages"), str(ROOT / "sdk"), str(ROOT / "agent"), str(ROOT / "tests")]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TAILRACE_") or k == "TAILRACE_DIR"}
    kept["TAILRACE_BEST_METRICS"] = "false"  # the oracle knows what programs log, and nothing else
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "MLFLOW_DISABLE_TELEMETRY": "true", **more}


def run_script(source: str, *arguments: str, timeout: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a small program to its end."""
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Program:
    """A trainer, started at once.

    Args:
        folder: For its journal and its files; one program each.
        uri: Tracking URI.
        state: `TAILRACE_DIR`; programs may share one.
        plan: What else `faults.trainer` reads: `pause`, `steps`, `keys`, `prefix`, `end`, `settings`,
            `no_pauses`.
        environ: More variables for it and its agents.
    """

    def __init__(
        self, folder: Path, uri: str, state: Path, *, environ: dict[str, str] | None = None, **plan: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.stages = folder / "stages"
        self.stages.mkdir()
        self.state, self.uri = state, uri
        self.journal = Journal(folder / "journal")
        self._stop = folder / "stop"
        self._tight = folder / "tight"
        files = {"journal": self.journal.path, "stop": self._stop, "tight": self._tight}
        whole = {"uri": uri, **{name: str(path) for name, path in files.items()}, **plan}
        self.log = folder / "stderr"
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "trainer.py"), json.dumps(whole)],
                env=environment(TAILRACE_DIR=str(state), FAULTS_STAGES=str(self.stages), **environ or {}),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self.kills: list[str] = []
        line = self._line()
        assert line.startswith("run "), f"{line!r}: {self.log.read_text()}"
        self.run = line.split()[1]

    # -- the trainer ---------------------------------------------------------------------------------------------

    def finish(self, timeout: float = 60) -> None:
        """Tells the trainer to end its run, and waits for it."""
        self._stop.touch()
        assert self._line() == "end", self.log.read_text()
        assert self.process.wait(timeout) == 0, self.log.read_text()

    def kill(self) -> str:
        """SIGKILLs the trainer; whether that fell inside of `log()`, as its own stage byte says."""
        self.process.kill()
        self.process.wait()
        inside = _peek(self.stages / f"{self.process.pid}.trainer", 0) == "L"
        return "log" if inside else "between"

    def hurry(self) -> None:
        """From now on the trainer logs without pause."""
        self._tight.touch()

    def freeze(self) -> None:
        """Stops the trainer with all its threads, so that it cannot start a new agent."""
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        eventually(
            lambda: all(_state(task / "stat") == "T" for task in tasks.iterdir()), 10, "the trainer stands still"
        )

    # -- its agent -----------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The trainer's session."""
        return self._sessions()[0]

    @property
    def agent(self) -> AgentStatus | None:
        """The agent's own status, as it last wrote it."""
        return status.read(self.session.shared / "agent.status", AgentStatus)

    def agent_pid(self, besides: int = 0, timeout: float = 30) -> int:
        """The process id of the agent that lives, once there is one other than `besides`."""

        def look() -> int:
            agent = self.agent
            return agent.pid if agent is not None and agent.pid != besides and _alive(agent.pid) else 0

        return eventually(look, timeout, f"no agent besides {besides}", pause=0.005)

    def await_agent(self, stage: str | None, *, hold: bool = False, timeout: float = 60) -> None:
        """Waits until the agent is in the midst of a stage; with `hold` it stands still there."""
        if stage is None:
            return
        byte, letters = STAGES[stage]
        path = self.stages / f"{self.agent_pid()}.agent"
        eventually(path.exists, timeout, f"{path} is there")
        deadline = time.monotonic() + timeout
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 64) as bytes_:
            if hold:
                letters = letters[-1]
                bytes_[8 + byte] = ord(letters)
            codes = {ord(letter) for letter in letters}
            while bytes_[byte] not in codes:
                assert time.monotonic() < deadline, f"the agent was never in the {stage}"
                if hold:  # it does not run away, and needs the processor to get there
                    time.sleep(0.001)

    def kill_agent(self, stage: str | None = None, *, hold: bool = False, timeout: float = 20) -> str:
        """SIGKILLs the agent, in the midst of a stage if one is named; says where it fell, as the agent's own stage
        file has it: without `hold` the stage may have passed before the kill struck."""
        pid = self.agent_pid()
        self.await_agent(stage, hold=hold, timeout=timeout)
        if stage is not None and not hold:
            time.sleep(random.uniform(0, 0.0002))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not _alive(pid), 10, "the agent died", pause=0.001)
        fell = _fell(self.stages / f"{pid}.agent")
        self.kills.append(fell)
        return fell

    # -- what came of it -----------------------------------------------------------------------------------------

    def stored(self) -> StoredRun | None:
        """The run in MLflow."""
        return MlflowDatabase(self.uri).run(self.run)

    def settled(self, timeout: float = 30) -> StoredRun:
        """The run, once it has ended and everything is settled."""
        return MlflowDatabase(self.uri).settled(self.run, timeout)

    def close(self) -> None:
        """Ends what is left of it, and of its agent, and gives the shared memory back."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        for session in self._sessions():
            agent = status.read(session.shared / "agent.status", AgentStatus)
            if agent is not None and _alive(agent.pid):
                os.kill(agent.pid, signal.SIGKILL)
            session.remove_shared()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sessions(self) -> list[Session]:
        return [s for s in Session.all(Settings(dir=str(self.state))) if s.info.pid == self.process.pid]

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def _alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    return _state(Path(f"/proc/{pid}/stat")) not in ("Z", "X", "")


def _state(stat: Path) -> str:
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _peek(path: Path, byte: int) -> str:
    return chr(path.read_bytes()[byte]) if path.exists() else "?"


def _fell(path: Path) -> str:
    """The stages in which an agent died: one of the drain, one of the delivery, both (`commit+send`), or `idle`."""
    letters = {stage: _peek(path, byte) in letters for stage, (byte, letters) in STAGES.items()}
    return "+".join(stage for stage, inside in letters.items() if inside) or "idle"
