"""The system monitor, as users call it: the agent samples, this process only reads what was put up.

In process mode it costs the training process no thread and no time; `latest()` reads shared memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace._api.boundary import protect
from tailrace._messages.suggestions import instead_of_argument
from tailrace._runs.run_part import RunPart, core_of
from tailrace_agent.errors import CallError
from tailrace_agent.ipc.records import Monitor
from tailrace_agent.ipc.sample_board import BoardReader, board_file
from tailrace_agent.runtime.places import working_directory
from tailrace_agent.sampler.config import MonitorConfig, node_part

if TYPE_CHECKING:
    from types import TracebackType

    from tailrace._runs.core import RunCore

__all__ = ["SystemMonitor", "monitor_config"]


@protect({"__enter__": lambda monitor: monitor, "start": lambda monitor: monitor, "latest": lambda _: {}})
class SystemMonitor:
    """Samples CPU, memory, disk, network, GPUs and the training process in the background, for one run.

    From `tailrace.system_monitor(...)`. A first sample is taken at once and a last one at the end. Monitors of one run
    may be nested: those with the same settings are one, which ends with the outermost.

    Args:
        run: The run that the samples go to.
        config: What is sampled.
        board_only: Sample for `latest()` only, and log nothing.

    Thread safety: every method from any thread.

    Example:
        >>> with tailrace.start_run(), tailrace.system_monitor(interval=0.5) as monitor:
        ...     train()
        ...     print(monitor.latest()["system/cpu_utilization_percentage"])
    """

    def __init__(self, run: RunCore | RunPart, config: MonitorConfig, *, board_only: bool = False) -> None:
        run = core_of(run) if isinstance(run, RunPart) else run
        self._run, self._config, self._board_only = run, config, board_only
        # A token tells monitors of one run apart, also of several processes.
        self._token, self._pid = 0, 0
        connection = run.connection
        self._board: BoardReader | None = None
        if connection is not None:
            self._board = BoardReader(board_file(connection.session.shared, run.spec.run, config.prefix, config.node))

    def start(self) -> SystemMonitor:
        """Begins to sample. Does nothing while it runs."""
        if not self._token:
            # Odd, since 0 stands for no monitor that runs; and within the 63 bits of a signed number.
            self._token, self._pid = int.from_bytes(os.urandom(8), "big") >> 1 | 1, os.getpid()
            self._send(self._token, on=True)
        return self

    def stop(self) -> None:
        """Takes a last sample and ends. Does nothing when it does not run; the run's end does it too.

        In a forked child it does nothing: the monitor is the parent's.
        """
        # Taken first: a second call finds that it does not run.
        token, self._token = self._token, 0
        if token and self._pid == os.getpid():
            self._send(token, on=False)

    def latest(self) -> dict[str, float]:
        """The last sample by full name (`system/cpu_utilization_percentage`), from memory; empty before the first."""
        return self._board.read() if self._board is not None else {}

    def _send(self, token: int, *, on: bool) -> None:
        connection = self._run.connection
        if connection is None:
            return
        # The agent cannot see what torch's allocator holds in here.
        if on and self._config.gpu:
            connection.watch_torch(by_machine=self._config.family is not None)
        settings = msgspec.to_builtins(self._config)
        connection.put(Monitor(self._run.spec.run, settings, on, self._board_only, token))

    def _surprised(self, what: str, error: Exception) -> None:
        self._run.surprised(f"system_monitor.{what}", error)

    def __enter__(self) -> SystemMonitor:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def monitor_config(run: RunCore, **wanted: Any) -> MonitorConfig:
    """A configuration for this process: its pid, working directory and visible GPUs; of a rank, for all on its node.

    Raises:
        CallError: A value can never work, or there is no such thing to sample.
    """
    given = {name: value for name, value in wanted.items() if value is not None}
    fields = MonitorConfig.__struct_fields__
    for name in given:
        if name not in fields:
            raise CallError(instead_of_argument(name, "system_monitor", fields))
    job, named = run.spec.job, run.settings.system_metrics_node
    if named is not None:
        given = {"node": node_part(named), **given}
        if given["node"] != named:
            run.voice.warn(f"this machine is called {given['node']!r}: {named!r} cannot be a part of a metric's name")
    elif job is not None and job.several_nodes:
        given = {"node": job.node, **given}
    # This process's own: the agent may have been started elsewhere, and with other GPUs visible.
    return MonitorConfig(
        pid=os.getpid(),
        cwd=working_directory(),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        family=(job.launcher[0] or os.getpid()) if job is not None and job.beside_others else None,
        **given,
    )
