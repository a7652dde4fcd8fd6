# SPDX-License-Identifier: Apache-2.0
"""An unmodified git before `git http-backend`, with the gateway between: what passes, and what git prints."""

import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arx_caps.demo.git_server import HttpBackend
from arx_caps.gateway.catalogue.git_push import GitPush, PushReport, Update, read_commands
from arx_verifier import Constraint, Rule
from arx_verifier.errors import RequestError
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.git_services import AUDIENCE, QUIET, catalogue_door, front, git, refs_of, repository

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.7")]

REFS = Constraint(each=Constraint(glob="refs/heads/agent/*"), min_length=1)
REPO: dict[str, Any] = {"repo": "acme/app"}
PUSH: dict[str, Any] = {**REPO, "refs": REFS, "creates": Constraint(min=0), "deletes": 0}


class Place(NamedTuple):
    """A clone, the bare repository behind the gateway, and the URL at which an unmodified git reaches it."""

    clone: Path
    bare: Path
    url: str
    realm: UnsafeTestRealm


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    clone = repository(tmp_path)
    realm = UnsafeTestRealm(AUDIENCE)
    rules = (Rule(tool="github.fetch", args=REPO), Rule(tool="github.push", args=PUSH))
    with (
        catalogue_door(realm, tmp_path, "git", HttpBackend(tmp_path / "served"), effects=("github.push",)) as url,
        front(url, realm.caller(*rules)) as at,
    ):
        yield Place(clone, tmp_path / "served" / "acme" / "app.git", f"{at}/acme/app.git", realm)


def test_git_pushes_what_its_task_allows(place: Place, tmp_path: Path) -> None:
    """A clone, a fetch and a push pass; the record of the push has the refs, the old and the new ids."""
    git(tmp_path, "clone", "--quiet", place.url, "again")
    new = git(place.clone, "rev-parse", "HEAD").strip()
    git(place.clone, "push", place.url, "HEAD:refs/heads/agent/login")
    assert refs_of(place.bare)["refs/heads/agent/login"] == new
    git(place.clone, "fetch", place.url, "agent/login")
    decisions: Any = place.realm.decisions.decisions
    pushed = [each for each in decisions if each.tool == "github.push"]
    assert [(each.code, each.external_id) for each in pushed] == [
        ("ok", None),
        ("effect", f"{'0' * 40} {new} refs/heads/agent/login"),
    ]


@pytest.mark.parametrize("spared", ["refs/heads/agent/a", "none"])
def test_the_record_has_what_the_server_reports(place: Place, spared: str) -> None:
    """Refs that a hook refuses keep their ids; if it refuses all, the record has the ids of the push and `failed`."""
    hook = place.bare / "hooks" / "update"
    hook.write_text(f'#!/bin/sh\necho hooked >&2\ntest "$1" = {spared}\n', "utf-8")
    hook.chmod(0o755)
    new, zeros = git(place.clone, "rev-parse", "HEAD").strip(), "0" * 40
    words = [f"HEAD:refs/heads/agent/{name}" for name in ("a", "b")]
    shown = git(place.clone, "push", place.url, *words, fails=True)
    assert "hook declined" in shown
    decisions: Any = place.realm.decisions.decisions
    [effect] = [each for each in decisions if each.code == "effect"]
    other = new if spared == "none" else zeros
    assert effect.external_id == f"{zeros} {new} refs/heads/agent/a, {zeros} {other} refs/heads/agent/b"
    assert effect.effect.result == ("failed" if spared == "none" else "done")


@pytest.mark.parametrize("has_bands", [True, False])
def test_a_report_is_read_however_it_is_cut(has_bands: bool) -> None:
    """On side bands beside lines of progress, and without, in parts of any length; none without its head or its end."""
    updates = tuple(Update("0" * 40, "1" * 40, f"refs/heads/{name}") for name in ("a", "b"))
    push = GitPush(updates, has_bands)
    report = packets(b"unpack ok\n", b"ok refs/heads/a\n", b"ng refs/heads/b hook declined\n")
    data = (
        packets(b"\x02hooked\n", b"\x01" + report[:20], b"\x02more\n", b"\x01" + report[20:]) if has_bands else report
    )
    for size in (1, 7, len(data)):
        reader = PushReport(push)
        for start in range(0, len(data), size):
            reader.take(data[start : start + size])
        assert reader.refused() == {"refs/heads/b"}
    for odd in (b"", b"HTTP", data[8:], data[:-8]):
        reader = PushReport(push)
        reader.take(odd)
        assert reader.refused() is None


