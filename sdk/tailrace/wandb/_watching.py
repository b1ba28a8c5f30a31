"""`wandb.watch`: the norms of gradients and parameters of a PyTorch module, with every n-th backward pass.

They are tensors that stay where they are: nothing waits for a device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tailrace.wandb._guard import guarded

__all__ = ["Watch"]


class Watch:
    """Looks at one module.

    Args:
        model: The module.
        log: `gradients`, `parameters` or `all`.
        every: Passes between two looks.
        put: Called with values by name, which go with the next row.
        prefix: Put before the names of parameters, where several modules are watched.
    """

    def __init__(
        self, model: Any, log: str, every: int, put: Callable[[dict[str, Any]], None], prefix: str = ""
    ) -> None:
        self.model, self._prefix = model, prefix
        self._log, self._every, self._put = log, max(1, int(every)), put
        self._counts: dict[str, int] = {}
        self._hooks = [
            parameter.register_hook(self._hook(name, parameter))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]

    def remove(self) -> None:
        """Looks no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _hook(self, name: str, parameter: Any) -> Callable[[Any], None]:
        named = self._prefix + name

        @guarded()
        def watch(gradient: Any) -> None:
            count = self._counts[name] = self._counts.get(name, -1) + 1
            if count % self._every == 0:
                values: dict[str, Any] = {}
                if self._log in ("gradients", "all"):
                    values[f"gradients/{named}.norm"] = gradient.detach().norm()
                if self._log in ("parameters", "all"):
                    values[f"parameters/{named}.norm"] = parameter.detach().norm()
                self._put(values)

        return watch
