"""A function by its name in a file: `module:function`, or `train.py:function`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from tailrace.hpo.search_space import nearest
from tailrace_agent.errors import SettingsError

__all__ = ["check_function", "load_function"]


def check_function(name: Any, folder: Path, key: str) -> None:
    """Looks whether it is there, as far as that can be seen without running its module.

    Args:
        name: The name.
        folder: What the path of a file is relative to.
        key: What the name stands for, for the message.

    Raises:
        SettingsError: It is not there.
    """
    module, function = _parts(name, key)
    if not module.endswith(".py"):
        _search_in(folder)
        try:
            found = importlib.util.find_spec(module)
        except ImportError:  # of the package that it is in
            found = None
        if found is None:
            raise SettingsError(f"{key}: there is no module {module!r}; a file is named as train.py:{function}")
        if not (found.origin or "").endswith(".py"):
            return
        module = str(found.origin)
    path = folder / module
    try:
        tree = ast.parse(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{key}: {path} cannot be read: {error.strerror or error}") from error
    except SyntaxError as error:
        raise SettingsError(f"{key}: {path}, line {error.lineno}: {error.msg}") from error
    names = _top_names(tree)
    if function not in names and "*" not in names and "__getattr__" not in names:
        raise SettingsError(f"{key}: {path} has no function {function!r}; {nearest(function, names)}")


def _top_names(tree: ast.Module) -> list[str]:
    """What a module has by running from its top: functions, what it imports and assigns."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
    return names


def load_function(name: Any, folder: Path, key: str) -> Any:
    """The function itself. Whatever its module raises comes out.

    Raises:
        SettingsError: It is not there.
    """
    module, function = _parts(name, key)
    _search_in(folder)
    if module.endswith(".py"):
        path = (folder / module).resolve()
        _search_in(path.parent)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, loaded)  # for what it pickles
        spec.loader.exec_module(loaded)
    else:
        loaded = importlib.import_module(module)
    found = getattr(loaded, function, None)
    if not callable(found):
        names = [each for each, value in vars(loaded).items() if callable(value) and not each.startswith("_")]
        raise SettingsError(f"{key}: {module} has no function {function!r}; {nearest(function, names)}")
    return found


def _parts(name: Any, key: str) -> tuple[str, str]:
    module, colon, function = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    if not (module and colon and function.isidentifier()):
        raise SettingsError(f"{key} is {name!r}; write module:function, or train.py:function")
    return module, function


def _search_in(folder: Path) -> None:
    """Modules are found there, too: last, so that nothing installed is hidden."""
    if (text := str(folder)) not in sys.path:
        sys.path.append(text)