def packets(*lines: bytes) -> bytes:
    """Return lines as pkt-lines, and a flush."""
    return b"".join(b"%04x%b" % (len(line) + 4, line) for line in lines) + b"0000"


def test_git_prints_why_a_push_is_refused(place: Place) -> None:
    """At the ref, and once as a line of the server; nothing has changed."""
    before = refs_of(place.bare)
    shown = git(place.clone, "push", place.url, "HEAD:main", fails=True)
    assert "[remote rejected] HEAD -> main (refused by arx: " in shown
    assert "remote: refused by arx: " in shown
    assert refs_of(place.bare) == before


def test_git_prints_why_a_discovery_is_refused(place: Place, tmp_path: Path) -> None:
    """Of another repository, and of a task that an operator has ended."""
    other = place.url.replace("app.git", "other.git")
    shown = git(tmp_path, "ls-remote", other, fails=True)
    assert "remote: refused by arx: " in shown
    assert "acme/app" in shown
    assert "error: 403" in shown
    place.realm.epochs.kill("agent:test/agent")
    assert "remote: refused by arx: an operator ended this work" in git(tmp_path, "ls-remote", place.url, fails=True)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("HEAD:refs/heads/agent/a", "HEAD:main"), "refs[1]"),
        ((":refs/heads/agent/a",), "deletes"),
        (("HEAD:refs/heads/agent/a/b",), "refs[0]"),
        (("HEAD:refs/tags/v1",), "refs[0]"),
    ],
)
def test_no_ref_of_a_refused_push_changes(place: Place, words: tuple[str, ...], why: str) -> None:
    """One that a rule does not allow refuses all of them."""
    git(place.clone, "push", place.url, "HEAD~1:refs/heads/agent/a")
    before = refs_of(place.bare)
    shown = git(place.clone, "push", place.url, *words, fails=True)
    assert shown.count("[remote rejected]") == len(words), shown
    assert why in shown, shown
    assert refs_of(place.bare) == before


def test_what_is_not_understood_of_a_push_is_refused(place: Place) -> None:
    """Options of a push, which a server may take for orders."""
    git(place.bare, "config", "receive.advertisePushOptions", "true")
    before = refs_of(place.bare)
    shown = git(place.clone, "push", "-o", "x", place.url, "HEAD:refs/heads/agent/a", fails=True)
    assert "remote: refused by arx: the push has the capability 'push-options'" in shown
    assert refs_of(place.bare) == before


def test_a_push_in_chunks_passes_after_its_probe(place: Place) -> None:
    """git sends a flush alone before a long pack; both reach the server, and only the push is a push."""
    (place.clone / "large").write_bytes(random.Random(1).randbytes(3 << 20))
    git(place.clone, "add", "large")
    git(place.clone, "commit", "--quiet", "-m", "large")
    git(place.clone, "push", place.url, "HEAD:refs/heads/agent/large")
    assert refs_of(place.bare)["refs/heads/agent/large"] == git(place.clone, "rev-parse", "HEAD").strip()
    decisions: Any = place.realm.decisions.decisions
    assert [each.tool for each in decisions].count("github.push") == 2  # the decision and its effect


