# SPDX-License-Identifier: Apache-2.0
"""Whatever is given to a command, it ends with a line and an exit code, and shows nothing of a secret file."""

import json
from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from tests.cli.helpers import arx, bundle, orders, service_file
from tests.cli.reference import commands

MARK = "SECRETMARK"
CONTENTS = {
    "empty": b"",
    "truncated": orders().encode()[:-40].encode(),
    "cut bundle": bundle().encode()[:-41].encode(),
    "oversized": b"arx1_" + b"A" * (2 << 20),
    "binary": bytes(range(256)) + MARK.encode(),
    "another type": b'["' + MARK.encode() + b'"]',
    "another object": b'{"d":"' + MARK.encode() + b'","v":1,"kty":"OKP"}',
    "twice": b'{"v":1,"v":1,"k":"' + MARK.encode() + b'"}',
    "deep": b"[" * 100_000,
    "nonsense": MARK.encode(),
}
READERS = {
    "inspect": ("token", "inspect", "FILE"),
    "delegate": ("token", "delegate", "acme/worker", "--in", "FILE"),
    "explain": ("token", "explain", "FILE", "--tool", "orders.get"),
    "explain, service": ("token", "explain", "GOOD", "--tool", "orders.list", "--service", "FILE"),
    "explain, approval": ("token", "explain", "GOOD", "--tool", "orders.list", "--approval", "FILE"),
    "ask": ("task", "ask", "--in", "FILE", "--session", "FILE", "--tool", "orders.list"),
    "wait": ("approval", "wait", "a-abcdefghijklmnop", "--session", "FILE"),
    "approve": ("approval", "approve", "a-abcdefghijklmnop", "--yes", "--operator-key", "FILE"),
    "open": ("session", "open", "--key", "FILE"),
    "end": ("session", "end", "--session", "FILE"),
    "start": ("task", "start", "lookup", "--session", "FILE"),
    "finish": ("task", "finish", "t-abcdefghijklmnop", "--session", "FILE"),
    "enrol": ("agent", "enrol", "acme/x", "--public-jwk", "FILE", "--operator-key", "OPERATOR"),
    "operator": ("agent", "list", "--operator-key", "FILE"),
}


@pytest.fixture
def put(tmp_path: Path) -> dict[str, str]:
    """Files that the command lines name."""
    from arx_caps.credentials.keyfile import KeyFile

    good, operator = tmp_path / "good", tmp_path / "operator"
    good.write_text(orders().encode())
    KeyFile.generate("operator", "root", "http://127.0.0.1:9").save(operator)
    return {"GOOD": str(good), "OPERATOR": str(operator), "FILE": str(tmp_path / "bad")}


def ended_well(exit_code: int, out: str, err: str) -> None:
    """Require one line that says what is wrong, a small first letter, no full stop, no traceback, no secret."""
    assert "Traceback" not in out + err
    assert MARK not in out + err
    first = err.splitlines()[0]
    assert first.startswith("arx: "), err
    assert not first.endswith("."), err
    assert exit_code in (exit_codes.DENIED, exit_codes.USAGE), err


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("words", READERS.values(), ids=READERS)
def test_no_file_breaks_a_command(put: dict[str, str], words: tuple[str, ...], content: bytes) -> None:
    """
    A file that is cut, too large, binary or something else is refused in words.
    """
    path = Path(put["FILE"])
    path.write_bytes(content)
    path.chmod(0o600)
    ended_well(*arx(*(put.get(word, word) for word in words)))


@pytest.mark.parametrize("words", READERS.values(), ids=READERS)
def test_a_missing_file_or_a_folder_is_reported(put: dict[str, str], words: tuple[str, ...]) -> None:
    """
    So is a missing file, and a folder in its place.
    """
    line = [put.get(word, word) for word in words]
    ended_well(*arx(*line))
    Path(put["FILE"]).mkdir()
    ended_well(*arx(*line))


