# SPDX-License-Identifier: Apache-2.0
"""A Node process that follows the epoch: what breaks, and whose loops are blocked.  SPEC 10."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation import acl
from arx_caps.revocation.confirm import wait_confirmed
from arx_caps.revocation.failover import Topology, attest
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import Registry
from arx_verifier.revocation.epoch import boot_clock
from tests.servers import begun_store, child, free_ports, freeze, until
from tests.topologies.authority import Ca
from tests.topologies.fleet import LASTING, Server, need, running, wait_for
from tests.typescript.processes import node_process, program_of

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("10.6")]

SESSION, OTHER = "session:s-" + "a" * 16, "session:s-" + "b" * 16
BY = "operator:ada"
LEASE_MS = 1_000
L_NS = LEASE_MS * 1_000_000
MODES = ("thread", "loop")


@pytest.fixture
def own_store(own_valkey: EmbeddedValkey, realm_name: str) -> Iterator[RevocationStore]:
    """A realm in a server that may be broken."""
    with begun_store(own_valkey.url, realm_name, lease_ms=LEASE_MS) as store:
        yield store


def settled(store: RevocationStore) -> None:
    """Wait until the registry is older than a lease: a younger one confirms nothing."""

    def is_old() -> bool:
        seen: Registry = store.unacked(0, 0)
        return seen.at_ms - seen.since_ms > LEASE_MS + 200

    until(is_old)


def last_of(answers: list[str], code: str) -> int:
    """The last moment at which a thread began a check that accepted, ns."""
    assert [answer.split()[0] for answer in answers] == [code] * len(answers), answers
    return max(int(answer.split()[1]) for answer in answers)


def test_a_kill_arrives_while_each_event_loop_is_blocked(valkey: EmbeddedValkey, realm_store: RevocationStore) -> None:
    """No loop turns from before the kill until each thread has refused; the kill is confirmed meanwhile."""
    with node_process(valkey.url, realm_store.realm, "node") as process:
        header = realm_store.header()
        settled(realm_store)
        process.send("watch", header.incarnation, header.seq, [SESSION])
        assert process.read() == ["ready"] * 3
        report = wait_confirmed(realm_store.unacked, realm_store.kill([SESSION], "test", BY), 60_000)
        confirmed = time.monotonic_ns()
        assert (report.status, report.confirmed) == ("confirmed", 3)
        assert last_of(process.read(), "done") < confirmed
        assert process.check(header.incarnation, header.seq, [SESSION, OTHER]) == ["revoked accepted"] * 3


@pytest.mark.parametrize("mode", MODES)
def test_the_registry_knows_it_from_its_start_to_its_end(
    valkey: EmbeddedValkey, realm_store: RevocationStore, mode: str
) -> None:
    """Each thread is a verifier; freezes and thaws arrive; after its end nothing waits for it."""
    with node_process(valkey.url, realm_store.realm, "node", 2, mode) as process:
        header = realm_store.header()
        assert realm_store.unacked(0, 0).verifiers == 2
        for change, code in ((realm_store.freeze, "frozen"), (realm_store.kill, "revoked")):
            bump = change([SESSION], "test", BY)
            until(lambda seq=bump.header.seq: not realm_store.unacked(seq, 0).missing)  # type: ignore[misc]
            assert process.check(header.incarnation, header.seq, [SESSION, OTHER]) == [f"{code} accepted"] * 2
        seq = realm_store.thaw([SESSION], "test", BY).header.seq
        until(lambda: not realm_store.unacked(seq, 0).missing)
        assert process.check(header.incarnation, seq, [SESSION]) == ["accepted"] * 2
        assert process.check("another", seq, [SESSION]) == ["revoked"] * 2
        assert process.check(header.incarnation, seq + 1, [SESSION]) == ["behind"] * 2
        process.close()
        assert realm_store.unacked(0, 0).verifiers == 0


class Wire:
    """A port before a store, which may fall silent: what is sent then is lost."""

    def __init__(self, target: int) -> None:
        self._target, self._silent, self._listener = target, threading.Event(), socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = [self._listener]
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Fall silent; return when, ns."""
        self._silent.set()
        return time.monotonic_ns()

    def mend(self) -> None:
        """Let new connections through."""
        self._silent.clear()

    def close(self) -> None:
        """End all of its connections."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here = self._listener.accept()[0]
                self._ends.append(here)
                there = socket.create_connection(("127.0.0.1", self._target))
                self._ends.append(there)
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(65536)) and not self._silent.is_set():
                sink.sendall(data)


Broken = tuple[str, RevocationStore, Callable[[], int], Callable[[], None]]


@pytest.fixture(params=["stopped", "killed", "cut"])
def broken(request: pytest.FixtureRequest, tmp_path: Path, realm_name: str) -> Iterator[Broken]:
    """A store's URL, the store, what breaks it and returns when that was done, ns, and what mends it."""
    server = Server(tmp_path / "server", free_ports(1)[0], *LASTING)
    with running(server), begun_store(f"redis://127.0.0.1:{server.port}", realm_name, lease_ms=LEASE_MS) as store:
        port = server.port

        def stop() -> int:
            assert server.process is not None
            freeze(server.process.pid)
            return time.monotonic_ns()

        def kill() -> int:
            server.kill()
            return time.monotonic_ns()

        def start() -> None:
            server.start()
            wait_for(server)
            until(lambda: attest(store, Topology())[1] is None)

        with contextlib.closing(Wire(port)) as wire:
            ways = {
                "stopped": (stop, lambda: server.signal(signal.SIGCONT)),
                "killed": (kill, start),
                "cut": (wire.cut, wire.mend),
            }
            reached = wire.port if request.param == "cut" else port
            yield f"redis://127.0.0.1:{reached}", store, *ways[request.param]


