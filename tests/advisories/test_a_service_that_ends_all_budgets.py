# SPDX-License-Identifier: Apache-2.0
"""A thief of a service's login at the ledger could end all budgets, and for good, by a made-up beginning.

A ledger begins anew where a caller remembers a later beginning, as another server gave out pools meanwhile.  Now a
service's caller shows a MAC, which only functions with the mint's secret make, and the mint alone needs none.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis

from arx_caps.revocation import acl
from arx_verifier.clock import now_ms
from arx_verifier.ledger.pools import NEW, PoolDraw, Taken, number_of
from arx_verifier.ledger.redis_ledger import RedisLedger
from tests.ledgers import header_of, new_ledger, only_bucket
from tests.servers import free_ports, until
from tests.topologies.fleet import Server, running

pytestmark = [pytest.mark.servers, pytest.mark.spec("17.5")]

KEYS = ("arx:budget:{acme}:h", "arx:budget:{acme}:pools")
FUNCTIONS = ("arx2_take", "arx2_settle", "arx2_undo", "arx2_ledger", "arx2_call")


class Site:
    """A ledger with a mint and a service, and a thief of the service's login."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.server = server
        self.root = stack.enter_context(redis.Redis(port=server.port, decode_responses=True))
        for role in (acl.LEDGER, acl.LEDGER_MINT):
            self.root.execute_command("ACL", "SETUSER", role, *acl.rules(role, "acme", role))
        url = f"redis://{{0}}:{{0}}@127.0.0.1:{server.port}"
        self.mint = stack.enter_context(closing(new_ledger(url.format(acl.LEDGER_MINT), "acme", hides=True)))
        self.mint.start()
        self.service = stack.enter_context(closing(RedisLedger(url.format(acl.LEDGER), "acme", timeout_s=30)))
        self.service.start()
        self.thief = stack.enter_context(redis.Redis.from_url(url.format(acl.LEDGER), decode_responses=True))
        self.opened = now_ms()
        until(lambda: now_ms() > self.opened)

    def header(self) -> dict[str, str]:
        """Number, server and time of the ledger's beginning."""
        found = self.root.hgetall(header_of(self.root))
        return {name: found[name] for name in ("number", "run", "since")}

    def draw(self) -> Any:
        """Have the service draw."""
        return self.service.take("draw", "", [PoolDraw("t/-/p/usd/task", 100, 0, self.opened, 1, 1)])

    def ask(self, beginning: str, function: str = "arx2_ledger", client: Any = None) -> Any:
        """Ask as a caller that remembers a beginning; as the thief, unless another one is given."""
        used = ["arx:nonce:acme:x"] if function == "arx2_call" else []
        keys = [*used, *KEYS]
        end = ["1000"] if used else []
        return (client or self.thief).fcall(function, len(keys), *keys, beginning, "draw", "", *end)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    server = Server(tmp_path / "a", free_ports(1)[0], "--appendonly", "yes", "--save", "")
    with running(server), ExitStack() as stack:
        yield Site(server, stack)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_made_up_beginning_ends_nothing(site: Site, function: str) -> None:
    """The thief counts on from the number that it reads, or claims the greatest one; the budget is as it was."""
    assert isinstance(site.draw(), Taken)
    before, true = site.header(), only_bucket(site.service).remembered
    mac = true.split()[-1]
    for text in ("2 x", "1 x", "2 " + before["run"], "9" * 15 + " x", "9" * 16 + " x", "9" * 400 + " x"):
        for made_up in (text, f"{text} {mac}", f"{text} {'0' * 40}", f"{text} "):
            site.root.delete("arx:nonce:acme:x")
            answer = site.ask(made_up, function)
            assert answer[0] == "BEGUN", made_up
            assert answer[1] == true
            assert site.header() == before, made_up
    assert site.draw().remaining == (98,)
    assert only_bucket(site.mint).remembered == true


def test_the_first_ledger_of_a_realm_is_the_mints_word(site: Site) -> None:
    """After a loss of its data, a service's caller cannot skip the minute in which nothing is given out twice."""
    site.root.delete(header_of(site.root))
    at = now_ms()
    site.ask(NEW)
    assert int(site.header()["since"]) >= at + 60_000


def test_a_beginning_that_another_server_had(site: Site, tmp_path: Path) -> None:
    """It counts, of a service's caller too: a copy gave out pools.  That of another realm does not."""
    assert isinstance(site.draw(), Taken)
    before = site.header()
    shutil.copytree(site.server.folder, tmp_path / "b")
    other = Server(tmp_path / "b", free_ports(1)[0], "--appendonly", "yes", "--save", "")
    with running(other), redis.Redis(port=other.port, decode_responses=True) as copy:
        seen = site.ask("", client=copy)[1]
    assert number_of(seen) == 2
    away = ("arx:budget:{other}:h", "arx:budget:{other}:pools")
    theirs = site.root.fcall("arx2_register", 2, *away, "5 x")[1]
    assert number_of(theirs) == 6
    site.ask(theirs)
    assert site.header() == before
    assert number_of(site.ask(seen)[1]) == 3
    assert site.header()["number"] == "3"


def test_the_mints_memory_needs_no_mac(site: Site) -> None:
    """It may be of a server with other functions: the ledger begins anew above it, and callers learn the MAC."""
    only_bucket(site.mint).remembered = "41 elsewhere:1.2"
    site.mint._look()
    assert site.header()["number"] == "42"
    assert only_bucket(site.mint).remembered.startswith("42 ")
    site.service._look()
    assert only_bucket(site.service).remembered == only_bucket(site.mint).remembered


def test_a_number_without_end_is_none() -> None:
    """A caller with such a request takes the next beginning: else it would find all others older for good."""
    assert number_of("9" * 15 + " x") == 10**15 - 1
    assert [number_of(text) for text in ("9" * 16 + " x", "\u00b2 x", "x", "", NEW)] == [0] * 5


def test_functions_without_a_secret_count_on_in_small_steps(site: Site) -> None:
    """Each login of such a ledger may change everything, so a MAC proves nothing there; but no number is for good."""
    site.root.function_flush()
    with closing(new_ledger(f"redis://127.0.0.1:{site.server.port}", "acme")) as plain:
        plain.start()
        number = only_bucket(plain).remembered.split()[0]
        for ahead, begins in ((1001, 0), (10**15 - 1, 0), (10**16, 0), (1000, 1001)):
            site.ask(f"{int(number) + ahead} x", client=site.root)
            assert int(site.root.hget(KEYS[0], "number")) == int(number) + begins, ahead
