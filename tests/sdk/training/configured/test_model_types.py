"""Names of models, and what is said of those that nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import all_estimators

from tailrace import SettingsError
from tailrace.training.configured.model_types import build_estimator, from_dotted_path


def test_every_class_of_scikit_learn_is_known_in_any_spelling() -> None:
    for name, kind in all_estimators("classifier")[:6]:
        for spelled in (name, name.lower()):
            try:
                found = build_estimator("sklearn", spelled, "classification", {}, "model", Path())
            except TypeError:  # those that want an estimator
                continue
            assert type(found) is kind


def test_a_dotted_path_may_be_a_function_and_its_module_lie_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "made_here.py").write_text(
        "from sklearn.tree import DecisionTreeClassifier as T\n\n\ndef tree(depth):\n    return T(max_depth=depth)\n"
    )
    found = build_estimator("sklearn", "made_here.tree", None, {"depth": 2}, "model", tmp_path)
    assert isinstance(found, DecisionTreeClassifier)
    with pytest.raises(SettingsError, match=r"model.parameters.dept is no parameter of tree; did you mean 'depth'?"):
        build_estimator("sklearn", "made_here.tree", None, {"dept": 2}, "model", tmp_path)
    with pytest.raises(SettingsError, match=r"made_here has no 'tre'; did you mean 'tree'?"):
        from_dotted_path("made_here.tre", "model", tmp_path)


def test_what_a_module_lacks_is_not_taken_for_the_module(tmp_path: Path) -> None:
    (tmp_path / "lacking.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(ModuleNotFoundError, match=r"nothing_of_that_name"):
        from_dotted_path("lacking.Model", "model", tmp_path)
    with pytest.raises(SettingsError, match=r"there is no module 'not_there'"):
        from_dotted_path("not_there.Model", "model", tmp_path)
