"""What travels from a training process to the agent, and how it looks as bytes.

Two shapes, both MessagePack arrays, distinguished by their first element:

* a **metrics row** `(run, step, time_ns, {key: value})`, where `run` is an integer. It is written by the hot path
  and its layout is part of the ring's format (`FORMAT`).
* a **control record**, a tagged array whose first element is a string: everything else of a run.

Nothing here imports more than msgspec, since the training process loads it.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

import msgspec

from tailrace_agent.decoding import msgpack_decoder

__all__ = [
    "FORMAT",
    "RAW",
    "Alert",
    "Artifact",
    "Codec",
    "Control",
    "Drop",
    "End",
    "Facts",
    "Flush",
    "Goals",
    "JobPart",
    "Kind",
    "LogCost",
    "MetricRow",
    "ModelOutcome",
    "ModelSpec",
    "Monitor",
    "Params",
    "Point",
    "Rank",
    "RunSpec",
    "Samples",
    "Start",
    "Tags",
    "decode_control",
    "decode_row",
    "encode",
    "run_hex",
]

# Raised only with need: an agent deletes the ring of a dead program whose format it does not know.
FORMAT: Final = 1

Codec = Literal["gzip", "zstd"]
"""How an artifact can be compressed."""

Kind = str
"""`metric`, `param`, `tag` or `artifact`: what a ledger counts apart."""

# `bool` too, since msgspec takes an integer for a float, and refuses True.
MetricRow = tuple[int, int, int, dict[str, float | bool]]
"""`(run, step, time_ns, {key: value})`."""


class Point(NamedTuple):
    """One value of one metric at one step, as MLflow stores it.

    Attributes:
        key: Metric name.
        value: NaN and infinities included.
        timestamp: Milliseconds since the epoch, of the `log()` call; never changed afterwards.
        step: Training step.
    """

    key: str
    value: float
    timestamp: int
    step: int


class LogCost(msgspec.Struct, frozen=True, array_like=True):
    """What logging cost the training process.

    Attributes:
        samples: Number of calls with plain numbers that were timed.
        typical_ns: Their median in nanoseconds.
        wall_ns: Wall time of the run in nanoseconds.
        odd: Number of calls that had something else (values on a device, no numbers); each is timed.
        odd_ns: Nanoseconds that they took together.
        halves: Rows beyond the first of one call: values that came later, from a device.
    """

    samples: int = 0
    typical_ns: int = 0
    wall_ns: int = 0
    odd: int = 0
    odd_ns: int = 0
    halves: int = 0


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the training process alone knows of where a run comes from; all secrets are masked already.

    Attributes:
        command: The command line, the interpreter included.
        script: The script's absolute path; None for an interactive session.
        executable: The interpreter.
        python: Its version.
        pid: Process id.
        host: Name of the machine.
        environment: A few variables that show where the run belongs (Slurm's and CI's job, ranks).
        config_files: Files that configured it.
    """

    command: list[str]
    script: str | None
    executable: str
    python: str
    pid: int
    host: str
    environment: dict[str, str] = {}
    config_files: list[str] = []