@pytest.mark.parametrize("name", ["truncated", "oversized", "binary", "another object", "deep", "nonsense"])
def test_no_file_breaks_the_policy_check(put: dict[str, str], name: str) -> None:
    """
    A policy is no secret, and what is wrong in it fails the check.
    """
    Path(put["FILE"]).write_bytes(CONTENTS[name])
    ran = arx("policy", "check", put["FILE"])
    assert ran.exit_code == exit_codes.DENIED
    assert ran.err.startswith("arx: ")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_stdin_is_held_to_the_same(content: bytes) -> None:
    """
    A pipe is read like a file: bounded, and refused in words.
    """
    ended_well(*arx("token", "inspect", "-", stdin=content))


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("token", "nonsense"),
        ("token", "inspect"),
        ("token", "inspect", "a", "b"),
        ("token", "inspect", "a", "--nonsense"),
        ("token", "explain", "GOOD"),
        ("token", "explain", "GOOD", "--tool", "t", "--arg", "x"),
        ("token", "explain", "GOOD", "--tool", "t", "--arg", "x:=nope"),
        ("token", "explain", "GOOD", "--tool", "t", "--arg", "x=1", "--arg", "x=2"),
        ("token", "explain", "GOOD", "--tool", "t", "--arg", 'x:={"a":1,"a":2}'),
        ("token", "explain", "GOOD", "--tool", "t", "--at", "yesterday"),
        ("token", "explain", "GOOD", "--tool", "t", "--at", "2026-01-01T00:00:00"),
        ("token", "explain", "GOOD", "--tool", "t", "--audience", "mail"),
        ("kill", "--yes", "--reason", "x"),
        ("kill", "s-abc", "--yes", "--reason", "x"),
        ("kill", "session", "s-ABC", "--yes", "--reason", "x"),
        ("kill", "session:s-abc", "agent:A", "--yes", "--reason", "x"),
        ("kill", "realm:acme", "--yes", "--reason", "x"),
        ("kill", "session:s-abcdefghijklmnop", "--reason", "x"),
        ("kill", "session:s-abcdefghijklmnop", "--yes"),
        ("kill", "session:s-abcdefghijklmnop", "--yes", "--reason", "x", "--timeout", "soon"),
        ("kill", "session:s-abcdefghijklmnop", "--yes", "--reason", "x", "--store", "redis://:pass@h/0"),
        ("freeze", "agent", "acme/*", "--yes", "--reason", "x"),
        ("verifier", "list", "--store", "http://x", "--realm", "acme"),
        ("verifier", "list", "--realm-dir", "/nonexistent"),
        ("decisions", "--journal", "/nonexistent"),
        ("agent", "enrol", "Not A Path", "--key-out", "FILE"),
        ("agent", "enrol", "acme/x"),
        ("agent", "show", "../../x", "--operator-key", "OPERATOR"),
        ("agent", "deactivate", "acme/x", "--operator-key", "OPERATOR"),
        ("session", "show", "s-../x", "--operator-key", "OPERATOR"),
        ("session", "end"),
        ("task", "finish", "t-x?y", "--operator-key", "OPERATOR"),
        ("service", "enrol", "arx.mint", "--out", "FILE"),
        ("init", "FILE", "--name", "Not A Realm"),
        ("init", "FILE", "--listen", "nowhere"),
        ("init", "FILE", "--issuer", "http://x/path/"),
        ("completion", "powershell"),
    ],
)
def test_no_command_line_breaks_a_command(put: dict[str, str], words: tuple[str, ...]) -> None:
    """
    A mistyped command line is a usage error with its reason, before anything is touched or asked.
    """
    ran = arx(*(put.get(word, word) for word in words))
    ended_well(*ran)
    assert ran.exit_code == exit_codes.USAGE
    assert not Path(put["FILE"]).exists()
    as_json = arx("--json", *(put.get(word, word) for word in words))
    assert as_json.json["schema"] == "arx/error/1"
    assert as_json.json["exit_code"] == as_json.exit_code == exit_codes.USAGE


