"""All settings: what each is called, its type, its bounds and its default.

How each is written and read is in `table`, where they come from in `sources`.
`import tailrace` loads this module, so whatever costs milliseconds (platformdirs) is imported where it is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from tailrace_agent.runtime.places import temporary_state_dir
from tailrace_agent.settings.uris import mask_service, mask_uri, mask_url

__all__ = ["Settings", "alert_addresses", "shown", "state_dir"]

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_GIB: Final = 1024 * _MIB

_Positive = Annotated[float, msgspec.Meta(gt=0, le=60)]
_Hour = Annotated[float, msgspec.Meta(gt=0, le=3600)]
_Day = Annotated[float, msgspec.Meta(ge=0, le=86400)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked. Built by `load_settings`.

    Attributes:
        enabled: False is `agent = "off"`.
        backend: `mlflow`; `local` keeps nothing but local reports; `none` not even those.
        agent: `process` delivers from a process of its own, `node` from one that all programs on this machine share,
            `thread` from a thread of the training process, `off`
            tracks nothing and leaves local reports.
        reports_dir: Directory of the local reports.
        tracking_uri: Where MLflow is; None means MLflow's default.
        registry_uri: Where its model registry is; None means beside the runs.
        experiment_name: Created when missing; None means MLflow's default experiment.
        on_error: What happens when tracking cannot work at all: `warn` once and keep the run locally, or `raise`.
        strict: Raise on a call with arguments that can never work, instead of warning once and counting it.
        quiet: Print nothing.
        dir: Directory of all state; None means the user's state directory.
        ring_dir: Directory of the rings; None means `/dev/shm` when there is one.
        ring_bytes: Size of one process's ring.
        spool_max_bytes: Bound of what waits on disk for one session.
        flush_interval: Seconds between deliveries.
        drain_interval: Seconds between looks into the rings.
        end_timeout: Seconds that `end_run` waits for the delivery at most.
        exit_timeout: Seconds that the interpreter's exit waits at most.
        request_timeout: Seconds that one request to MLflow may take.
        retry_max_delay: Longest pause between two attempts, in seconds.
        artifact_snapshot: How an artifact is kept as it was at the call: `copy`, or `link` for files that are only
            ever replaced, never written in place.
        every: Pattern of a metric's key to n: of its values, only each n-th is logged, and the last one.
        min_interval: Pattern of a metric's key to the least number of seconds between two values of it that are logged.
        overhead_budget: Share of the time that slow calls of `log()` may take; above it the busiest names are thinned.
        ranks: Pattern of a metric's key to what becomes of it in the ranks of a job: `zero`, `each`, `runs` or `stats`.
        nice: Added to the niceness of the agent process.
        keep_days: Days that a finished session stays for `tailrace verify`.
        linger: Seconds that the agent goes on trying to deliver after its programs have ended.
        log_level: Of the agent's log file.
        log_system_metrics: Sample the machine while a run lasts.
        system_metrics_interval: Seconds between two samples.
        system_metrics_node: Name of this machine among several that log to one run.
        on_stop: What happens to a program whose run is asked to stop: `flag`: `should_stop()` is True; `signal`: it
            gets SIGTERM, too.
        stop_interval: Seconds between two looks for such a request; 0 for none.
        best_metrics: Store with each run the best value of metrics whose names say what is better.
        console: Keep what a run's processes print with it; None: in scripts, not in notebooks and interactive sessions.
        console_max_bytes: Bound of what is kept of one process.
        traceback_locals: Names of local variables whose values are shown in the traceback that ends a run.
        metadata: Store with each new run where it comes from: git, command line, host, Python, packages, GPUs.
        git_diff: Store the uncommitted changes too, as an artifact.
        log_params: False makes `log_params` a no-op; so do the next three for their calls.
        log_metrics: `log`, `log_metric`, `log_metrics`.
        log_artifacts: Files, texts, figures, images and tables.
        log_model: Models.
        log_input_example: Keep a model's input example with it.
        log_model_signature: Keep a model's signature with it.
        register_model: Register each logged model under `model_name`.
        model_name: Name in the registry.
        model_stage: Stage or alias of the new version.
        model_description: Description of the new version.
        prometheus_port: Port on which the agent serves the latest metrics to Prometheus: None for not at all, 0 for any
            that is free.
        prometheus_host: Address that it serves on.
        alerts: Rules such as `loss is NaN`; see docs/dashboards.md.
        alert_webhook: URL to which each alert is posted as JSON.
        alert_urls: Addresses of Slack, Teams, e-mail and others, as Apprise writes them.
    """

    enabled: bool = True
    backend: Literal["mlflow", "local", "none"] = "mlflow"
    agent: Literal["process", "node", "thread", "off"] = "process"
    reports_dir: str = "reports"
    tracking_uri: str | None = None
    registry_uri: str | None = None
    experiment_name: Annotated[str, msgspec.Meta(max_length=500)] | None = None
    on_error: Literal["warn", "raise"] = "warn"
    strict: bool = False
    quiet: bool = False
    dir: str | None = None
    ring_dir: str | None = None
    ring_bytes: Annotated[int, msgspec.Meta(ge=64 * _KIB, le=64 * _GIB)] = 8 * _MIB  # 100,000 calls of 80 bytes
    spool_max_bytes: Annotated[int, msgspec.Meta(ge=_MIB, le=_GIB * _GIB)] = 4 * _GIB
    flush_interval: _Positive = 0.5
    drain_interval: _Positive = 0.1
    end_timeout: _Day = 60.0
    exit_timeout: _Day = 30.0
    request_timeout: _Hour = 30.0
    retry_max_delay: _Hour = 30.0
    artifact_snapshot: Literal["copy", "link"] = "copy"
    every: dict[str, Annotated[int, msgspec.Meta(ge=1)]] | None = None
    min_interval: dict[str, _Day] | None = None
    overhead_budget: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    ranks: dict[str, Literal["zero", "each", "runs", "stats"]] | None = None
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 10
    keep_days: Annotated[float, msgspec.Meta(ge=0, le=36500)] = 7.0
    linger: _Day = 86400.0
    log_system_metrics: bool = False
    system_metrics_interval: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 1.0
    system_metrics_node: str | None = None
    on_stop: Literal["flag", "signal"] = "flag"
    stop_interval: _Day = 10.0
    best_metrics: bool = True
    console: bool | None = None
    console_max_bytes: Annotated[int, msgspec.Meta(ge=64 * _KIB, le=_GIB)] = 10_000_000
    traceback_locals: tuple[str, ...] = ()
    metadata: bool = True
    git_diff: bool = False
    log_params: bool = True
    log_metrics: bool = True
    log_artifacts: bool = True
    log_model: bool = True
    log_input_example: bool = True
    log_model_signature: bool = True
    register_model: bool = False
    model_name: str | None = None
    model_stage: str | None = None
    model_description: str | None = None
    prometheus_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    prometheus_host: str = "127.0.0.1"
    alerts: tuple[str, ...] = ()
    alert_webhook: str | None = None
    alert_urls: tuple[str, ...] = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __repr__(self) -> str:
        fields = (f"{key}={shown(getattr(self, key), key)}" for key in self.__struct_fields__)
        return f"Settings({', '.join(fields)})"