@pytest.mark.parametrize(("command", "mode"), [("use", "thread"), ("use", "loop"), ("hold", "thread")])
def test_without_its_store_it_accepts_for_a_lease(broken: Broken, command: str, mode: str) -> None:
    """The last acceptance is within a lease, also of a blocked event loop; the view comes back with the store."""
    url, store, spoil, mend = broken
    with node_process(url, store.realm, "node", 2, mode) as process:
        header = store.header()
        process.send(command, header.incarnation, header.seq, [SESSION])
        assert process.read() == ["ready"] * 2
        spoilt = spoil()
        assert last_of(process.read(), "stale") < spoilt + L_NS
        mend()
        process.send("back", header.incarnation, header.seq, [SESSION])
        assert process.read() == ["back"] * 2
        seq = store.kill([SESSION], "test", BY).header.seq
        until(lambda: not store.unacked(seq, 0).missing and store.unacked(seq, 0).verifiers)
        assert process.check(header.incarnation, header.seq, [SESSION]) == ["revoked"] * 2


@pytest.mark.spec("10.4")
@pytest.mark.parametrize("broken", ["stopped"], indirect=True)
@pytest.mark.parametrize("mode", MODES)
def test_a_clock_that_is_set_back_lengthens_no_lease(broken: Broken, mode: str, tmp_path: Path) -> None:
    """The last acceptance is within a lease of the store's stop; an hour behind the store each call is refused."""
    url, store, spoil, mend = broken
    clock = tmp_path / "clock"

    def set_clock(offset: str) -> None:
        (tmp_path / "next").write_text(f"{offset}\n")
        (tmp_path / "next").replace(clock)

    set_clock("+0")
    with node_process(url, store.realm, "node", 2, mode, of_clock(clock)) as process:
        header = store.header()
        process.send("use", header.incarnation, header.seq, [SESSION])
        assert process.read() == ["ready"] * 2
        spoilt = spoil()
        set_clock("-3600")
        assert last_of(process.read(), "stale") < spoilt + L_NS
        mend()
        until(lambda: process.check(header.incarnation, header.seq, [SESSION]) == ["fenced"] * 2)
        set_clock("+0")
        process.send("back", header.incarnation, header.seq, [SESSION])
        assert process.read() == ["back"] * 2


