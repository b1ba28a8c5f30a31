"""Puts the extension module that `FUZZING_NATIVE` names in the place of the one that is installed.

Imported before tailrace, also as a plugin: `pytest -p fuzzing.instead`.
"""

from __future__ import annotations

import importlib.util
import os
import sys

if _path := os.environ.get("FUZZING_NATIVE"):
    assert "tailrace_agent.ipc.native" not in sys.modules
    _spec = importlib.util.spec_from_file_location("tailrace_agent._native", _path)
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules[_spec.name] = _module
    _spec.loader.exec_module(_module)
