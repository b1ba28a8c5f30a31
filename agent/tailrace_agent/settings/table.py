"""The table of settings: whom each concerns, what it does, how it is written, and what is allowed.

Whoever has to know of every setting reads it here: the sources, their messages, and the launcher, which decides whether
two runs can share an agent. Type, bounds and default stand in `Settings`, where a type checker sees them. Tests hold
the two together, and the tables of docs/settings.md are made of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

from tailrace_agent.errors import SettingsError
from tailrace_agent.runtime.places import working_directory
from tailrace_agent.settings.units import (
    as_flag,
    as_number,
    as_path,
    as_text,
    as_whole,
    as_word,
    by_pattern,
    parse_duration,
    parse_share,
    parse_size,
)
from tailrace_agent.settings.uris import misspelt, shown_uri

__all__ = ["TABLE", "Setting"]


_SERVICE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def _rules(value: object) -> object:
    """Alert rules: a list, or one text with a semicolon between two rules."""
    from tailrace_agent.settings.alert_rules import parse_rule

    if isinstance(value, str):
        value = [rule for part in value.split(";") if (rule := part.strip())]
    if not isinstance(value, (list, tuple)) or not all(isinstance(rule, str) for rule in value):
        raise ValueError("no list of rules")
    for rule in value:
        parse_rule(rule)
    return tuple(value)


def _flag_if_any(value: object) -> object:
    """A flag that has a meaning of its own while nobody has set it."""
    flag = as_flag(value)
    if flag is None and value is not None:
        raise ValueError("no flag")
    return flag


def _names(value: object) -> object:
    """Names of variables: a list, or one text with commas between them."""
    if isinstance(value, str):
        value = [name for part in value.split(",") if (name := part.strip())]
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) and name.isidentifier() for name in value):
        raise ValueError("no names of variables")
    return tuple(value)


def _webhook(value: object) -> object:
    if isinstance(value, str) and (not value.startswith(("http://", "https://")) or misspelt(value)):
        raise ValueError("no URL of a web server")
    return value


def _services(value: object) -> object:
    """Addresses of Apprise's: a list, or one text with blanks or semicolons between two of them."""
    if isinstance(value, str):
        value = [url for url in re.split(r"[\s;]+", value) if url]
    if not isinstance(value, (list, tuple)) or not all(isinstance(url, str) for url in value):
        raise ValueError("no list of addresses")
    if not all(_SERVICE.fullmatch(url) for url in value):
        raise ValueError("no address of a service")
    return tuple(value)


def _directory(value: object) -> object:
    return as_text(as_path(value))


def _uri(value: object) -> object:
    if isinstance(value, os.PathLike):
        value = Path(working_directory(), value).as_uri()  # a `Path` means a directory of files, never a server
    # Here, and not when it is opened: a program is to hear of a wrong address at its start.
    elif isinstance(value, str) and (fault := misspelt(value)) is not None:
        raise SettingsError(f"{shown_uri(value)!r} is no tracking URI: {fault}")
    return as_text(value)


class Setting(NamedTuple):
    """One setting.

    Attributes:
        scope: `run`: two runs of one program may have it differently. `agent`: it concerns the agent or the session, so
            a run with another value gets an agent of its own.
        description: What it does, in Markdown.
        parse: Makes the value of what a person has written, or raises `ValueError`. The bounds are those of `Settings`.
        allowed: What a value may be.
        written: How it may be written, to be shown behind `allowed` to whoever has written it otherwise.
        unset: What holds while there is no value.
    """

    scope: Literal["run", "agent"]
    description: str
    parse: Callable[[object], object]
    allowed: str
    written: str = ""
    unset: str = "none"


