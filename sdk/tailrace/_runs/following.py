"""What a process logs to a run that another one has begun, once that run has ended there.

A pool's worker that was started during one run and goes on during the next logs to the next: what it does then is done
for that one. Where there is no next one, its values are added to the run that has ended, which is reported once. They
never go elsewhere in silence.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace._log.channel import Channel
    from tailrace._messages.voice import Voice
    from tailrace._session.run_page import RunsPage

__all__ = ["Follower", "late"]


class Follower:
    """Looks where a joined run's values belong.

    Args:
        page: Of the session.
        run: tailrace's id of the run.
        voice: Prints lines and warnings.
        follow: Turns to another run, by its id and its session where that is another one, and closes the channel to
            this one; returns whether it could. None for who stays with this run whatever happens.

    Thread safety: every method from any thread, and from the hot path.
    """

    def __init__(
        self, page: RunsPage, run: int, voice: Voice, follow: Callable[[int, str | None], bool] | None = None
    ) -> None:
        self._page, self._run, self._voice, self._follow = page, run, voice, follow

    def watch(self, channel: Channel) -> None:
        """Looks with the channel's next call, and whenever a run has begun or ended."""
        channel.watch(self._page.words, 0, partial(self._look, channel))

    def _look(self, channel: Channel) -> None:
        channel.seen = self._page.changed  # first, so that no change is missed
        if not self._page.has_ended(self._run):
            return
        if self._follow is not None and self._turn(self._follow):
            return
        self._voice.warn(late(f"{self._run:016x}"), once=("late", self._run))

    def _turn(self, follow: Callable[[int, str | None], bool]) -> bool:
        following = self._page.following()
        if following is None:
            return False
        try:
            return follow(*following)
        except Exception as error:  # noqa: BLE001 - in the hot path nothing is raised; the values go the old way
            self._voice.warn(f"the run that follows cannot be joined: {error}", once=("follow", following))
            return False


def late(run: str) -> str:
    """The warning about values for a run that has ended."""
    return f"run {run} has ended: what is logged to it now is added to it all the same, after its end"
