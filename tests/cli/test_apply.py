# SPDX-License-Identifier: Apache-2.0
"""``arx apply``: services of a file against a realm that runs; runs that end early, roles, mistakes, two at once."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.cli import exit_codes
from arx_caps.cli.commands.apply.services_file import load_services
from tests.cli.helpers import arx
from tests.cli.live import Live, live_realm
from tests.mint.events import events_of
from tests.servers import child, free_ports, until

MANY = 20
SECRET = "arxe1_"  # every enrolment token begins with it


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_realm(tmp_path_factory.mktemp("apply") / "realm", *free_ports(1)) as realm:
        yield realm


def services_file(folder: Path, prefix: str, count: int = MANY, more: str = "") -> tuple[Path, list[str]]:
    """Write a file of services; return it with their names."""
    names = [f"{prefix}-{number:02}" for number in range(count)]
    file = folder / f"{prefix}.toml"
    file.write_text("".join(f"[service.{name}]\n" for name in names) + more)
    return file, names


@contextlib.contextmanager
def running(up: Live, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run ``arx apply`` as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
    command = [sys.executable, "-m", "arx_caps.cli", "apply", *map(str, words), "--yes", "--json"]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with child(command, env=environment | {"ARX_HOME": str(up.folder)}, **options) as process:
        yield process


def enrolled(up: Live, prefix: str) -> dict[str, dict[str, Any]]:
    rows = up.ok("service", "list")["services"]
    return {row["audience"]: row for row in rows if row["audience"].startswith(f"{prefix}-")}


def recorded(up: Live, kind: str, prefix: str) -> list[str]:
    """Return the services of the recorded events of a kind."""
    names = [event["audience"] for event in events_of(up.folder, kind)]
    return [name for name in names if name.startswith(f"{prefix}-")]


@pytest.mark.servers
@pytest.mark.spec("CONTROL 3.7")
def test_a_new_realm_gets_its_services_and_a_repeat_does_nothing(up: Live, tmp_path: Path) -> None:
    """The plan changes nothing; a run enrols and invites each; invitations are private and work; a repeat is empty."""
    store = "redis://store.internal:6379"
    file, names = services_file(tmp_path, "new", more=f'store = "{store}"\njournal = "/var/lib/new"\n')
    out = tmp_path / "invitations"
    code, plan, _ = up.run("apply", file, "--out", out, "--check")
    assert (code, plan["add"], plan["changes"], enrolled(up, "new")) == (exit_codes.INCOMPLETE, MANY, MANY, {})
    assert not out.exists()
    code, refused, _ = up.run("apply", file, "--out", out)  # no terminal, so no user can confirm it
    assert (code, refused["code"], enrolled(up, "new")) == (exit_codes.USAGE, "not_confirmed", {})
    done = up.ok("apply", file, "--out", out, "--yes")
    assert (done["add"], done["invitations"], SECRET in json.dumps(done)) == (MANY, MANY, False)
    assert list(enrolled(up, "new")) == names
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {
        f"{name}.invite": 0o600 for name in names
    }
    again = up.ok("apply", file, "--out", out)  # without --yes: nothing is to be confirmed
    assert (again["changes"], again["equal"], again["add"]) == (0, MANY, 0)
    assert up.run("apply", file, "--out", out, "--check")[0] == exit_codes.OK
    assert recorded(up, "service.enrolled", "new") == recorded(up, "service.invited", "new")
    joined = tmp_path / "joined.json"
    up.ok("service", "enrol", "--invitation", out / f"{names[-1]}.invite", "--out", joined)
    content = json.loads(joined.read_text())
    assert (content["store"], content["journal"]) == (store, "/var/lib/new")
    (out / f"{names[-1]}.invite").unlink()  # a service with a key of its own needs no invitation
    after = up.ok("apply", file, "--out", out)
    assert (after["changes"], after["services"][MANY - 1]["own_keys"]) == (0, 1)


@pytest.mark.servers
def test_what_the_file_does_not_name_is_left_alone(up: Live, tmp_path: Path) -> None:
    """Enrolled services are listed with the command that removes them; expired invitations are made again."""
    file, names = services_file(tmp_path, "left", 2)
    up.ok("apply", file, "--yes")
    file.write_text(f"[service.{names[0]}]\n")
    ran = arx("apply", file, env={"ARX_HOME": str(up.folder)})
    assert (ran.exit_code, f"`arx service remove {names[1]}`" in ran.out, "nothing to do" in ran.out) == (0, True, True)
    assert f"= {names[0]}" in ran.out
    assert "--out FOLDER writes an invitation" in ran.out
    invitation = tmp_path / "out" / f"{names[0]}.invite"
    assert up.ok("apply", file, "--out", invitation.parent, "--yes")["change"] == 1
    old = json.loads(invitation.read_text())
    invitation.write_text(json.dumps(old | {"expires_at": 1}))
    assert up.run("apply", file, "--out", invitation.parent, "--check")[1]["change"] == 1
    up.ok("apply", file, "--out", invitation.parent, "--yes")
    assert json.loads(invitation.read_text())["enrolment"] != old["enrolment"]
    assert set(enrolled(up, "left")) == set(names)


@pytest.mark.servers
def test_a_changed_table_goes_into_the_invitation_that_waits(up: Live, tmp_path: Path) -> None:
    """The invitation stays the same, so that one that was carried away stays valid; a member can go, too."""
    file, names = services_file(tmp_path, "table", 1)
    invitation = tmp_path / "out" / f"{names[0]}.invite"
    up.ok("apply", file, "--out", invitation.parent, "--yes")
    before = json.loads(invitation.read_text())
    for more in ({"journal": "/var/lib/a"}, {"store": "relay://a:1", "journal": "/b"}, {}):
        file.write_text(
            "".join([f"[service.{names[0]}]\n", *(f'{name} = "{value}"\n' for name, value in more.items())])
        )
        assert up.run("apply", file, "--out", invitation.parent, "--check")[1]["change"] == 1
        assert up.ok("apply", file, "--out", invitation.parent, "--yes")["invitations"] == 1
        assert json.loads(invitation.read_text()) == before | more
        assert up.ok("apply", file, "--out", invitation.parent)["changes"] == 0
    assert recorded(up, "service.invited", "table") == names


@pytest.mark.servers
def test_a_name_like_that_of_an_enrolled_service_is_questioned(up: Live, tmp_path: Path) -> None:
    """A typing error would enrol another service, and leave the right one alone."""
    (tmp_path / "right.toml").write_text("[service.warehouse-stock]\n")
    up.ok("apply", tmp_path / "right.toml", "--yes")
    (tmp_path / "wrong.toml").write_text("[service.warehouse-sotck]\n")
    ran = arx("apply", tmp_path / "wrong.toml", "--check", env={"ARX_HOME": str(up.folder)})
    assert "did you mean `warehouse-stock`, which is not in the file?" in ran.out


@pytest.mark.slow
@pytest.mark.servers
def test_a_killed_run_is_continued(up: Live, tmp_path: Path) -> None:
    """What it did stays; the next run enrols and invites the others, and makes no second invitation."""
    file, names = services_file(tmp_path, "killed")
    out = tmp_path / "out"
    with running(up, file, "--out", out) as process:
        until(lambda: len(list(out.glob("*.invite"))) >= 3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {path: path.read_text() for path in out.glob("killed-*.invite")}
    assert 3 <= len(kept) < MANY, "it was killed too late to show anything"
    done = up.ok("apply", file, "--out", out, "--yes")
    assert done["invitations"] == MANY - len(kept)
    assert {path: path.read_text() for path in kept} == kept
    assert set(enrolled(up, "killed")) == set(names)
    assert sorted(recorded(up, "service.enrolled", "killed")) == names


@pytest.mark.servers
@pytest.mark.nightly
def test_a_run_whose_mint_ends_says_how_far_it_came(up: Live, tmp_path: Path) -> None:
    """It ends with 3, the count and what to do; the next run does what is left."""
    file, names = services_file(tmp_path, "ended", 60)
    out = tmp_path / "out"
    with running(up, file, "--out", out) as process:
        until(lambda: len(list(out.glob("*.invite"))) >= 3)
        up.kill_mint()
        try:
            written, errors = process.communicate()
        finally:
            up.revive()
    ended = json.loads(written)
    assert (process.returncode, ended["exit_code"]) == (exit_codes.INCOMPLETE, exit_codes.INCOMPLETE), errors
    assert " of 60 services are done" in ended["error"]
    assert "run the same command again" in ended["hint"]
    assert up.ok("apply", file, "--out", out, "--yes")["changes"] < 60
    assert set(enrolled(up, "ended")) == set(names)
    assert up.ok("apply", file, "--out", out)["changes"] == 0


@pytest.mark.slow
@pytest.mark.servers
def test_two_runs_at_once_do_everything_once(up: Live, tmp_path: Path) -> None:
    """Into one folder each invitation is made once; into two folders each service is enrolled once."""
    file, names = services_file(tmp_path, "twice")
    with running(up, file, "--out", tmp_path / "one") as first, running(up, file, "--out", tmp_path / "one") as second:
        ended = [(*process.communicate(), process.returncode) for process in (first, second)]
    assert [each[2] for each in ended] == [0, 0], ended
    assert sorted(recorded(up, "service.enrolled", "twice")) == names
    assert sorted(recorded(up, "service.invited", "twice")) == names
    file, names = services_file(tmp_path, "apart")
    with (
        running(up, file, "--out", tmp_path / "two") as first,
        running(up, file, "--out", tmp_path / "three") as second,
    ):
        ended = [(*process.communicate(), process.returncode) for process in (first, second)]
    assert [each[2] for each in ended] == [0, 0], ended
    assert sorted(recorded(up, "service.enrolled", "apart")) == names


@pytest.mark.servers
@pytest.mark.spec("CONTROL 1.6")
def test_a_role_that_may_not_changes_nothing(up: Live, tmp_path: Path) -> None:
    """The refusal comes before the first service, also if rules allow some of them; the plan needs to read alone."""
    file, names = services_file(tmp_path, "role", 3)
    keys = {role: tmp_path / f"{role}.key" for role in ("read-only", "agents", "keys")}
    for role, key in keys.items():
        up.ok("operator", "enrol", f"apply-{role}", "--role", role, "--key-out", key)
    words = ("apply", file, "--out", tmp_path / "out", "--yes", "--operator-key")
    code, refused, _ = up.run(*words, keys["read-only"])
    assert (code, refused["code"], "arx whoami" in refused["hint"]) == (exit_codes.DENIED, "tool_not_allowed", True)
    assert up.run("apply", file, "--check", "--operator-key", keys["read-only"])[1]["add"] == 3
    assert up.run(*words, keys["agents"])[1]["code"] == "tool_not_allowed"  # it may not even read
    rules = [{"tool": "arx.services.write", "args": {"audience": names[0]}}, {"tool": "arx.services.read"}]
    (tmp_path / "rules.json").write_text(json.dumps({"rules": rules}))
    some = tmp_path / "some.key"
    up.ok("operator", "enrol", "apply-some", "--rules", tmp_path / "rules.json", "--key-out", some)
    code, refused, _ = up.run(*words, some)
    assert (code, refused["code"], names[1] in refused["error"]) == (exit_codes.DENIED, "argument_not_allowed", True)
    assert (enrolled(up, "role"), (tmp_path / "out").exists()) == ({}, False)
    file.write_text(f"[service.{names[0]}]\n")
    assert up.run(*words, some)[1]["invitations"] == 1
    file, _ = services_file(tmp_path, "role", 3)
    assert up.run(*words, keys["keys"])[0] == exit_codes.OK


@pytest.mark.servers
def test_a_file_where_an_invitation_belongs_is_not_replaced(up: Live, tmp_path: Path) -> None:
    """Another file, a link, one that others can read, or another service's: refused before anything is done."""
    file, names = services_file(tmp_path, "place", 2)
    out = tmp_path / "out"
    up.ok("apply", file, "--out", out, "--yes")
    mine, other = (out / f"{name}.invite" for name in names)
    kept = mine.read_text()
    content = json.loads(kept)
    foreign = [
        ("notes", 0o600, "expected one JSON object"),
        (json.dumps({"v": 1}), 0o600, "expected an invitation"),
        (kept, 0o640, "mode 0600"),
        (other.read_text(), 0o600, f"got {names[1]} at"),
        (json.dumps(content | {"issuer": "https://evil.example"}), 0o600, "evil.example"),
    ]
    file.write_text(file.read_text() + "[service.place-later]\n")
    for text, mode, expected in foreign:
        mine.write_text(text)
        mine.chmod(mode)
        code, refused, _ = up.run("apply", file, "--out", out, "--yes")
        assert (code, mine.read_text()) == (exit_codes.USAGE, text), refused
        assert expected in refused["error"] or "JSON" in refused["error"], refused
        assert SECRET not in json.dumps(refused)
    mine.write_text(kept)
    mine.chmod(0o600)
    out.chmod(0o777)  # another user could put an invitation of another mint in its place
    code, refused, _ = up.run("apply", file, "--out", out, "--yes")
    assert (code, "other users cannot write" in refused["error"]) == (exit_codes.USAGE, True)
    out.chmod(0o700)
    mine.unlink()
    mine.symlink_to(other)
    assert up.run("apply", file, "--out", out, "--yes")[0] == exit_codes.USAGE
    assert "place-later" not in enrolled(up, "place")