class JobPart(msgspec.Struct, frozen=True, kw_only=True):
    """The job that a run is of, and the part of it that has said so: see `runtime.job`.

    Attributes:
        key: The same in all processes of the job.
        name: What people know it by; None where nobody has named it.
        rank: Which process of the job.
        world_size: How many they are; 0 where nobody says.
        node: Name of this machine among those of the job.
        first_node: Whether rank 0 runs here.
        several_nodes: Whether there are others.
        local_world_size: How many processes are on this machine; 0 where nobody says.
        attempt: How often the job was started anew.
        launcher: Process id of what has started the ranks here, and when it began; zeros where nothing is known.
        weak: Another job may have the same key, at another time: a run that had ended before this one began is its.
        own: The run is that of one rank alone, nested in the job's.
    """

    key: str
    name: str | None = None
    rank: int = 0
    world_size: int = 0
    node: str = ""
    first_node: bool = True
    several_nodes: bool = False
    local_world_size: int = 0
    attempt: int = 0
    launcher: tuple[int, int] = (0, 0)
    weak: bool = False
    own: bool = False

    @property
    def beside_others(self) -> bool:
        """Whether there may be several processes of it on this machine."""
        return self.local_world_size > 1 or (not self.local_world_size and self.world_size > 1)


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What `start_run` was called with: enough to create the run, now or after a reboot.

    Attributes:
        run: tailrace's own id of the run, a random 63-bit integer.
        tracking_uri: As given, without a password; None means MLflow's default in `cwd`.
        experiment_name: Created when missing; None means MLflow's default experiment, or `experiment_id`.
        experiment_id: Taken as it is when given.
        run_id: An existing MLflow run to resume; None creates one.
        run_name: None lets MLflow invent one.
        parent: tailrace's id of the parent run, for nested runs.
        parent_run_id: MLflow's id of the parent, when it is not one of ours.
        tags: Set at creation, MLflow's context tags (`mlflow.user`, `mlflow.source.name`, …) included.
        description: MLflow's run note.
        start_time: Milliseconds since the epoch, of the call.
        cwd: Working directory of the call: relative store paths are meant from there.
        owned: False for a handle on somebody else's run: tailrace then never changes its status.
        created: The program has created `run_id` itself, for this spec: its status is as it should be until its end.
        artifact_uri: Where the artifacts of such a run go, as MLflow has said a moment ago, with `experiment_id` and
            `run_name`: it is not asked for the run again.
        facts: Where it comes from; None when nothing of that is to be stored.
        git_diff: Store uncommitted changes with it.
        job: The job whose processes share it; its id follows from the job's key then.
        console: What its processes print is kept with it.
    """

    run: int
    start_time: int
    cwd: str
    tracking_uri: str | None = None
    experiment_name: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    run_name: str | None = None
    parent: int | None = None
    parent_run_id: str | None = None
    tags: dict[str, str] = {}
    description: str | None = None
    owned: bool = True
    created: bool = False
    artifact_uri: str | None = None
    facts: Facts | None = None
    git_diff: bool = False
    job: JobPart | None = None
    console: bool = False

    @property
    def is_new(self) -> bool:
        """Whether the program has just created it in MLflow itself, so that all that it has is known."""
        return self.run_id is not None and self.created and self.artifact_uri is not None


# Records are arrays, so program and agent of two versions know a field by its place: a new one goes to the end of its
# record, with a default. Who does not know it passes over it.
class Start(msgspec.Struct, frozen=True, array_like=True, tag="start"):
    """A run begins, or (`again`) makes itself known once more at its end, for an agent that has lost its spool."""

    spec: RunSpec
    again: bool = False


class Params(msgspec.Struct, frozen=True, array_like=True, tag="params"):
    """Params of a run, flattened, values as strings of any length."""

    run: int
    params: dict[str, str]


class Tags(msgspec.Struct, frozen=True, array_like=True, tag="tags"):
    """Tags of a run; the last value of a key wins."""

    run: int
    tags: dict[str, str]


class ModelSpec(msgspec.Struct, frozen=True, array_like=True):
    """What a staged model is to become in MLflow: a logged model of its run, and perhaps a registered version.

    Attributes:
        token: Stored as the tag `tailrace.model`, so that nothing is created twice.
        name: Of the logged model; its directory, where the store keeps models as artifacts of the run.
        step: Training step.
        tags: Of the logged model, and of the version.
        registered_name: Registered model that gets a new version; None for none.
        aliases: That point to the version.
        stage: Of the version, as `mlflow.registry` maps it to aliases.
        description: Of the version.
        registry_uri: Where the registry is, without a password; None means beside the runs.
    """

    token: str
    name: str
    step: int = 0
    tags: dict[str, str] = {}
    registered_name: str | None = None
    aliases: tuple[str, ...] = ()
    stage: str | None = None
    description: str | None = None
    registry_uri: str | None = None


class ModelOutcome(msgspec.Struct, frozen=True):
    """What became of a model.

    Attributes:
        uri: Where MLflow has it (`models:/m-…`, or `runs:/…` in a store without logged models); None: nowhere.
        version: Of the registered model, if it was to be registered.
        error: Why it was not delivered, or not registered; None when all is well.
    """

    uri: str | None = None
    version: str | None = None
    error: str | None = None


class Artifact(msgspec.Struct, frozen=True, array_like=True, tag="artifact"):
    """A file or directory that was snapshotted into the session's `artifacts/` directory.

    Attributes:
        run: The run.
        staged: Name of a directory in `artifacts/`; its one entry is the file or directory to upload. With
            `contents`, everything in that entry is uploaded, not the entry itself.
        artifact_path: Directory in the run's artifact store, or None for its root.
        contents: True for `log_artifacts`.
        append: True for a part of a table that grows call by call (`log_table`).
        model: The entry is a model in MLflow's format, and this is what it is to become.
        compress: How the agent compresses it before the upload, if at all.
        size: Bytes of all its files, where nobody may change them: after a power cut they may have fewer.
    """

    run: int
    staged: str
    artifact_path: str | None = None
    contents: bool = False
    append: bool = False
    model: ModelSpec | None = None
    compress: Codec | None = None
    size: int | None = None


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """A run is over: `FINISHED`, `FAILED` or `KILLED`, at `time_ms`; or `RUNNING`: it goes on without its program."""

    run: int
    status: str
    time_ms: int
    cost: LogCost = LogCost()


class Flush(msgspec.Struct, frozen=True, array_like=True, tag="flush"):
    """Somebody waits until all before this record is delivered. `token` grows within one ring."""

    run: int
    token: int


class Drop(msgspec.Struct, frozen=True, array_like=True, tag="drop"):
    """`count` entries were accepted and given up by the training process, for `reason`."""

    run: int
    kind: Kind
    reason: str
    count: int
    detail: str = ""


class Monitor(msgspec.Struct, frozen=True, array_like=True, tag="monitor"):
    """A run wants system samples, or (`on=False`) no more of them.

    Attributes:
        run: The run.
        config: A `MonitorConfig` as plain data. Monitors of one run with the same prefix and node are one.
        on: Begin or end.
        board_only: Sample for `latest()` only, and log nothing.
        token: Distinguishes this monitor from the others of its run; its end carries the same.
    """

    run: int
    config: dict[str, Any]
    on: bool = True
    board_only: bool = False
    token: int = 0


class Samples(msgspec.Struct, frozen=True, array_like=True):
    """How far a run's samples have come: how many, and the totals (joules, kilowatt-hours) by full name.

    `names` are those that go to the run, and are not only put up to be read.
    """

    count: int = 0
    totals: dict[str, float] = {}
    names: list[str] = []


class Alert(msgspec.Struct, frozen=True, array_like=True, tag="alert"):
    """Something that a person should know of a run: `info`, `warning` or `error`, at `time_ms`."""

    run: int
    title: str
    text: str
    level: str
    time_ms: int


class Rank(msgspec.Struct, frozen=True, array_like=True, tag="rank"):
    """A process of a job logs to a run from now on (`began`), or has done its part (`done`, `failed`).

    Attributes:
        run: The run.
        rank: Which process of the job.
        pid: Its process id.
        started: When it began, see `runtime.processes`.
        attempt: How often the job was started anew before.
        state: `began`, `done` or `failed`.
        time_ms: When that was.
        detail: What it failed of.
        modes: What becomes of its metrics, by pattern: see the setting `ranks`.
    """

    run: int
    rank: int
    pid: int
    started: int
    attempt: int
    state: str
    time_ms: int
    detail: str = ""
    modes: dict[str, str] = {}


class Goals(msgspec.Struct, frozen=True, array_like=True, tag="goals"):
    """What is better of a run's metrics, by pattern: `min`, `max`, or `last` for neither. The last that fits counts."""

    run: int
    goals: dict[str, str]


Control = Start | Goals | Rank | Params | Tags | Artifact | End | Flush | Drop | Monitor | Alert

_encoder = msgspec.msgpack.Encoder()
_row_decoder = msgpack_decoder(MetricRow)
_control_decoder = msgpack_decoder(Control)

RAW: Final = msgpack_decoder()
"""Decodes anything; for rows that are not what they should be."""


def encode(record: object) -> bytes:
    """The bytes of a record or row, to be put into a frame."""
    return _encoder.encode(record)


def decode_row(body: bytes) -> MetricRow:
    """A metrics row from its bytes.

    Raises:
        msgspec.ValidationError: It is a control record, or a row with values that are no numbers.
        msgspec.DecodeError: It is no MessagePack.
    """
    row: MetricRow = _row_decoder.decode(body)
    return row


def decode_control(body: bytes) -> Control:
    """A control record from its bytes.

    Raises:
        msgspec.ValidationError: It is something else.
    """
    control: Control = _control_decoder.decode(body)
    return control


def run_hex(run: int) -> str:
    """tailrace's id of a run as people see it (16 hexadecimal digits), and as the tag `tailrace.run` holds it."""
    return f"{run:016x}"