def of_clock(file: Path) -> dict[str, str]:
    """Return the environment of a process whose wall clock is as far off as a file has it; other clocks are right."""
    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed")
    command = ["faketime", "-m", "-f", "+0", sys.executable, "-c", "import os; print(os.environ['LD_PRELOAD'])"]
    library = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    right = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    return os.environ | right | {
        "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
    }  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_paused_process_confirms_nothing_and_accepts_nothing_later(
    valkey: EmbeddedValkey, realm_store: RevocationStore, mode: str
) -> None:
    """It stands still while the kill is made and its lease ends; the report names it."""
    with node_process(valkey.url, realm_store.realm, "node", 2, mode) as process:
        header = realm_store.header()
        settled(realm_store)
        process.send("use", header.incarnation, header.seq, [SESSION])
        assert process.read() == ["ready"] * 2
        frozen = freeze(process.pid)
        report = wait_confirmed(realm_store.unacked, realm_store.kill([SESSION], "test", BY))
        assert (report.status, sorted(report.unreachable)) == ("partial", ["node", "node-1"])
        assert boot_clock() > frozen + L_NS
        resumed = time.monotonic_ns()
        os.kill(process.pid, signal.SIGCONT)
        answers = process.read()
        assert {answer.split()[0] for answer in answers} <= {"stale", "revoked"}
        assert max(int(answer.split()[1]) for answer in answers) < resumed


def test_a_new_history_revokes_what_was_born_before(valkey: EmbeddedValkey, realm_store: RevocationStore) -> None:
    """It copies the new history, and forgets none of the freezes."""
    realm_store.freeze([OTHER], "test", BY)
    with node_process(valkey.url, realm_store.realm, "node", 2) as process:
        old = realm_store.header()
        new = realm_store.rotate().header
        process.send("back", new.incarnation, new.seq, [SESSION])
        assert process.read() == ["back"] * 2
        assert process.check(old.incarnation, old.seq, [SESSION]) == ["revoked"] * 2
        assert process.check(new.incarnation, new.seq, [OTHER]) == ["frozen"] * 2


@pytest.mark.spec("10.5")
def test_a_history_that_has_ended_is_not_copied(valkey: EmbeddedValkey, realm_store: RevocationStore) -> None:
    """The store goes back to one: the view is fenced, although it may copy nothing, and goes on in its own history."""
    name = acl.user_name("verifier", realm_store.realm)
    tag = f"arx:{{{realm_store.realm}}}:"
    with redis.Redis.from_url(valkey.url) as raw:
        rules = acl.rules("verifier", realm_store.realm, "pass")
        raw.execute_command("ACL", "SETUSER", name, *rules)

        def keep() -> dict[str, bytes]:
            kept = {tag + part: raw.dump(tag + part) for part in ("h", "k", "f", "log")}
            return {key: value for key, value in kept.items() if value is not None}

        def go_back(kept: dict[str, bytes]) -> None:
            with raw.pipeline() as together:
                together.delete(*(tag + part for part in ("h", "k", "f", "log")))
                for key, value in kept.items():
                    together.restore(key, 0, value)
                together.execute()

        earlier = keep()
        url = f"unix://{name}:pass@{valkey.url.removeprefix('unix://')}"
        with node_process(url, realm_store.realm, "node", 2) as process:
            new = realm_store.rotate().header
            process.send("back", new.incarnation, new.seq, [SESSION])
            assert process.read() == ["back"] * 2
            later = keep()
            without = [rule for rule in rules if rule != "+fcall|arx1_copy"]
            assert len(without) == len(rules) - 1
            raw.execute_command("ACL", "SETUSER", name, *without)
            go_back(earlier)
            until(lambda: process.check(new.incarnation, new.seq, [SESSION]) == ["fenced"] * 2)
            go_back(later)
            process.send("back", new.incarnation, new.seq, [SESSION])
            assert process.read() == ["back"] * 2


