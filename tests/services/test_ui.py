"""MLflow's own UI in a headless Chromium: what a user sees of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.sdk_tools import Store, script, tracking
from services.chromium import browser, need_browser
from tailrace_agent.mlflow.links import list_page, run_page

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

_CHARTS = "/cpu_utilization|memory_usage_perc|rss|disk_busy|disk_write|network_receive_megabytes_per"

# What is in the way of the charts; and the search box is React's, which only listens to real input.
_TIDY = """
    document.head.insertAdjacentHTML('beforeend', '<style>.modebar { display: none !important }</style>');
    document.querySelector('[data-component-id="mlflow.assistant.chat_panel.close"]')?.click();
    document.querySelector('[data-component-id="mlflow_header.toggle_sidebar_button"]')?.click();
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
        page.open(run_page(mlflow_server, experiment, f"{run_id}/system-metrics"))
        try:
            page.wait(_DRAWN + "4", 120)
            first = page.text()
            assert "(system/cpu_utilization_percentage)" in first
            assert "system/tailrace" not in first, "what is seen first is the program's"
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


def test_links_lead_to_the_list_of_runs_and_to_the_run(mlflow_server: str, tmp_path: Path) -> None:
    with tracking(mlflow_server, experiment_name="ui-links") as tracker, tracker.start_run(run_name="look here") as run:
        run.log({"val/loss": 0.25}, step=0)
    experiment = run.info.experiment_id
    with browser(tmp_path) as page:
        page.open(list_page(mlflow_server, experiment))
        page.wait("return document.body.innerText.includes('look here')")
        assert f"/#/experiments/{experiment}/runs?" in page.run("return location.href"), (
            "the list, and not GenAI's traces"
        )
        page.open("about:blank")
        page.open(run.url or "")
        page.wait("return document.body.innerText.includes('val/loss')")
        text = page.text()
    assert run.run_id in text
    assert "Model registry" in text, "the pages of model training around it"
    assert "Judges" not in text
