# SPDX-License-Identifier: Apache-2.0
"""In acrf and argus-gate, a revocation reached one verifier, or only those that start later.

ARx: it reaches every process: those that run, one that joins later, one that restarts, one that missed the messages.
"""

from collections.abc import Iterator

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from tests.faults.conftest import L_NS, kill, token
from tests.faults.witness import Witness
from tests.servers import until

pytestmark = pytest.mark.servers


class Services:
    """Processes by name."""

    def __init__(self, url: str, realm: str) -> None:
        self._url, self._realm = url, realm
        self.running: dict[str, Witness] = {}

    def start(self, name: str, text: str) -> Witness:
        """Start one, which decides about a token; a running one of that name is ended first."""
        self.end(name)
        self.running[name] = witness = Witness(self._url, self._realm, name)
        witness.watch(token=text)
        return witness

    def end(self, name: str) -> None:
        """End one as a crash would."""
        if name in self.running:
            self.running.pop(name).close()


@pytest.fixture
def services(valkey: EmbeddedValkey, fast_store: RevocationStore) -> Iterator[Services]:
    """No process yet."""
    services = Services(valkey.url, fast_store.realm)
    yield services
    for name in tuple(services.running):
        services.end(name)


@pytest.mark.slow
def test_a_kill_reaches_every_process(valkey: EmbeddedValkey, fast_store: RevocationStore, services: Services) -> None:
    """
    Four that run; of these one misses the message because its connection is cut, one because it stands still, and one
    is restarted under its old name; and one that starts only afterwards.  None of them ever accepts again.
    """
    text = token(fast_store)
    for name in ("runs", "cut", "still", "restarted"):
        services.start(name, text).until("ok")
    still = services.running["still"]
    still.freeze()
    with redis.Redis.from_url(valkey.url) as raw:
        for client in raw.client_list("pubsub"):
            raw.client_kill_filter(_id=client["id"])
    killed = kill(fast_store)
    services.start("restarted", text)
    services.start("late", text)
    still.thaw()
    for name, witness in services.running.items():
        witness.until("revoked")
        if name in ("restarted", "late"):
            assert witness.last_accepted() == 0, name
        else:
            assert witness.last_accepted() - killed < L_NS, name

    # Nor is what was read at the start the last word: each kill reaches all of them.
    for number in range(3):
        session = "s-" + "bcd"[number] * 16
        fresh = token(fast_store, session)
        for witness in services.running.values():
            witness.watch(token=fresh)
        for witness in services.running.values():
            witness.until("ok")
        kill(fast_store, session)
        for witness in services.running.values():
            witness.until("revoked")


@pytest.mark.slow
def test_the_report_counts_all_of_them(fast_store: RevocationStore, services: Services) -> None:
    """A confirmed kill names every process that follows, and one that came back under its name counts once."""
    text = token(fast_store)
    for name in ("one", "two", "three"):
        services.start(name, text).until("ok")
    services.start("two", text).until("ok")
    until(lambda: fast_store.unacked(0, 0).at_ms - fast_store.unacked(0, 0).since_ms > 300)
    report = fast_store.wait_confirmed(fast_store.kill(["session:s-aaaaaaaaaaaaaaaa"], "test", "operator:ada"))
    assert (report.status, report.verifiers, report.confirmed) == ("confirmed", 3, 3), report.summary
    for witness in services.running.values():
        witness.until("revoked")
