"""The calls that a tracker passes on to the active run, in MLflow's names and with MLflow's argument names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from tailrace._model_handle import ModelHandle
    from tailrace._run import Run
    from tailrace._say import Voice
    from tailrace_agent.records import Codec

__all__ = ["ActiveCalls"]


class ActiveCalls:
    """`log_metric` and its kin, for the active run or one that is named. A base of `Tracker`."""

    _voice: Voice

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
        """As `Run.log_metric`. `synchronous=True` waits for the delivery; `model_id`, `dataset` are not supported."""
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
        """As `Run.log_metrics`. `synchronous=True` waits for the delivery; `model_id`, `dataset` are not supported."""
        self._unsupported(model_id=model_id, dataset=dataset)
        self._to(run_id).log_metrics(metrics, step, timestamp)
        self._wait_if(synchronous, run_id)

    def log_param(self, key: str, value: Any, synchronous: bool | None = None) -> Any:
        """As `Run.log_param`. `synchronous=True` waits for the delivery."""
        self._to(None).log_param(key, value)
        self._wait_if(synchronous, None)
        return value

    def log_params(self, params: Mapping[str, Any], synchronous: bool | None = None, run_id: str | None = None) -> None:
        """As `Run.log_params`. `synchronous=True` waits for the delivery."""
        self._to(run_id).log_params(params)
        self._wait_if(synchronous, run_id)

    def set_tag(self, key: str, value: Any, synchronous: bool | None = None) -> None:
        """As `Run.set_tag`. `synchronous=True` waits for the delivery."""
        self.set_tags({key: value}, synchronous)

    def set_tags(self, tags: Mapping[str, Any], synchronous: bool | None = None) -> None:
        """As `Run.set_tags`. `synchronous=True` waits for the delivery."""
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
        """As `Run.log_artifact`."""
        self._to(run_id).log_artifact(local_path, artifact_path, compress=compress)

    def log_artifacts(
        self,
        local_dir: str | os.PathLike[str],
        artifact_path: str | None = None,
        run_id: str | None = None,
        *,
        compress: Codec | None = None,
    ) -> None:
        """As `Run.log_artifacts`."""
        self._to(run_id).log_artifacts(local_dir, artifact_path, compress=compress)

    def log_text(self, text: str, artifact_file: str, run_id: str | None = None) -> None:
        """As `Run.log_text`."""
        self._to(run_id).log_text(text, artifact_file)

    def log_dict(self, dictionary: Any, artifact_file: str, run_id: str | None = None) -> None:
        """As `Run.log_dict`."""
        self._to(run_id).log_dict(dictionary, artifact_file)

    def log_figure(self, figure: Any, artifact_file: str, *, save_kwargs: dict[str, Any] | None = None) -> None:
        """As `Run.log_figure`."""
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
        """As `Run.log_image`. `synchronous=True` waits for the delivery."""
        self._to(None).log_image(image, artifact_file, key, step, timestamp)
        self._wait_if(synchronous, None)

    def log_table(self, data: Any, artifact_file: str, run_id: str | None = None) -> None:
        """As `Run.log_table`."""
        self._to(run_id).log_table(data, artifact_file)

    def alert(self, title: str, text: str = "", level: Literal["info", "warning", "error"] = "warning") -> None:
        """As `Run.alert`: tells people something about the active run."""
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
        """As `Run.log_model`."""
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

    def _to(self, run_id: str | None) -> Run:
        raise NotImplementedError  # Tracker has it

    def _unsupported(self, **arguments: Any) -> None:
        """MLflow's arguments that lead nowhere here; said once, so that a carried-over script goes on."""
        for name, value in arguments.items():
            if value is not None:
                self._voice.warn(f"{name} is not supported by this version of tailrace; metrics go to the run only")

    def _wait_if(self, synchronous: bool | None, run_id: str | None) -> None:
        if synchronous:
            self._to(run_id).flush()
