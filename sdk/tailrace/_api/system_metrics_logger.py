"""The latest background sample, stamped with a training step when the loop calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace._api.boundary import protect
from tailrace._api.system_monitor import SystemMonitor, monitor_config
from tailrace._api.tracker_core import module_core
from tailrace._runs.run_part import core_of
from tailrace_agent.sampler.config import key

if TYPE_CHECKING:
    from tailrace._api.run import Run

__all__ = ["SystemMetricsLogger"]


@protect({})
class SystemMetricsLogger:
    """Stamps the latest background sample with the training step, when the loop calls it.

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
        self._core = core_of(run) if run is not None else module_core().runs.target(None)
        self._run: Run = self._core.handle
        wanted = {
            "cpu_": log_cpu,
            "system_memory_": log_cpu,
            "swap_": log_cpu,
            f"gpu_{gpu_device}_": log_gpu,
            "disk_": log_disk,
            "network_": log_network,
        }
        # Everything is sampled, so that a `system_monitor` that joins this one lacks nothing.
        config = monitor_config(self._core, interval=self._core.settings.system_metrics_interval)
        self._start = len(key(config.prefix, config.node, ""))
        self._prefixes = tuple(key(config.prefix, config.node, prefix) for prefix, on in wanted.items() if on)
        self._monitor = SystemMonitor(self._core, config, board_only=True).start()

    def log_metrics(self, step: int, prefix: str = "system") -> None:
        """Logs the latest sample at a training step; before the first sample, nothing.

        Args:
            step: Training step.
            prefix: First part of the names; a slash at its end is not needed, and "" leaves the bare names.
        """
        prefix = prefix.rstrip("/")
        start = f"{prefix}/" if prefix else ""
        values = {
            start + name[self._start :]: value
            for name, value in self._monitor.latest().items()
            if name.startswith(self._prefixes)
        }
        if values:
            self._run.log(values, step=step)

    def stop(self) -> None:
        """Ends the sampling; the run's end does it too."""
        self._monitor.stop()

    def _surprised(self, what: str, error: Exception) -> None:
        self._core.surprised(f"SystemMetricsLogger.{what}", error)
