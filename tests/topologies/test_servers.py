# SPDX-License-Identifier: Apache-2.0
"""The same store on every server that ARx names: kills, leases, rights and a full memory; TLS where it is built in."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from arx_caps.revocation import acl
from arx_caps.revocation.failover import Topology, attest
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import StoreHistoryError
from arx_verifier.errors import SettingsError, StoreError
from arx_verifier.memory.taints import TaintWindow
from arx_verifier.revocation.follower import Follower
from tests.revocation.calling import NO_MORE
from tests.servers import FAST_LEASE_MS, free_ports, until
from tests.topologies.authority import Ca
from tests.topologies.fleet import LASTING, NAMES, Server, need, running

pytestmark = pytest.mark.servers

SESSION, AGENT, BY = "session:s-" + "a" * 16, "agent:acme/support", "operator:ada"


@pytest.fixture(scope="module", params=NAMES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of the servers, with a file."""
    folder = tmp_path_factory.mktemp("server")
    one = Server(folder, free_ports(1)[0], *LASTING, binary=need(request.param))
    with running(one):
        yield one


def url_of(server: Server, user: str = "") -> str:
    return f"redis://{user}{'@' if user else ''}127.0.0.1:{server.port}"


@pytest.fixture
def store(server: Server, realm_name: str) -> Iterator[RevocationStore]:
    with RevocationStore(url_of(server), realm_name, timeout_ms=500) as store:
        assert store.load_functions()
        store.init(lease_ms=FAST_LEASE_MS)
        yield store


@pytest.mark.spec("10.3", "10.6")
def test_a_kill_is_confirmed_and_a_frozen_server_ends_the_lease(server: Server, store: RevocationStore) -> None:
    """
    Durable, pushed, confirmed; with the server stopped nothing is accepted after the lease, and all comes back.
    """
    follower = Follower(url_of(server), store.realm, "tool-1")
    try:
        assert follower.catch_up(0, 0, 10)
        until(lambda: store.unacked(0, 0).at_ms - store.unacked(0, 0).since_ms > FAST_LEASE_MS)
        bump = store.kill_by_kind([SESSION, AGENT, "key:k1.0"], "test", BY)
        report = store.wait_confirmed(bump)
        assert (report.status, report.verifiers, report.confirmed) == ("confirmed", 1, 1)
        assert (bump.durable, bump.header.seq) == (True, 4)
        assert [(entry.op, entry.target) for entry in store.log()] == [
            ("freeze", str(TaintWindow(SESSION))),
            ("kill", SESSION),
            ("kill+freeze", AGENT),
            ("freeze", "key:k1.0"),
        ]
        codes = [
            follower.check(bump.header.incarnation, born, (target,)) for born, target in ((0, SESSION), (3, AGENT))
        ]
        assert [refused.code for refused in codes if refused is not None] == ["revoked", "frozen"]
        server.signal(signal.SIGSTOP)
        frozen = last = follower.boot_ns()
        while (now := follower.boot_ns()) < frozen + 2 * FAST_LEASE_MS * 1_000_000:
            if follower.check(bump.header.incarnation, 3, ()) is None:
                last = now
        server.signal(signal.SIGCONT)
        assert last - frozen < FAST_LEASE_MS * 1_000_000 + 5_000_000
        until(lambda: follower.check(bump.header.incarnation, 3, ()) is None)
    finally:
        server.signal(signal.SIGCONT)
        follower.close()


def test_several_targets_are_one_step(server: Server, store: RevocationStore) -> None:
    """
    Targets of different kinds get what a kill of their kind is, all or none: one bad operation leaves nothing behind.
    """
    keys = store.keys.written
    incarnation = store.header().incarnation
    for bad in ("nonsense agent:acme", "kill", "kill agent:a\u00e4", "kill two words"):
        with server.client() as raw, pytest.raises(redis.ResponseError, match="bump"):
            raw.fcall(
                "arx1_bump", 5, *keys, incarnation, 0, "", "each", "", BY, "why", *NO_MORE, f"kill {SESSION}", bad
            )
    assert store.header().seq == 0
    assert store.kills() == {}


def test_a_full_store_still_kills_and_grants(server: Server, store: RevocationStore) -> None:
    """
    At its memory's limit the server refuses ordinary writes, and takes kills, probes and attestations.
    """
    follower = Follower(url_of(server), store.realm, "v")
    with server.client() as raw:
        raw.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                raw.set("filler", "x" * 100)
            assert follower.catch_up(follower.boot_ns(), 0, 10)
            bump = store.kill([SESSION], "test", BY)
            assert bump.durable
            assert follower.catch_up(0, bump.header.seq, 10)
            assert attest(store, Topology())[1] is None
            assert store.rotate().header.incarnation != bump.header.incarnation
        finally:
            raw.config_set("maxmemory", "0")
            follower.close()