_MINUTE: Final = parse_duration, "more than 0 and at most 60 seconds", ', as a number or text such as "500ms"'
_HOUR: Final = parse_duration, "more than 0 and at most 3600 seconds", ', as a number or text such as "30s"'
_DAY: Final = parse_duration, "from 0 to 86400 seconds", ', as a number or text such as "500ms", "30s", "2min"'
_FLAG: Final = as_flag, "true or false", " (also 1/0, yes/no, on/off)"
_TEXT: Final = as_text, "a text that is not empty"
_URI: Final = _uri, "a tracking URI as MLflow takes it", ", e.g. sqlite:///mlflow.db"
_PATH: Final = _directory, "the path of a directory"


TABLE: Final[dict[str, Setting]] = {
    "enabled": Setting("agent", '`false` is `agent = "off"`.', *_FLAG),
    "backend": Setting(
        "agent",
        "`local`: nothing is tracked, the run leaves [local reports](configuration.md#with-tracking-off). `none`: "
        "not even those.",
        as_word,
        "mlflow, local or none",
    ),
    "agent": Setting(
        "agent",
        "Where delivery runs. `process`: a process of its own. `node`: one that all programs of this user on this "
        "machine [share](scale.md#many-small-programs). `thread`: threads of the training process. `off`: "
        "nothing is tracked; the run leaves [local reports](configuration.md#with-tracking-off).",
        as_word,
        "process, node, thread or off",
    ),
    "reports_dir": Setting("run", "Where local reports go.", *_PATH),
    "tracking_uri": Setting(
        "run",
        "Where MLflow is: `http://host:5000`, `sqlite:///mlflow.db`, `postgresql://…`. A relative path is meant "
        "from the working directory; in a file, from that file's directory. MLflow's default is "
        "`sqlite:///mlflow.db` in the working directory, or `./mlruns` where earlier versions left runs in it.",
        *_URI,
        unset="MLflow's default",
    ),
    "registry_uri": Setting(
        "run", "Where the model registry is, if it is another server than the runs'.", *_URI, unset="beside the runs"
    ),
    "experiment_name": Setting(
        "run",
        "The experiment. Created when it is missing.",
        as_text,
        "a text of 1 to 500 characters",
        unset="MLflow's default experiment",
    ),
    "on_error": Setting(
        "run",
        "What happens when tracking cannot work at all (a store that MLflow refuses, an unwritable state "
        "directory): one warning, or an error from `start_run`. With `raise`, `start_run` waits for the agent's "
        "verdict, 20 s at most.",
        as_word,
        "warn or raise",
    ),
    "strict": Setting(
        "run",
        'A call with arguments that can never work (`loss="high"`, a step that is no integer) raises `CallError` '
        "instead of warning once. Counted either way. Ids for `start_run` and `set_experiment` are looked up in MLflow "
        "first, 20 s a request at most.",
        *_FLAG,
    ),
    "quiet": Setting(
        "run", "Prints no lines and no progress. Warnings still come, through the logger `tailrace`.", *_FLAG
    ),
    "dir": Setting(
        "agent",
        "Where all state is kept: sessions, spools, artifacts that wait. On Linux the default is "
        "`~/.local/state/tailrace`.",
        *_PATH,
        unset="the user's state directory",
    ),
    "ring_dir": Setting(
        "agent",
        "Where rings, locks and status files are. A directory on a disk works, but `log()` can then be held up by "
        "the disk.",
        *_PATH,
        unset="`/dev/shm`, else the temporary directory",
    ),
    "ring_bytes": Setting(
        "agent",
        "Size of one process's ring. It takes a sixteenth of the free shared memory at most, and shrinks down to "
        "64 KiB before it fails.",
        parse_size,
        "from 64 KiB to 64 GiB",
        ', as a number of bytes or text such as "8MB", "64 KiB"',
    ),
    "spool_max_bytes": Setting(
        "agent",
        "What may wait on disk for one session. Beyond it the oldest metrics are dropped and counted; params, "
        "tags and artifacts never. A ring's spill file may hold a quarter of it.",
        parse_size,
        "at least 1 MiB",
        ', as a number of bytes or text such as "500MB", "4 GiB"',
    ),
    "flush_interval": Setting(
        "agent",
        "How long a metric may wait for company. A full batch (1000 points) goes at once, and so does everything "
        "when somebody waits.",
        *_MINUTE,
    ),
    "drain_interval": Setting("agent", "Pause between two looks into the rings.", *_MINUTE),
    "end_timeout": Setting(
        "run", "How long `end_run`, the end of a `with` block, `flush()` and `run.run_id` wait at most.", *_DAY
    ),
    "exit_timeout": Setting(
        "run", "How long the interpreter's exit waits at most, for all runs that the program has not ended.", *_DAY
    ),
    "request_timeout": Setting(
        "agent",
        "How long one request to MLflow may take, from its first byte to the last of the answer, and as long "
        "again for each MiB; also the wait for a locked SQLite store, and for a connection to PostgreSQL or "
        "MySQL.",
        *_HOUR,
    ),
    "retry_max_delay": Setting(
        "agent", "Longest pause between two tries. A longer `Retry-After` is kept, up to an hour.", *_HOUR
    ),
    "artifact_snapshot": Setting(
        "agent",
        "How a file is kept as it was at the call, where the file system has no reflink: by a copy, or by a hard "
        "link. Choose `link` only for files that are replaced by a rename and never written in place.",
        as_word,
        "copy or link",
    ),
    "every": Setting(
        "run",
        'Logs only each n-th value of a metric: `{"train/*": 10}`, in a variable `train/*=10, grad/*=100`. See '
        "[Not every step](logging.md#not-every-step).",
        partial(by_pattern, parse=as_whole),
        "a whole number from 1, or one for each pattern",
        ': {"train/*": 10}, or as text "train/*=10, grad/*=100"',
    ),
    "min_interval": Setting(
        "run",
        'Logs values of a metric at least so far apart: `1`, `{"train/*": "500ms"}`, in a variable '
        "`train/*=500ms`. See [Not every step](logging.md#not-every-step).",
        partial(by_pattern, parse=parse_duration),
        "from 0 to 86400 seconds, or a duration for each pattern",
        ': {"train/*": "500ms"}, or as text "train/*=500ms"',
    ),
    "overhead_budget": Setting(
        "run",
        "Share of the time that values on a GPU and of unusual types, and all while the ring is full, may take in "
        "`log()`: above it [the busiest names are thinned](overhead.md#a-budget).",
        parse_share,
        "a share of more than 0 and at most 1",
        ', as text such as "0.1 %"',
    ),
    "ranks": Setting(
        "run",
        "What becomes of the metrics of a job's ranks: `zero` (those of rank 0 alone), `each` (`loss/rank3`), "
        '`runs` (a nested run for each) or `stats` (`loss.mean`, …): `stats`, `{"train/*": "stats"}`, in a variable '
        "`train/*=stats`. See [Several processes and nodes](scale.md#what-the-ranks-log).",
        partial(by_pattern, parse=as_word),
        "zero, each, runs or stats, or one of them for each pattern",
        ': {"train/*": "stats"}, or as text "train/*=stats, grad/*=each"',
        "zero",
    ),
    "nice": Setting("agent", "Added to the niceness of the agent process.", as_whole, "a whole number from 0 to 19"),
    "keep_days": Setting(
        "agent",
        "How many days a finished session stays on disk, for `tailrace verify`.",
        as_number,
        "a number of days, 0 or more",
    ),
    "linger": Setting(
        "agent",
        "How long the agent goes on trying after the programs of its session have ended. What is left then stays "
        "on disk for `tailrace sync` or the next start.",
        *_DAY,
    ),
    "log_system_metrics": Setting(
        "agent", "Sample the machine while a run lasts, as `start_run(log_system_metrics=True)` does.", *_FLAG
    ),
    "system_metrics_interval": Setting(
        "agent",
        "Seconds between two samples.",
        parse_duration,
        "from 0.1 to 3600 seconds",
        ', as a number or text such as "500ms", "10s"',
    ),
    "system_metrics_node": Setting(
        "agent", "Name of this machine among several that log to one run: `system/<node>/…`.", *_TEXT
    ),
    "on_stop": Setting(
        "run",
        "What happens to a program whose run [is asked to stop](stop.md): `flag`: `should_stop()` is True; `signal`: "
        "it gets SIGTERM, too.",
        as_word,
        "flag or signal",
    ),
    "stop_interval": Setting("agent", "Pause between two looks for such a request; 0 for none.", *_DAY),
    "best_metrics": Setting(
        "agent",
        "Store with each run [the best value](logging.md#the-best-value) of metrics whose names say what is better: "
        "`loss.best`, `loss.best_step`.",
        *_FLAG,
    ),
    "console": Setting(
        "run",
        "Keep [what a run's processes print](console.md) with it, as `console.log`. By default in scripts, and not in "
        "notebooks and interactive sessions.",
        _flag_if_any,
        *_FLAG[1:],
        unset="in scripts",
    ),
    "console_max_bytes": Setting(
        "agent",
        "How much of that is kept of one process; of more than that the middle is left out.",
        parse_size,
        "from 64 KiB to 1 GiB",
        ', as a number of bytes or text such as "500kB", "4 MiB"',
    ),
    "traceback_locals": Setting(
        "run",
        "Names of local variables whose values are shown in the [traceback](console.md#the-last-words) that ends a "
        'run: `["batch", "loss"]`, in a variable `batch, loss`.',
        _names,
        "a list of names of variables",
    ),
    "metadata": Setting(
        "run",
        "Store with each new run [where it comes from](run-metadata.md): git, command line, host, Python, "
        "packages, GPUs.",
        *_FLAG,
    ),
    "git_diff": Setting("run", "Store uncommitted changes too, as `environment/git.diff`.", *_FLAG),
    "log_params": Setting("run", "`log_param`, `log_params`.", *_FLAG),
    "log_metrics": Setting("run", "`log`, `log_metric`, `log_metrics`. The system monitor has its own switch.", *_FLAG),
    "log_artifacts": Setting("run", "Files, texts, figures, images, tables.", *_FLAG),
    "log_model": Setting("run", "Models.", *_FLAG),
    "log_input_example": Setting("run", "Keep a model's input example with it.", *_FLAG),
    "log_model_signature": Setting("run", "Keep a model's signature with it.", *_FLAG),
    "register_model": Setting("run", "Register each logged model, under `model_name`.", *_FLAG),
    "model_name": Setting("run", "Its name in the registry.", *_TEXT),
    "model_stage": Setting("run", "Stage or alias of the new version.", *_TEXT),
    "model_description": Setting("run", "Description of the new version.", *_TEXT),
    "prometheus_port": Setting(
        "agent",
        "Serve the latest metrics [to Prometheus](dashboards.md) on this port, or the next one that is free; 0 "
        "for any.",
        as_whole,
        "a port from 0 (any that is free) to 65535",
    ),
    "prometheus_host": Setting(
        "agent",
        "Address to serve them on; `0.0.0.0` for all. Whoever reaches it can read them. Requests ask for [an "
        "address or a known name](dashboards.md#prometheus).",
        *_TEXT,
    ),
    "alerts": Setting(
        "agent",
        '[When to raise the alarm](dashboards.md#alerts): `["loss is NaN", "no progress for 10 min"]`. In a '
        "variable, with a semicolon between two rules.",
        _rules,
        'a list of rules such as "loss is NaN"',
    ),
    "alert_webhook": Setting(
        "agent",
        "Each alert is posted there as JSON. Only the host's name is ever written down or printed.",
        _webhook,
        "a URL that begins with http:// or https:// and names a host",
    ),
    "alert_urls": Setting(
        "agent",
        "Each alert goes there too, with a picture of the metric: Slack, Teams, e-mail and others, [as Apprise writes "
        "them](alerts.md). In a variable, with a blank between two. Only the schemes are ever written down or printed.",
        _services,
        "a list of addresses such as slack://tokens or mailto://user:password@host",
    ),
    "log_level": Setting("agent", "Of the agent's log file.", as_word, "debug, info, warning or error"),
}
