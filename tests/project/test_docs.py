"""The documentation: complete where a list is promised, with code that compiles and links that lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from mlflow import MlflowClient

import tailrace
from helpers.sdk_tools import forget, script
from tailrace_agent.cli import main as command_line
from tailrace_agent.settings.sources import INTERNAL_VARIABLES, load_settings
from tailrace_agent.settings.table import TABLE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TESTS = ROOT / "tests"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+(?:\([^()]*\)[^()\s]*)?)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _pages() -> list[Path]:
    return [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md")),
        *sorted(DOCS.rglob("*.md")),
    ]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _blocks(page: Path, language: str) -> Iterator[str]:
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if match[1] == language:
            yield match[2]


def _prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = (re.sub(r"[`*]", "", title).lower() for title in _HEADING.findall(_prose(page)))
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in titles}


def _website() -> ModuleType:
    """What the site has beyond the pages, as MkDocs loads it."""
    spec = importlib.util.spec_from_file_location("website", ROOT / "tools" / "website.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WEBSITE = _website()


def _expanded(page: Path) -> str:
    """A page as the site has it, with the tables that are made of the program's own."""
    text: str = WEBSITE.expanded(page.read_text(encoding="utf-8"))
    return text


@pytest.mark.parametrize("name", TABLE)
def test_the_settings_page_says_of_every_setting_what_the_table_says(name: str) -> None:
    setting = TABLE[name]
    (row,) = re.findall(rf"^\| `{name}`<br>.*\|$", _expanded(DOCS / "settings.md"), re.MULTILINE)
    first, default, allowed, scope, description = row.removeprefix("| ").removesuffix(" |").split(" | ")
    assert first == f"`{name}`<br>`TAILRACE_{name.upper()}`"
    assert default
    assert (allowed, scope, description) == (setting.allowed, setting.scope, setting.description)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("quiet", "`false`"),
        ("end_timeout", "60 s"),
        ("drain_interval", "0.1 s"),
        ("ring_bytes", "8 MiB"),
        ("nice", "10"),
        ("keep_days", "7"),
        ("agent", "`process`"),
        ("alerts", "none"),
        ("ranks", "zero"),
        ("dir", "the user's state directory"),
    ],
)
def test_a_default_is_written_as_people_write_it(name: str, written: str) -> None:
    assert WEBSITE.default_of(name) == written


def test_the_settings_page_lists_nothing_that_is_no_setting() -> None:
    listed = re.findall(r"^\| `(\w+)`<br>`TAILRACE_", _expanded(DOCS / "settings.md"), re.MULTILINE)
    assert sorted(listed) == sorted(TABLE)


def test_the_api_pages_have_every_public_name_once() -> None:
    named = [name for page in (DOCS / "api").glob("*.md") for name in WEBSITE.api_names(page.read_text("utf-8"))]
    assert sorted(named) == sorted(tailrace.__all__)


@pytest.mark.parametrize("variable", sorted(INTERNAL_VARIABLES))
def test_every_internal_variable_is_explained(variable: str) -> None:
    assert f"\n| `{variable}` |" in (DOCS / "settings.md").read_text(encoding="utf-8")


def test_the_sample_files_are_valid_settings(tmp_path: Path) -> None:
    samples = list(_blocks(DOCS / "settings.md", "toml"))
    assert samples
    for number, sample in enumerate(samples):
        directory = tmp_path / str(number)
        directory.mkdir()
        file = "pyproject.toml" if "[tool.tailrace]" in sample else "tailrace.toml"
        (directory / file).write_text(sample, encoding="utf-8")
        assert load_settings(environ={}, start_dir=directory).experiment_name == "digits"


@pytest.mark.parametrize(
    ("command", "path"), [pytest.param(*found, id=" ".join(found[1])) for found in WEBSITE.all_commands()]
)
def test_every_command_is_on_the_command_line_page_with_its_options(command: click.Command, path: list[str]) -> None:
    _, _, section = _expanded(DOCS / "command-line.md").partition(f"\n### `{' '.join(path)}`\n")
    section, _, _ = section.partition("\n### ")
    for option in (name for parameter in command.params for name in parameter.opts if name.startswith("--")):
        assert option in section, option


