"""What models, versions and aliases may be called in MLflow, so that a slip is known at the call."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, Final

from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["NOT_IN_A_NAME", "aliases_of", "check_names", "mapping_of", "step_of", "tags_of"]

NOT_IN_A_NAME: Final = re.compile(r"[/:.%\"']")
# MLflow keeps `latest` and `v3` for itself: `models:/name@latest` means the newest version.
_ALIAS: Final = re.compile(r"(?!(?i:latest|v\d+)$)[\w-]{1,255}")


def aliases_of(alias: str | Sequence[str] | None) -> tuple[str, ...]:
    """One alias, several, or none.

    Raises:
        CallError: It is something else.
    """
    if alias is None or isinstance(alias, str):
        return () if alias is None else (alias,)
    if not isinstance(alias, (list, tuple, set, frozenset)):
        raise CallError(f"alias must be a text or several, not {alias!r}")
    return tuple(alias)


def tags_of(tags: Mapping[str, Any] | None) -> dict[str, str]:
    """Tags as texts.

    Raises:
        CallError: They have no names.
    """
    return {str(key): str(value) for key, value in (mapping_of("tags", tags) or {}).items()}


def mapping_of(what: str, value: Any) -> dict[Any, Any] | None:
    """A mapping as a dictionary, or None.

    Raises:
        CallError: It is none; `what` names it.
    """
    if value is not None and not hasattr(value, "items"):
        raise CallError(f"{what} must be a mapping, not {type(value).__name__}")
    return None if value is None else dict(value)


def step_of(step: Any) -> int:
    """A training step; 0 when None.

    Raises:
        CallError: It is no integer of 64 bits.
    """
    try:
        # Takes NumPy's integers, and neither 7.5 nor "7".
        number = 0 if step is None else operator.index(step)
    except TypeError:
        number = None
    if number is None or not -(2**63) <= number < 2**63:
        raise CallError(f"step must be an integer of 64 bits, not {step!r}")
    return number


def check_names(name: Any, registered: Any, alias: Any, stage: Any, description: Any = None) -> None:
    """MLflow's rules for names, so that a slip is known at the call and not after the upload."""
    if description is not None and not isinstance(description, str):
        raise CallError(f"the description must be a text, not {description!r}")
    if not isinstance(name, str) or not name or NOT_IN_A_NAME.search(name):
        raise CallError(f"the name must be a text without any of / : . % \" ', not {name!r}")
    if registered is None:
        if alias is not None or stage is not None:
            raise CallError("alias and stage are a version's: pass registered_model_name, too")
        return
    # The registry's rule is another one than that for a model's name in a run.
    if not isinstance(registered, str) or not registered.strip() or re.search("[/:]", registered):
        raise CallError(f"registered_model_name must be a text without / and :, not {registered!r}")
    for word in (*aliases_of(alias), *(() if stage is None else (stage,))):
        if not isinstance(word, str) or not _ALIAS.fullmatch(word):
            raise CallError(
                f"an alias or stage holds letters, digits, _ and -, and is neither latest nor v1, v2, …: not {word!r}"
            )
