"""Names that MLflow refuses, and what they become: a rule, so that every run and every session have the same one.

* `throughput(tps)` becomes `throughput__tps`, and `mfu(%)` becomes `mfu__percent`: one word in parentheses at the end,
  where that leads back to one name only.
* Of any other name each refused character becomes `_`, `%` becomes `percent`, parts of a path that lead nowhere are
  left out, what is longer than 200 characters is cut, and eight digits of the name's SHA-256 follow:
  `loss!` becomes `loss-1a2b3c4d`.

The name as it was logged is the tag `tailrace.name.<the name in MLflow>` of the run. Pure functions; MLflow is not
imported.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from tailrace_agent.ipc.tags import NAME_TAG

__all__ = ["candidates", "looks_cleaned", "name_tag", "originals", "readable_name", "stored_among", "stored_name"]

_TAKEN: Final = re.compile(r"[/\w.\- :]+")
"""MLflow's rule for characters on Linux; a test holds the two against each other."""
_MOST: Final = 250
_LONGEST: Final = 200
"""Characters that are kept of a name: with the digits behind and `tailrace.name.` before it has to fit, too."""
_WITH_UNIT: Final = re.compile(r"(?P<name>[^()]+)\((?P<unit>[^()/]+)\)")
_CLEANED: Final = re.compile(r"[^_]__[^_]|-[0-9a-f]{8,32}\Z")


def stored_name(name: str) -> str:
    """The name under which MLflow most likely has what was logged under this one.

    Example:
        >>> stored_name("memory/max_active(GiB)"), stored_name("loss")
        ('memory/max_active__GiB', 'loss')
    """
    return name if _is_taken(name) else next(candidates(name))


def readable_name(name: str) -> str:
    """`throughput__tps` for `throughput(tps)`; itself where a name has another form, as some stores take."""
    return _readable(name) or name


def candidates(name: str, *, readable: bool = True) -> Iterator[str]:
    """Names that MLflow takes in place of this one, the most readable first; the others are hardly ever another's."""
    if readable and (short := _readable(name)) is not None:
        yield short
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    base = _base(name)
    for digits in (8, 16, 32):
        yield f"{base}-{digest[:digits]}"


def looks_cleaned(name: str) -> bool:
    """Whether a name that MLflow takes may be what another one has become."""
    return _CLEANED.search(name) is not None


def name_tag(stored: str) -> str:
    """The tag that holds the name as it was logged."""
    return NAME_TAG + stored


def originals(tags: Mapping[str, str]) -> dict[str, str]:
    """Names as they were logged, by the names that they have in MLflow, from a run's tags."""
    return {tag.removeprefix(NAME_TAG): name for tag, name in tags.items() if tag.startswith(NAME_TAG)}


def stored_among(name: str, known: Collection[str]) -> str | None:
    """The one of these names in MLflow under which is what was logged under this name; None where none is."""
    if name in known:
        return name
    # The most readable last: where a name has another one, that is since this was taken.
    return next((each for each in reversed([*candidates(name)]) if each in known), None)


def _is_taken(name: str) -> bool:
    normal = posixpath.normpath(name)
    a_path = normal == name and normal != "." and not normal.startswith(("..", "/"))
    return a_path and len(name) <= _MOST and _TAKEN.fullmatch(name) is not None


def _readable(name: str) -> str | None:
    """`throughput__tps` for `throughput(tps)`, where no other name in this form becomes the same."""
    match = _WITH_UNIT.fullmatch(name)
    if match is None or match["unit"] == "percent":  # that is what % becomes
        return None
    parts = [match["name"], "percent" if match["unit"] == "%" else match["unit"]]
    if any("__" in part or part != part.strip("_ ") for part in parts):
        return None
    readable = "__".join(parts)
    return readable if _is_taken(readable) and len(readable) <= _LONGEST else None


def _base(name: str) -> str:
    text = re.sub(r"[^/\w.\- :]+", "_", name.replace("%", "percent"))
    parts = (part.strip("_ ") for part in text.split("/"))
    base = "/".join(part for part in parts if part not in ("", ".", ".."))
    if base.startswith(".."):  # MLflow takes any such name for a way out of its directory
        base = base.lstrip("./_ ")
    return base[:_LONGEST].rstrip("/_ ") or "name"
