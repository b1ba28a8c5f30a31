"""`wandb.config`: values by item and by attribute; what is set goes to MLflow as params at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from tailrace.wandb._guard import VOICE, guarded

__all__ = ["Config", "as_mapping"]


class Config(MutableMapping[str, Any]):
    """A run's configuration.

    Args:
        publish: Called with what is new, and with what has changed (`update(…, allow_val_change=True)`), by name.

    Example:
        >>> wandb.config.lr = 0.1
        >>> wandb.config.update({"model": {"layers": 12}})
        >>> wandb.config["model"]["layers"]
        12
    """

    def __init__(self, publish: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
        self.__dict__["_publish"], self.__dict__["_values"] = publish, dict[str, Any]()

    @guarded()
    def update(self, d: Any = (), allow_val_change: bool | None = None, **more: Any) -> None:  # type: ignore[override]
        """Takes values: a mapping, a namespace, the flags of absl, or a file of YAML or JSON.

        Args:
            d: The values.
            allow_val_change: What has another value already is replaced; else it stays, with a warning.
            **more: Values by name.
        """
        self._put({**as_mapping(d), **more}, bool(allow_val_change))

    @guarded()
    def setdefaults(self, d: Any) -> None:
        """Takes the values that are not there yet."""
        self._put({key: value for key, value in as_mapping(d).items() if key not in self._values}, change=False)

    @guarded()
    def update_locked(self, d: Any, user: str | None = None, _allow_val_change: bool | None = None) -> None:
        """What a sweep sets."""
        self._put(as_mapping(d), bool(_allow_val_change))

    def restore(self, values: Mapping[str, Any]) -> None:
        """Has what is known elsewhere already: it goes nowhere."""
        self._values.update(values)

    def as_dict(self) -> dict[str, Any]:
        """A copy."""
        return dict(self._values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        del self._values[key]  # MLflow keeps the param

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"wandb.config has no {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __repr__(self) -> str:
        return repr(self._values)

    __hash__ = None  # type: ignore[assignment]

    def _put(self, given: Mapping[str, Any], change: bool) -> None:
        new, changed = dict[str, Any](), dict[str, Any]()
        for key, value in given.items():
            if key not in self._values:
                new[key] = value
            elif _differs(self._values[key], value):
                if not change:
                    VOICE.warn(
                        f"wandb.config: {key!r} is {self._values[key]!r} and stays; allow_val_change=True replaces it",
                        once=("config", key),
                    )
                    continue
                changed[key] = value
        self._values.update(new | changed)
        if new or changed:
            self._publish(new, changed)

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Config], tuple[dict[str, Any]]]:
        return _copied, (self.as_dict(),)


def _copied(values: dict[str, Any]) -> Config:
    """A copy, also in another process: what is set there goes nowhere."""
    config = Config(lambda new, changed: None)
    config.restore(values)
    return config


def _differs(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except Exception:  # noqa: BLE001 - of arrays, which have a truth for each element, or whatever of other's own
        return str(one) != str(other)


def as_mapping(given: Any) -> dict[str, Any]:
    """A configuration as wandb takes it, as a dictionary."""
    if not given and not hasattr(given, "__dict__"):
        return {}
    if isinstance(given, (str, Path)):
        text = Path(given).read_text()
        if str(given).endswith(".json"):
            return dict(json.loads(text))
        import yaml

        loaded = yaml.safe_load(text) or {}
        # wandb's own files have `lr: {value: 0.1, desc: null}`.
        wandb_own = all(isinstance(each, dict) and "value" in each for each in loaded.values())
        return {key: each["value"] if wandb_own else each for key, each in loaded.items() if key != "wandb_version"}
    if isinstance(given, Mapping):
        return {str(key): given[key] for key in given}
    flags = getattr(given, "flag_values_dict", None)  # absl
    if callable(flags):
        return dict(flags())
    return dict(given) if not hasattr(given, "__dict__") else dict(vars(given))
