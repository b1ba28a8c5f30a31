"""The project's own source, as trees."""

from __future__ import annotations

import ast
import gc
from pathlib import Path

__all__ = ["parsed"]


def parsed(path: Path) -> ast.Module:
    """The tree of a file."""
    source = path.read_text(encoding="utf-8")
    # CPython before 3.11.8 counts the depth of all trees that are being made in one place (gh-106905). Where garbage is
    # collected in the midst, another thread may come in between, and agents make a tree for each line of a traceback
    # that they log: "SystemError: AST constructor recursion depth mismatch".
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        gc.enable()
