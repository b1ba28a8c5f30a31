"""The calls that a tracker passes on to the active run, in MLflow's names and with MLflow's argument names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tailrace._api.tracker_part import TrackerPart
from tailrace._runs.core import core_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from tailrace._api.model_handle import ModelHandle
    from tailrace._api.system_monitor import SystemMonitor
    from tailrace_agent.ipc.records import Codec

__all__ = ["ActiveCalls"]


class ActiveCalls(TrackerPart):
    """`log_metric` and its kin, for the active run or one that is named. A base of `Tracker`."""

    def log_metric(
        self,
        key: str,
        value: Any,
        step: int | None = None,
        synchronous: bool | None = None,
        timestamp: int | None = None,
        run_id: str | None = None,
        model_id: str | None = None,
        dataset: Any = None,
    ) -> None:
        """Logs one metric of the active run, as MLflow's function does: step 0 when none is given.

        `log` is the quicker way for several metrics of one step.

        Args:
            key: Name: letters, digits, `_`, `-`, `.`, `:`, `/` and spaces.
            value: A number of any kind: float, int, bool, a NumPy scalar, a tensor with one element, also on a GPU.
            step: Training step; 0 when None.
            synchronous: True waits for the delivery, `end_timeout` seconds at most.
            timestamp: Milliseconds since the epoch; now by default.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.
            model_id: Not supported: a warning once, and the metric goes to the run only.
            dataset: Not supported, as `model_id`.

        Raises:
            CallError: Under `strict=True`: the value is no number, or the step no integer.

        Thread safety: any thread.

        Example:
            >>> tailrace.log_metric("loss", 0.25, step=7)
        """
        self._unsupported(model_id=model_id, dataset=dataset)
        self._to(run_id).log_metric(key, value, step, timestamp)
        self._wait_if(synchronous, run_id)

    def log_metrics(
        self,
        metrics: Mapping[str, Any],
        step: int | None = None,
        synchronous: bool | None = None,
        run_id: str | None = None,
        timestamp: int | None = None,
        model_id: str | None = None,
        dataset: Any = None,
    ) -> None:
        """Logs several metrics at one step of the active run, as MLflow's function does: step 0 when none is given.

        Args:
            metrics: Numbers by name, each as in `log_metric`.
            step: Training step; 0 when None.
            synchronous: True waits for the delivery, `end_timeout` seconds at most.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.
            timestamp: Milliseconds since the epoch; now by default.
            model_id: Not supported: a warning once, and the metrics go to the run only.
            dataset: Not supported, as `model_id`.

        Raises:
            CallError: Under `strict=True`: a value is no number, or the step no integer.

        Thread safety: any thread.

        Example:
            >>> tailrace.log_metrics({"train/loss": 0.25, "train/accuracy": 0.9}, step=7)
        """
        self._unsupported(model_id=model_id, dataset=dataset)
        self._to(run_id).log_metrics(metrics, step, timestamp)
        self._wait_if(synchronous, run_id)

    def log_param(self, key: str, value: Any, synchronous: bool | None = None) -> Any:
        """Logs one param of the active run; returns its value, as MLflow's function does.

        Args:
            key: Name.
            value: Anything; what has named parts becomes several params, as in `log_params`.
            synchronous: True waits for the delivery, `end_timeout` seconds at most.

        Returns:
            `value`, as it was passed.

        Raises:
            CallError: Under `strict=True`: it could not be read.

        Thread safety: any thread.

        Example:
            >>> tailrace.log_param("lr", 3e-4)
            0.0003
        """
        self._to(None).log_param(key, value)
        self._wait_if(synchronous, None)
        return value

    def log_params(self, params: Any, synchronous: bool | None = None, run_id: str | None = None) -> None:
        """Logs params of the active run, of any number and nesting (`a.b.c`).

        A value too long for MLflow is kept whole in an artifact. A param that has another value already stays as it is:
        MLflow's params never change. The new value becomes a dead letter, with a warning.

        What cannot be read (`???` of OmegaConf, a property that raises) is left out, named in a warning and counted as
        dropped; the rest is logged.

        Args:
            params: Params by name: a mapping, a dataclass, an attrs, pydantic or msgspec model, a named tuple, an
                `argparse.Namespace`, a `SimpleNamespace`, a config of OmegaConf, Hydra or `ml_collections`; nested in
                one another in any way. A list stays one param, with what its items hold.
            synchronous: True waits for the delivery, `end_timeout` seconds at most.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Raises:
            CallError: Under `strict=True`: it is nothing that has names, a name came up twice, or something could not
                be read.

        Thread safety: any thread; leave the params alone during the call.

        Example:
            >>> tailrace.log_params({"model": {"layers": 12}, "lr": 3e-4})
        """
        self._to(run_id).log_params(params)
        self._wait_if(synchronous, run_id)

    def set_tag(self, key: str, value: Any, synchronous: bool | None = None) -> None:
        """Sets one tag of the active run; its last value wins.

        Args:
            key: Name.
            value: Anything; stored as its `str()`.
            synchronous: True waits for the delivery, `end_timeout` seconds at most.

        Raises:
            CallError: Under `strict=True`: its `str()` raises.

        Thread safety: any thread.

        Example:
            >>> tailrace.set_tag("team", "vision")
        """
        self.set_tags({key: value}, synchronous)

    def set_tags(self, tags: Mapping[str, Any], synchronous: bool | None = None) -> None:
        """Sets tags of the active run; the last value of a key wins.

        Args:
            tags: Values by name; stored as their `str()`.
            synchronous: True waits for the delivery, `end_timeout` seconds at most.

        Raises:
            CallError: Under `strict=True`: it is no mapping, or a `str()` raises.

        Thread safety: any thread.

        Example:
            >>> tailrace.set_tags({"team": "vision", "phase": 2})
        """
        self._to(None).set_tags(tags)
        self._wait_if(synchronous, None)

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
    ) -> None:
        """Logs an image of the active run: as a file, or as the image `key` of a step.

        Args:
            image: A NumPy array of height x width, or height x width x 1, 3 or 4 channels (bool, integers of 0 to 255,
                floats of 0 to 1), a `PIL.Image.Image` or an `mlflow.Image`.
            artifact_file: Where to, for a plain file (`dogs/first.png`); then nothing of `key`, `step` and `timestamp`.
            key: Name, for an image that MLflow's UI shows step by step: letters, digits, `_`, `-`, `.`, `/` and spaces.
            step: Training step, with `key`; 0 when None.
            timestamp: Milliseconds since the epoch, with `key`; now by default.
            synchronous: True waits for the delivery, `end_timeout` seconds at most.

        Raises:
            CallError: Under `strict=True`: both or neither of `artifact_file` and `key`; a type or shape that is no
                image.

        Thread safety: any thread; the image is copied at the call, so leave it alone during that.

        Example:
            >>> tailrace.log_image(batch[0], key="samples", step=3)
            >>> tailrace.log_image(array, "samples/first.png")
        """
        self._to(None).log_image(image, artifact_file, key, step, timestamp)
        self._wait_if(synchronous, None)

    def log_table(self, data: Any, artifact_file: str, run_id: str | None = None) -> None:
        """Logs a table that MLflow's UI shows; later calls with the same name append rows.

        Args:
            data: A dictionary of columns (of scalars: one row) or a pandas DataFrame; columns may hold images.
            artifact_file: Where in the run's artifacts; must end in `.json`.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Raises:
            CallError: Under `strict=True`: it is no table, or the name does not end in `.json`.

        Thread safety: any thread; leave the data alone during the call.

        Example:
            >>> tailrace.log_table({"prompt": ["a", "b"], "score": [0.1, 0.9]}, "eval.json")
        """
        self._to(run_id).log_table(data, artifact_file)

    def alert(self, title: str, text: str = "", level: Literal["info", "warning", "error"] = "warning") -> None:
        """Notifies people about the active run: a tag on it, a line here and in the agent's log, the webhook.

        The same title and text are printed here once; with tracking off, that is all. A run keeps its first 100 alerts,
        as `tailrace.alert.001` and so on.

        Args:
            title: What happened, in a few words: 200 characters at most.
            text: More on it: 4,000 characters at most.
            level: How bad it is: `info`, `warning` or `error`.

        Raises:
            CallError: Under `strict=True`: an unknown level.

        Thread safety: any thread.

        Example:
            >>> tailrace.alert("loss diverges", f"{loss:.1f} at step {step}", level="error")
        """
        self._to(None).alert(title, text, level)

    def log_model(  # noqa: PLR0913 - as of `Run.log_model`
        self,
        model: Any,
        name: str = "model",
        *,
        input_example: Any = None,
        signature: Any = "infer",
        metadata: Mapping[str, Any] | None = None,
        registered_model_name: str | None = None,
        alias: str | Sequence[str] | None = None,
        stage: str | None = None,
        tags: Mapping[str, Any] | None = None,
        description: str | None = None,
        step: int | None = None,
        flavor: str | None = None,
        save_options: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> ModelHandle:
        """Logs a model as it is now. Returns when a copy of it is made; saving and uploading go on in the background.

        Args:
            model: A PyTorch module, a scikit-learn or XGBoost model, an `mlflow.pyfunc.PythonModel`, a function, or the
                path of a model that MLflow has saved.
            name: Of the model in the run; without any of `/ : . % " '`.
            input_example: A small input (a few rows); copied, kept with the model, and the source of its signature.
            signature: `infer` (from the example), None, or an MLflow `ModelSignature`.
            metadata: Kept with the model; what YAML does not know becomes a plain value or a string.
            registered_model_name: Registers it as a new version of this model, as soon as all its files are stored.
            alias: One or several aliases that then point to this version.
            stage: `production`, `staging`, or any other word, which is then an alias; see docs/models.md.
            tags: Of the logged model and of the version.
            description: Of the version.
            step: Training step; 0 by default.
            flavor: One of MLflow's flavours, for models of other kinds: `lightgbm`, `spacy`, …
            save_options: Passed to the flavour's `save_model`: `code_paths`, `pip_requirements`, …
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Returns:
            A handle to wait on. `end_run` waits for it, too.

        Raises:
            CallError: Under `strict=True`: it is no model, cannot be copied, or a name is not allowed.

        Thread safety: any thread; leave the model alone during the call.

        Example:
            >>> handle = tailrace.log_model(model, "net", input_example=batch[:1], registered_model_name="digits")
            >>> handle.wait()
            True
        """
        return self._to(run_id).log_model(
            model,
            name,
            input_example=input_example,
            signature=signature,
            metadata=metadata,
            registered_model_name=registered_model_name,
            alias=alias,
            stage=stage,
            tags=tags,
            description=description,
            step=step,
            flavor=flavor,
            save_options=save_options,
        )

    def system_monitor(  # noqa: PLR0913 - a switch for each thing that is measured
        self,
        interval: float | None = None,
        *,
        cpu: bool = True,
        memory: bool = True,
        disk: bool = True,
        network: bool = True,
        gpu: bool = True,
        process: bool = True,
        cores: bool = False,
        prefix: str = "system",
        node: str | None = None,
    ) -> SystemMonitor:
        """Samples the machine in the background while its `with` block, or from `start()` to `stop()`.

        The samples go to the active run (without one, one is started), under MLflow's names, so that its UI's
        "System metrics" tab shows them. In process mode the agent samples: no thread and no time of this process.
        A further monitor of the same run, prefix and node joins the one that runs, with that one's settings.

        Args:
            interval: Seconds between two samples; the setting `system_metrics_interval` (1) by default.
            cpu: Utilisation, load, context switches, package energy.
            memory: Memory and swap.
            disk: The file system of the working directory, and the disks' throughput.
            network: Totals and throughput.
            gpu: The GPUs that this process may see.
            process: This process and its children.
            cores: Each core's utilisation, too.
            prefix: First part of every name.
            node: Name of this machine among several: `system/<node>/…`.

        Returns:
            The monitor; `latest()` gives the last sample from memory.

        Raises:
            CallError: A value can never work.

        Example:
            >>> with tailrace.system_monitor(interval=0.5) as monitor:
            ...     train()
        """
        run = self._to(None)
        config = core_of(run).settings
        return run.system_monitor(
            config.system_metrics_interval if interval is None else interval,
            cpu=cpu,
            memory=memory,
            disk=disk,
            network=network,
            gpu=gpu,
            process=process,
            cores=cores,
            prefix=prefix,
            node=config.system_metrics_node if node is None else node,
        )

    def _unsupported(self, **arguments: Any) -> None:
        """MLflow's arguments that lead nowhere here; warned of once, so that a carried-over script goes on."""
        for name, value in arguments.items():
            if value is not None:
                text = f"{name} is not supported by this version of tailrace; metrics go to the run only"
                self._core.voice.warn(text)

    def _wait_if(self, synchronous: bool | None, run_id: str | None) -> None:
        if synchronous:
            self._to(run_id).flush()
