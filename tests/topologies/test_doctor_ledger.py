# SPDX-License-Identifier: Apache-2.0
"""``arx doctor`` on a real ledger: what keeps its budgets from being exact, and how to repair it.  SPEC 17.5."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.revocation import acl
from arx_caps.settings.realm import Realm
from arx_verifier.ledger.pools import LOST, PoolDraw, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from tests.cli.helpers import arx
from tests.faults.shifted import shifted
from tests.ledgers import header_of, new_ledger
from tests.servers import free_ports, until
from tests.topologies.fleet import Server, running

pytestmark = [pytest.mark.servers, pytest.mark.spec("17.5")]

POOL = "t-abcdefghijklmnop/-/study/usd/task"
OK, ROLE = (
    {"ledger", "ledger rights", "ledger eviction", "ledger persistence", "ledger replication", "ledger history"},
    "--role ledger-mint",
)
PASSWORD = "p" * 9


class Ledger:
    """A realm and the server of its budgets."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.server, self.folder = server, folder
        self.realm = init_realm(folder, name="acme", issuer="http://127.0.0.1:9", store="redis://127.0.0.1:9")
        self.text = (folder / "realm.toml").read_text()
        self.name(f"redis://budgets@127.0.0.1:{server.port}")
        self.make_user(*acl.rules("ledger-mint", "acme", PASSWORD))

    def make_user(self, *rules: str) -> None:
        """Make the ledger's user, with these rules."""
        with self.server.client() as raw:
            raw.execute_command("ACL", "SETUSER", "budgets", *rules)

    def name(self, url: str | None) -> None:
        """Name a ledger in the realm's settings."""
        more = "" if url is None else f'ledger = "{url}"\n'
        (self.folder / "realm.toml").write_text(self.text + more)

    def checks(self, password: str = PASSWORD) -> dict[str, dict[str, Any]]:
        """Return what the doctor says of the ledger, by the name of the check."""
        ran = arx("doctor", "--realm-dir", self.folder, "--json", env={"ARX_LEDGER_PASSWORD": password})
        found = {each["name"]: each for each in ran.json["checks"] if each["name"].startswith("ledger")}
        extra = {"ledger replication"}  # has how a cluster can be more available, also if it is in order
        strict = [
            each for name, each in found.items() if each["ok"] is not None and (not each["ok"] or name not in extra)
        ]
        assert all(bool(each["mend"]) is not each["ok"] for each in strict)
        return found

    def bad(self, password: str = PASSWORD) -> dict[str, tuple[str, str]]:
        """Return what it finds wrong."""
        return {name: (each["found"], each["mend"]) for name, each in self.checks(password).items() if not each["ok"]}

    def set(self, name: str, value: str) -> None:
        """Change a setting of the server."""
        with self.server.client() as raw:
            raw.config_set(name, value)

    def draw(self) -> None:
        """Open a pool by a draw."""
        url = f"redis://127.0.0.1:{self.server.port}"
        ledger = new_ledger(url, "acme", hides=True)
        ledger.start()
        opened = time.time_ns() // 1_000_000 + 1
        while time.time_ns() // 1_000_000 <= opened:
            pass
        assert isinstance(ledger.take("draw", "", [PoolDraw(POOL, 100, 0, opened, 1, 1)]), Taken)
        ledger.close()

    def sync(self) -> None:
        """Wait until what was drawn is on the disk: a server may write a moment after its answer."""
        with self.server.client() as raw:
            raw.set("behind", "")
            until(lambda: raw.execute_command("WAITAOF", 1, 0, 1_000)[0] == 1)

    def draw_again(self, pool: str = POOL) -> Any:
        """Draw as a verifier that has just started, from a pool that was opened a second ago."""
        with closing(RedisLedger(f"redis://127.0.0.1:{self.server.port}", "acme", timeout_s=30)) as ledger:
            return ledger.take("draw", "", [PoolDraw(pool, 100, 0, time.time_ns() // 1_000_000 - 1_000, 1, 1)])


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    words = ("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction")
    server = Server(tmp_path / "server", free_ports(1)[0], *words)
    with running(server):
        yield Ledger(tmp_path / "realm", server)


def test_a_ledger_in_order(ledger: Ledger) -> None:
    """
    With the rights of the role, before and after the first draw; the checks have changed nothing.
    """
    found = ledger.checks()
    assert set(found) == OK
    assert all(each["ok"] for each in found.values())
    assert found["ledger history"]["found"] == "no call has used it yet"
    with ledger.server.client() as raw:
        assert raw.keys("*") == []
    ledger.draw()
    assert ledger.bad() == {}
    assert "no open pool is exhausted" in ledger.checks()["ledger history"]["found"]


def test_a_ledger_that_does_not_answer_or_refuses_the_login(ledger: Ledger) -> None:
    """
    Each is one finding, with what to do.
    """
    ((_, (found, mend)),) = ledger.bad("wrong").items()
    assert "refused the user or password: set ARX_LEDGER_PASSWORD" in found
    assert ROLE in mend
    ledger.name(f"redis://127.0.0.1:{free_ports(1)[0]}")
    ((_, (found, mend)),) = ledger.bad().items()
    assert "did not answer (ConnectionError): every call with a budget is refused" in found
    assert mend == "start it, or correct `ledger` in realm.toml"
    ledger.name("redis+cluster://127.0.0.1:1")
    assert arx("doctor", "--realm-dir", ledger.folder, "--json").json["checks"][1]["name"] == "realm"


def test_a_policy_with_budgets_and_no_ledger(ledger: Ledger) -> None:
    """
    Without budgets there is nothing to check.
    """
    ledger.name(None)
    assert ledger.checks() == {}
    policy = ledger.folder / "policy.toml"
    policy.write_text(
        '[audience.llm]\norigins = ["https://llm.example"]\n[task.study]\nagents = ["acme/**"]\nttl = "10m"\n'
        'audience = ["llm"]\nallow = [{ tool = "llm.ask", args = {} }]\nbudget = { usd = "1" }\n'
    )
    assert "(budget_unsupported)" in ledger.bad()["ledger"][0]


def test_rights_that_are_missing_or_too_wide(ledger: Ledger) -> None:
    """
    Each missing right by its name, whichever it is; and a user that may do everything.
    """
    whole = acl.rules("ledger-mint", "acme", PASSWORD)
    for right in acl.KEEP_BUDGETS.split():
        ledger.make_user(*(rule for rule in whole if rule != f"+{right}"))
        found, mend = ledger.bad()["ledger rights"]
        assert found.endswith(f"permit the mint's user {right.removeprefix('fcall|')}")
        assert ROLE in mend
    ledger.make_user(*(rule for rule in whole if rule != "+info"))
    assert ROLE in ledger.bad()["ledger"][1]
    ledger.make_user(*whole)
    assert ledger.bad() == {}
    ledger.make_user("allkeys", "+@all")
    assert ledger.bad()["ledger rights"][0] == "its user may do more than the role ledger-mint needs"
    ledger.make_user(*acl.rules("ledger-mint", "other", PASSWORD))
    assert "hset" in ledger.bad()["ledger rights"][0]


def test_settings_that_lose_draws(ledger: Ledger) -> None:
    """
    Eviction, no append-only file, one that is never synced, and the store's own settings, by which each call waits.
    """
    ledger.set("maxmemory-policy", "allkeys-lru")
    assert "it may evict pools" in ledger.bad()["ledger eviction"][0]
    ledger.set("maxmemory-policy", "noeviction")
    # Only a user with more rights than the role may ask how often the file is written.
    ledger.make_user("+config|get")
    for value, found in (("no", "a crash can lose"), ("always", "each call waits for the disk")):
        ledger.set("appendfsync", value)
        assert found in ledger.bad()["ledger persistence"][0]
    ledger.set("appendonly", "no")
    assert "no append-only file" in ledger.bad()["ledger persistence"][0]


def test_one_ledger_for_all_services(ledger: Ledger) -> None:
    """
    A service file of this folder that names another one, or none; a login in it is the service's own.
    """
    url = f"redis://127.0.0.1:{ledger.server.port}"
    folder = ledger.folder / "services"
    folder.mkdir(exist_ok=True)

    def enrol(audience: str, **more: str) -> None:
        file = folder / f"{audience}.json"
        content = {"audience": audience, "realm": "acme", "keys": {}, "max_ttl_ms": 1000, "v": 1, **more}
        file.write_text(json.dumps(content))
        file.chmod(0o600)

    enrol("llm", ledger=url.replace("//", "//own@"))
    assert "ledger services" not in ledger.bad()
    enrol("orders", ledger="redis://elsewhere:6379")
    enrol("payments")
    found, mend = ledger.bad()["ledger services"]
    assert "orders.json has redis://elsewhere:6379, so a task could use its budget at each" in found
    assert "payments.json has none" in found
    assert "arx ship FILE --once" in mend


def test_pools_that_a_restart_exhausted(ledger: Ledger) -> None:
    """
    Before the next call it is foretold; afterwards the pool is named until it is topped up.
    """
    ledger.draw()
    ledger.sync()
    ledger.server.kill()
    with running(ledger.server):
        restarted(ledger)


def restarted(ledger: Ledger) -> None:
    """What the doctor finds after a restart."""
    ledger.make_user(*acl.rules("ledger-mint", "acme", PASSWORD))
    assert "the next one exhausts all pools that are open" in ledger.bad()["ledger history"][0]
    kept = new_ledger(f"redis://127.0.0.1:{ledger.server.port}", "acme", hides=True)
    kept.start()
    found, mend = ledger.bad()["ledger history"]
    assert POOL in found
    assert "arx budget top-up" in mend
    kept.top_up(POOL, 5)
    assert "ledger history" not in ledger.bad()
    kept.close()


def test_a_server_that_is_back_after_a_failover(ledger: Ledger) -> None:
    """
    The mint has noted a later beginning than this server has: the next call of its own exhausts what is open.
    """
    ledger.draw()
    with MintDatabase(Realm.open(ledger.folder).database_url) as db:
        db.create()
        assert ledger.bad() == {}
        with ledger.server.client() as raw:
            number, run = raw.hmget(header_of(raw), "number", "run")
        assert db.ledger.note("", f"{number} {run}") == db.ledger.beginning() == f"{number} {run}"
        assert ledger.bad() == {}
        assert db.ledger.note("", "3 another") == "3 another"
        assert db.ledger.note("", "2 older") == "3 another"
    found, mend = ledger.bad()["ledger history"]
    assert "failover and back" in found
    assert "arx budget top-up" in mend


def test_a_clock_that_was_ahead(ledger: Ledger) -> None:
    """
    New budgets are refused until it has caught up: the doctor names the command that ends it, which checks the clocks.
    """
    words = ("redis", "begin-ledger", "--realm-dir", ledger.folder, "--yes", "--json")
    login = {"ARX_LEDGER_PASSWORD": PASSWORD}
    ledger.draw()
    assert arx(*words, env=login).json["code"] == "not_ahead"
    ledger.sync()
    ledger.server.kill()
    with shifted(ledger.server, "+1d"):
        ledger.make_user(*acl.rules("ledger-mint", "acme", PASSWORD))
        ledger.draw_again()
        assert "ms away" in ledger.bad()["ledger history"][0]
        assert arx(*words, env=login).json["code"] == "clock"
        ledger.sync()
    with running(ledger.server):
        ledger.make_user(*acl.rules("ledger-mint", "acme", PASSWORD))
        short = ledger.draw_again("t/-/new/usd/task")
        assert short.remaining == LOST
        assert short.wait_ms > 23 * 3_600_000
        found, mend = ledger.bad()["ledger history"]
        assert "set back: its time stands still" in found
        assert "arx redis begin-ledger" in mend
        assert arx(*words[:-2], "--json", env=login).exit_code != 0, "no user has confirmed it"
        assert arx(*words, env=login).json["realm"] == "acme"
        assert "ledger history" not in ledger.bad() or "exhausted" in ledger.bad()["ledger history"][0]
        for name in (POOL, "t/-/new/usd/task"):
            short = ledger.draw_again(name)
            assert short.remaining == LOST
            assert 0 < short.wait_ms <= 60_000
        with ledger.server.client() as raw:  # a minute later
            raw.hset(header_of(raw), "since", time.time_ns() // 1_000_000 - 60_000)
        assert isinstance(ledger.draw_again("t/-/newer/usd/task"), Taken)


def test_replicas(ledger: Ledger, tmp_path: Path) -> None:
    """
    A primary that takes draws without them, one that does not, and a replica that is named as the ledger.
    """
    replica = Server(tmp_path / "replica", free_ports(1)[0], "--replicaof", f"127.0.0.1 {ledger.server.port}")
    with running(replica):
        until(lambda: "cut off" in ledger.bad().get("ledger replication", ("",))[0])
        ledger.set("min-replicas-to-write", "1")
        assert "ledger replication" not in ledger.bad()
        ledger.name(f"redis://127.0.0.1:{replica.port}")
        assert "names a replica" in ledger.bad()["ledger replication"][0]


def test_the_store_as_the_ledger(ledger: Ledger, tmp_path: Path) -> None:
    """
    Another database of the same server is the same instance.
    """
    store = f"redis://127.0.0.1:{ledger.server.port}/1"
    ledger.text = ledger.text.replace("redis://127.0.0.1:9", store)
    ledger.name(f"redis://budgets@127.0.0.1:{ledger.server.port}/0")
    assert "it is the revocation store" in ledger.bad()["ledger"][0]


def test_the_store_as_the_ledger_with_a_password(ledger: Ledger) -> None:
    """
    The store is asked with the password of ``ARX_STORE_PASSWORD``: else the same instance looks like another one.
    """
    with ledger.server.client() as raw:
        raw.execute_command("ACL", "SETUSER", "mint", "on", ">s3cret", "~*", "&*", "+@all")
    store = f"redis://mint@127.0.0.1:{ledger.server.port}/1"
    ledger.text = ledger.text.replace("redis://127.0.0.1:9", store)
    ledger.name(f"redis://budgets@127.0.0.1:{ledger.server.port}/0")
    variables = {"ARX_LEDGER_PASSWORD": PASSWORD, "ARX_STORE_PASSWORD": "s3cret"}
    ran = arx("doctor", "--realm-dir", ledger.folder, "--json", env=variables)
    (check,) = [each for each in ran.json["checks"] if each["name"] == "ledger"]
    assert "it is the revocation store" in check["found"]
    assert "s3cret" not in ran.out
