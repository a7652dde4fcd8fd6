# SPDX-License-Identifier: Apache-2.0
"""A killed or frozen holder could call again once the store had lost its disk.

The freezes stood in the store alone, but for those of agents, operators and keys that the mint itself had ended.  The
mint began a new history in the empty store and granted at once; the doctor found all of 0 freezes.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.cli import exit_codes
from arx_caps.credentials.jose import KeyFile, SigningKey, make_assertion
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.revocation import acl
from arx_caps.revocation.store import RevocationStore
from arx_caps.settings.realm import Realm
from arx_verifier.token.targets import subject_target
from tests.cli.helpers import arx
from tests.mint.harness import ISSUER, make_realm, now_ms
from tests.mint.processes import Caller, MintProcess
from tests.servers import free_ports, until
from tests.topologies.fleet import LASTING, Server, running

pytestmark = pytest.mark.servers

GONE, FROZEN, FREE = "acme/gone", "acme/frozen", "acme/free"
FREEZES = {
    "kill": [f"agent:{GONE}", subject_target("https://id.example", "ada"), "key:k7.0", f"policy:{'p' * 22}"],
    "freeze": [f"agent:{FROZEN}", "session:s-aaaaaaaaaaaaaaaa", "task:t-aaaaaaaaaaaaaaaa", f"link:{'A' * 22}"],
}
ALL = {target for targets in FREEZES.values() for target in targets}


class Desk:
    """A realm whose mint is a process, with its operator and three agents."""

    def __init__(self, stack: ExitStack, realm: Realm, store: str) -> None:
        self.realm, self.store, self.mints = realm, store, [MintProcess(realm, store)]
        stack.callback(lambda: self.mints[0].kill())
        self.client = stack.enter_context(httpx.Client(timeout=60))
        self._key = KeyFile.load(realm.operator_key_path)
        self.agents: dict[str, KeyFile] = {}
        for path in (GONE, FROZEN, FREE):
            self.agents[path] = KeyFile.generate("agent", path, ISSUER)
            body = {"path": path, "jwk": self.agents[path].key.public.jwk}
            assert self.ask("POST", "/v1/agents", body)["status_code"] == 201

    def ask(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """Ask as the operator, who signs in anew: nothing that was given before has to live."""
        operator = Caller(self.mints * 2, self.client, self._key.key, None)
        content = {"assertion": make_assertion(self._key, audience=ISSUER, now=now_ms())}
        operator.token = operator.ask(0, "POST", "/v1/operators/token", content)["token"]
        return operator.ask(0, method, path, body)

    def open(self, agent: str) -> str:
        """Ask for a session once; returns ``ok``, the code of the refusal, or ``silent`` if no answer came."""
        caller = Caller(self.mints * 2, self.client, SigningKey.generate(), None)
        assertion = make_assertion(self.agents[agent], audience=ISSUER, now=now_ms(), session_key=caller.key.public)
        answer = caller.once(self.mints[0], "POST", "/v1/sessions", {"assertion": assertion})
        if answer is None:  # a connection that the mint closed while it was asked
            return "silent"
        return "ok" if answer.status_code == 201 else str(answer.json()["code"])

    def end(self, *, direct: bool) -> None:
        """Kill and freeze targets of every kind, at the mint or past it."""
        for verb, targets in FREEZES.items():
            if direct:
                words = (verb, *targets, "--direct", "--reason", "test", "--yes", "--store", self.store)
                assert arx(*words, "--realm", self.realm.name).exit_code in (exit_codes.OK, exit_codes.INCOMPLETE)
            else:
                path = "/v1/kills" if verb == "kill" else "/v1/freezes"
                assert "seq" in self.ask("POST", path, {"targets": targets, "reason": "test", "wait": False})
        until(lambda: self.open(GONE) == self.open(FROZEN) == "frozen")
        with RevocationStore(self.store, self.realm.name) as store, MintDatabase(self.realm.database_url) as db:
            until(lambda: db.epoch.followed(self.realm.name)[:2] == (store.header().incarnation, store.header().seq))

    def freezes(self) -> set[str]:
        """What the store refuses."""
        with RevocationStore(self.store, self.realm.name) as store:
            return set(store.freezes())

    def doctor(self) -> dict[str, Any]:
        """The doctor's checks, by name."""
        output = arx("doctor", "--json", "--realm-dir", self.realm.folder, "--store", self.store).json
        return {check["name"]: check for check in output["checks"]}


@pytest.fixture
def desk(tmp_path: Path, own_valkey: EmbeddedValkey) -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(stack, make_realm(tmp_path / "realm"), own_valkey.url)


def lose(desk: Desk, server: EmbeddedValkey) -> None:
    """Lose the store's disk: it comes back empty once the mint's lease on the old one is over."""
    server.stop()
    until(lambda: desk.open(FREE) not in ("ok", "frozen"))
    shutil.rmtree(server.data_dir / "appendonlydir")
    server.start()