def test_an_internal_error_is_a_line_and_70(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A bug shows no traceback and nothing of its text, which could hold a token; ``--debug`` shows it all.
    """
    import arx_caps.cli.commands.token.command as module

    def break_(*_: object, **__: object) -> None:
        raise RuntimeError(MARK)

    monkeypatch.setattr(module.Holding, "read", break_)
    ran = arx("token", "inspect", "-")
    assert (ran.exit_code, ran.out) == (exit_codes.INTERNAL, "")
    assert ran.err == "arx: internal error: RuntimeError\nhint: add --debug for the traceback\n"
    assert "Traceback" in arx("token", "inspect", "-", "--debug").err


def test_unreachable_and_unauthenticated_are_not_the_same(put: dict[str, str]) -> None:
    """
    A mint that does not answer is 5, and every command of an operator reports that.
    """
    for words in (("agent", "list"), ("session", "list"), ("session", "show", "s-abcdefghijklmnop")):
        ran = arx(*words, "--operator-key", put["OPERATOR"])
        assert ran.exit_code == exit_codes.UNREACHABLE
        assert "does not answer" in ran.err


def test_a_key_of_the_wrong_role_is_refused(put: dict[str, str]) -> None:
    """
    An operator's key opens no session, and the command refuses it before it sends anything.
    """
    ran = arx("session", "open", "--key", put["OPERATOR"])
    assert ran.exit_code == exit_codes.USAGE
    assert "operator:root" in ran.err


def test_a_token_for_another_service_than_the_file_is_refused(put: dict[str, str], tmp_path: Path) -> None:
    """
    The service file says which audience is meant.
    """
    other = service_file(tmp_path / "service")
    other.write_text(json.dumps(json.loads(other.read_text()) | {"audience": "mail"}))
    ran = arx("token", "explain", put["GOOD"], "--tool", "orders.list", "--service", other)
    assert ran.exit_code == exit_codes.USAGE
    assert "mail" in ran.err


def test_every_command_takes_the_common_options() -> None:
    """
    ``--json`` and its kin are everywhere but at the groups.
    """
    import click

    for words, command in commands():
        if not isinstance(command, click.Group):
            names = {name for param in command.params for name in param.opts}
            assert {"--json", "--quiet", "--no-input", "--debug", "--wide"} <= names, words


@pytest.mark.parametrize(
    ("words", "meant"),
    [("agnet", "arx agent"), ("agent lsit", "arx agent list"), ("webhook tst w-1", "arx webhook test")],
)
def test_a_mistyped_noun_or_verb_is_named(words: str, meant: str) -> None:
    """
    The message has the nearest command; a word that is near none gets no guess.
    """
    ran = arx(*words.split())
    assert ran.exit_code == exit_codes.USAGE
    assert f"did you mean `{meant}`?" in ran.err
    assert "did you mean" not in arx("agent", "xyzzy").err


def test_a_token_in_the_place_of_a_file_is_not_repeated() -> None:
    """
    A token that a user typed is in their shell's history; no message puts it into a log as well.
    """
    for text in (orders().encode(), bundle().encode()):
        ran = arx("token", "inspect", text)
        ended_well(*ran)
        assert text[:20] not in ran.out + ran.err
        assert "stdin" in ran.err


def test_a_key_file_in_the_place_of_a_token_is_recognized(put: dict[str, str]) -> None:
    """
    The error for another of ARx's files shows what a token looks like and where one comes from.
    """
    ran = arx("token", "inspect", put["OPERATOR"])
    ended_well(*ran)
    assert "arxb1_" in ran.err
    assert "arx task start" in ran.err


def test_a_session_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """
    It holds a key; so what holds for a key file holds for it.
    """
    path = tmp_path / "session.json"
    path.write_text("{}")
    path.chmod(0o644)
    ran = arx("task", "start", "lookup", "--session", path)
    ended_well(*ran)
    assert "chmod 600" in ran.err
