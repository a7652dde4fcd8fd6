# SPDX-License-Identifier: Apache-2.0
"""Relays, as processes: kills pass, confirmations count, and the bound holds at any depth whatever stops."""

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.errors import SettingsError
from arx_verifier.revocation.epoch import boot_clock
from arx_verifier.revocation.follower import Follower
from tests.cli.helpers import arx
from tests.exported import exported_by
from tests.faults.witness import Witness
from tests.relay.processes import BY, L_NS, LEASE_MS, SESSION, RelayProcess, watch
from tests.servers import free_ports, freeze, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.7")]

Relays = Callable[..., RelayProcess]
Verifiers = Callable[[str, int], list[Witness]]
TARGET = [f"session:{SESSION}"]


def chain(relay: Relays, url: str, depth: int) -> list[RelayProcess]:
    """Relays one behind the other."""
    found: list[RelayProcess] = []
    for level in range(depth):
        found.append(relay(found[-1].url if found else url, f"level{level + 1}"))
    return found


def task(index: int) -> str:
    """One of many targets."""
    return f"task:t-{chr(97 + index // 20)}{chr(97 + index % 20)}{'a' * 14}"


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_a_kill_passes_and_every_follower_is_counted(
    own_valkey: EmbeddedValkey, store: RevocationStore, relay: Relays, verifiers: Verifiers, depth: int
) -> None:
    """
    Verifiers behind relays are counted as those that follow the store; the relays themselves are not.
    """
    last = chain(relay, own_valkey.url, depth)[-1]
    behind, direct = verifiers(last.url, 2), verifiers(own_valkey.url, 1)
    until(lambda: store.unacked(0, 0).verifiers == 3)
    listed = arx("verifier", "list", "--store", own_valkey.url, "--realm", store.realm, "--json").json["verifiers"]
    assert sorted(str(one["relay_of"]) for one in listed) == ["2", "None"]
    report = store.wait_confirmed(store.kill(TARGET, "test", BY))
    assert (report.status, report.verifiers, report.confirmed) == ("confirmed", 3, 3), report.summary
    killed = boot_clock()
    for one in [*behind, *direct]:
        one.until("revoked")
        assert one.last_accepted() < killed  # confirmed: not one of them accepted it after the report


@pytest.mark.nightly
@pytest.mark.spec("12.7")
def test_a_verifier_that_watches_is_named_through_relays(
    own_valkey: EmbeddedValkey, store: RevocationStore, relay: Relays, verifiers: Verifiers
) -> None:
    """
    Two relays away it is never among the confirmed: reports of kills, ``arx verifier list`` and ``arx kills`` name it.
    """
    last = chain(relay, own_valkey.url, 2)[-1]
    verifiers(last.url, 1)
    watching = Follower(last.url, store.realm, "orders-7-abcdef")
    watching.watch_until_ms = int(datetime.now(UTC).timestamp() * 1000) + 86_400_000
    try:
        watching.start()
        until(lambda: store.unacked(0, 0).watching and store.unacked(0, 0).verifiers == 2)
        report = store.wait_confirmed(store.kill(TARGET, "test", BY))
        assert (report.status, report.verifiers, report.confirmed) == ("partial", 2, 1), report.summary
        assert report.watching[0].startswith("orders-7-abcdef, until ")
        done = arx("verifier", "list", "--store", own_valkey.url, "--realm", store.realm)
        assert "orders-7-abcdef" in done.out
        assert "watching until " in done.out
        done = arx("verifier", "list", "--store", own_valkey.url, "--realm", store.realm, "--json")
        assert [each["id"] for each in done.json["verifiers"] if each["watches_until"]] == ["orders-7-abcdef"]
    finally:
        watching.close()


@pytest.mark.slow
def test_a_frozen_store_ends_every_lease_at_any_depth(
    own_valkey: EmbeddedValkey, relay: Relays, verifiers: Verifiers
) -> None:
    """
    The store stops: two relays away nothing is accepted after L, and all comes back with it.
    """
    behind = verifiers(chain(relay, own_valkey.url, 2)[-1].url, 2)
    pid = own_valkey.server_pid
    frozen = freeze(pid)
    try:
        for one in behind:
            one.until("stale")
    finally:
        os.kill(pid, signal.SIGCONT)
    for one in behind:
        one.until("ok")
        first_run = one.runs()[0]
        assert first_run.last - frozen < L_NS


