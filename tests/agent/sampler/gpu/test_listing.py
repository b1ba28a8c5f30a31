"""What NVML lists, and as which GPU or MIG instance it is measured."""

from __future__ import annotations

import pytest

from helpers.gpu_monitor import GPU_0, Monitor, of
from nvml.standin import Standin


@pytest.mark.parametrize("value", ["1", "GPU-b", "GPU-b0000000-1111-2222-3333-444444444444"])
def test_only_visible_gpus_are_measured_and_under_their_visible_index(nvml: Standin, value: str) -> None:
    nvml.script("set 1 utilization 91")
    values = Monitor(value).rounds(100)
    assert values["gpu_0_utilization_percentage"] == 91
    assert of(1, values) == {}


# ---------------------------------------------------------------------------------------------------- lost and found


def test_a_gpu_that_this_user_may_not_touch_has_no_number(nvml: Standin) -> None:
    nvml.script("fail nvmlDeviceGetHandleByIndex_v2 0 4")
    monitor = Monitor("0")
    monitor.sample(0)
    assert monitor.tags()["gpu_0_name"] == "Stand-in 1"


# --------------------------------------------------------------------------------------------------------------- MIG


def test_mig_instances_are_devices_of_their_own(nvml: Standin) -> None:
    nvml.script("set 1 mig 1")
    nvml.trace()
    monitor = Monitor()
    values = monitor.rounds(0, 6)
    assert of(0, values) == pytest.approx(GPU_0)
    assert of(1, values) == pytest.approx(
        {
            "gpu_1_memory_usage_megabytes": 2000.0,
            "gpu_1_memory_usage_percentage": 20.0,
            "gpu_1_process_memory_usage_megabytes": 500.0,
        }
    )
    assert of(2, values)["gpu_2_memory_usage_megabytes"] == 4000
    assert of(3, values) == {}, "two compute instances share a GPU instance: CUDA shows one of them"
    assert monitor.tags()["gpu_1_name"] == "Stand-in MIG 1g.10gb 200"
    assert monitor.tags()["gpu_2_uuid"].startswith("MIG-b2")
    assert monitor.log.lines == []
    assert "nvmlDeviceGetUtilizationRates" not in {function for _, function, device in nvml.calls() if device > 100}
    assert "gpu_1_energy_joules" not in monitor.totals()


@pytest.mark.parametrize(
    ("value", "slot"),
    [("MIG-b3", 3), ("MIG-GPU-b0000000-1111-2222-3333-444444444444/1/0", 0), ("1", 0)],
)
def test_a_mig_instance_by_its_uuid(nvml: Standin, value: str, slot: int) -> None:
    nvml.script("set 1 mig 1")
    monitor = Monitor(value)
    values = monitor.sample(0)
    assert values["gpu_0_memory_usage_megabytes"] == 2000 + 1000 * slot
    assert monitor.tags()["gpu_0_uuid"].startswith(f"MIG-b{slot}")
