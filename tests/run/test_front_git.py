# SPDX-License-Identifier: Apache-2.0
"""An unmodified git under `arx run`: what passes, what is refused, and what git prints."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from tests.gateway.git_services import git, refs_of
from tests.run.world import GIT_RULES, RunWorld, git_world

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.7")]

SESSION = "s-abcdefghijklmnop"
Place = tuple[RunWorld, Path]


@pytest.fixture
def place(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> Iterator[Place]:
    with git_world(tmp_path, valkey, realm_name) as found:
        yield found


def test_git_clones_and_pushes_what_its_task_allows(place: Place) -> None:
    """
    A clone by https and by an address of ssh pass, and so does a push to an allowed ref.
    """
    world, clone = place
    done = world.run("git", "clone", "--quiet", "git@git.example:acme/app.git", "again")
    assert done.returncode == 0, done.stderr
    assert (world.folder / "again" / "file").read_text() == "one"
    done = world.run("git", "-C", str(clone), "push", "origin", "HEAD:refs/heads/agent/login")
    assert done.returncode == 0, done.stderr
    new = git(clone, "rev-parse", "HEAD").strip()
    assert refs_of(world.folder / "served" / "acme" / "app.git")["refs/heads/agent/login"] == new
    assert "arx run: no box: " in done.stderr


def test_git_prints_why_a_push_or_a_fetch_is_refused(place: Place) -> None:
    """
    At the ref of a push; before a discovery of another repository, of another host, and after a kill.
    """
    world, clone = place
    served = world.folder / "served" / "acme" / "app.git"
    before = refs_of(served)
    done = world.run("git", "-C", str(clone), "push", "origin", "HEAD:main", "HEAD:refs/heads/agent/a")
    assert done.stderr.count("(refused by arx: ") == 2, done.stderr
    assert "remote: refused by arx: " in done.stderr
    assert done.returncode == 1
    done = world.run("git", "ls-remote", "https://git.example/acme/other")
    assert "remote: refused by arx: " in done.stderr, done.stderr
    done = world.run("git", "ls-remote", "https://other.example/acme/app")
    assert "it may call git.example. Do not retry." in done.stderr, done.stderr
    world.start(*GIT_RULES, session=SESSION)
    push = f"git -C {clone} push origin HEAD:refs/heads/agent/a"
    with world.started("sh", "-c", f"echo begun; read line; {push}") as running:
        world.realm.kill(SESSION)
        _, errors = running.communicate("go\n", timeout=60)
    assert "remote: refused by arx: an operator ended this work" in errors, errors
    assert "arx run: an operator ended this task: " in errors, errors
    assert refs_of(served) == before