@pytest.mark.nightly
def test_a_frozen_relay_ends_the_leases_below_it(
    own_valkey: EmbeddedValkey, store: RevocationStore, relay: Relays, verifiers: Verifiers
) -> None:
    """
    A kill that a stopped relay does not pass: its verifiers accept nothing after L, as the report shows, and when it
    wakes with old answers no verifier believes them.
    """
    stopped = relay(own_valkey.url)
    behind, direct = verifiers(stopped.url, 2), verifiers(own_valkey.url, 1)
    until(lambda: store.unacked(0, 0).verifiers == 3)
    freeze(stopped.pid)
    bump = store.kill(TARGET, "test", BY)
    killed = boot_clock()
    report = store.wait_confirmed(bump)
    os.kill(stopped.pid, signal.SIGCONT)
    assert (report.status, report.verifiers, report.confirmed) == ("partial", 3, 1)
    assert report.unreachable == (f"{stopped.ready['name']}, 2 verifiers",)
    for one in [*behind, *direct]:
        one.until("revoked")
        assert one.last_accepted() - killed < L_NS


@pytest.mark.nightly
def test_a_relay_that_dies_and_returns(
    own_valkey: EmbeddedValkey, store: RevocationStore, relay: Relays, verifiers: Verifiers
) -> None:
    """
    A killed relay's verifiers are still waited for; another one at its place serves them, with the kill in force.
    """
    first = relay(own_valkey.url)
    behind = verifiers(first.url, 2)
    until(lambda: store.unacked(0, 0).verifiers == 2)
    first.kill()
    bump = store.kill(TARGET, "test", BY)
    killed = boot_clock()
    assert store.unacked(bump.header.seq, bump.header.at_ms - 700).confirmed == 0
    second = relay(own_valkey.url)
    assert second.ready["name"] != first.ready["name"]
    for one in behind:
        one.until("revoked")
        assert one.last_accepted() - killed < L_NS
    watch(store, behind, "s-" + "b" * 16)


@pytest.mark.slow
def test_a_frozen_verifier_is_named_through_relays(
    own_valkey: EmbeddedValkey, store: RevocationStore, relay: Relays, verifiers: Verifiers
) -> None:
    """
    One of three behind two relays does not answer: the report names it, and the others are confirmed.
    """
    behind = verifiers(chain(relay, own_valkey.url, 2)[-1].url, 3)
    until(lambda: store.unacked(0, 0).verifiers == 3)
    behind[1].freeze()
    report = store.wait_confirmed(store.kill(TARGET, "test", BY))
    behind[1].thaw()
    assert (report.status, report.verifiers, report.confirmed) == ("partial", 3, 2), report.summary
    assert report.unreachable == ("tool-1",)
    for one in behind:
        one.until("revoked")
    until(lambda: store.unacked(report.seq, 0).confirmed == 3)


@pytest.mark.slow
def test_who_comes_late_gets_everything(
    own_valkey: EmbeddedValkey, store: RevocationStore, relay: Relays, verifiers: Verifiers
) -> None:
    """
    A verifier, and a relay with one, that come after kills and freezes have them; so after a rotation.
    """
    first = relay(own_valkey.url, "first")
    early = verifiers(first.url, 1)
    store.kill([task(index) for index in range(300)], "test", BY)
    store.freeze(["agent:acme/rogue"], "test", BY)
    for url in (first.url, relay(first.url, "second").url):
        follower = Follower(url, store.realm, f"late-{len(url)}")
        try:
            assert follower.catch_up(0, 301, 10)
            incarnation = follower.view()[0]
            assert {getattr(follower.check(incarnation, 0, (task(index),)), "code", "") for index in (0, 299)} == {
                "revoked"
            }
            assert getattr(follower.check(incarnation, 301, ("agent:acme/rogue",)), "code", "") == "frozen"
            assert follower.check(incarnation, 301, (task(0),)) is None
        finally:
            follower.close()
    store.rotate()
    early[0].until("revoked")
    watch(store, early)


def test_a_waiting_follower_gets_news_from_the_store(
    own_valkey: EmbeddedValkey, store: RevocationStore, relay: Relays
) -> None:
    """
    ``fresh`` through two relays: the view is not older than the request, though the relays' own views were.
    """
    follower = Follower(chain(relay, own_valkey.url, 2)[-1].url, store.realm, "v")
    try:
        assert follower.catch_up(0, 0, 10)
        incarnation = follower.view()[0]
        for _ in range(20):
            seq = store.kill(TARGET, "test", BY).header.seq
            asked = follower.boot_ns()
            assert follower.catch_up(asked, 0, 5)
            assert follower.view()[1] >= seq
            assert getattr(follower.check(incarnation, seq - 1, TARGET, asked), "code", "") == "revoked"
            assert follower.check(incarnation, seq, TARGET, asked) is None
    finally:
        follower.close()
    until(lambda: store.unacked(0, 0).verifiers == 0)  # it said goodbye, through both


