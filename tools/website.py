"""What the site has beyond the pages in docs/: settings, commands, the API, and the pages of the root folder.

MkDocs calls the functions that begin with `on_`. A page asks for a table by a comment of its own line:

- `<!-- settings: quiet strict -->` is the table of these settings, from `tailrace_agent.settings.table`;
- `<!-- commands -->` is every command with its options, from the command line's own `--help`;
- `<!-- api: start_run Run -->` is what the docstrings of these names of `tailrace` say, by mkdocstrings.

So nothing is written twice, and tests/project/test_docs.py reads the pages as this makes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import tailrace
from tailrace_agent.cli import main as command_line
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.table import TABLE
from tailrace_agent.settings.units import parse_duration, parse_size, size_text

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Pages of the root folder that are on the site."""

_SETTINGS = re.compile(r"^<!-- settings: ([\w ]+) -->$", re.MULTILINE)
_COMMANDS = re.compile(r"^<!-- commands -->$", re.MULTILINE)
_API = re.compile(r"^<!-- api: ([\w ]+) -->$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]\[]*)\]\((?!\w+:|#)([^()\s#]+)(#[^()\s]*)?\)")


def expanded(text: str) -> str:
    """A page with the tables that it asks for."""
    text = _SETTINGS.sub(lambda found: settings_table(found[1].split()), text)
    text = _API.sub(lambda found: "\n\n".join(map(_directive, found[1].split())), text)
    return _COMMANDS.sub(lambda _: command_reference(), text)


def api_names(text: str) -> list[str]:
    """The names whose docstrings a page asks for."""
    return [name for found in _API.finditer(text) for name in found[1].split()]


def _directive(name: str) -> str:
    # The functions of the module are bound methods; the method is where the docstring stands.
    return f"::: tailrace.Tracker.{name}" if hasattr(tailrace.Tracker, name) else f"::: tailrace.{name}"


# -- settings ----------------------------------------------------------------------------------------------------------


def settings_table(names: list[str]) -> str:
    """A row for each of these settings."""
    head = "| setting | default | allowed | for | what it does |\n|---|---|---|---|---|"
    return "\n".join([head, *map(settings_row, names)])


def settings_row(name: str) -> str:
    """What is known of a setting, as a row."""
    setting = TABLE[name]
    first = f"`{name}`<br>`TAILRACE_{name.upper()}`"
    return f"| {first} | {default_of(name)} | {setting.allowed} | {setting.scope} | {setting.description} |"


def default_of(name: str) -> str:
    """A default as people write it."""
    value, setting = getattr(Settings(), name), TABLE[name]
    if value is None or value == ():
        return setting.unset
    if setting.parse is parse_duration:
        return f"{value:g} s"
    if setting.parse is parse_size:
        return size_text(value).replace(".0 ", " ")
    return f"{value:g}" if type(value) in (int, float) else f"`{str(value).lower()}`"


# -- commands ----------------------------------------------------------------------------------------------------------


def command_reference() -> str:
    """A section for each command, as its `--help` has it."""
    return "\n\n".join(_section(command, path) for command, path in all_commands())


def all_commands() -> list[tuple[click.Command, tuple[str, ...]]]:
    """Every command, with the words that call it."""
    return list(_below(command_line, ("tailrace",)))


def _below(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[click.Command, tuple[str, ...]]]:
    yield command, path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from _below(found, (*path, name))


def _section(command: click.Command, path: tuple[str, ...]) -> str:
    parent = None
    for name in path[:-1]:
        parent = click.Context(command_line, info_name=name, parent=parent)
    shown = command.get_help(click.Context(command, info_name=path[-1], parent=parent, max_content_width=100))
    return f"### `{' '.join(path)}`\n\n```text\n{shown}\n```"


# -- MkDocs ------------------------------------------------------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the root folder."""
    from mkdocs.structure.files import File

    for name in OUTSIDE:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """The page with its tables, and with links as they are on the site."""
    here = ROOT if page.file.src_uri in OUTSIDE else (ROOT / "docs" / page.file.src_uri).parent
    known = {file.src_uri for file in files}
    return _LINK.sub(lambda found: _relinked(found, here, known), expanded(markdown))


def _relinked(link: re.Match[str], here: Path, known: set[str]) -> str:
    """A link from a page in `here`: the same, moved to where the site has its end, or its words where it has not."""
    target = (here / link[2]).resolve()
    docs = ROOT / "docs"
    if target.is_relative_to(docs) and here != ROOT:
        return link[0]
    if target.is_relative_to(docs):
        return f"[{link[1]}]({target.relative_to(docs).as_posix()}{link[3] or ''})"
    name: Any = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else None
    if name not in known:
        return str(link[1])
    up = "../" * len(here.relative_to(docs).parts) if here != ROOT else ""
    return f"[{link[1]}]({up}{name}{link[3] or ''})"
