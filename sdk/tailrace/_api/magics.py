"""`%load_ext tailrace`: the cell magic `%%track`, which runs a cell in a run of its own."""

from __future__ import annotations

import ast
import shlex
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.display import display

from tailrace._api.tracker_core import module_core

if TYPE_CHECKING:
    from types import CodeType

    from tailrace._api.run import Run

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """Adds `%%track` to an IPython; `%load_ext tailrace` calls it.

    Args:
        shell: IPython's.
    """
    shell.register_magic_function(_track_in(shell), magic_kind="cell", magic_name="track")


def unload_ipython_extension(shell: Any) -> None:
    """Takes it away again; `%unload_ext tailrace` calls it.

    Args:
        shell: IPython's.
    """
    shell.magics_manager.magics["cell"].pop("track", None)


_display: Any = display  # which has no types
_WHAT = """Runs the cell in a run, whose card it shows: FINISHED, or FAILED with the error, which is shown as usual.

`{name}` in the line stands for the value of a variable. Within the cell the run is the active one."""


def _parser() -> Any:
    from IPython.core.magic_arguments import MagicArgumentParser

    parser: Any = MagicArgumentParser("%%track", description=_WHAT)  # type: ignore[no-untyped-call]
    parser.add_argument("name", nargs="?", help="Name of the run; MLflow invents one by default.")
    parser.add_argument("--param", "-p", action="append", metavar="KEY=VALUE", help="A param; may be repeated.")
    parser.add_argument("--tag", "-t", action="append", metavar="KEY=VALUE", help="A tag; may be repeated.")
    parser.add_argument("--experiment", "-e", help="MLflow's experiment; created when missing.")
    parser.add_argument("--nested", action="store_true", help="Below the run that is active.")
    return parser


def _track_in(shell: Any) -> Any:
    parser = _parser()

    def track(line: str, cell: str) -> object:
        # IPython leaves out this frame, and all above it, when it shows an error of the cell.
        __tracebackhide__ = "__ipython_bottom__"
        given = parser.parse_args(_words(line))
        parts = _compiled(shell, cell)
        with _started(given) as run:
            _display(run)
            value = None
            for code in parts:
                value = eval(code, shell.user_ns)  # noqa: S307 - the user's own cell
        return value

    track.__doc__ = parser.format_help()  # what `%%track?` shows
    return track


def _started(given: Any) -> Run:
    started: Run = module_core().runs.home.start_run(
        run_name=given.name,
        experiment_name=given.experiment,
        nested=given.nested,
        params=_pairs("--param", given.param),
        tags=_pairs("--tag", given.tag),
    )
    return started


def _pairs(option: str, given: list[str] | None) -> dict[str, str] | None:
    pairs = [each.partition("=") for each in given or ()]
    if wrong := ["".join(each) for each in pairs if not (each[0] and each[1])]:
        raise UsageError(f"%%track: {option} {wrong[0]} is not KEY=VALUE")
    return {key: value for key, _, value in pairs} or None


def _words(line: str) -> list[str]:
    """What a shell would make of the line: IPython's own way leaves quotes in."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"%%track: {error} in {line!r}") from error


def _compiled(shell: Any, cell: str) -> list[CodeType]:
    """The cell as IPython would run it; the last expression by itself, since its value is the cell's."""
    source = shell.transform_cell(cell)
    tree = shell.transform_ast(shell.compile.ast_parse(source))
    # Under a name that IPython knows: so an error shows the cell's own lines.
    number = len(shell.history_manager.input_hist_raw) - 1  # of the cell that runs
    name = shell.compile.cache(source, number, raw_code=cell)
    parts: list[CodeType] = []
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
        parts = [compile(last, name, "eval")]
    return [compile(tree, name, "exec"), *parts]
