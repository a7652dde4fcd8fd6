# SPDX-License-Identifier: Apache-2.0
"""Commits of an unmodified git under a task: author, trailers, and the repository's own hooks."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent import Bundle, Task
from arx_caps.run.attribution import git_settings
from arx_caps.run.environment import environment
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm


def task_of(subject: tuple[str, str] | None) -> Task:
    """Return a task for a person."""
    more: dict[str, Any] = {} if subject is None else {"subject": subject}
    macaroon = UnsafeTestRealm("git").caller(Rule(tool="*"), **more).macaroon
    return Task(
        Bundle(
            agent="test/agent",
            issuer="https://mint.example",
            origins={"git": ("https://git.example",)},
            realm=macaroon.location,
            task="t-test",
            tokens={"git": macaroon},
        )
    )


class Repository:
    """A repository, and git as a command under a task has it."""

    def __init__(self, folder: Path, subject: tuple[str, str] | None, hooks: tuple[str, ...] = ()) -> None:
        self.folder, self.task = folder / "repository", task_of(subject)
        run, home = folder / "run", folder / "home"
        for each in (self.folder, run, home):
            each.mkdir()
        subprocess.run(["git", "init", "--quiet", "--initial-branch=main", self.folder], check=True, timeout=60)
        for name in hooks:
            self.hook(name, 'echo "$0" >>../started')
        settings = git_settings(self.task, run, self.folder)
        self.environment = environment(
            proxy="http://127.0.0.1:9",
            ca_file=run / "ca",
            home=home,
            folder=run,
            hosts=(),
            git_settings=settings.items(),
        )

    def git(self, *words: str, fails: bool = False, editor: str = "false") -> str:
        """Run git; return what it wrote to both streams."""
        command = subprocess.run(
            ["git", *words],
            cwd=self.folder,
            env=self.environment | {"GIT_EDITOR": editor},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (command.returncode != 0) is fails, command.stdout + command.stderr
        return command.stdout + command.stderr

    def commit(self, *words: str, editor: str = "false") -> str:
        """Make an empty commit; return its message."""
        self.git("commit", "--quiet", "--allow-empty", *words, editor=editor)
        return self.git("log", "-1", "--format=%B").strip()

    def hook(self, name: str, text: str, folder: str = ".git/hooks") -> None:
        """Write a hook of the repository."""
        file = self.folder / folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    @property
    def trailers(self) -> str:
        """The trailers of a commit."""
        return f"Agent: {self.task.agent}\nARx-Task: {self.task.id}"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path, ("https://id.example", "ann@acme.example"))


def editor(folder: Path, text: str) -> str:
    """Return an editor that puts a line before what it finds, or leaves it."""
    program = folder / "editor"
    program.write_text(f'#!/bin/sh\n{{ printf "%b" {text!r}; cat "$1"; }} >"$1.new" && mv "$1.new" "$1"\n')
    program.chmod(0o755)
    return str(program)


def test_the_person_is_the_author(repository: Repository) -> None:
    """Also where the repository names another one."""
    repository.git("config", "--local", "user.name", "someone")
    repository.commit("-m", "one")
    shown = repository.git("log", "-1", "--format=%an %ae %cn %ce").strip()
    assert shown == " ".join(["ann@acme.example"] * 4)


@pytest.mark.parametrize(
    ("subject", "email"),
    [(("https://id.example/tenant", "ann"), "ann@id.example"), (("corp", "a|7"), "a|7@localhost")],
)
def test_an_id_without_a_domain_gets_the_issuer_s(tmp_path: Path, subject: tuple[str, str], email: str) -> None:
    """git makes no commit without an address."""
    assert git_settings(task_of(subject), tmp_path, tmp_path)["user.email"] == email


def test_a_task_for_no_person_leaves_the_author_alone(tmp_path: Path) -> None:
    """It is what the repository or the home of the command names."""
    repository = Repository(tmp_path, None)
    repository.git("config", "--local", "user.name", "bot")
    repository.git("config", "--local", "user.email", "bot@acme.example")
    assert repository.commit("-m", "one") == f"one\n\n{repository.trailers}"
    assert repository.git("log", "-1", "--format=%ae").strip() == "bot@acme.example"


def test_each_commit_has_its_trailers_once(repository: Repository) -> None:
    """With the message of a word, of the editor, of a merge, without checks, and amended."""
    assert repository.commit("-m", "one") == f"one\n\n{repository.trailers}"
    assert repository.commit("--amend", "--no-edit") == f"one\n\n{repository.trailers}"
    assert (
        repository.commit("--no-verify", "-m", "two", "-m", "Closes: #1") == f"two\n\nCloses: #1\n{repository.trailers}"
    )
    written = repository.commit(editor=editor(repository.folder, "three\n"))
    assert written == f"three\n\n{repository.trailers}"
    repository.git("checkout", "--quiet", "-b", "side", "HEAD~1")
    repository.commit("-m", "four")
    repository.git("merge", "--quiet", "--no-edit", "main")
    assert (
        repository.git("log", "-1", "--format=%B").strip() == f"Merge branch 'main' into side\n\n{repository.trailers}"
    )


def test_an_empty_message_ends_the_commit(repository: Repository) -> None:
    """The trailers alone are no message."""
    shown = repository.git("commit", "--allow-empty", fails=True, editor=editor(repository.folder, ""))
    assert "empty commit message" in shown


def test_the_hooks_of_the_repository_run(repository: Repository) -> None:
    """Those beside it, with their words and their input, and those that its settings name."""
    repository.hook("pre-commit", "echo checked; exit 1")
    assert "checked" in repository.git("commit", "--allow-empty", "-m", "one", fails=True)
    repository.hook("pre-commit", "exit 0")
    repository.hook("prepare-commit-msg", 'echo "ticket 7" >>"$1"')
    assert repository.commit("-m", "one") == f"one\nticket 7\n\n{repository.trailers}"
    repository.git("init", "--bare", "--quiet", "../bare")
    repository.hook("pre-push", 'echo "to $1"; cat')
    assert "to ../bare" in (shown := repository.git("push", "../bare", "main"))
    assert "refs/heads/main" in shown
    repository.git("config", "--local", "core.hooksPath", "checks")
    repository.hook("pre-commit", "echo by the settings; exit 1", "checks")
    assert "by the settings" in repository.git("commit", "--allow-empty", "-m", "two", fails=True)


def test_a_hook_that_is_no_program_does_not_run(repository: Repository) -> None:
    """As git itself leaves it out."""
    repository.hook("pre-commit", "exit 1")
    (repository.folder / ".git" / "hooks" / "pre-commit").chmod(0o644)
    assert repository.commit("-m", "one").startswith("one")


def test_a_hook_that_git_starts_often_runs_where_the_repository_has_it(tmp_path: Path) -> None:
    """Else each commit and push would start one several times for nothing."""
    person = ("https://id.example", "ann@acme.example")
    for name, hooks in (("with", ("reference-transaction",)), ("without", ())):
        (folder := tmp_path / name).mkdir()
        repository = Repository(folder, person, hooks)
        repository.commit("-m", "one")
        assert (folder / "started").exists() is bool(hooks)
        assert (folder / "run" / "hooks" / "reference-transaction").exists() is bool(hooks)