def test_the_rights_of_a_verifier_are_enough(valkey: EmbeddedValkey, realm_store: RevocationStore) -> None:
    """It logs in as the user that `arx redis acl --role verifier` describes."""
    name = acl.user_name("verifier", realm_store.realm)
    with redis.Redis.from_url(valkey.url) as raw:
        raw.execute_command("ACL", "SETUSER", name, *acl.rules("verifier", realm_store.realm, "a:b@c"))
    url = f"unix://{name}:a%3Ab%40c@{valkey.url.removeprefix('unix://')}"
    realm_store.kill([SESSION], "test", BY)
    with node_process(url, realm_store.realm, "node", 1) as process:
        assert process.check(realm_store.header().incarnation, 0, [SESSION, OTHER]) == ["revoked accepted"]
        process.close()


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_tls_to_a_server_that_an_authority_of_its_own_vouches_for(tmp_path: Path, realm_name: str, name: str) -> None:
    """Another authority gives no view; the server may ask for a certificate of the client."""
    ca, (plain, port) = Ca.make(tmp_path / "ca"), free_ports(2)
    (certificate, key), (own, own_key) = ca.issue("127.0.0.1"), ca.issue("client.example")
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    tls += ["--tls-ca-cert-file", str(ca.folder / "ca.pem"), "--tls-auth-clients", "yes"]
    client = f"ssl_certfile={own}&ssl_keyfile={own_key}"
    url = f"rediss://127.0.0.1:{port}/0?{client}&ssl_ca_certs="
    server = Server(tmp_path / "server", plain, *LASTING, *tls, binary=need(name))
    with running(server), begun_store(f"redis://127.0.0.1:{plain}", realm_name) as store:
        with node_process(f"{url}{ca.folder / 'ca.pem'}", realm_name, "node", 1) as process:
            assert process.check(store.header().incarnation, 0, [SESSION]) == ["accepted"]
        other = Ca.make(tmp_path / "other").folder / "ca.pem"
        program = program_of(f"{url}{other}", realm_name, "other", 1)
        with child(program, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert "SELF_SIGNED_CERT_IN_CHAIN" in process.stderr.readline()
            process.kill()


def test_sentinels_name_the_server(tmp_path: Path, realm_name: str) -> None:
    """One of the two that are named does not answer."""
    port, watching, unused = free_ports(3)
    server, sentinel = Server(tmp_path / "server", port, *LASTING), Server(tmp_path / "s", watching, "--sentinel")
    (tmp_path / "s" / "server.conf").write_text(f"sentinel monitor kills 127.0.0.1 {port} 1\n")
    with running(server, sentinel), begun_store(f"redis://127.0.0.1:{port}", realm_name) as store:
        url = f"redis+sentinel://127.0.0.1:{unused},127.0.0.1:{watching}/kills"
        with node_process(url, realm_name, "node", 1) as process:
            assert process.check(store.header().incarnation, 0, [SESSION]) == ["accepted"]
            process.close()


@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=pytest.mark.nightly)])
def test_no_thread_of_any_process_accepts_after_a_confirmation(
    valkey: EmbeddedValkey, realm_store: RevocationStore, rounds: int
) -> None:
    """Four processes with four threads each, all blocked; commands of 1,000 kills."""
    letters = "abcdefghij"
    with contextlib.ExitStack() as running_all:
        processes = [
            running_all.enter_context(node_process(valkey.url, realm_store.realm, f"node-{number}", 4))
            for number in range(4)
        ]
        settled(realm_store)
        for turn in range(rounds):
            header = realm_store.header()
            ended = f"{turn:04d}".translate(str.maketrans("0123456789", letters))
            targets = [f"session:s-{ended}{'a' * 9}{a}{b}{c}" for a in letters for b in letters for c in letters]
            for process in processes:
                process.send("watch", header.incarnation, header.seq, targets)
            for process in processes:
                assert process.read() == ["ready"] * 4
            report = wait_confirmed(realm_store.unacked, realm_store.kill(targets, "test", BY), 60_000)
            confirmed = time.monotonic_ns()
            assert (report.status, report.confirmed) == ("confirmed", 16)
            for process in processes:
                assert last_of(process.read(), "done") < confirmed
