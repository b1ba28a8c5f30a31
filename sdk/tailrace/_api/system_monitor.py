"""The system monitor, as users call it: the agent samples, this process only reads what was put up.

In process mode it costs the training process no thread and no time; `latest()` reads shared memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tailrace._api.boundary import protect
from tailrace._messages.suggestions import instead_of_argument
from tailrace_agent.errors import CallError
from tailrace_agent.ipc.sample_board import BoardReader, board_file
from tailrace_agent.runtime.places import working_directory
from tailrace_agent.sampler.config import MonitorConfig

if TYPE_CHECKING:
    from types import TracebackType

    from tailrace._api.run import Run

__all__ = ["SystemMetricsLogger", "SystemMonitor", "monitor_config"]


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

    def __init__(self, run: Run, config: MonitorConfig, *, board_only: bool = False) -> None:
        self._run, self._config, self._board_only = run, config, board_only
        self._token, self._pid = 0, 0
        connection = run._connection
        self._board: BoardReader | None = None
        if connection is not None:
            self._board = BoardReader(board_file(connection.session.shared, run._spec.run, config.prefix, config.node))

    def start(self) -> SystemMonitor:
        """Begins to sample. Does nothing while it runs."""
        if not self._token:
            self._token, self._pid = int.from_bytes(os.urandom(8), "big") >> 1 | 1, os.getpid()
            self._run._monitor(self._config, self._token, on=True, board_only=self._board_only)
        return self

    def stop(self) -> None:
        """Takes a last sample and ends. Does nothing when it does not run; the run's end does it too.

        In a forked child it does nothing: the monitor is the parent's.
        """
        token, self._token = self._token, 0
        if token and self._pid == os.getpid():
            self._run._monitor(self._config, token, on=False, board_only=self._board_only)

    def latest(self) -> dict[str, float]:
        """The last sample by full name (`system/cpu_utilization_percentage`), from memory; empty before the first."""
        return self._board.read() if self._board is not None else {}

    def _surprised(self, what: str, error: Exception) -> None:
        self._run._surprised(f"system_monitor.{what}", error)

    def __enter__(self) -> SystemMonitor:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


@protect({})
class SystemMetricsLogger:
    """Stamps the latest background sample with the training step, when the loop asks for it.

    It never polls on the caller's thread: sampling happens in the agent, and `log_metrics` reads shared memory.

    Args:
        log_cpu: CPU and memory.
        log_gpu: The GPU `gpu_device`: utilisation, memory, power, temperature.
        log_disk: Disk space and throughput.
        log_network: Network totals and throughput.
        gpu_device: Visible index of the GPU.
        run: The run; the active one by default.

    Example:
        >>> system = tailrace.SystemMetricsLogger(log_disk=True)
        >>> for step in range(1000):
        ...     if step % 50 == 0:
        ...         system.log_metrics(step)
    """

    def __init__(
        self,
        log_cpu: bool = True,
        log_gpu: bool = True,
        log_disk: bool = False,
        log_network: bool = False,
        gpu_device: int = 0,
        *,
        run: Run | None = None,
    ) -> None:
        from tailrace import _default

        self._run = run if run is not None else _default._to(None)
        wanted = {
            "cpu_": log_cpu,
            "system_memory_": log_cpu,
            "swap_": log_cpu,
            f"gpu_{gpu_device}_": log_gpu,
            "disk_": log_disk,
            "network_": log_network,
        }
        self._prefixes = tuple(f"system/{prefix}" for prefix, on in wanted.items() if on)
        # Everything is sampled, so that a `system_monitor` that joins this one lacks nothing.
        config = monitor_config(interval=self._run._settings.system_metrics_interval)
        self._monitor = SystemMonitor(self._run, config, board_only=True).start()

    def log_metrics(self, step: int, prefix: str = "system") -> None:
        """Logs the latest sample at a training step; before the first sample, nothing.

        Args:
            step: Training step.
            prefix: First part of the names; a slash at its end is not needed, and "" leaves the bare names.
        """
        prefix = prefix.rstrip("/")
        start = f"{prefix}/" if prefix else ""
        values = {
            start + name[len("system/") :]: value
            for name, value in self._monitor.latest().items()
            if name.startswith(self._prefixes)
        }
        if values:
            self._run.log(values, step=step)

    def stop(self) -> None:
        """Ends the sampling; the run's end does it too."""
        self._monitor.stop()

    def _surprised(self, what: str, error: Exception) -> None:
        self._run._surprised(f"SystemMetricsLogger.{what}", error)


def monitor_config(**wanted: Any) -> MonitorConfig:
    """A configuration for this process: its pid, working directory and visible GPUs.

    Raises:
        CallError: A value can never work, or there is no such thing to sample.
    """
    given = {name: value for name, value in wanted.items() if value is not None}
    fields = MonitorConfig.__struct_fields__
    for name in given:
        if name not in fields:
            raise CallError(instead_of_argument(name, "system_monitor", fields))
    return MonitorConfig(
        pid=os.getpid(), cwd=working_directory(), visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"), **given
    )
