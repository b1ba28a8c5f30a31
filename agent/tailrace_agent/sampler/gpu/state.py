"""The source `gpu_state`: power, temperature, clocks, throttling, fan, energy."""

from __future__ import annotations

from typing import Final

from tailrace_agent.sampler.gpu.devices import Device, Gpus
from tailrace_agent.sampler.gpu.energy import EnergyMeter
from tailrace_agent.sampler.gpu.nvml import LibraryGone
from tailrace_agent.sampler.gpu.use import GpuSource

__all__ = ["GpuState"]

_STATE: Final[tuple[tuple[str, str, tuple[int, ...]], ...]] = (
    ("temperature_celsius", "nvmlDeviceGetTemperature", (0,)),
    ("sm_clock_megahertz", "nvmlDeviceGetClockInfo", (1,)),
    ("memory_clock_megahertz", "nvmlDeviceGetClockInfo", (2,)),
    ("fan_speed_percentage", "nvmlDeviceGetFanSpeed", ()),
)
"""Name, pynvml's function, its arguments after the handle: numbers of NVML's ABI."""
_THROTTLED: Final = {
    "throttled_power": 0x4 | 0x80,  # SwPowerCap, HwPowerBrakeSlowdown
    "throttled_thermal": 0x20 | 0x40,  # SwThermalSlowdown, HwThermalSlowdown
    "throttled_hardware": 0x8,  # HwSlowdown: the clocks are halved or worse, whatever the reason
}
"""0 or 1, so that a mean is a share of the time. The driver's mask itself, on a chart, would show nothing."""


class GpuState(GpuSource):
    """Power, temperature, clocks, throttling, fan; and energy, which is known in all at the end."""

    name = "gpu_state"
    every = 5.0

    def __init__(self, gpus: Gpus) -> None:
        super().__init__(gpus)
        self._meters: dict[object, tuple[str, EnergyMeter]] = {}

    def totals(self) -> dict[str, float]:
        """Joules of each GPU since the first sample, up to this moment where the driver counts them."""
        alive = {device.key: device for device in self._whole()}
        totals = {}
        for key, (prefix, meter) in self._meters.items():
            try:
                counter = self._counter(alive[key]) if key in alive else None
            except LibraryGone:
                counter = None
            total = meter.total(counter)
            if total is not None:
                totals[f"{prefix}energy_joules"] = total
        return totals

    def _read(self, now: float, values: dict[str, float]) -> None:
        alive = self._whole()
        # By key, not by index: a GPU that is lost and found keeps its sum.
        for key in self._meters.keys() - {device.key for device in alive}:
            self._meters[key][1].pause()
        for device in alive:
            self._read_power(device, now, values)
            for name, function, args in _STATE:
                answer = self._gpus.query(device, function, *args)
                if answer is not None:
                    values[device.prefix + name] = float(answer)
            self._read_throttling(device, values)

    def _read_power(self, device: Device, now: float, values: dict[str, float]) -> None:
        milliwatts = self._gpus.query(device, "nvmlDeviceGetPowerUsage")
        limit = self._gpus.query(device, "nvmlDeviceGetEnforcedPowerLimit")
        if milliwatts is not None:
            values[f"{device.prefix}power_usage_watts"] = milliwatts / 1000
            if limit:
                values[f"{device.prefix}power_usage_percentage"] = milliwatts / limit * 100
        # The prefix is that of the first reading: the total must stand under the name of the values before.
        _, meter = self._meters.setdefault(device.key, (device.prefix, EnergyMeter()))
        meter.read(now, self._counter(device), None if milliwatts is None else milliwatts / 1000)

    def _read_throttling(self, device: Device, values: dict[str, float]) -> None:
        reasons = self._gpus.query(
            device, "nvmlDeviceGetCurrentClocksEventReasons", or_else="nvmlDeviceGetCurrentClocksThrottleReasons"
        )
        if reasons is not None:
            values.update((device.prefix + name, float(reasons & mask != 0)) for name, mask in _THROTTLED.items())

    def _counter(self, device: Device) -> int | None:
        counter: int | None = self._gpus.query(device, "nvmlDeviceGetTotalEnergyConsumption")
        return counter
