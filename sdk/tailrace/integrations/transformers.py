"""Transformers: `TailraceCallback` for a `Trainer`; once this is imported, also by `report_to="tailrace"`.

The first process logs; on all others the callback does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace.integrations import library
from tailrace.integrations.framework_run import FrameworkRun

if TYPE_CHECKING:
    from tailrace.protocol import TrackerLike

with library("transformers"):
    from transformers import TrainerCallback
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

__all__ = ["TailraceCallback"]

_LABELS: Final = ("id2label", "label2id")
"""Of a model's configuration: a thousand params of them that say nothing."""


class TailraceCallback(TrainerCallback):  # type: ignore[misc]  # Transformers is not installed everywhere
    """What a `Trainer` logs, by tailrace: its metrics as it names them, its arguments and the model's as params.

    Joins the active run, or begins one that ends with the training. What is evaluated after it is added to the same
    run. Beside it `report_to="none"` keeps other trackers away.

    Args:
        run_name: The run's name, where it begins one; the argument `run_name` of the training by default.
        tracker: A tracker, or a run; tailrace's own tracker by default.
        log_params: Whether arguments and configuration become params; those of the model begin with `model.`.
        log_checkpoints: Whether each checkpoint becomes an artifact in `checkpoints/`.
        tags: Of a run that it begins.
        **settings: Of a run that it begins: `experiment_name`, `tracking_uri`, what `tailrace.start_run` takes.

    Raises:
        CallError: The tracker is none.

    Thread safety: called by the trainer in its thread.

    Example:
        >>> Trainer(model, args, train_dataset=data, callbacks=[TailraceCallback("baseline")]).train()
    """

    def __init__(
        self,
        run_name: str | None = None,
        *,
        tracker: TrackerLike | Any = None,
        log_params: bool = True,
        log_checkpoints: bool = False,
        tags: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._framework = FrameworkRun("transformers", tracker, run_name, tags, **settings)
        self._log_params, self._log_checkpoints = log_params, log_checkpoints

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """The training begins."""
        del control
        if not state.is_world_process_zero:
            return
        run = self._framework.begin(args.run_name)
        if self._log_params:
            config: Any = getattr(model, "config", None)
            known = config.to_dict() if hasattr(config, "to_dict") else {}
            about = {"model": {key: value for key, value in known.items() if key not in _LABELS}} if known else {}
            run.log_params({**args.to_dict(), **about})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step is done: the training ends with it where its run is asked to stop."""
        del state
        # Of several processes each would have to know of it at the same step.
        if args.world_size == 1 and self._framework.should_stop:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """The trainer logs."""
        del args, control
        if state.is_world_process_zero and logs:
            self._framework.run.log(logs, step=state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint was written."""
        del control
        if self._log_checkpoints and state.is_world_process_zero:
            path = Path(args.output_dir, f"checkpoint-{state.global_step}")
            if path.exists():
                self._framework.run.log_artifact(path, "checkpoints")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The training is over."""
        del args, state, control
        self._framework.end()


INTEGRATION_TO_CALLBACK["tailrace"] = TailraceCallback
