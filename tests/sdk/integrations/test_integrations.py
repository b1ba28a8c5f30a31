"""What is said where a framework is not installed."""

from __future__ import annotations

import importlib

import pytest

from tailrace.integrations import library


def test_a_framework_that_is_not_installed_is_named_with_what_to_install() -> None:
    with pytest.raises(ImportError, match="pip install nowhere-to-be-had"), library("nowhere-to-be-had", "nowhere_had"):
        importlib.import_module("nowhere_had.callbacks")


def test_what_a_framework_lacks_itself_is_its_own_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="no backend"), library("keras"):
        raise ModuleNotFoundError("no backend", name="tensorflow")