@pytest.mark.parametrize("command", command_line.list_commands(click.Context(command_line)))
def test_every_command_has_a_word_of_what_it_is_for(command: str) -> None:
    page = (DOCS / "command-line.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| .*`(tailrace )?{command}\b", page, re.MULTILINE), command


def _words(text: str) -> int:
    return sum(any(map(str.isalnum, word)) for word in text.split())


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=_name)
def test_no_page_is_longer_than_1500_words(page: Path) -> None:
    assert _words(page.read_text(encoding="utf-8")) <= 1500


def test_the_pages_for_users_have_19000_words_together_at_most() -> None:
    """A new answer takes the place of an old one, or stands where the question is looked up already."""
    pages = [page for page in DOCS.rglob("*.md") if "architecture" not in page.relative_to(DOCS).as_posix()]
    assert sum(_words(page.read_text(encoding="utf-8")) for page in pages) <= 19_000


@pytest.mark.parametrize("page", _pages(), ids=_name)
def test_python_in_the_docs_compiles(page: Path) -> None:
    for number, block in enumerate(_blocks(page, "python"), 1):
        compile(block, f"{page.name}, python block {number}", "exec")


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted((DOCS / "migrate").glob("*.md")), ids=_name)
def test_what_a_page_on_migrating_shows_runs_as_it_stands(page: Path, sqlite_uri: str, tmp_path: Path) -> None:
    blocks = list(_blocks(page, "python"))
    for number, block in enumerate(blocks):
        directory = tmp_path / str(number)
        directory.mkdir()
        code = block.replace("http://localhost:5000", sqlite_uri)
        done = script(directory, code, MLFLOW_TRACKING_URI=sqlite_uri, PYTHONPATH=os.pathsep.join(sys.path))
        forget(directory)
        assert "Traceback" not in done.stderr
    client = MlflowClient(sqlite_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments)
    assert [run.info.status for run in found] == ["FINISHED"] * len(blocks)
    assert all("loss" in " ".join(run.data.metrics) for run in found)


@pytest.mark.parametrize("page", sorted((DOCS / "migrate").glob("*.md")), ids=_name)
def test_the_commands_on_a_page_on_migrating_are_ones(page: Path) -> None:
    for line in "".join(_blocks(page, "console")).splitlines():
        if line.startswith("$ tailrace "):
            _, _, name, *arguments = shlex.split(line)
            command = command_line.get_command(click.Context(command_line), name)
            assert command is not None, line
            command.make_context(name, arguments)


def test_the_first_steps_are_in_python() -> None:
    assert list(_blocks(ROOT / "README.md", "python"))
    assert len(list(_blocks(DOCS / "quickstart.md", "python"))) >= 5


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert _words((ROOT / "README.md").read_text(encoding="utf-8")) <= 700


@pytest.mark.parametrize("page", _pages(), ids=_name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in _LINK.findall(_prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            dead.append(link)
    assert not dead


def test_the_index_lists_every_page() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    assert [page for page in pages if page != "README.md" and f"({page})" not in index] == []


def test_every_feature_names_a_test_that_exists() -> None:
    rows = [
        line
        for line in (DOCS / "architecture" / "features.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ✓")
    ]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), (file, test)


@pytest.mark.parametrize("page", _pages(), ids=_name)
def test_every_test_that_a_page_names_is_where_it_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for file, _, test in re.findall(r"`(tests/[\w/]+\.py)(::(\w+))?`", text):
        assert (ROOT / file).exists(), file
        assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), (file, test)
    for name in re.findall(r"`(test_\w+)(?:\.py)?`", re.sub(r"`tests/[^`]*`", "", text)):
        assert page.parent == TESTS, f"{name} is named without its path"
