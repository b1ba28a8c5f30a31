"""The calls for artifacts that a tracker passes on to the active run, in MLflow's names and argument names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace._api.tracker_part import TrackerPart

if TYPE_CHECKING:
    import os

    from tailrace._api.operations import RunOperations
    from tailrace_agent.ipc.records import Codec

__all__ = ["ActiveArtifactCalls"]


class ActiveArtifactCalls(TrackerPart):
    """`log_artifact` and its kin, for the active run or one that is named. A base of `Tracker`."""

    def log_artifact(
        self,
        local_path: str | os.PathLike[str],
        artifact_path: str | None = None,
        run_id: str | None = None,
        *,
        compress: Codec | None = None,
    ) -> None:
        """Logs a file or directory as it is now; one that is overwritten a moment later is uploaded as it was.

        Returns when the snapshot is taken: at once by reflink (XFS, Btrfs) or hard link (`artifact_snapshot="link"`),
        else after a copy in the kernel. The upload goes on in the agent.

        Args:
            local_path: File or directory.
            artifact_path: Directory in the run's artifacts; their root when None.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.
            compress: `gzip` or `zstd`: the agent compresses it before the upload, `model.bin` to `model.bin.gz` or
                `model.bin.zst`, and a directory file by file.

        Raises:
            CallError: Under `strict=True`: the file cannot be read, or `compress` is none of the two.

        Thread safety: any thread; leave the file alone during the call.

        Example:
            >>> tailrace.log_artifact("weights.bin", "models", compress="zstd")
        """
        self._to(run_id).log_artifact(local_path, artifact_path, compress=compress)

    def log_artifacts(
        self,
        local_dir: str | os.PathLike[str],
        artifact_path: str | None = None,
        run_id: str | None = None,
        *,
        compress: Codec | None = None,
    ) -> None:
        """Logs everything in a directory as it is now, with its subdirectories.

        Args:
            local_dir: The directory; its own name is no part of the artifacts' paths.
            artifact_path: Directory in the run's artifacts; their root when None.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.
            compress: `gzip` or `zstd`: the agent compresses it before the upload, `model.bin` to `model.bin.gz` or
                `model.bin.zst`, and a directory file by file.

        Raises:
            CallError: Under `strict=True`: it cannot be read, or `compress` is none of the two.

        Thread safety: any thread; leave the files alone during the call.

        Example:
            >>> tailrace.log_artifacts("plots", "figures")
        """
        self._to(run_id).log_artifacts(local_dir, artifact_path, compress=compress)

    def log_text(self, text: str, artifact_file: str, run_id: str | None = None) -> None:
        """Logs a text as a file of the active run, in UTF-8.

        Args:
            text: The text.
            artifact_file: Where in the run's artifacts (`notes/first.txt`).
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Raises:
            CallError: Under `strict=True`: it is no text, or the name no path in the run.

        Thread safety: any thread.

        Example:
            >>> tailrace.log_text("no augmentation", "notes.txt")
        """
        self._to(run_id).log_text(text, artifact_file)

    def log_dict(self, dictionary: Any, artifact_file: str, run_id: str | None = None) -> None:
        """Logs a dictionary as JSON, or as YAML when the name ends in `.yaml` or `.yml`.

        Args:
            dictionary: A dictionary or list, taken as it is at the call; what JSON does not know becomes a string.
            artifact_file: Where in the run's artifacts (`eval/labels.json`).
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Raises:
            CallError: Under `strict=True`: it contains itself or cannot be copied, or the name is no path in the run.

        Thread safety: any thread; leave the dictionary alone during the call.

        Example:
            >>> tailrace.log_dict({"classes": ["cat", "dog"]}, "labels.json")
        """
        self._to(run_id).log_dict(dictionary, artifact_file)

    def log_stream(self, stream: Any, artifact_file: str, run_id: str | None = None) -> None:
        """Logs what a binary stream holds, from where it stands to its end, as a file of the active run.

        Args:
            stream: Anything whose `read()` gives bytes. It is read at the call, into memory.
            artifact_file: Where in the run's artifacts (`samples/first.wav`).
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Raises:
            CallError: Under `strict=True`: it cannot be read, gives no bytes, or the name is no path in the run.

        Thread safety: any thread, as far as the stream allows it.

        Example:
            >>> tailrace.log_stream(io.BytesIO(wav), "samples/first.wav")
        """
        self._to(run_id).log_stream(stream, artifact_file)

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
            >>> tailrace.log_figure(fig, "plots/loss.png", save_kwargs={"dpi": 200})
        """
        self._to(None).log_figure(figure, artifact_file, save_kwargs=save_kwargs)

    def log_image(
        self,
        image: Any,
        artifact_file: str | None = None,
        key: str | None = None,
        step: int | None = None,
        timestamp: int | None = None,
        synchronous: bool | None = None,
    ) -> RunOperations | None:
        """Logs an image of the active run: as a file, or as the image `key` of a step.

        Args:
            image: A NumPy array of height x width, or height x width x 1, 3 or 4 channels (bool, integers of 0 to 255,
                floats of 0 to 1), a `PIL.Image.Image` or an `mlflow.Image`.
            artifact_file: Where to, for a plain file (`dogs/first.png`); then nothing of `key`, `step` and `timestamp`.
            key: Name, for an image that MLflow's UI shows step by step: letters, digits, `_`, `-`, `.`, `/` and spaces.
            step: Training step, with `key`; 0 when None.
            timestamp: Milliseconds since the epoch, with `key`; now by default.
            synchronous: True waits for the delivery, `end_timeout` seconds at most; False returns something to wait on.

        Returns:
            With `synchronous=False` something to wait on, else None.

        Raises:
            CallError: Under `strict=True`: both or neither of `artifact_file` and `key`; a type or shape that is no
                image.

        Thread safety: any thread; the image is copied at the call, so leave it alone during that.

        Example:
            >>> tailrace.log_image(batch[0], key="samples", step=3)
            >>> tailrace.log_image(array, "samples/first.png")
        """
        run = self._to(None)
        run.log_image(image, artifact_file, key, step, timestamp)
        return self._handed_in(run, synchronous)

    def log_table(self, data: Any, artifact_file: str, run_id: str | None = None) -> None:
        """Logs a table that MLflow's UI shows; later calls with the same name append rows.

        Args:
            data: A dictionary of columns (of scalars: one row) or a pandas DataFrame; columns may hold images.
            artifact_file: Where in the run's artifacts; must end in `.json` or `.parquet`.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Raises:
            CallError: Under `strict=True`: it is no table, or the name ends in neither of the two.

        Thread safety: any thread; leave the data alone during the call.

        Example:
            >>> tailrace.log_table({"prompt": ["a", "b"], "score": [0.1, 0.9]}, "eval.json")
        """
        self._to(run_id).log_table(data, artifact_file)
