# SPDX-License-Identifier: Apache-2.0
"""``arx audit commits`` against a realm that runs, with pushes of an unmodified git through its gateway."""

import json
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from arx_caps.cli import exit_codes
from arx_caps.cli.commands.audit.commits import updates_of
from arx_caps.text.effects import known_effects
from arx_verifier.clock import now_ms
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import AWAITED, EffectRecord
from tests.audit.batches import decision, facts
from tests.cli.helpers import arx
from tests.gateway.git_realm import AGENT, GitRealm
from tests.gateway.git_services import git
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.spec("12.8")]
ZEROS = "0" * 40
LOGIN = "refs/heads/agent/login"


class Pushed:
    """The realm, and the commits that were pushed.

    Attributes:
        commits: Ids, the oldest first: of `main`, then three, of which the first and the last were tips.
        since: A time before the last push.
    """

    def __init__(self, realm: GitRealm) -> None:
        self.realm, self.since = realm, 0
        self.commits: list[str] = []

    def ask(self, *words: str | Path) -> tuple[int, dict[str, Any], str]:
        """Run the command, and return its exit code, its object and its text of errors."""
        env = {"ARX_HOME": self.realm.environment["ARX_HOME"], "PATH": os.environ["PATH"]}
        done = arx("audit", "commits", "acme/app", *words, "--json", env=env)
        return done.exit_code, done.json, done.err

    def updates(self, *words: str | Path) -> list[dict[str, Any]]:
        """Return what the command shows."""
        code, found, err = self.ask(*words)
        assert code == 0, err
        updates: list[dict[str, Any]] = found["updates"]
        return updates


