# SPDX-License-Identifier: Apache-2.0
"""``arx kill`` and its kin straight at a store: what is reported, and what the exit code promises."""

import socket
import threading
from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.target_commands import KILL, look_at, read_targets
from arx_caps.credentials.keyfile import KeyFile, SigningKey
from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.targets import KINDS, parse_target
from arx_caps.revocation.wire import OutcomeUnknownError
from arx_verifier.errors import RequestError
from tests.cli.helpers import SESSION, TASK, Ran, arx

WORDS = ("--reason", "a test", "--yes", "--json")


@pytest.fixture
def store(valkey: EmbeddedValkey, realm_name: str) -> RevocationStore:
    """A realm's store without a mint and without verifiers."""
    made = RevocationStore(valkey.url, realm_name)
    made.load_functions()
    made.init()
    return made


def direct(valkey: EmbeddedValkey, store: RevocationStore, *words: str) -> Ran:
    """Run a command against the store alone."""
    return arx(*words, "--direct", "--store", valkey.url, "--realm", store.realm, *WORDS)


def test_targets_are_read_as_typed() -> None:
    """
    A kind may stand once before its ids, or before each; the realm is a word.
    """
    assert read_targets(["session", SESSION]) == [f"session:{SESSION}"]
    assert read_targets(["agent", "acme/a", "acme/b"]) == ["agent:acme/a", "agent:acme/b"]
    assert read_targets([f"session:{SESSION}", f"task:{TASK}"]) == [f"session:{SESSION}", f"task:{TASK}"]
    assert read_targets(["session", f"session:{SESSION}"]) == [f"session:{SESSION}"]
    assert read_targets(["realm"]) == ["realm"]
    for wrong in (["session"], [SESSION], ["realm", "acme"], ["session", TASK], ["agent", "session:" + SESSION]):
        with pytest.raises(RequestError):
            read_targets(wrong)


def test_a_mint_that_stops_answering_is_looked_at_once() -> None:
    """The look at the names may come before the question of a kill: it ends at the first call without an answer."""
    calls = 0

    def hang_up(server: socket.socket) -> None:
        nonlocal calls
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # closed: the end of the test
            connection.recv(65536)
            # As a server does that starts: a call with this answer can be repeated.
            connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            connection.close()
            calls += 1

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=hang_up, args=(server,))
        thread.start()
        caller = Caller(f"http://127.0.0.1:{server.getsockname()[1]}", SigningKey.generate(), "token")
        assert look_at(caller, KILL, ["agent:acme/a", f"session:{SESSION}", f"task:{TASK}"]) is None
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert calls == 1


def test_help_has_every_kind() -> None:
    """
    Each kind of target has a line, whose example is a target of that kind.
    """
    lines = [line.split() for line in arx("kill", "--help").out.splitlines()]
    first = [line[0] for line in lines if line and line[0].partition(":")[0] in KINDS]
    shown = {parse_target(word).kind for word in first if ":" in word or word == "realm"}
    assert shown == set(KINDS)


def test_a_kind_alone_has_no_id() -> None:
    """
    The error for a kind without its id has an example.
    """
    ran = arx("kill", "session", "--reason", "x", "--yes")
    assert (ran.exit_code, ran.err) == (
        exit_codes.USAGE,
        "arx: invalid session target: the id is missing: expected one like session:s-abcdefghijklmnop\n",
    )


def test_a_time_is_no_target() -> None:
    """
    The error for --wait with a time shows the right form, and nothing is killed.
    """
    ran = arx("kill", f"session:{SESSION}", "--wait", "2s", "--reason", "x", "--yes", "--json")
    assert (ran.exit_code, "--timeout 2s" in ran.json["hint"]) == (exit_codes.USAGE, True)


@pytest.mark.servers
def test_an_unconfirmed_kill_is_3(valkey: EmbeddedValkey, store: RevocationStore) -> None:
    """
    A kill that is in force and durable, and that no verifier has confirmed, does not exit with 0.
    """
    ran = direct(valkey, store, "kill", "session", SESSION)
    assert (ran.exit_code, ran.json["status"], ran.json["by"]) == (exit_codes.INCOMPLETE, "unconfirmed", "store")
    assert store.kills() == {f"session:{SESSION}": ran.json["seq"]}


@pytest.mark.servers
def test_each_command_writes_what_it_says(valkey: EmbeddedValkey, store: RevocationStore) -> None:
    """
    Kill ends, freeze freezes, thaw thaws; the log has operation and reason, and who.
    """
    for verb, target in (("freeze", "session:" + SESSION), ("thaw", "session:" + SESSION), ("kill", "agent:acme/a")):
        assert direct(valkey, store, verb, target).exit_code == exit_codes.INCOMPLETE
    assert direct(valkey, store, "thaw", "agent", "acme/a").exit_code == exit_codes.INCOMPLETE
    log = store.log()
    assert [entry.op for entry in log if not entry.target.startswith("memory:")] == [
        "freeze",
        "thaw",
        "kill+freeze",
        "thaw",
    ]
    # The store does not know that the session was not killed: what both wrote stays tainted (SPEC 18.4).
    assert len(store.freezes()) == 2
    assert {entry.why for entry in log} == {"a test"}
    assert all("direct" in entry.by for entry in log)