BAD = {
    "unknown table": ("[services.a]\n", 1, "services: unknown key; did you mean `service`?"),
    "a policy": ("[service.a]\n[audience.a]\n", 2, "audience: unknown key; write [service.NAME] here"),
    "unknown key": ('[service.a]\n\nstor = "redis://x"\n', 3, "service.a.stor: unknown key; did you mean `store`?"),
    "upper case": ("[service.a]\n[service.Orders]\n", 2, "did you mean `orders`?"),
    "a space": ('[service."my orders"]\n', 1, "did you mean `my-orders`?"),
    "the mint's": ('[service."arx.mint"]\n', 1, "not beginning with arx"),
    "a dot": ("[service.a.b]\n", 1, 'in quotes: "a.b"'),
    "no table": ("service.a = 3\n", 1, "service.a: expected a table, got a number"),
    "a list": (
        "[[service]]\n",
        1,
        "service: expected a table with at least one table, got a list; for example [service.orders]",
    ),
    "a number": ("[service.a]\njournal = 5\n", 2, "service.a.journal: expected text in quotes, got 5"),
    "a relative folder": ('[service.a]\njournal = "j"\n', 2, "expected an absolute path"),
    "no URL": ('[service.a]\nstore = "store.internal"\n', 2, "expected the URL of a store"),
    "a password": ('[service.a]\nstore = "redis://u:hunter2@x"\n', 2, "without user and password"),
    "twice": ("[service.a]\n[service.a]\n", 2, "service.a: expected the key once, got it again; line 1 has it as well"),
    "half": ("[service.a\n", 1, "not TOML"),
    "misleading": ('[service.a]\njournal = "/\u202ej"\n', 2, "makes the file look different"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_has_its_line_and_key(name: str, tmp_path: Path) -> None:
    """Reading is strict, needs no mint, and quotes no password."""
    text, line, expected = BAD[name]
    file = tmp_path / "services.toml"
    file.write_text(text, "utf-8")
    ran = arx("apply", file)
    assert (ran.exit_code, ran.out) == (exit_codes.USAGE, "")
    assert ran.err.startswith(f"arx: {file}:{line}: "), ran.err
    assert expected in ran.err
    assert "hunter2" not in ran.err


def test_mistakes_come_together_in_their_order(tmp_path: Path) -> None:
    """All of them; the object of ``--json`` has the others as ``further``."""
    file = tmp_path / "services.toml"
    file.write_text("[service.A]\n[service.ok]\n[service.b]\nx = 1\n[other]\n")
    ran = arx("apply", file, "--json")
    lines = ran.err.splitlines()
    assert [int(line.removeprefix(f"arx: {file}:").partition(":")[0]) for line in lines] == [1, 4, 5]
    assert [f"arx: {text}" for text in (ran.json["error"], *ran.json["further"])] == lines
    file.write_text("# nothing\n")
    assert "1: needs `service`; for example [service.orders]" in arx("apply", file).err


@pytest.mark.slow
def test_a_file_of_thousands_is_read(tmp_path: Path) -> None:
    """2,000 services with the longest names."""
    names = [f"{number:04}-{'x' * 59}" for number in range(2000)]
    file = tmp_path / "services.toml"
    file.write_text("".join(f'[service.{name}]\nstore = "relay://relay.internal:6380"\n' for name in names))
    assert [terms.name for terms in load_services(str(file))] == names