def state_dir(settings: Settings) -> Path:
    """Where all state is kept: `settings.dir`, or the user's state directory. Nothing is created."""
    if settings.dir is not None:
        return Path(settings.dir)
    from platformdirs import user_state_path

    try:
        path = user_state_path("tailrace", appauthor=False)
    except RuntimeError:  # what newer platformdirs raises where there is no home
        return temporary_state_dir()
    return path if path.is_absolute() else temporary_state_dir()  # what older ones begin with `~`


def alert_addresses(settings: Settings) -> dict[str, str]:
    """Where alerts go, by what stands for each address where it is not to be read: an agent is told them that way.

    Args:
        settings: In force; what a session keeps of them has the same keys, and no secrets.
    """
    webhook = settings.alert_webhook
    services = {f"alert {n} {mask_service(url)}": url for n, url in enumerate(settings.alert_urls)}
    return ({mask_url(webhook): webhook} if webhook else {}) | services


def shown(value: object, key: str = "") -> str:
    """A value for a message: on one line, not too long, without a password."""
    if key == "alert_urls":  # what is no list is one address, or nobody's business
        value = [mask_service(str(each)) for each in (value if isinstance(value, (list, tuple)) else [value])]
    elif isinstance(value, str):  # whoever knows a webhook's path may post to it
        value = mask_url(value) if key == "alert_webhook" else mask_uri(value)[0]
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
