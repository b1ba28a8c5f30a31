"""MLflow's own UI in a headless Chromium: what a user sees of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdk_tools import Store, script
from services.chromium import browser, need_browser

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

_OUTPUT = Path(__file__).parents[2] / "build"

_TRAIN = """
    import time
    import tailrace as sdk

    with sdk.start_run(run_name="digits") as run, sdk.system_monitor(interval=0.5) as monitor:
        began, step, kept = time.monotonic(), 0, []
        while time.monotonic() < began + 20:
            busy = time.monotonic() + (0.08 if (time.monotonic() - began) % 8 < 4 else 0.02)
            while time.monotonic() < busy:
                sum(range(1000))
            kept.append(bytearray(2_000_000))
            sdk.log(step=step, loss=1 / (step + 1))
            step += 1
            time.sleep(0.05)
        print(run.run_id, run.info.experiment_id)
"""

_CHARTS = "cpu_utilization|memory_usage_perc|rss|disk_busy|disk_write|network_receive_megabytes_per"

# What is in the way of the charts; and the search box is React's, which only listens to real input.
_TIDY = """
    document.head.insertAdjacentHTML('beforeend', '<style>.modebar { display: none !important }</style>');
    document.querySelector('[data-component-id="mlflow.assistant.chat_panel.close"]')?.click();
    document.querySelector('[data-component-id="mlflow_header.toggle_sidebar_button"]')?.click();
    document.querySelector('[class*="collapse-header"]')?.click();
"""
_SEARCH = """
    const box = document.querySelector('input[placeholder="Search metric charts"]');
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(box, '$');
    box.dispatchEvent(new Event('input', {bubbles: true}));
"""
_DRAWN = "return document.querySelectorAll('.js-plotly-plot .scatterlayer .trace path').length >= "


@pytest.fixture(scope="session", autouse=True)
def _browser_is_here() -> None:
    need_browser()


def test_the_system_metrics_tab_of_a_run_shows_its_charts(mlflow_server: str, tmp_path: Path) -> None:
    done = script(tmp_path, _TRAIN, TAILRACE_TRACKING_URI=mlflow_server, TAILRACE_EXPERIMENT_NAME="ui")
    run_id, experiment = done.stdout.split()[-2:]
    samples = len(Store(mlflow_server, run_id).history("system/system_memory_usage_percentage"))
    assert samples > 10
    _OUTPUT.mkdir(exist_ok=True)
    picture = _OUTPUT / "system-metrics.png"
    with browser(tmp_path, width=1500, height=1180) as page:
        page.open(f"{mlflow_server}/#/experiments/{experiment}/runs/{run_id}/system-metrics")
        try:
            page.wait(_DRAWN + "4", 120)
            assert "system/tailrace" in page.text()
            page.run(_TIDY + _SEARCH.replace("$", _CHARTS))
            page.wait("return document.body.innerText.includes('(system/cpu_utilization_percentage)')")
            page.wait(_DRAWN + str(3 * samples))
            text = page.text()
        finally:
            page.screenshot(picture)
    assert "(system/process_memory_rss_megabytes)" in text
    assert "(loss)" not in text, "the tab is for system metrics"
    assert picture.stat().st_size > 30_000
    print(f"screenshot: {picture}")