class Silent(HttpBackend):
    """Takes a push, and does not answer."""

    begun = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a discovery alone."""
        if scope["type"] == "lifespan" or scope["method"] == "GET":
            await super().__call__(scope, receive, send)
            return
        while (message := await receive())["type"] != "http.disconnect":
            if not message.get("more_body"):
                self.begun.set()


def test_a_push_that_a_kill_ends_is_shown_as_unclear(tmp_path: Path) -> None:
    """The server has the whole pack: git prints that it may have run, and the record says `unknown`."""
    clone, realm, service = repository(tmp_path), UnsafeTestRealm(AUDIENCE), Silent(tmp_path / "served")
    with (
        catalogue_door(realm, tmp_path, "git", service, effects=("github.push",)) as url,
        front(url, realm.caller(Rule(tool="*"))) as at,
    ):
        shown: list[str] = []
        words = ("push", f"{at}/acme/app", "HEAD:refs/heads/agent/a")
        pushing = threading.Thread(target=lambda: shown.append(git(clone, *words, fails=True)))
        pushing.start()
        assert service.begun.wait(60)
        realm.epochs.kill("agent:test/agent")
        pushing.join(60)
        assert "[remote rejected] HEAD -> agent/a (arx: this may have run: an operator ended this work" in shown[0]
    decisions: Any = realm.decisions.decisions
    assert [each.effect.result for each in decisions if each.code == "effect"] == ["unknown"]


def lists(seed: int, count: int, ids: list[str]) -> Iterator[bytes]:
    """Yield lists of commands, most of them changed in one place or several."""
    chance = random.Random(seed)
    refs = ["refs/heads/main", "refs/heads/agent/a", "refs/heads/new", "refs/tags/t", "HEAD", "refs/heads/a b"]
    more = [" push-options", " report-status", "\0report-status", " push-cert=x", " atomic", " foo", "\n", " ", ""]
    for _ in range(count):
        lines = []
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            ref = chance.choice(refs)
            right = ids[1] if ref in refs[:2] else ids[0]
            old, new = chance.choice((right, right, right, *ids)), chance.choice(ids)
            lines.append(f"{old} {new} {ref}")
        lines[0] += "\0 report-status side-band-64k agent=git/x" + chance.choice(more)
        if chance.random() < 0.3:
            lines.insert(
                chance.randrange(len(lines) + 1), chance.choice((f"shallow {ids[0]}", lines[-1], "push-cert", ""))
            )
        if chance.random() < 0.3:
            at = chance.randrange(len(lines))
            lines[at] += chance.choice(more)
        changed = bytearray(packets(*(line.encode() for line in lines)))
        for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):
            at, kind = chance.randrange(len(changed)), chance.randrange(4)
            byte = chance.choice(b"\0\n 0123456789abcdefABCDEFr/.")
            if kind == 0:
                changed[at] = byte
            elif kind == 1:
                changed.insert(at, byte)
            elif kind == 2:
                del changed[at]
            else:
                changed[at:at] = changed[at : at + chance.randrange(1, 60)]
        yield bytes(changed)


def compare(folder: Path, seed: int, count: int) -> list[int]:
    """Give lists to `git receive-pack`; count those that changed refs as read, and those that were refused here."""
    repository(folder)
    bare, kept = folder / "served" / "acme" / "app.git", folder / "kept"
    git(bare, "update-ref", "refs/heads/agent/a", "main")
    git(bare, "pack-refs", "--all")
    ids = ["0" * 40, git(bare, "rev-parse", "main").strip(), git(bare, "rev-parse", "main^{tree}").strip()]
    ids.append(git(bare, "commit-tree", "-p", ids[1], "-m", "x", ids[2]).strip())
    shutil.copytree(bare, kept)
    before = refs_of(bare)
    empty = bytes.fromhex("5041434b0000000200000000029d08823bd8a8eab510ad6ac75c823cfd3ed31e")
    tally = [0, 0]
    for data in lists(seed, count, [ids[0], ids[1], ids[3]]):
        words = ["git", "receive-pack", "--stateless-rpc", str(bare)]
        subprocess.run(words, input=data + empty, env=QUIET, capture_output=True, timeout=60, check=False)
        after = refs_of(bare) if is_changed(bare) else before
        different = {ref: after.get(ref, ids[0]) for ref in before | after if before.get(ref) != after.get(ref)}
        if not different:
            continue
        try:
            read = {each.ref: each.new for each in read_commands(data + empty).updates}
        except RequestError:
            tally[1] += 1
        else:
            assert different.items() <= read.items(), data
            tally[0] += 1
        shutil.rmtree(bare)
        shutil.copytree(kept, bare)
    return tally


def is_changed(bare: Path) -> bool:
    """Return whether a repository may have other refs than all of them packed."""
    return any(files for _, _, files in os.walk(bare / "refs")) or (bare / "packed-refs").stat().st_mtime_ns != (
        (bare.parents[2] / "kept" / "packed-refs").stat().st_mtime_ns
    )


@pytest.mark.slow
def test_git_changes_no_ref_that_was_not_read(tmp_path: Path) -> None:
    """Of lists that are changed at random: what `git receive-pack` does is what the arguments said."""
    as_read, refused = compare(tmp_path, 1, 1_500)
    assert as_read > 20
    assert refused > 3


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(2, 12))
def test_git_changes_no_ref_that_was_not_read_of_many(seed: int, tmp_path: Path) -> None:
    """A hundred thousand of them."""
    assert min(compare(tmp_path, seed, 10_000)) > 20