@pytest.mark.servers
def test_a_dead_mint_is_passed_by(valkey: EmbeddedValkey, store: RevocationStore, tmp_path: Path) -> None:
    """
    Where nothing listens the store is written at once; where something listens and says nothing, soon after.
    """
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        KeyFile.generate("operator", "root", f"http://127.0.0.1:{port}").save(tmp_path / "key")
        place = ("--operator-key", tmp_path / "key", "--store", valkey.url, "--realm", store.realm)
        ran = arx("kill", "session", SESSION, *place, *WORDS)
        assert (ran.json["by"], ran.json["status"]) == ("store", "unconfirmed")
        assert "writing into the store" in ran.err
        assert "root" in store.log()[-1].by


@pytest.mark.servers
def test_a_lost_answer_is_unknown(
    valkey: EmbeddedValkey, store: RevocationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A store that takes the kill and does not say so leaves it unknown: 3, and to be repeated.
    """

    def lost(*_: object) -> None:
        raise OutcomeUnknownError("the store did not answer: whether it took the kill is unknown")

    monkeypatch.setattr(RevocationStore, "kill_by_kind", lost)
    ran = direct(valkey, store, "kill", "session", SESSION)
    assert (ran.exit_code, ran.json["status"]) == (exit_codes.INCOMPLETE, "unknown")
    assert "repeat" in ran.json["summary"]


def test_without_store_and_mint_nothing_is_claimed(tmp_path: Path) -> None:
    """
    Nothing answered, nothing was done, and the command says both.
    """
    KeyFile.generate("operator", "root", "http://127.0.0.1:9").save(tmp_path / "key")
    place = ("--operator-key", tmp_path / "key", "--store", "unix:///nonexistent/x.sock", "--realm", "acme")
    ran = arx("kill", "session", SESSION, *place, *WORDS)
    assert ran.exit_code == exit_codes.UNREACHABLE
    assert "nothing was done" in ran.err
    assert ran.json["schema"] == "arx/error/1"


def test_a_key_without_a_realms_folder_needs_the_stores_address(tmp_path: Path) -> None:
    """
    With the mint down, an operator who has only a key is asked for the store or the folder, not for a new realm.
    """
    KeyFile.generate("operator", "night", "http://127.0.0.1:9").save(tmp_path / "key")
    place = ("--operator-key", tmp_path / "key", "--realm-dir", tmp_path / "none")
    for partly in ((), ("--store", "unix:///nonexistent/x.sock"), ("--realm", "acme")):
        ran = arx("kill", "session", SESSION, *place, *partly, *WORDS)
        assert (ran.exit_code, ran.json["error"]) == (
            exit_codes.USAGE,
            f"nothing was done: there is no realm in {tmp_path / 'none'}",
        )
        for option in ("--store", "ARX_STORE_PASSWORD", "--realm NAME", "--realm-dir"):
            assert option in ran.json["hint"]
        assert "arx init" not in ran.err


@pytest.mark.servers
def test_verifier_list_of_an_empty_realm(valkey: EmbeddedValkey, store: RevocationStore) -> None:
    """
    No verifier is a list of none, not an error; a realm without a history is one.
    """
    ran = arx("verifier", "list", "--store", valkey.url, "--realm", store.realm, "--json")
    assert (ran.exit_code, ran.json["verifiers"], ran.json["seq"]) == (exit_codes.OK, [], 0)
    assert arx("verifier", "list", "--store", valkey.url, "--realm", "other").exit_code == exit_codes.UNREACHABLE


@pytest.mark.servers
def test_verifier_list_leaves_out_who_is_long_gone(valkey: EmbeddedValkey, store: RevocationStore) -> None:
    """
    Past a lease a verifier is late, then gone; after a minute only ``--all`` lists it.
    """
    place = ("--store", valkey.url, "--realm", store.realm, "--json")
    assert store.verifiers() == ()  # the registry begins
    now, lease_ms = store.header().at_ms, store.header().lease_ms
    client = store.exchange.client
    for name, age_ms in (("late", 2 * lease_ms), ("gone", 20 * lease_ms), ("long-gone", 120_000)):
        client.zadd(store.keys.registry[0], {name: now - age_ms})
        client.zadd(store.keys.registry[1], {name: 0})
    listed = arx("verifier", "list", *place).json
    assert {one["id"]: one["state"] for one in listed["verifiers"]} == {"late": "late", "gone": "gone"}
    assert (listed["left_out"], listed["services_never_seen"]) == (1, None)
    every = arx("verifier", "list", "--all", *place).json
    assert {one["id"]: one["state"] for one in every["verifiers"]}["long-gone"] == "gone"
    assert every["left_out"] == 0


def test_targets_are_completed(tmp_path: Path) -> None:
    """
    Without a mint the kinds are completed at once, and nothing is printed into the line.
    """
    base = {"_ARX_COMPLETE": "bash_complete", "ARX_HOME": str(tmp_path), "NO_COLOR": "1"}
    for words, at, wanted in (
        ("arx kill ", 2, set(KINDS)),
        ("arx thaw ag", 2, {"agent"}),
        ("arx kill agent acme", 3, set()),
        ("arx freeze agent : acme", 4, set()),
    ):
        ran = arx(env=base | {"COMP_WORDS": words, "COMP_CWORD": str(at)})
        assert ({line.rpartition(",")[2] for line in ran.out.split()}, ran.err) == (wanted, ""), words