@pytest.mark.parametrize("direct", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_nothing_is_granted_before_every_freeze_is_back(
    desk: Desk, own_valkey: EmbeddedValkey, *, direct: bool
) -> None:
    """An agent that was not ended gets a session again, and only after every freeze; the others never get one."""
    desk.end(direct=direct)
    lose(desk, own_valkey)
    seen: list[str] = []

    def free() -> bool:
        seen.extend((desk.open(GONE), desk.open(FROZEN)))
        return desk.open(FREE) == "ok"

    until(free)
    assert desk.freezes() >= ALL
    assert "ok" not in seen
    assert (desk.open(GONE), desk.open(FROZEN)) == ("frozen", "frozen")
    answer = desk.ask("POST", "/v1/freezes/thaw", {"targets": [f"agent:{FROZEN}"], "reason": "test", "wait": False})
    assert "seq" in answer
    until(lambda: desk.open(FROZEN) == "ok")


@pytest.mark.slow
def test_a_realm_that_was_ended_stays_so(desk: Desk, own_valkey: EmbeddedValkey) -> None:
    """After `arx kill realm` and a lost disk no agent gets anything, until an operator thaws the realm."""
    assert "seq" in desk.ask("POST", "/v1/kills", {"targets": ["realm"], "reason": "test", "wait": False})
    lose(desk, own_valkey)
    seen: list[str] = []
    until(lambda: seen.append(desk.open(FREE)) or seen[-1] == "frozen")
    assert "ok" not in seen
    assert desk.freezes() == {"realm"}


@pytest.mark.slow
def test_the_doctor_names_what_is_missing(desk: Desk, own_valkey: EmbeddedValkey) -> None:
    """With the mint away, each freeze that the store has lost is named; with the mint back all is well."""
    desk.end(direct=True)
    assert desk.doctor()["freezes"]["ok"]
    desk.mints[0].kill()
    own_valkey.stop()
    shutil.rmtree(own_valkey.data_dir / "appendonlydir")
    own_valkey.start()
    found = desk.doctor()["freezes"]
    assert not found["ok"]
    assert all(target in found["found"] for target in ALL), found
    desk.mints[0].start()
    assert desk.doctor()["freezes"]["ok"]


@pytest.mark.slow
def test_a_mint_that_may_not_load_functions_says_who_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the documented users: the mint grants nothing, the doctor names the command, and after it all comes back."""
    port = free_ports(1)[0]
    server = Server(tmp_path / "server", port, *LASTING)
    urls = {role: f"redis://{acl.user_name(role, 'acme')}@127.0.0.1:{port}/0" for role in acl.ROLES}

    def serve(stack: ExitStack) -> None:
        stack.enter_context(running(server))
        for role in acl.ROLES:
            server.ask("ACL", "SETUSER", acl.user_name(role, "acme"), *acl.rules(role, "acme", "word"))

    def load() -> None:
        words = ("redis", "load", "--realm", "acme", "--store", urls["admin"])
        assert arx(*words, env={"ARX_STORE_PASSWORD": "word"}).exit_code == exit_codes.OK

    monkeypatch.setenv("ARX_STORE_PASSWORD", "word")
    with ExitStack() as mint, ExitStack() as first:
        serve(first)
        load()
        desk = Desk(mint, make_realm(tmp_path / "realm"), urls["mint"])
        answer = desk.ask("POST", "/v1/kills", {"targets": [f"agent:{GONE}"], "reason": "test", "wait": False})
        assert "seq" in answer
        first.close()
        until(lambda: desk.open(FREE) not in ("ok", "frozen"))
        shutil.rmtree(server.folder / "appendonlydir")
        with ExitStack() as second:
            serve(second)
            until(lambda: "arx redis load" in checks_of(desk, urls["mint"])["verifiers"]["mend"])
            assert desk.open(FREE) != "ok"
            load()
            seen: list[str] = []
            until(lambda: seen.append(desk.open(GONE)) or desk.open(FREE) == "ok")
            assert "ok" not in seen
            assert desk.open(GONE) == "frozen"


def checks_of(desk: Desk, store: str) -> dict[str, Any]:
    output = arx(
        "doctor", "--json", "--realm-dir", desk.realm.folder, "--store", store, env={"ARX_STORE_PASSWORD": "word"}
    )
    return {check["name"]: check for check in output.json["checks"]}


@pytest.mark.slow
def test_a_history_that_the_database_has_no_mark_of_is_ended(desk: Desk) -> None:
    """A mint that lost its database between beginning a history and marking it left every mint syncing for good."""
    with RevocationStore(desk.store, desk.realm.name) as store:
        begun = store.rotate().header.incarnation
    until(lambda: desk.open(FREE) == "ok")
    with MintDatabase(desk.realm.database_url) as db:
        mark = db.epoch.high_water(desk.realm.name)
    assert mark is not None
    assert mark.incarnation != begun  # what that history had of the one before is unknown
