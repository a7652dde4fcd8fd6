# SPDX-License-Identifier: Apache-2.0
"""Ways to kill when something is missing: the mint, its database, its trust, the store's voice; and the reports."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from arx_caps.cli import exit_codes
from arx_caps.cli.terminal import Console
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.api.app import ENDPOINTS
from arx_caps.mint.identity.authenticate import NEEDS_NO_RULE
from arx_caps.mint.runtime import MintRuntime
from arx_caps.revocation import acl
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import OutcomeUnknownError
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import StoreError
from arx_verifier.revocation.follower import Follower
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon
from tests.cli.helpers import arx
from tests.cli.live import Live, live_realm
from tests.mint.harness import Harness, Holder, make_realm
from tests.servers import until

pytestmark = pytest.mark.servers

SESSION, AGENT, BY = "session:s-" + "a" * 16, "agent:acme/support", "operator:ada"
WORDS = ("--reason", "a test", "--yes", "--json")
NAMED = {"path": "acme/a", "session": SESSION[8:], "task": "t-" + "a" * 16}  # in the mint's paths


def test_a_break_glass_user_kills_with_nothing_else(
    valkey: EmbeddedValkey, realm_store: RevocationStore, tmp_path: Path
) -> None:
    """
    No mint, no realm folder, no key file: a store user's password is enough, several targets go in one step, and the
    log says that it went past the mint.
    """
    name = acl.user_name("operator", realm_store.realm)
    with redis.Redis.from_url(valkey.url) as raw:
        raw.execute_command("ACL", "SETUSER", name, *acl.rules("operator", realm_store.realm, "glass"))
    url = f"unix://{name}@{valkey.url.removeprefix('unix://')}"
    follower = Follower(valkey.url, realm_store.realm, "v")
    try:
        assert follower.catch_up(0, 0, 10)
        until(lambda: (seen := realm_store.unacked(0, 0)).at_ms - seen.since_ms > 1_000)
        place = ("--store", url, "--realm", realm_store.realm, "--realm-dir", tmp_path / "none", "--direct")
        ran = arx("kill", SESSION, AGENT, "key:k1.0", *place, *WORDS, env={"ARX_STORE_PASSWORD": "glass"})
        assert ran.exit_code == exit_codes.OK, ran.err
        assert (ran.json["status"], ran.json["confirmed"], ran.json["seq"]) == ("confirmed", 1, 4)
        assert all("(direct, user" in entry.by for entry in realm_store.log())
        assert len({entry.at_ms for entry in realm_store.log()}) == 1, "one step"
        refused = follower.check(ran.json["incarnation"], 0, (SESSION,))
        assert refused is not None
    finally:
        follower.close()


@pytest.fixture
def frozen_midway(
    own_valkey: EmbeddedValkey, realm_name: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[EmbeddedValkey, RevocationStore]]:
    """A realm whose store falls silent once a kill was begun."""
    with RevocationStore(own_valkey.url, realm_name) as store:
        store.load_functions()
        store.init()
        pid, real = own_valkey.server_pid, RevocationStore.kill_by_kind

        def freeze(self: RevocationStore, *arguments: object) -> object:
            os.kill(pid, signal.SIGSTOP)
            return real(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(RevocationStore, "kill_by_kind", freeze)
        yield own_valkey, store
        os.kill(pid, signal.SIGCONT)


def test_an_unknown_outcome_is_asked_for_until_it_is_settled(
    frozen_midway: tuple[EmbeddedValkey, RevocationStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The store is silent in the middle of a kill: the outcome is unknown meanwhile, and settled when the store is back.
    """
    server, store = frozen_midway
    pid, says = server.server_pid, Console.say
    notices: list[str] = []

    def say(console: Console, text: str) -> None:
        notices.append(text)
        says(console, text)
        os.kill(pid, signal.SIGCONT)

    monkeypatch.setattr(Console, "say", say)
    ran = arx("kill", SESSION, "--store", server.url, "--realm", store.realm, "--direct", *WORDS)
    assert notices == ["unknown so far: the store does not answer; trying again"]
    assert (ran.exit_code, ran.json["status"]) == (exit_codes.INCOMPLETE, "unconfirmed"), "in force, without a verifier"
    assert ran.json["seq"] == store.header().seq >= 1
    assert SESSION in store.kills()


@pytest.mark.spec("10.3")
def test_an_outcome_that_stays_unknown_is_never_called_done(
    frozen_midway: tuple[EmbeddedValkey, RevocationStore],
) -> None:
    """
    The patience ends first: exit 3, status unknown, and to be repeated.
    """
    server, store = frozen_midway
    ran = arx("kill", SESSION, "--store", server.url, "--realm", store.realm, "--direct", "--timeout", "1s", *WORDS)
    assert (ran.exit_code, ran.json["status"]) == (exit_codes.INCOMPLETE, "unknown")
    assert "repeat it" in ran.json["summary"]
    assert ran.json["confirmed"] == 0


