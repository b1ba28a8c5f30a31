"""The calls for params of a run: read as they are at the call, and handed over; what cannot be read is reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tailrace._runs.run_part import RunPart
from tailrace._values.params import flatten_params, unreadable_line
from tailrace_agent.ipc.notices import refused
from tailrace_agent.ipc.records import Drop, Params

if TYPE_CHECKING:
    from tailrace._runs.core import RunCore
    from tailrace._values.params import Unreadable
    from tailrace_agent.ipc.reasons import Reason

__all__ = ["ParamCalls"]

_UNREAD: Final = "could not be read"
_NO_NAMES: Final = "params are no mapping"


class ParamCalls(RunPart):
    """`log_param` and `log_params`. A base of `Run`."""

    def __init__(self, core: RunCore) -> None:
        super().__init__(core)
        # What this process has logged; another one's values only MLflow knows.
        self._params: dict[str, str] = {}

    def log_param(self, key: str, value: Any) -> Any:
        """Logs one param; returns its value, as MLflow's function does.

        Args:
            key: Name.
            value: Anything; what has named parts becomes several params, as in `log_params`.

        Returns:
            `value`, as it was passed.

        Raises:
            CallError: Under `strict=True`: it could not be read, or has another value already.

        Example:
            >>> run.log_param("lr", 3e-4)
            0.0003
        """
        self.log_params({key: value})
        return value

    def log_params(self, params: Any) -> None:
        """Logs params of any number and nesting (`a.b.c`). A value too long for MLflow is kept whole in an artifact.

        A param that has another value already stays as it is: MLflow's params never change. The new value becomes a
        dead letter, with a warning. What cannot be read (`???` of OmegaConf, a property that raises) is left out,
        named in a warning and counted as dropped; the rest is logged.

        Args:
            params: Params by name: a mapping, a dataclass, an attrs, pydantic or msgspec model, a named tuple, an
                `argparse.Namespace`, a `SimpleNamespace`, a config of OmegaConf, Hydra or `ml_collections`; nested in
                one another in any way. A list stays one param, with what its items hold.

        Raises:
            CallError: Under `strict=True`: it is nothing that has names, a name came up twice, something could not be
                read, or a param has another value already.

        Example:
            >>> run.log_params({"model": {"layers": 12}, "lr": 3e-4})
        """
        if not self._core.settings.log_params or (self._core.connection is None and self._core.local is None):
            return
        try:
            flat, collisions, unreadable = flatten_params(params)
        except TypeError as error:
            # How many there would have been nobody knows.
            self._drop_params(_NO_NAMES, 1)
            self._core.fault(f"log_params: {error}", once=("params", str(error)))
            return
        if self._core.local is not None:
            self._core.local.add_params(params)
        changed = [(name, value) for name, value in flat.items() if self._params.setdefault(name, value) != value]
        if flat:
            self._core.put(Params(self._core.spec.run, flat))
        self._drop_params(_UNREAD, len(unreadable))
        # Behind `put`: under `strict` these raise, and the rest is to be logged.
        self._warn_unreadable(unreadable)
        # Here and at once: the agent's notice comes seconds later, when nobody knows which line it was.
        self._warn_changed(changed)
        for name in collisions:
            self._core.fault(
                f"param {name!r} comes up twice after flattening; the first value is kept", once=("twice", name)
            )

    def _warn_unreadable(self, unreadable: list[Unreadable]) -> None:
        """Names what could not be read, once; raised under `strict`."""
        if unreadable:
            names = tuple(each.name for each in unreadable)
            self._core.fault(unreadable_line(unreadable), once=(self._core.spec.run, _UNREAD, names))

    def _warn_changed(self, changed: list[tuple[str, str]]) -> None:
        """Names what has another value already; raised under `strict`, in MLflow's words."""
        for name, value in changed:
            known, once = self._params[name], (self._core.spec.run, refused("param", name))
            becomes = (
                "it will be a dead letter (`tailrace dead list`)" if self._core.local is None else "the first is kept"
            )
            text = f"param {name!r} is {known!r} already and cannot become {value!r}: {becomes}"
            if self._core.settings.strict:
                text = (
                    f"Changing param values is not allowed. Param with key={name!r} was already logged with "
                    f"value={known!r}. Attempted logging new value {value!r}: {becomes}"
                )
            self._core.fault(text, once=once)

    def _drop_params(self, reason: Reason, count: int) -> None:
        if count:
            self._core.put(Drop(self._core.spec.run, "param", reason, count))