def test_a_relay_ends_in_order(own_valkey: EmbeddedValkey, relay: Relays) -> None:
    """
    SIGTERM ends it with 0 and takes its socket away.
    """
    one = relay(own_valkey.url)
    path = Path(one.url.removeprefix("relay+unix://"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert one.stop() == 0
    assert not path.exists()


def test_a_port_asks_for_a_password_and_shows_a_certificate(
    own_valkey: EmbeddedValkey, store: RevocationStore, tmp_path: Path
) -> None:
    """
    Over TLS a follower with the password follows; one without it, or without trust in the certificate, has no view.
    """
    certificate, key = self_signed(tmp_path)
    options = ("--tls-cert", str(certificate), "--tls-key", str(key))
    secret = {"ARX_RELAY_PASSWORD": "open sesame"}
    relay = RelayProcess(own_valkey.url, store.realm, "127.0.0.1:0", options=options, variables=secret)
    at = f"localhost:{relay.ready['listen'].rpartition(':')[2]}"
    trusting = f"?ca={certificate}"
    try:
        for url, password, live in (
            (f"relays://{at}{trusting}", "open sesame", True),
            (f"relays://localhost:{free_ports(1)[0]},{at}{trusting}", "open sesame", True),
            (f"relays://{at},{at}{trusting}", "guess", False),
            (f"relays://{at}{trusting}", "guess", False),
            (f"relays://{at}", "open sesame", False),
            (f"relay://{at}", "open sesame", False),
        ):
            follower = Follower(url, store.realm, "v", password=password)
            assert follower.catch_up(0, 0, 10 if live else 0.5) is live
            follower.close()
    finally:
        relay.kill()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost, and its key."""
    key, name = ed25519.Ed25519PrivateKey.generate(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    built = built.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "cert.pem").write_bytes(built.sign(key, None).public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


def test_where_a_relay_does_not_listen(own_valkey: EmbeddedValkey, store: RevocationStore, relay: Relays) -> None:
    """
    Not at another's socket, not on a port without a password, not beyond loopback without TLS.
    """
    taken = relay(own_valkey.url)
    given = ("--store", own_valkey.url, "--realm", store.realm, "--listen")
    at = taken.url.replace("relay+unix", "unix")
    assert "another process listens there" in arx("relay", *given, at).err
    assert "ARX_RELAY_PASSWORD" in arx("relay", *given, "127.0.0.1:0").err
    assert "certificate" in arx("relay", *given, "0.0.0.0:0", env={"ARX_RELAY_PASSWORD": "p"}).err
    for none in ("nowhere", "127.0.0.1:²", "127.0.0.1:" + "9" * 5000):
        assert "expected unix:///PATH or HOST:PORT" in arx("relay", *given, none).err


@pytest.mark.parametrize("url", ["relay://", "relay://host", "relay+unix://", "relays://h:1?x=1", "relay://:pw@h:port"])
def test_an_address_that_is_none(url: str) -> None:
    """
    A relay's URL that cannot be read is refused, and not shown.
    """
    with pytest.raises(SettingsError, match="form") as caught:
        Follower(url, "acme", "v")
    assert "pw" not in str(caught.value)


@pytest.mark.slow
def test_a_relay_is_watched(
    own_valkey: EmbeddedValkey, store: RevocationStore, verifiers: Verifiers, tmp_path: Path
) -> None:
    """
    It exports what is registered, with the verifiers behind it; without the store it is alive and not ready.
    """
    [port] = free_ports(1)
    path = tmp_path / "relay"
    relay = RelayProcess(own_valkey.url, store.realm, path, options=["--metrics", f"127.0.0.1:{port}"])
    try:
        verifiers(relay.url, 2)
        until(lambda: exported_by("relay", f"127.0.0.1:{port}")["arx_relay_verifiers"] == {(): 2.0})
        values = exported_by("relay", f"127.0.0.1:{port}")
        assert values["arx_relay_followers"] == {(): 2.0}
        assert 0 <= values["arx_relay_epoch_age_seconds"][()] < LEASE_MS / 1000
        assert values["arx_certificate_expires_seconds"] == {}
        assert health(port, "/readyz") == 200
        pid = own_valkey.server_pid
        freeze(pid)
        until(lambda: health(port, "/readyz") == 503)
        assert health(port, "/healthz") == 200
        os.kill(pid, signal.SIGCONT)
        until(lambda: health(port, "/readyz") == 200)
    finally:
        relay.kill()


def health(port: int, path: str) -> int:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30).status_code
