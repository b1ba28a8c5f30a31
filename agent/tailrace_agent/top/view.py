"""What a person has chosen to see, and what each key changes of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from tailrace_agent.spool.extremes import machine_last, of_program
from tailrace_agent.top.chart import Look
from tailrace_agent.top.rows import RunRow

__all__ = ["KEYS", "PANELS", "SMOOTHING", "View", "fits", "shown_metrics"]

PANELS: Final = ("machine", "ranks", "delivery", "alerts", "console")
SMOOTHING: Final = (0.0, 0.6, 0.9, 0.97)
"""Weights through which `s` goes."""
_PLAIN: Final = Look()
_CLOSEST: Final = 1 / 2**20
"""Of all steps, the least part that a window shows."""
KEYS: Final = (
    ("↑ ↓", "choose a run"),
    ("← →", "choose a metric; PgUp, PgDn: the next ones"),
    ("Enter", "the chosen metric alone, and back"),
    ("Space", "draw this run beside the others"),
    ("/", "only metrics that fit: val/*, or a part of a name"),
    ("f", "only runs that fit, in the same way"),
    ("[ ]", "the runs before, and the next ones"),
    ("l", "logarithmic scale"),
    ("s", "smoothing: none, 0.6, 0.9, 0.97"),
    ("+ -", "zoom into the newest steps, and out"),
    ("< >", "move the window"),
    ("0", "all steps"),
    ("Tab", "the next panel"),
    ("m", "metrics of the machine among the charts"),
    ("?", "this help"),
    ("Esc", "back; no filter"),
    ("q", "quit"),
)
"""For the help: a key, and what it does."""


def fits(name: str, pattern: str) -> bool:
    """Whether a name has a pattern: one of a shell's, else a part of it, in any case.

    Example:
        >>> fits("val/loss", "LOSS"), fits("val/loss", "val/*"), fits("val/loss", "*/acc")
        (True, True, False)
    """
    name, pattern = name.lower(), pattern.lower()
    return pattern in name or fnmatchcase(name, pattern)


def shown_metrics(names: Sequence[str], pattern: str, *, machine: bool) -> list[str]:
    """The metrics that have charts, in their order; those of the machine last, and only if they are wanted."""
    found = [name for name in names if not pattern or fits(name, pattern)]
    if not machine and not pattern:
        found = [name for name in found if of_program(name)]
    return sorted(found, key=lambda name: machine_last(name)[0])


@dataclass
class View:
    """What is chosen.

    Attributes:
        run: The key of the run; None until there is one.
        marked: Runs that are drawn beside it, in this order.
        pattern: Of the metrics that are shown; "" shows all.
        run_pattern: Of the runs, likewise.
        typing: The pattern that is being typed, while it is.
        of_runs: Whether that is one of runs.
        chart: Which of the metrics is chosen.
        alone: Whether that one fills the place of all.
        look: How charts are drawn.
        panel: Which of `PANELS` is shown where there is room for one.
        machine: Whether metrics of the machine have charts, too.
        help: Whether the keys are explained.
        page: How many charts there is room for, as the last frame had it.
        run_page: How many runs, likewise.

    Not thread-safe.
    """

    run: str | None = None
    marked: list[str] = field(default_factory=list)
    pattern: str = ""
    run_pattern: str = ""
    typing: str | None = None
    of_runs: bool = False
    chart: int = 0
    alone: bool = False
    look: Look = _PLAIN
    panel: int = 0
    machine: bool = False
    help: bool = False
    page: int = 1
    run_page: int = 1

    def settle(self, runs: Sequence[str]) -> None:
        """Chooses a run that is there in place of one that is not there any more."""
        if runs and self.run not in runs:
            self.run = runs[0]
        self.marked = [run for run in self.marked if run in runs]

    @property
    def drawn(self) -> list[str]:
        """The runs whose metrics are drawn, the chosen one last."""
        others = [run for run in self.marked if run != self.run]
        return [*others, self.run] if self.run is not None else others

    def press(self, key: str, runs: Sequence[str], text: str | None = None) -> bool:
        """A key is pressed.

        Args:
            key: Its name, as Textual has it.
            runs: The runs of the list, in its order.
            text: The character that it types, if it does.

        Returns:
            Whether to go on; False quits.
        """
        if self.typing is not None:
            self._type(key, text)
            return True
        if key == "q":
            return False
        if self.help:
            self.help = False
            return True
        if (by := _RUNS_ON.get(key)) is not None:
            self.move_run(by, runs)
        elif key in ("left_square_bracket", "right_square_bracket"):
            self.move_run(self.run_page if key.startswith("right") else -self.run_page, runs)
        elif (act := _ACTS.get(key)) is not None:
            act(self)
        return True

    def move_run(self, by: int, runs: Sequence[str]) -> None:
        """Chooses the run that is so many lines further down."""
        if runs:
            at = runs.index(self.run) if self.run in runs else 0
            self.run = runs[max(0, min(at + by, len(runs) - 1))]

    def zoom(self, by: float) -> None:
        """Shows a part of the window that is so many times as long; its end stays, or what was at it."""
        first, last = self.look.first, self.look.last
        size = min(1.0, max(_CLOSEST, (last - first) * by))
        last = min(1.0, max(last, size))
        self.look = self.look._replace(first=last - size, last=last)

    def pan(self, by: float) -> None:
        """Moves the window by that part of its length."""
        size = self.look.last - self.look.first
        first = max(0.0, min(1.0 - size, self.look.first + by * size))
        self.look = self.look._replace(first=first, last=first + size)

    def next_smoothing(self) -> None:
        """Goes on to the next of `SMOOTHING`."""
        at = SMOOTHING.index(self.look.smooth) if self.look.smooth in SMOOTHING else 0
        self.look = self.look._replace(smooth=SMOOTHING[(at + 1) % len(SMOOTHING)])

    def mark(self) -> None:
        """Draws the chosen run beside others, or no more."""
        if self.run is None:
            return
        if self.run in self.marked:
            self.marked.remove(self.run)
        else:
            self.marked.append(self.run)

    def _type(self, key: str, text: str | None) -> None:
        assert self.typing is not None
        if key == "enter":
            if self.of_runs:
                self.run_pattern = self.typing
            else:
                self.pattern = self.typing
            self.typing = None
        elif key == "escape":
            self.typing = None
        elif key == "backspace":
            self.typing = self.typing[:-1]
        elif key == "ctrl+u":
            self.typing = ""
        elif text is not None and text.isprintable():
            self.typing = (self.typing + text)[:200]
        self.chart = 0

    @property
    def filter(self) -> str:
        """The pattern of metrics that is in force: while one is typed, that one."""
        return self.pattern if self.typing is None or self.of_runs else self.typing

    @property
    def run_filter(self) -> str:
        """The pattern of runs that is in force."""
        return self.typing if self.typing is not None and self.of_runs else self.run_pattern

    def of_list(self, rows: Sequence[RunRow]) -> list[RunRow]:
        """The runs that fit; those that are drawn beside others stay."""
        pattern = self.run_filter
        return [row for row in rows if not pattern or fits(row.name, pattern) or row.key in self.marked]

    def _step_chart(self, by: int) -> None:
        self.chart = max(0, self.chart + by)

    def _escape(self) -> None:
        if self.alone:
            self.alone = False
        elif self.pattern:
            self.pattern = ""
        else:
            self.run_pattern = ""

    def _set(self, **changes: object) -> None:
        for name, value in changes.items():
            setattr(self, name, value)


_RUNS_ON: Final = {"up": -1, "down": 1}
_ACTS: Final[dict[str, Callable[[View], None]]] = {
    "left": lambda view: view._step_chart(-1),
    "right": lambda view: view._step_chart(1),
    "pageup": lambda view: view._step_chart(-view.page),
    "pagedown": lambda view: view._step_chart(view.page),
    "home": lambda view: view._set(chart=0),
    "enter": lambda view: view._set(alone=not view.alone),
    "space": View.mark,
    "slash": lambda view: view._set(typing=view.pattern, of_runs=False),
    "f": lambda view: view._set(typing=view.run_pattern, of_runs=True),
    "l": lambda view: view._set(look=view.look._replace(log=not view.look.log)),
    "s": View.next_smoothing,
    "plus": lambda view: view.zoom(0.5),
    "equals_sign": lambda view: view.zoom(0.5),
    "minus": lambda view: view.zoom(2.0),
    "less_than_sign": lambda view: view.pan(-0.5),
    "comma": lambda view: view.pan(-0.5),
    "greater_than_sign": lambda view: view.pan(0.5),
    "full_stop": lambda view: view.pan(0.5),
    "0": lambda view: view._set(look=view.look._replace(first=0.0, last=1.0)),
    "tab": lambda view: view._set(panel=(view.panel + 1) % len(PANELS)),
    "shift+tab": lambda view: view._set(panel=(view.panel - 1) % len(PANELS)),
    "m": lambda view: view._set(machine=not view.machine),
    "question_mark": lambda view: view._set(help=True),
    "escape": View._escape,
}
