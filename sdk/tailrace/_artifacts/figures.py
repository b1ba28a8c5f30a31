"""Figures of matplotlib and plotly, captured at the call and drawn later.

A matplotlib figure is pickled on the caller, which takes milliseconds where drawing takes tenths of a second, and
drawn from the copy by the Agg canvas (or the one for SVG, PDF): pyplot never hears of the copy, and no GUI is
touched. A figure that cannot be pickled (a lambda as tick formatter, say) is drawn at the call instead, which costs
what `figure.savefig` costs. What decides how a figure is saved (`savefig.*` of rcParams) is read at the call.

Drawing holds the GIL, in whichever thread it happens.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from tailrace._artifacts.captured import BadArtifact, BadArtifactType, Frozen, Part, extension_of, named

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["freeze_figure"]

_PLOTLY_IMAGES: Final = (".png", ".jpeg", ".webp", ".svg", ".pdf")


def freeze_figure(figure: Any, artifact_file: str, *, save_kwargs: dict[str, Any] | None = None) -> Frozen:
    """A figure of matplotlib or plotly.

    Args:
        figure: `matplotlib.figure.Figure` or `plotly.graph_objects.Figure`, as it is now.
        artifact_file: Where in the run's artifacts; its extension decides on the format.
        save_kwargs: For `savefig`, or plotly's `write_html` and `write_image`.

    Raises:
        BadArtifact: It is no figure; plotly cannot write this extension; drawing at the call failed.

    Example:
        >>> freeze_figure(fig, "loss.png", save_kwargs={"dpi": 200})
    """
    name = named(artifact_file)
    options = dict(save_kwargs or {})
    if _is_a(figure, "matplotlib.figure", "Figure"):
        return Frozen((Part(name, _matplotlib_writer(figure, name, options)),), {})
    if _is_a(figure, "plotly.basedatatypes", "BaseFigure"):
        return Frozen((Part(name, _plotly_writer(figure, name, options)),), {})
    raise BadArtifactType(
        f"Unsupported figure object type: {type(figure).__name__}. It must be a figure of matplotlib or plotly"
    )


def _is_a(value: object, module: str, name: str) -> bool:
    """Whether it is an instance of a class of a module that may not be imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _matplotlib_writer(figure: Any, name: str, options: dict[str, Any]) -> Callable[[Path], None]:
    # First what `savefig` would take from the style, so that what the caller gave is stronger.
    options = {**_saving(sys.modules["matplotlib"].rcParams, options), **options}
    options.setdefault("format", extension_of(name)[1:] or sys.modules["matplotlib"].rcParams["savefig.format"])
    # In bytes and not as an object: a figure that is only kept would still share its artists with the program.
    frozen = _pickled(figure)
    if frozen is None:
        return _drawn_now(figure, options)

    def write(path: Path) -> None:
        import pickle

        copy = pickle.loads(frozen)  # noqa: S301 - our own copy, which has never left this process
        with path.open("wb") as file:
            copy.savefig(file, **options)

    return write


def _saving(rc: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What `savefig` would look up later, when another style may be in force."""
    chosen = {
        "dpi": rc["savefig.dpi"],
        "bbox_inches": rc["savefig.bbox"],
        "pad_inches": rc["savefig.pad_inches"],
        "transparent": rc["savefig.transparent"],
    }
    # A face colour that is given would be stronger than `transparent`.
    if not options.get("transparent", chosen["transparent"]):
        chosen["facecolor"] = rc["savefig.facecolor"]
        chosen["edgecolor"] = rc["savefig.edgecolor"]
    return chosen


def _pickled(figure: Any) -> bytes | None:
    """The figure's bytes, without its tie to pyplot; None when it cannot be pickled."""
    import copyreg
    import io
    import pickle

    base = sys.modules["matplotlib.figure"].Figure

    class Pickler(pickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            if not isinstance(value, base):
                return NotImplemented
            state = value.__getstate__()
            # With this, loading would open the figure anew in pyplot, in a thread that is not the GUI's.
            state.pop("_restore_to_pylab", None)
            return copyreg.__newobj__, (type(value),), state  # type: ignore[attr-defined]

    buffer = io.BytesIO()
    try:
        Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(figure)
    except Exception:  # noqa: BLE001 - an artist may raise anything; the figure is then drawn at the call
        return None
    return buffer.getvalue()


def _drawn_now(figure: Any, options: dict[str, Any]) -> Callable[[Path], None]:
    import io

    buffer = io.BytesIO()
    try:
        # The one place where drawing costs the caller: what cannot be copied may change after the call.
        figure.savefig(buffer, **options)
    except Exception as error:
        raise BadArtifact(f"log_figure cannot draw this figure: {type(error).__name__}: {error}") from error
    return lambda path: _write_bytes(path, buffer)


def _write_bytes(path: Path, buffer: Any) -> None:
    path.write_bytes(buffer.getbuffer())


def _plotly_writer(figure: Any, name: str, options: dict[str, Any]) -> Callable[[Path], None]:
    extension = extension_of(name)
    if extension != ".html" and extension not in _PLOTLY_IMAGES:
        allowed = ", ".join((".html", *_PLOTLY_IMAGES))
        raise BadArtifactType(
            f"Unsupported file extension for plotly figure: {extension!r}. It is written as one of {allowed}"
        )
    state = figure.to_dict()  # a deep copy

    def write(path: Path) -> None:
        import importlib

        plotly: Any = importlib.import_module("plotly.io")
        if extension == ".html":
            # `cdn`: each file holds some 4 MB of plotly's own code otherwise.
            plotly.write_html(state, str(path), **{"include_plotlyjs": "cdn", "auto_open": False, **options})
        else:
            plotly.write_image(state, str(path), **options)

    return write
