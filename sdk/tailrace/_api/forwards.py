"""The calls that a tracker passes on to the active run, in MLflow's names and with MLflow's argument names."""

from __future__ import annotations

import importlib
import sys
import time
from typing import TYPE_CHECKING, Any, Literal

from tailrace._api.tracker_part import TrackerPart
from tailrace._runs.run_part import core_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tailrace._api.model_handle import ModelHandle
    from tailrace._api.operations import RunOperations
    from tailrace._api.run import Run
    from tailrace._api.system_monitor import SystemMonitor

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
    ) -> RunOperations | None:
        """Logs one metric of the active run, as MLflow's function does: step 0 when none is given.

        `log` is the quicker way for several metrics of one step.

        Args:
            key: Name: letters, digits, `_`, `-`, `.`, `:`, `/` and spaces.
            value: A number of any kind: float, int, bool, a NumPy scalar, a tensor with one element, also on a GPU.
            step: Training step; 0 when None.
            synchronous: True waits for the delivery, `end_timeout` seconds at most; False returns something to wait on.
            timestamp: Milliseconds since the epoch; now by default.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.
            model_id: MLflow's id of the logged model that it is of, too; the one that `set_active_model` has set by
                default. Such a metric goes to MLflow within the call, by MLflow's own function; where that fails, to
                the run only, with a warning.
            dataset: What it was measured on: one of MLflow's data sets. It goes the same way.

        Returns:
            With `synchronous=False` something to wait on, else None.

        Raises:
            CallError: Under `strict=True`: the value is no number, or the step no integer.

        Thread safety: any thread.

        Example:
            >>> tailrace.log_metric("loss", 0.25, step=7)
        """
        run = self._to(run_id)
        if _concerns_a_model(run, model_id, dataset):
            of = {"run_id": run_id, "model_id": model_id, "dataset": dataset}
            self._linked(run, {key: value}, step, timestamp, of)
        else:
            run.log_metric(key, value, step, timestamp)
        return self._handed_in(run, synchronous)

    def log_metrics(
        self,
        metrics: Mapping[str, Any],
        step: int | None = None,
        synchronous: bool | None = None,
        run_id: str | None = None,
        timestamp: int | None = None,
        model_id: str | None = None,
        dataset: Any = None,
    ) -> RunOperations | None:
        """Logs several metrics at one step of the active run, as MLflow's function does: step 0 when none is given.

        Args:
            metrics: Numbers by name, each as in `log_metric`.
            step: Training step; 0 when None.
            synchronous: True waits for the delivery, `end_timeout` seconds at most; False returns something to wait on.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.
            timestamp: Milliseconds since the epoch; now by default.
            model_id: MLflow's id of the logged model that they are of, too; see `log_metric`.
            dataset: What they were measured on; see `log_metric`.

        Returns:
            With `synchronous=False` something to wait on, else None.

        Raises:
            CallError: Under `strict=True`: a value is no number, or the step no integer.

        Thread safety: any thread.

        Example:
            >>> tailrace.log_metrics({"train/loss": 0.25, "train/accuracy": 0.9}, step=7)
        """
        run = self._to(run_id)
        if _concerns_a_model(run, model_id, dataset):
            of = {"run_id": run_id, "model_id": model_id, "dataset": dataset}
            self._linked(run, metrics, step, timestamp, of)
        else:
            run.log_metrics(metrics, step, timestamp)
        return self._handed_in(run, synchronous)

    def log_param(self, key: str, value: Any, synchronous: bool | None = None) -> Any:
        """Logs one param of the active run; returns its value, as MLflow's function does.

        Args:
            key: Name.
            value: Anything; what has named parts becomes several params, as in `log_params`.
            synchronous: True waits for the delivery, `end_timeout` seconds at most; False returns something to wait on.

        Returns:
            `value`, as it was passed; with `synchronous=False` something to wait on.

        Raises:
            CallError: Under `strict=True`: it could not be read.

        Thread safety: any thread.

        Example:
            >>> tailrace.log_param("lr", 3e-4)
            0.0003
        """
        run = self._to(None)
        run.log_param(key, value)
        operations = self._handed_in(run, synchronous)
        return value if operations is None else operations

    def log_params(
        self, params: Any, synchronous: bool | None = None, run_id: str | None = None
    ) -> RunOperations | None:
        """Logs params of the active run, of any number and nesting (`a.b.c`).

        A value too long for MLflow is kept whole in an artifact. A param that has another value already stays as it is:
        MLflow's params never change. The new value becomes a dead letter, with a warning.

        What cannot be read (`???` of OmegaConf, a property that raises) is left out, named in a warning and counted as
        dropped; the rest is logged.

        Args:
            params: Params by name: a mapping, a dataclass, an attrs, pydantic or msgspec model, a named tuple, an
                `argparse.Namespace`, a `SimpleNamespace`, a config of OmegaConf, Hydra or `ml_collections`; nested in
                one another in any way. A list stays one param, with what its items hold.
            synchronous: True waits for the delivery, `end_timeout` seconds at most; False returns something to wait on.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Returns:
            With `synchronous=False` something to wait on, else None.

        Raises:
            CallError: Under `strict=True`: it is nothing that has names, a name came up twice, or something could not
                be read.

        Thread safety: any thread; leave the params alone during the call.

        Example:
            >>> tailrace.log_params({"model": {"layers": 12}, "lr": 3e-4})
        """
        run = self._to(run_id)
        run.log_params(params)
        return self._handed_in(run, synchronous)

    def set_tag(self, key: str, value: Any, synchronous: bool | None = None) -> RunOperations | None:
        """Sets one tag of the active run; its last value wins.

        Args:
            key: Name.
            value: Anything; stored as its `str()`.
            synchronous: True waits for the delivery, `end_timeout` seconds at most; False returns something to wait on.

        Returns:
            With `synchronous=False` something to wait on, else None.

        Raises:
            CallError: Under `strict=True`: its `str()` raises.

        Thread safety: any thread.

        Example:
            >>> tailrace.set_tag("team", "vision")
        """
        return self.set_tags({key: value}, synchronous)

    def set_tags(self, tags: Mapping[str, Any], synchronous: bool | None = None) -> RunOperations | None:
        """Sets tags of the active run; the last value of a key wins.

        Args:
            tags: Values by name; stored as their `str()`.
            synchronous: True waits for the delivery, `end_timeout` seconds at most; False returns something to wait on.

        Returns:
            With `synchronous=False` something to wait on, else None.

        Raises:
            CallError: Under `strict=True`: it is no mapping, or a `str()` raises.

        Thread safety: any thread.

        Example:
            >>> tailrace.set_tags({"team": "vision", "phase": 2})
        """
        run = self._to(None)
        run.set_tags(tags)
        return self._handed_in(run, synchronous)

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

    def should_stop(self) -> bool:
        """Whether somebody has asked the active run to stop, or one that it is nested in: for the training loop.

        Whoever sets the tag `tailrace.stop` of the run in MLflow, or calls `tailrace stop RUN`, asks; it is known
        here within 15 seconds. The program decides where it stops. With several ranks let rank 0 ask and tell the
        others: they may hear of it a step apart.

        Returns:
            True from then on; False while no run is active.

        Thread safety: any thread.

        Example:
            >>> for batch in loader:
            ...     if tailrace.should_stop():
            ...         break
        """
        raise NotImplementedError("replaced in __init__")

    def define_metric(self, name: str, summary: Literal["min", "max", "last"] = "min") -> None:
        """Says which value of a metric of the active run is its best: `<name>.best` and `<name>.best_step` at its end.

        Metrics whose names say it themselves (loss, error, accuracy, F1, AUC, …) need no such call; see the setting
        `best_metrics`.

        Args:
            name: The metric's name, or a pattern (`val/*`). Of several that fit, the last call counts.
            summary: `min`: the smallest value is the best; `max`: the largest; `last`: none is, the last one counts.

        Raises:
            CallError: Under `strict=True`: another summary, or a name that is no text.

        Thread safety: any thread.

        Example:
            >>> tailrace.define_metric("val/perplexity_gap", summary="min")
        """
        self._to(None).define_metric(name, summary)

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
            node: Name of this machine among several: `system/<node>/…`; where a job runs on several, it has one anyway.

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
            node=node,
        )

    def _linked(
        self, run: Run, metrics: Mapping[str, Any], step: int | None, timestamp: int | None, of: dict[str, Any]
    ) -> None:
        """Logs metrics by MLflow's own function, beside the active run; where that fails, to the run alone."""
        # By name: what is handed through stands on all of this.
        beside: Any = importlib.import_module("tailrace._fluent.beside")
        # One time for both ways: MLflow takes a point that it has already for the same.
        at = int(time.time() * 1000) if timestamp is None else timestamp
        call = {"metrics": metrics, "step": step, "timestamp": at, "synchronous": True, **of}
        try:
            beside.call_beside(self._core, importlib.import_module("mlflow").log_metrics, (), call)
        except Exception as error:  # noqa: BLE001 - whatever store and plug-ins raise: no reason to stop a training
            text = f"metrics could not be linked with a model or a data set ({error}); they go to the run only"
            self._core.voice.warn(text, once=("linked", *metrics))
            run.log_metrics(metrics, step, at)


def _concerns_a_model(run: Run, model_id: str | None, dataset: Any) -> bool:
    """Whether a metric is to be linked with a model or a data set, which MLflow does."""
    if core_of(run).connection is None:  # nothing of it goes to MLflow
        return False
    if model_id is not None or dataset is not None:
        return True
    fluent = sys.modules.get("mlflow.tracking.fluent")  # who has set an active model has imported it
    return fluent is not None and fluent.get_active_model_id() is not None
