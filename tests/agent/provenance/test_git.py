"""What git knows of a directory; it never hurts, whoever made the repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from helpers.repositories import git
from tailrace_agent.provenance import git as git_module
from tailrace_agent.provenance.git import git_facts


def test_git_tells_commit_branch_remote_and_changes(repository: Path, tmp_path: Path) -> None:
    git(repository, "remote", "add", "origin", "https://ada:secret@example.org/lab/model.git")
    clean = git_facts(repository / "src", diff=True)
    assert clean is not None
    assert (clean.commit, clean.branch) == (git(repository, "rev-parse", "HEAD"), "trunk")
    assert (clean.remote, clean.dirty, clean.diff) == ("https://example.org/lab/model.git", False, None)
    assert Path(clean.root).samefile(repository)
    (repository / "src" / "model.py").write_text("LAYERS = 3\n")
    changed = git_facts(repository, diff=True)
    assert changed is not None
    assert changed.dirty is True
    assert b"-LAYERS = 2\n+LAYERS = 3\n" in (changed.diff or b"")
    asked_for_none = git_facts(repository)
    assert asked_for_none is not None
    assert (asked_for_none.dirty, asked_for_none.diff) == (True, None)
    assert git_facts(tmp_path) is None
    assert git_facts(tmp_path / "nowhere") is None


def test_a_repository_of_another_user_tells_its_names_and_runs_nothing(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository, "remote", "add", "origin", "https://example.org/lab/model.git")
    (repository / ".git" / "info" / "attributes").write_text("* filter=spy\n")
    git(repository, "config", "filter.spy.clean", f"touch {repository}/ran; cat")
    (repository / "src" / "model.py").write_text("LAYERS = 3\n")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way of taking it for somebody else's
    facts = git_facts(repository / "src", diff=True)
    assert facts is not None
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    assert (facts.commit, facts.branch) == (git(repository, "rev-parse", "HEAD"), "trunk")
    assert (facts.remote, facts.dirty, facts.diff) == ("https://example.org/lab/model.git", None, None)
    assert not (repository / "ran").exists()


_BY_CONFIGURATION = {
    "filter.spy.clean": "touch {ran}; cat",
    "filter.spy.process": "touch {ran}",
    "filter.Spy.2.clean": "touch {ran}; cat",
    "filter..clean": "touch {ran}; cat",
    "filter..process": "touch {ran}",
    "diff.external": "touch {ran} #",
    "diff.spy.command": "touch {ran} #",
    "diff.spy.textconv": "touch {ran}; cat",
    "core.fsmonitor": "touch {ran} #",
    "core.pager": "touch {ran}; cat",
    "core.hooksPath": "{hooks}",
    "core.sshCommand": "touch {ran} #",
    "core.alternateRefsCommand": "touch {ran} #",
    "remote.origin.uploadpack": "touch {ran} #",
}


@pytest.mark.parametrize("name", _BY_CONFIGURATION)
def test_a_repository_runs_nothing_that_it_brings_along(repository: Path, tmp_path: Path, name: str) -> None:
    ran, hooks = tmp_path / "ran", tmp_path / "hooks"
    hooks.mkdir()
    for folder in (hooks, repository / ".git" / "hooks"):
        for hook in ("post-index-change", "reference-transaction", "pre-auto-gc"):
            (folder / hook).write_text(f"#!/bin/sh\ntouch {ran}\n")
            (folder / hook).chmod(0o755)
    driver = ".".join(name.split(".")[1:-1]) or ("" if ".." in name else "spy")
    (repository / ".gitattributes").write_text(f"* filter={driver} diff={driver}\n")
    (repository / "src" / "model.py").write_text("LAYERS = 3\n")
    part = repository / "part"
    part.mkdir()
    git(part, "init", "-q")
    git(part, "commit", "-q", "--allow-empty", "-m", "of a submodule")
    git(repository, "-c", "advice.addEmbeddedRepo=false", "add", "part")
    for each in (repository, part):
        with (each / ".git" / "config").open("a") as file:
            section, _, key = name.rpartition(".")
            first, dot, second = section.partition(".")
            head = f'[{first} "{second}"]' if dot else f"[{first}]"
            value = _BY_CONFIGURATION[name].format(ran=ran, hooks=hooks)
            file.write(f'{head}\n{key} = "{value}"\n[diff]\nsubmodule = diff\n')
    ran.unlink(missing_ok=True)
    facts = git_facts(repository, diff=True)
    assert facts is not None
    assert facts.dirty is True
    assert b"+LAYERS = 3\n" in (facts.diff or b"")
    assert not ran.exists()


def test_a_missing_object_is_not_fetched(repository: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    blob = git(repository, "rev-parse", "HEAD:src/model.py")
    (repository / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.url": f"ext::touch {ran}",
        "remote.origin.promisor": "true",
        "protocol.allow": "always",
        "protocol.ext.allow": "always",
    }.items():
        git(repository, "config", key, value)
    (repository / "src" / "model.py").write_text("LAYERS = 3\n")
    facts = git_facts(repository, diff=True)
    assert facts is not None
    assert facts.diff is None
    assert not ran.exists()


def test_a_filter_of_the_users_own_runs(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gitconfig").write_text('[filter "mine"]\nclean = "sed s/3/2/"\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    (repository / ".git" / "info" / "attributes").write_text("* filter=mine\n")
    (repository / "src" / "model.py").write_text("LAYERS = 3\n")
    facts = git_facts(repository, diff=True)
    assert facts is not None
    assert (facts.dirty, facts.diff) == (False, None)


@pytest.mark.parametrize(
    ("key", "value"), [("core.worktree", "{elsewhere}"), ("filter.a=b.clean", "touch {elsewhere}/ran; cat")]
)
def test_a_repository_that_cannot_be_compared_safely_stays_uncompared(
    repository: Path, tmp_path: Path, key: str, value: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "src").mkdir(parents=True)
    (elsewhere / "src" / "model.py").write_text("SECRET = 1\n")
    (repository / ".git" / "info" / "attributes").write_text("* filter=a=b\n")
    (repository / "src" / "model.py").write_text("LAYERS = 3\n")
    git(repository, "config", key, value.format(elsewhere=elsewhere))
    facts = git_facts(repository, diff=True)
    assert facts is not None
    assert (facts.dirty, facts.diff) == (None, None)
    assert not (elsewhere / "ran").exists()


def test_a_remote_never_shows_credentials(repository: Path) -> None:
    for remote, shown in {
        "https://token@example.org/x": "https://example.org/x",
        "https://u:p@example.org/x": "https://example.org/x",
        "git@example.org:lab/model": "git@example.org:lab/model",
        "ssh://git@example.org/x": "ssh://git@example.org/x",
    }.items():
        git(repository, "config", "remote.origin.url", remote)
        found = git_facts(repository)
        assert found is not None
        assert found.remote == shown


def test_a_git_that_hangs_or_fails_is_given_up(repository: Path, tmp_path: Path, monkeypatch: Any) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tools / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(git_module, "_EACH", 0.2)
    assert git_facts(repository) is None
    (tools / "git").write_text("#!/bin/sh\nexit 128\n")
    assert git_facts(repository) is None


def test_a_repository_without_a_commit_is_no_error(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    found = git_facts(tmp_path, diff=True)
    assert found is not None
    assert (found.commit, found.dirty, found.diff) == (None, None, None)