class Users(NamedTuple):
    """One user a role, made by the lines that ``arx redis acl`` prints."""

    server: Server
    realm: str

    def url(self, role: str) -> str:
        return url_of(self.server, acl.user_name(role, self.realm))

    def store(self, role: str) -> RevocationStore:
        return RevocationStore(self.url(role), self.realm, password=role * 3, timeout_ms=500)

    def raw(self, role: str) -> redis.Redis:
        return self.server.client(username=acl.user_name(role, self.realm), password=role * 3)


@pytest.fixture
def users(server: Server, realm_name: str) -> Users:
    with server.client() as raw:
        raw.function_flush()
        for role in acl.ROLES:
            rules = acl.rules(role, realm_name, role * 3)
            raw.execute_command("ACL", "SETUSER", acl.user_name(role, realm_name), *rules)
    return Users(server, realm_name)


def test_each_role_can_do_its_whole_work(users: Users) -> None:
    """
    An admin loads the functions; a mint begins, attests, follows and rotates; an operator kills and sees who confirmed;
    a verifier follows and takes leave.  None of them needs the default user.
    """
    with users.store("admin") as admin, users.store("mint") as mint, users.store("operator") as operator:
        assert admin.load_functions()
        assert not mint.load_functions(), "a mint need not load functions"
        mint.init(lease_ms=FAST_LEASE_MS)
        assert attest(mint, Topology(0, "rotate"))[1] is None
        follower = Follower(users.url("verifier"), users.realm, "v", password="verifier" * 3)
        mints = Follower(users.url("mint"), users.realm, "arx.mint-1", password="mint" * 3)
        assert follower.catch_up(0, 0, 10)
        assert mints.catch_up(0, 0, 10)
        operator.kill_by_kind([SESSION, AGENT], "test", BY)
        operator.thaw([AGENT], "test", BY)
        bump = operator.freeze([AGENT], "test", BY)
        assert operator.wait_confirmed(bump).confirmed == 2
        assert follower.catch_up(0, bump.header.seq, 10)
        frozen = {target: seq for target, seq in operator.freezes().items() if not target.startswith("memory:")}
        assert (operator.kills(), frozen) == ({SESSION: 2, AGENT: 3}, {AGENT: 6})
        assert {seen.id for seen in operator.verifiers()} == {"v", "arx.mint-1"}
        assert len(operator.log()) == 6
        mint.header()
        mint.mark_taken(1)
        new = mint.rotate().header
        assert follower.catch_up(0, new.seq, 10)
        until(lambda: follower.view()[0] == new.incarnation)
        follower.close()
        mints.close()
        until(lambda: admin.verifiers() == ())