def commit(clone: Path, text: str) -> str:
    (clone / "file").write_text(text)
    git(clone, "commit", "--quiet", "--all", "-m", text)
    return git(clone, "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    """Ann's agent creates a branch and is refused at `main`; Bob's sub-agent moves the branch by two commits."""
    realm = GitRealm(tmp_path_factory.mktemp("pushed"))
    of = Pushed(realm)
    with realm.running():
        of.commits = [git(realm.clone, "rev-parse", name).strip() for name in ("HEAD~1", "HEAD")]
        with realm.front(realm.task("ann")) as url:
            git(realm.clone, "push", f"{url}/acme/app.git", f"HEAD:{LOGIN}")
            git(realm.clone, "push", f"{url}/acme/app.git", "HEAD:main", fails=True)
        of.since = now_ms()
        of.commits += [commit(realm.clone, "three"), commit(realm.clone, "four")]
        with realm.front(realm.task("bob").delegate("acme/coder/helper")) as url:
            git(realm.clone, "push", f"{url}/acme/app.git", f"HEAD:{LOGIN}")
        until(lambda: [each["result"] for each in of.updates()] == ["done", "refused", "done"])
        yield of


def test_each_push_has_its_person_agent_and_task(pushed: Pushed) -> None:
    """In the order of the log; a refused one has its code, and no ids."""
    created, refused, moved = pushed.updates()
    assert [each["ref"] for each in (created, refused, moved)] == [LOGIN, "refs/heads/main", LOGIN]
    assert (created["old"], created["new"]) == (ZEROS, pushed.commits[1])
    assert (moved["old"], moved["new"]) == (pushed.commits[1], pushed.commits[3])
    assert (refused["old"], refused["new"], refused["code"]) == (None, None, "argument_not_allowed")
    assert [each["subject"]["subject"] for each in (created, refused, moved)] == ["ann", "ann", "bob"]
    assert (moved["agent"], moved["named"], created["named"]) == (AGENT, ["acme/coder/helper"], [])
    assert created["task"] == refused["task"] != moved["task"]
    assert created["session"] != moved["session"]
    assert {each["repo"] for each in (created, refused, moved)} == {"acme/app"}


def test_updates_are_filtered(pushed: Pushed) -> None:
    """By ref, by the filters of other queries, and by the repository."""
    assert [each["new"] for each in pushed.updates("--ref", "refs/heads/agent/*")] == [
        pushed.commits[1],
        pushed.commits[3],
    ]
    assert [each["subject"]["subject"] for each in pushed.updates("--since", str(pushed.since))] == ["bob"]
    assert len(pushed.updates("--limit", "1")) == 1
    assert pushed.updates("--tool", "git.fetch") == []
    env = {"ARX_HOME": pushed.realm.environment["ARX_HOME"]}
    assert arx("audit", "commits", "acme/other", "--json", env=env).json["updates"] == []
    table = arx("audit", "commits", "acme/app", env=env).out.splitlines()
    assert table[0].split()[:4] == ["TIME", "RESULT", "PERSON", "AGENT"]
    assert "refused: argument_not_allowed" in table[2]
    assert f"{AGENT} -> acme/coder/helper" in table[3]


def test_a_commit_is_found_as_a_tip_and_by_a_clone_between_tips(pushed: Pushed) -> None:
    """The log has tips alone; a clone shows which commits a push brought."""
    main, first, middle, last = pushed.commits
    clone = pushed.realm.clone

    def places(*words: str | Path) -> list[tuple[str, str]]:
        return [(each["new"], each["commit"]) for each in pushed.updates("--commit", *words)]

    assert places(last[:7]) == [(last, "tip")]
    code, _, err = pushed.ask("--commit", middle)
    assert (code, "--git DIR" in err) == (exit_codes.DENIED, True)
    assert places(middle, "--git", clone) == [(last, "between")]
    assert places(last[:8], "--git", clone) == [(last, "tip")]
    # The push that created the ref: the log does not know which of its commits the upstream had.
    assert places(main, "--git", clone) == [(first, "history")]
    assert pushed.ask("--commit", "f" * 40, "--git", clone)[0] == exit_codes.USAGE


def test_a_clone_without_the_tips_is_named_as_such(pushed: Pushed, tmp_path: Path) -> None:
    """What it cannot judge is counted, and never taken for an answer."""
    bare = pushed.realm.folder / "served" / "acme" / "app.git"
    git(tmp_path, "clone", "--quiet", "--single-branch", bare.as_uri(), "main-only")
    code, _, err = pushed.ask("--commit", pushed.commits[0], "--git", tmp_path / "main-only")
    assert code == exit_codes.DENIED
    assert "lacks tips of 2 updates" in err


def test_what_cannot_be_asked_is_refused(pushed: Pushed) -> None:
    """A commit that is none, a clone without a commit, and a reason."""
    for words in (("--commit", "HEAD"), ("--commit", "-x"), ("--git", "."), ("--reason", "deny")):
        assert pushed.ask(*words)[0] == exit_codes.USAGE, words


def test_the_environment_names_no_other_repository(pushed: Pushed, monkeypatch: pytest.MonkeyPatch) -> None:
    """`GIT_DIR` of a hook, in which the command may run, does not replace the clone."""
    monkeypatch.setenv("GIT_DIR", str(pushed.realm.folder))
    assert len(pushed.updates("--commit", pushed.commits[2], "--git", pushed.realm.clone)) == 1


def shown(of: Decision, index: int) -> dict[str, Any]:
    """Return a decision as the log shows it."""
    return {"index": index, "service": "git", "leaf": f"{index:064x}", **of.to_dict()}


def recorded(arguments: bytes | None, external_id: str | None, **more: Any) -> list[dict[str, Any]]:
    """Return the updates of one allowed push."""
    call = decision(1, facts("s-1", "t-1"), tool="git.push", effect=AWAITED, arguments=arguments, **more)
    effect = decision(
        2,
        facts("s-1", "t-1"),
        "effect",
        "git.push",
        effect=EffectRecord("done", call.id, 200, 6, bytes(32), 12),
        external_id=external_id,
    )
    calls = [shown(call, 1)]
    return list(updates_of(calls, known_effects(calls, [shown(effect, 2)] if external_id else [], {call.boot})))


def test_the_ninth_update_has_its_ref_alone() -> None:
    """The record has the ids of eight; a ref that its text has cut is whole in the arguments."""
    refs = [f"refs/heads/agent/{number}" for number in range(10)]
    refs[0] += "x" * 300
    ids = ", ".join(f"{ZEROS} {'a' * 40} {ref[:200]}" for ref in refs[:8]) + ", and 2 more"
    found = recorded(json.dumps({"repo": "acme/app", "refs": refs}).encode(), ids)
    assert [each["ref"] for each in found] == refs
    assert [bool(has) for has, _ in groupby(found, key=lambda each: each["new"])] == [True, False]
    assert [each["new"] for each in found].count(None) == 2


def test_a_push_without_its_effect_is_unknown() -> None:
    """Its process died: the refs are known, and no ids."""
    [found] = recorded(b'{"repo":"acme/app","refs":["refs/heads/a"]}', None)
    assert (found["result"], found["ref"], found["new"]) == ("unknown", "refs/heads/a", None)


def test_a_push_whose_arguments_are_lost_is_of_each_repository() -> None:
    """More refs than a record has room for hide no push."""
    found = recorded(b"", f"{ZEROS} {'a' * 40} refs/heads/a, and 999 more")
    assert [(each["repo"], each["ref"], each["new"]) for each in found] == [(None, "refs/heads/a", "a" * 40)]
    assert [each["ref"] for each in recorded(b"", None)] == [None]


def test_a_tool_of_another_service_that_is_called_push_is_none() -> None:
    """By the arguments; or by none, which each gateway records."""
    assert recorded(b'{"order_id":"o-1"}', None) == []
    assert recorded(None, None) == []
