"""The artifact calls of a run: what is passed is taken as it is at the call, and travels in the background."""

from __future__ import annotations

import os
import posixpath
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from tailrace._artifacts.captured import BadArtifact
from tailrace._background.lane import LANE
from tailrace._runs.run_part import RunPart
from tailrace_agent.errors import CallError
from tailrace_agent.ipc.records import Artifact, Codec, Tags

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace._artifacts.captured import Frozen, Part
    from tailrace._runs.core import RunCore

__all__ = ["ArtifactCalls"]


class ArtifactCalls(RunPart):
    """`log_artifact` and its kin, in MLflow's names and argument names. A base of `Run`."""

    def __init__(self, core: RunCore) -> None:
        super().__init__(core)
        # All tables of this run so far, as the tag names them.
        self._tables: str | None = None

    def log_artifact(
        self, local_path: str | os.PathLike[str], artifact_path: str | None = None, *, compress: Codec | None = None
    ) -> None:
        """Logs a file or directory as it is now; a checkpoint that is overwritten a moment later is uploaded as it was.

        Returns when the snapshot is taken: at once by reflink (XFS, Btrfs) or hard link (`artifact_snapshot="link"`,
        for files that are replaced by rename), else after a copy in the kernel.

        Args:
            local_path: File or directory.
            artifact_path: Directory in the run's artifacts.
            compress: `gzip` or `zstd`: the agent compresses it before the upload, `model.bin` to `model.bin.gz` or
                `model.bin.zst`, and a directory file by file.

        Raises:
            CallError: Under `strict=True`: the file cannot be read, or `compress` is none of the two.

        Example:
            >>> run.log_artifact("weights.bin", "models", compress="zstd")
        """
        self._take(local_path, artifact_path, compress, contents=False)

    def log_artifacts(
        self, local_dir: str | os.PathLike[str], artifact_path: str | None = None, *, compress: Codec | None = None
    ) -> None:
        """Logs everything in a directory as it is now, with its subdirectories.

        Args:
            local_dir: The directory; its own name is no part of the artifacts' paths.
            artifact_path: Directory in the run's artifacts; their root when None.
            compress: `gzip` or `zstd`: the agent compresses it before the upload, `model.bin` to `model.bin.gz` or
                `model.bin.zst`, and a directory file by file.

        Raises:
            CallError: Under `strict=True`: it cannot be read, or `compress` is none of the two.

        Thread safety: any thread; leave the files alone during the call.

        Example:
            >>> run.log_artifacts("plots", "figures")
        """
        self._take(local_dir, artifact_path, compress, contents=True)

    def log_text(self, text: str, artifact_file: str) -> None:
        """Logs a text as a file of the run, in UTF-8.

        Args:
            text: The text.
            artifact_file: Where in the run's artifacts (`notes/first.txt`).

        Raises:
            CallError: Under `strict=True`: it is no text, or the name no path in the run.

        Example:
            >>> run.log_text("no augmentation", "notes.txt")
        """
        from tailrace._artifacts.documents import freeze_text

        self._capture("log_text", freeze_text, text, artifact_file)

    def log_dict(self, dictionary: Any, artifact_file: str) -> None:
        """Logs a dictionary as JSON, or as YAML when the name ends in `.yaml` or `.yml`.

        Args:
            dictionary: A dictionary or list, taken as it is at the call; what JSON does not know becomes a string.
            artifact_file: Where in the run's artifacts (`eval/labels.json`).

        Raises:
            CallError: Under `strict=True`: it contains itself or cannot be copied, or the name is no path in the run.

        Thread safety: any thread; leave the dictionary alone during the call.

        Example:
            >>> run.log_dict({"classes": ["cat", "dog"]}, "labels.json")
        """
        from tailrace._artifacts.documents import freeze_dict

        self._capture("log_dict", freeze_dict, dictionary, artifact_file)

    def log_stream(self, stream: Any, artifact_file: str) -> None:
        """Logs what a binary stream holds, from where it stands to its end, as a file of the run.

        Args:
            stream: Anything whose `read()` gives bytes. It is read at the call, into memory.
            artifact_file: Where in the run's artifacts (`samples/first.wav`).

        Raises:
            CallError: Under `strict=True`: it cannot be read, gives no bytes, or the name is no path in the run.

        Example:
            >>> run.log_stream(io.BytesIO(wav), "samples/first.wav")
        """
        from tailrace._artifacts.documents import freeze_stream

        self._capture("log_stream", freeze_stream, stream, artifact_file)

    def log_figure(self, figure: Any, artifact_file: str, *, save_kwargs: dict[str, Any] | None = None) -> None:
        """Logs a matplotlib or plotly figure as it looks now; it is drawn in the background.

        Args:
            figure: A `matplotlib.figure.Figure` or `plotly.graph_objects.Figure`.
            artifact_file: Name with an extension that selects the format (`plots/loss.png`).
            save_kwargs: Passed to the figure's own saving: `{"dpi": 200}`.

        Raises:
            CallError: Under `strict=True`: it is no figure, or cannot be saved in this format.

        Thread safety: any thread; leave the figure alone during the call.

        Example:
            >>> run.log_figure(fig, "plots/loss.png", save_kwargs={"dpi": 200})
        """
        from tailrace._artifacts.figures import freeze_figure

        self._capture("log_figure", freeze_figure, figure, artifact_file, save_kwargs=save_kwargs, picture=True)

    def log_image(
        self,
        image: Any,
        artifact_file: str | None = None,
        key: str | None = None,
        step: int | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Logs an image: as a file, or as the image `key` of a step.

        Args:
            image: A NumPy array of height x width, or height x width x 1, 3 or 4 channels (bool, integers of 0 to 255,
                floats of 0 to 1), a `PIL.Image.Image` or an `mlflow.Image`.
            artifact_file: Where to, for a plain file (`dogs/first.png`); then nothing of `key`, `step` and `timestamp`.
            key: Name, for an image that MLflow's UI shows step by step: letters, digits, `_`, `-`, `.`, `/` and spaces.
            step: Training step, with `key`; 0 when None.
            timestamp: Milliseconds since the epoch, with `key`; now by default.

        Raises:
            CallError: Under `strict=True`: both or neither of `artifact_file` and `key`; a type or shape that is no
                image.

        Thread safety: any thread; the image is copied at the call, so leave it alone during that.

        Example:
            >>> run.log_image(batch[0], key="samples", step=3)
            >>> run.log_image(array, "samples/first.png")
        """
        from tailrace._artifacts.images import freeze_image

        freeze = partial(freeze_image, key=key, step=step, timestamp=timestamp)
        self._capture("log_image", freeze, image, artifact_file, picture=key is None)

    def log_table(self, data: Any, artifact_file: str) -> None:
        """Logs a table that MLflow's UI shows; later calls with the same name append rows.

        Args:
            data: A dictionary of columns (of scalars: one row) or a pandas DataFrame; columns may hold images.
            artifact_file: Where in the run's artifacts; must end in `.json` or `.parquet`.

        Raises:
            CallError: Under `strict=True`: it is no table, its cells cannot be JSON, or the name does not end
                in `.json` or `.parquet`.

        Thread safety: any thread; leave the data alone during the call.

        Example:
            >>> run.log_table({"prompt": ["a", "b"], "score": [0.1, 0.9]}, "eval.json")
        """
        from tailrace._artifacts.tables import freeze_table

        self._capture("log_table", freeze_table, data, artifact_file)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _take(
        self,
        local_path: str | os.PathLike[str],
        artifact_path: str | None,
        compress: Codec | None,
        *,
        contents: bool,
    ) -> None:
        connection = self._core.connection
        # A file that lies on this machine is not copied into the local reports: it is there.
        if connection is None or not self._core.settings.log_artifacts:
            return
        if compress is not None and compress not in get_args(Codec):
            self._core.fault(
                f"compress={compress!r} is none of {get_args(Codec)}: not compressed", once=("codec", repr(compress))
            )
            compress = None
        from tailrace._artifacts.snapshot import snapshot

        try:
            # Before the copy: a wrong name is to cost no gigabytes.
            folder = _folder(artifact_path)
            if not os.fspath(local_path):  # which would be the working directory
                raise BadArtifact("log_artifact: the path is empty")
            taken = snapshot(
                Path(local_path),
                connection.session.artifacts,
                mode=self._core.settings.artifact_snapshot,
                contents=contents,
            )
        # TypeError: what was passed is no path (`os.fspath`).
        except (OSError, TypeError, BadArtifact) as error:
            self._core.lose(_reason(error), _kind(error))
            return
        for skipped in taken.skipped:
            self._core.voice.warn(f"not part of the artifact {os.fspath(local_path)}: {skipped}")
        connection.put(
            Artifact(
                run=self._core.spec.run,
                staged=taken.name,
                artifact_path=folder,
                contents=contents,
                compress=compress,
                # After a power cut a copy may have fewer bytes than were taken.
                size=taken.size,
            )
        )

    def _capture(self, call: str, freeze: Callable[..., Frozen], *args: Any, picture: bool = False, **kw: Any) -> None:
        """Takes what was passed as it is now, and has it written in the background.

        `call` is the user's, for messages about it; a `picture` belongs into the local reports of a run that is not
        delivered, too.
        """
        core = self._core
        if not core.settings.log_artifacts or (core.connection is None and (core.local is None or not picture)):
            return
        try:
            frozen = freeze(*args, **kw)
        except Exception as error:  # noqa: BLE001 - foreign objects may raise anything; it must not reach training
            text = str(error)
            core.lose(text if text.startswith(call) else f"{call}: {text}", _kind(error))
            return
        if frozen.remark is not None:
            core.voice.warn(f"{call}: {frozen.remark}", once=(core.spec.run, call, frozen.remark))
        if frozen.tags:
            # `parts[-1]`: a table itself comes behind the images in it.
            core.put(Tags(core.spec.run, self._with_earlier_tables(frozen.tags, frozen.parts[-1].artifact_file)))
        # One job for each file: where one cannot be written, the others are.
        for part in frozen.parts:
            LANE.submit(partial(self._stage, part), on_error=partial(self._stage_failed, part.artifact_file))

    def _stage(self, part: Part) -> None:
        """Writes one file and hands it over. In the lane's thread."""
        from tailrace._artifacts.snapshot import stage

        core = self._core
        if core.connection is None:
            assert core.local is not None
            core.local.draw(part)
            return
        staged = stage(core.connection.session.artifacts, part.name, part.write)
        core.put(
            Artifact(
                run=core.spec.run,
                staged=staged.name,
                artifact_path=part.artifact_path,
                append=part.append,
                size=staged.size,
            )
        )

    def _stage_failed(self, artifact_file: str, error: BaseException) -> None:
        """In the lane's thread, where nobody would hear an exception."""
        # Not `lose`, which would raise under `strict`.
        self._core.count_lost()
        text = f"artifact {artifact_file!r} could not be written: {error}"
        self._core.voice.warn(text, once=text)

    def _with_earlier_tables(self, tags: dict[str, str], artifact_file: str) -> dict[str, str]:
        """MLflow's UI finds tables by one tag that names all of them."""
        from tailrace_agent.mlflow.logged_tables import LOGGED_ARTIFACTS, logged_artifacts

        if LOGGED_ARTIFACTS not in tags:
            return tags
        # A tag has one value: with this call's table alone the UI would forget the ones before.
        self._tables = logged_artifacts(self._tables, artifact_file)
        return {**tags, LOGGED_ARTIFACTS: self._tables}


def _reason(error: Exception) -> str:
    """An error for a person: without Python's `[Errno 2]`."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    return str(error)


def _kind(error: Exception) -> type[CallError]:
    """As what it is raised under `strict`."""
    return type(error) if isinstance(error, CallError) else CallError


def _folder(artifact_path: str | os.PathLike[str] | None) -> str | None:
    """A directory in the run, as MLflow takes it; None for its root."""
    if artifact_path is None:
        return None
    path = posixpath.normpath(str(os.fspath(artifact_path)) or ".")
    if path == ".." or path.startswith(("/", "../")):
        raise BadArtifact(f"artifact_path must be a relative path to a directory in the run, not {artifact_path!r}")
    return None if path == "." else path