def forbidden(users: Users) -> dict[str, list[tuple[Any, ...]]]:
    """What each role must not do, beyond what none may."""
    tag = f"arx:{{{users.realm}}}:"
    bump = ("FCALL", "arx1_bump", 5, *(tag + part for part in ("h", "k", "f", "x", "log")))
    rotate = ("FCALL", "arx1_rotate", 7, *(tag + part for part in ("h", "k", "f", "x", "log", "v", "a")))
    anybody = [
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"),
        ("EVAL", "return 1", 0),
        ("KEYS", "*"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
        ("REPLICAOF", "NO", "ONE"),
        ("FUNCTION", "FLUSH"),
        ("SET", tag + "h", "x"),
        ("HSET", "arx:{other}:h", "seq", 0),
        ("SSUBSCRIBE", "arx:{other}:ch"),
        ("SUBSCRIBE", "news"),
    ]
    load = ("FUNCTION", "LOAD", "REPLACE", "#!lua name=arx1\nredis.register_function('x', function() end)")
    follow = ("FCALL", "arx1_probe", 6, *(tag + part for part in ("h", "k", "f", "log", "v", "a")), "v", "", -1, "", 1)
    return {
        "verifier": [
            *anybody,
            load,
            (*bump, "I", 0, "", "thaw", "", BY, "why", "realm"),
            (*rotate, "I", "J", 0, 0, 0),
            ("FCALL", "arx1_init", 5, *(tag + part for part in ("h", "k", "f", "x", "log")), "I", 1, 1, 0),
            ("FCALL", "arx1_attest", 4, *(tag + part for part in ("h", "k", "f", "log")), "I", "r", "", 0, 0, 0),
            ("HSET", tag + "h", "seq", 0),
            ("HDEL", tag + "f", SESSION),
            ("DEL", tag + "h"),
            ("XADD", tag + "log", "*", "a", "b"),
            ("XTRIM", tag + "log", "MAXLEN", 0),
            ("ZADD", tag + "x", 1, SESSION),
            ("SPUBLISH", tag + "ch", "x"),
        ],
        "operator": [*anybody, load, (*rotate, "I", "J", 0, 0, 0), ("DEL", tag + "h"), follow],
        "mint": [*anybody, load],
        "admin": [*anybody, follow],
    }


@pytest.mark.parametrize("role", list(acl.ROLES))
def test_each_role_can_do_nothing_else(users: Users, role: str) -> None:
    """
    Every command beyond the role's work is refused by the server, and what a verifier may write has a type that nothing
    important has.
    """
    with users.store("admin") as admin:
        admin.load_functions()
        admin.init()
        admin.kill([SESSION], "test", BY)
        with users.raw(role) as raw:
            for command in forbidden(users)[role]:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    raw.execute_command(*command)
            if role == "verifier":
                for part in ("h", "k", "log"):
                    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                        raw.zadd(f"arx:{{{users.realm}}}:{part}", {"x": 1})
        assert admin.kills() == {SESSION: 1}


def test_a_wrong_password_is_refused_and_not_repeated(users: Users) -> None:
    """
    No right without the password, and the message does not hold it.
    """
    with RevocationStore(users.url("operator"), users.realm, password="guess") as store:
        with pytest.raises(StoreError, match="refused the user or password") as caught:
            store.kill([SESSION], "test", BY)
        assert "guess" not in str(caught.value)


def test_what_is_too_wide_is_named(users: Users) -> None:
    """
    The default user is far too wide; the users of ``arx redis acl`` are not.
    """
    with users.server.client(protocol=2) as raw:
        found = acl.too_wide(raw.acl_getuser("default"), users.realm)
        assert len(found) == 4, found
        for role in acl.ROLES:
            assert acl.too_wide(raw.acl_getuser(acl.user_name(role, users.realm)), users.realm) == []


# TLS: the wheel's server has none.


@pytest.fixture(scope="module", params=NAMES[1:])
def secure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[int, Path]]]:
    """Two TLS ports of one server each, with certificates for the loopback address and for another host."""
    binary, folder = need(request.param), tmp_path_factory.mktemp("secure")
    ca, ports = Ca.make(folder / "ca"), free_ports(4)
    servers = []
    for n, host in enumerate(("127.0.0.1", "elsewhere.example")):
        certificate, key = ca.issue(host)
        options = ["--tls-port", str(ports[2 + n]), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
        options += ["--tls-ca-cert-file", str(ca.folder / "ca.pem"), "--tls-auth-clients", "no"]
        servers.append(Server(folder / host, ports[n], *LASTING, *options, binary=binary))
    with running(*servers):
        yield lambda host: (ports[2 if host == "127.0.0.1" else 3], ca.folder / "ca.pem")


def test_tls_to_the_right_server(secure: Callable[[str], tuple[int, Path]], realm_name: str) -> None:
    """
    Kills, pushes and probes go through TLS to a server whose certificate the given authority signed for this host.
    """
    port, ca = secure("127.0.0.1")
    url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}"
    with RevocationStore(url, realm_name) as store:
        store.load_functions()
        store.init(lease_ms=FAST_LEASE_MS)
        follower = Follower(url, realm_name, "v")
        assert follower.catch_up(0, 0, 10)
        targets = [f"session:s-{'a' * 14}{a}{b}" for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrst"]
        bump = store.kill(targets, "more than one TLS record", BY)
        until(lambda: follower.view()[1] == bump.header.seq)
        assert follower.check(bump.header.incarnation, 0, (targets[-1],)) is not None
        follower.close()


def test_tls_to_another_is_refused(secure: Callable[[str], tuple[int, Path]], realm_name: str, tmp_path: Path) -> None:
    """
    Another authority's certificate, one for another host, none that is known to the system: no lease, no kill.  The
    check cannot be turned off in the URL.
    """
    (right, ca), (elsewhere, _) = secure("127.0.0.1"), secure("elsewhere.example")
    other = Ca.make(tmp_path / "other").folder / "ca.pem"
    for port, query in ((right, f"?ssl_ca_certs={other}"), (elsewhere, f"?ssl_ca_certs={ca}"), (right, "")):
        url = f"rediss://127.0.0.1:{port}/0{query}"
        follower = Follower(url, realm_name, "v")
        assert not follower.catch_up(0, 0, 0.2)
        follower.close()
        with RevocationStore(url, realm_name) as store, pytest.raises(StoreError) as caught:
            store.header()
        assert not isinstance(caught.value, StoreHistoryError), "it was believed"
    for query in ("ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=false"):
        with pytest.raises(SettingsError, match="certificate"):
            RevocationStore(f"rediss://127.0.0.1:{right}/0?{query}", realm_name)
