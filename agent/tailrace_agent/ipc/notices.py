"""Notices: the agent's lines for a run's user, and the topic for which each is shown once.

A text is for people, and no code reads it. What code has to know of it is its topic. The two are kept and sent side by
side (`notices` and `topics`), so that a version of tailrace that knows of texts alone still has those; and a text of
such a version is its own topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from tailrace_agent.text.quoting import plain, quoted

__all__ = ["LONGEST", "Notice", "Topic", "not_logged", "note", "paired", "refused"]

LONGEST: Final = 1000
"""Characters of a notice."""
_MOST: Final = 200  # of a run: all of them go into its status file each time that is written


class Topic(msgspec.Struct, frozen=True, array_like=True):
    """The topic for which a notice is shown once.

    Attributes:
        about: The same for all notices of which the first one is enough; "" where that is the text itself.
        everywhere: Shown once in a whole program, since it is the same for all of its runs.
        asks_login: The store wants other credentials.
    """

    about: str = ""
    everywhere: bool = False
    asks_login: bool = False


_ITSELF: Final = Topic()


class Notice(msgspec.Struct, frozen=True):
    """One line for a run's user.

    Example:
        >>> Notice("metric 'a' was not logged: it is None", Topic(not_logged("metric", "a"))).about
        "metric 'a' not logged"
    """

    text: str
    topic: Topic = _ITSELF

    @property
    def about(self) -> str:
        """The topic for which it is shown once."""
        return self.topic.about or self.text

    def once(self, run: int) -> object:
        """The same for all notices of a program of which one is enough."""
        return self.about if self.topic.everywhere else (run, self.about)


def not_logged(kind: str, key: object) -> str:
    """The topic of an entry that cannot be logged, whatever is wrong with it, here or in the training process."""
    return f"{kind} {quoted(key)} not logged"


def refused(kind: str, key: object) -> str:
    """The topic of an entry that MLflow refuses, or will."""
    return f"{kind} {quoted(key)} refused"


def paired(texts: Sequence[str], topics: Sequence[Topic]) -> list[Notice]:
    """The notices of which a version of tailrace, or a damaged disk, gives back these texts and these topics."""
    # More topics than texts: which belongs to which is lost, and each text is its own.
    known = topics if len(topics) <= len(texts) else ()
    return [Notice(text, known[at] if at < len(known) else _ITSELF) for at, text in enumerate(texts)]


def note(texts: list[str], topics: list[Topic], new: Notice | str) -> bool:
    """Appends a notice, as one line, unless one about the same is there, or too many are; whether it is new."""
    notice = new if isinstance(new, Notice) else Notice(new)
    notice = msgspec.structs.replace(notice, text=plain(notice.text, LONGEST))
    before = paired(texts, topics)
    if len(texts) >= _MOST or notice.text in texts or any(each.about == notice.about for each in before):
        return False
    # The topics before, too: beside the texts of an older version there may be fewer.
    topics[:] = [*(each.topic for each in before), notice.topic]
    texts.append(notice.text)
    return True
