"""What `log_text`, `log_dict` and their kin need, in two halves, as the modules beside it have for all else.

`freeze_…` runs on the caller: it checks the arguments, captures the state as it is now and returns a `Frozen`. The
files are written later, by `Part.write`, in a background thread. Names, formats and tags are MLflow's, so that its
UI shows them and `mlflow.artifacts.load_text`, `load_dict`, `load_image` and `mlflow.load_table` read them.

Everything raises `BadArtifact`, a `ValueError`, for what can never work. Nothing here imports MLflow, and NumPy,
pandas, Pillow, matplotlib or plotly only where the value is one of theirs.

Thread safety: all functions may be called from any thread; the caller must not change the value during the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace._artifacts.captured import BadArtifact, Frozen, Part, extension_of, named

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["freeze_config", "freeze_dict", "freeze_stream", "freeze_text"]


def freeze_text(text: str, artifact_file: str) -> Frozen:
    """A text, to be written as UTF-8.

    Args:
        text: The text.
        artifact_file: Where in the run's artifacts (`"dir/notes.txt"`).

    Raises:
        BadArtifact: `text` is no string, or `artifact_file` no path in the run.

    Example:
        >>> freeze_text("hello", "notes.txt").parts[0].write(Path("/tmp/notes.txt"))
    """
    name = named(artifact_file)
    if not isinstance(text, str):
        raise BadArtifact(f"log_text takes a str, not {type(text).__name__}")

    def write(path: Path) -> None:
        path.write_bytes(text.encode())

    return Frozen((Part(name, write),), {})


def freeze_stream(stream: Any, artifact_file: str) -> Frozen:
    """What a binary stream holds, to be written as it is.

    Args:
        stream: Anything whose `read()` gives bytes.
        artifact_file: Where in the run's artifacts (`"dir/first.wav"`).

    Raises:
        BadArtifact: It gives no bytes, or `artifact_file` is no path in the run.
        Exception: Whatever its `read()` raises.

    Example:
        >>> freeze_stream(io.BytesIO(b"RIFF"), "first.wav").parts[0].write(Path("/tmp/first.wav"))
    """
    name = named(artifact_file)
    if not hasattr(stream, "read"):
        raise BadArtifact(f"log_stream takes a binary stream, not {type(stream).__name__}")
    content = stream.read()
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise BadArtifact(f"log_stream takes a binary stream; the read() of this one gives {type(content).__name__}")
    body = bytes(content)

    def write(path: Path) -> None:
        path.write_bytes(body)

    return Frozen((Part(name, write),), {})


def freeze_dict(dictionary: Any, artifact_file: str) -> Frozen:
    """A dictionary (or a list), as YAML when the file ends in `.yml` or `.yaml`, else as JSON.

    What JSON does not know becomes a string, as in MLflow.

    Args:
        dictionary: What to write. Captured whole: as compact JSON, or by a deep copy for YAML.
        artifact_file: Where in the run's artifacts (`"config.yaml"`).

    Raises:
        BadArtifact: It contains itself, or has keys that JSON cannot have, or cannot be copied.

    Example:
        >>> freeze_dict({"lr": 0.1}, "config.json").parts[0].write(Path("/tmp/config.json"))
    """
    name = named(artifact_file)
    if extension_of(name) in (".yml", ".yaml"):
        return Frozen((Part(name, _yaml_writer(dictionary)),), {})
    import json

    try:
        # The C encoder knows no indentation: it captures here, and the slow one writes later.
        compact = json.dumps(dictionary, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArtifact(f"log_dict cannot write this as JSON: {error}") from error

    def write(path: Path) -> None:
        path.write_text(json.dumps(json.loads(compact), indent=2), encoding="utf-8")

    return Frozen((Part(name, write),), {})


def freeze_config(whole: dict[str, Any], artifact_file: str) -> Frozen:
    """A configuration as YAML, in its own order.

    Args:
        whole: What `plain_config` gave; nobody changes it any more.
        artifact_file: Where in the run's artifacts.

    Raises:
        BadArtifact: `artifact_file` is no path in the run.
    """

    def write(path: Path) -> None:

        import yaml

        with path.open("w", encoding="utf-8") as file:
            # In the file's own order, and with umlauts as they are: people compare it with what they wrote.
            yaml.safe_dump(whole, file, indent=2, default_flow_style=False, sort_keys=False, allow_unicode=True)

    return Frozen((Part(named(artifact_file), write),), {})


def _yaml_writer(dictionary: Any) -> Any:
    import copy

    try:
        # Not as JSON: YAML keeps tuples, dates and keys that are no strings.
        state = copy.deepcopy(dictionary)
    except Exception as error:
        raise BadArtifact(f"log_dict cannot copy this: {type(error).__name__}: {error}") from error

    def write(path: Path) -> None:

        import yaml

        with path.open("w", encoding="utf-8") as file:
            # With its keys sorted, as MLflow's `log_dict` writes them.
            yaml.dump(state, file, indent=2, default_flow_style=False)

    return write