def test_what_was_refused_is_not_unknown(own_valkey: EmbeddedValkey, realm_name: str) -> None:
    """
    A store that answers that it takes no writes has taken none: said as such, after as many tries.
    """
    with RevocationStore(own_valkey.url, realm_name, outcome_s=0.2) as store:
        store.load_functions()
        store.init()
        with redis.Redis.from_url(own_valkey.url) as raw, socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            raw.replicaof("127.0.0.1", str(unused.getsockname()[1]))
            with pytest.raises(StoreError, match="takes no writes") as caught:
                store.kill([SESSION], "test", BY)
            assert not isinstance(caught.value, OutcomeUnknownError)
            raw.replicaof("NO", "ONE")
        assert store.kill([SESSION], "test", BY).header.seq == 1


@pytest.fixture
def up(tmp_path: Path, free_port: int) -> Iterator[Live]:
    """A realm run by ``arx up``."""
    with live_realm(tmp_path / "realm", free_port) as realm:
        yield realm


@pytest.mark.slow
def test_a_kill_needs_no_database(up: Live) -> None:
    """
    The mint's database is deleted under it: the kill is in force all the same.  Started anew, the mint knows no agent;
    it is obeyed, and the way past it is named.
    """
    for path in up.folder.glob("mint.db*"):
        path.unlink()
    words = ("--reason", "no database", "--yes", "--timeout", "5s")
    exit_code, output, _ = up.run("kill", SESSION, *words)
    assert exit_code in (exit_codes.OK, exit_codes.INCOMPLETE)
    assert output["seq"] == 2  # with the taint of what the session wrote
    up.kill_mint()
    up._up.send_signal(signal.SIGCONT)
    up.until(lambda: up.run("agent", "list")[0] == exit_codes.UNAUTHENTICATED)
    exit_code, output, err = up.run("kill", SESSION, *words)
    assert (exit_code, output["exit_code"]) == (exit_codes.UNAUTHENTICATED, exit_codes.UNAUTHENTICATED)
    assert "--direct" in err
    exit_code, output, _ = up.run("kill", SESSION, "--direct", *words)
    assert exit_code in (exit_codes.OK, exit_codes.INCOMPLETE)
    assert (output["by"], output["durable"]) == ("store", True)


@pytest.mark.spec("10.11")
def test_a_damaged_store_gets_a_new_history_by_itself(own_valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """
    A client deletes a kill: verifiers refuse everything, the mint ends the history, and then there is service again, in
    which what was born before is dead.
    """
    mint = MintRuntime.open(make_realm(tmp_path / "realm"), store_url=own_valkey.url)
    mint.start()
    follower = Follower(own_valkey.url, "acme", "v")
    try:
        old = mint.store.kill([SESSION], "test", BY).header
        assert follower.catch_up(0, old.seq, 10)
        with redis.Redis.from_url(own_valkey.url) as raw:
            raw.hdel(mint.store.keys.kills, SESSION)
        until(lambda: follower.check(old.incarnation, old.seq, ()) is not None)
        until(lambda: follower.view()[0] != old.incarnation and follower.check(*follower.view()[:2], ()) is None)
        refused = follower.check(old.incarnation, old.seq, ())
        assert refused is not None
        assert refused.code == "revoked"
        until(lambda: mint.ready() == [])
    finally:
        follower.close()
        mint.close()


@pytest.mark.spec("CONTROL 1.6")
@pytest.mark.sqlite
def test_a_kill_only_token_does_nothing_else_at_the_mint(unit: Harness) -> None:
    """
    Attenuated to ``arx.kill`` it is refused at every route but that one, by its rule, before the body is looked at.
    """
    operator = unit.operator()
    assert operator.token is not None
    token = Macaroon.parse(operator.token).attenuate(Caveat(allow=(Rule(tool="arx.kill"),))).encode()
    only = Holder(unit, operator.key, token)
    tried = []
    for endpoint in ENDPOINTS:
        if endpoint.action in (None, *NEEDS_NO_RULE):  # an assertion, only a name, or the end of the own login
            continue
        path = re.sub(r"{(\w+)(:path)?}", lambda found: NAMED.get(found[1], "acme"), endpoint.path)
        answer = only.call(endpoint.method, path, {"anything": 1})
        if endpoint.action == "arx.kill":
            assert answer.json()["code"] != "tool_not_allowed"
            continue
        assert (answer.status_code, answer.json()["code"]) in ((403, "tool_not_allowed"), (403, "wrong_caller")), path
        tried.append(endpoint.action)
    assert len(tried) >= 12
