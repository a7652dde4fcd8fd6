# SPDX-License-Identifier: Apache-2.0
"""The link to the store breaks without a signal: silent, one-way, slow, closed.  Nothing is accepted after L."""

import pytest

from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.epoch import boot_clock
from tests.faults.conftest import L_NS, Watch, bounded, kill, token
from tests.faults.proxy import Proxy
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.6")]


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["both", "to the store", "from the store"])
def test_a_silent_link(store: RevocationStore, link: Proxy, start: Watch, broken: str) -> None:
    """
    Half-open or one-way, then a kill: accepted for L at most.  When the link heals, what it held back arrives late and
    renews nothing; the kill is known and there is service.
    """
    witnesses = [start(link.url, f"tool-{number}") for number in range(2)]
    ways = {"both": (link.to_store, link.from_store), "to the store": (link.to_store,)}
    link.hold(*ways.get(broken, (link.from_store,)))
    held = boot_clock()
    killed = kill(store)
    for witness in witnesses:
        # A link that still carries pushes is allowed to be early.
        until(lambda: witness.code() in ("stale", "revoked"))  # noqa: B023
        bounded(witness, killed)
    until(lambda: boot_clock() - held > 2 * L_NS)  # several answers later than a lease are on their way by then
    link.heal()
    for witness in witnesses:
        witness.until("revoked")
        bounded(witness, killed)
        witness.watch(token=token(store))
        witness.until("ok")


@pytest.mark.nightly
def test_a_link_that_is_slow_from_the_start(store: RevocationStore, link: Proxy, start: Watch) -> None:
    """Every answer is 4 s late, which is later than L: a verifier behind it is never live, however long it tries."""
    link.to_store.delay_s, link.from_store.delay_s = 0.0, 4.0
    witness = start(link.url, live=False)
    began = boot_clock()
    until(lambda: witness.code() == "syncing")
    until(lambda: boot_clock() - began > 4_500_000_000)
    assert {run.code for run in witness.runs()} == {"syncing"}
    link.heal()
    witness.until("ok")
    link.drop()  # the first connections are still on their way


@pytest.mark.slow
def test_a_link_that_becomes_slow(store: RevocationStore, link: Proxy, start: Watch) -> None:
    """4 s of delay under a live verifier: late answers renew nothing, and late pushes neither."""
    witness = start(link.url)
    link.from_store.delay_s = 4.0
    killed = kill(store)
    witness.until("stale")
    bounded(witness, killed)
    until(lambda: boot_clock() - killed > 4_500_000_000)  # all of it has arrived
    bounded(witness, killed)
    link.heal()
    witness.until("revoked")
    assert "ok" not in {run.code for run in witness.runs()[1:]}
    witness.watch(token=token(store))
    witness.until("ok")


def test_a_link_that_costs_most_of_the_lease(store: RevocationStore, link: Proxy, start: Watch) -> None:
    """
    An answer 200 of 300 ms late is worth 100 ms: there is some service, and a kill behind it is in force within L.
    """
    witness = start(link.url)
    link.from_store.delay_s = 0.2
    settled = boot_clock()
    until(lambda: witness.last_accepted() - settled > 2 * L_NS)
    killed = kill(store)
    witness.until("revoked")
    bounded(witness, killed)
    link.heal()
    witness.watch(token=token(store))
    witness.until("ok")


@pytest.mark.nightly
def test_a_link_that_falls_silent_behind_a_late_answer(store: RevocationStore, link: Proxy, start: Watch) -> None:
    """
    The last answer was given before the kill and arrives 200 ms later; the news of the kill never does.  A lease that
    ran from its arrival would last until 500 ms after the kill.
    """
    witness = start(link.url)
    for number in range(3):
        name = "s-" + "bcd"[number] * 16
        witness.watch(token=token(store, name))
        witness.until("ok")
        link.from_store.delay_s = 0.2
        settled = boot_clock()
        until(lambda: witness.last_accepted() - settled > L_NS)  # noqa: B023
        link.from_store.delay_s = 60.0  # of what is sent from now on
        killed = kill(store, name)
        until(lambda: boot_clock() - killed > 3 * L_NS)  # noqa: B023
        bounded(witness, killed)
        link.heal()
        link.drop()
        witness.until("revoked")


def test_a_link_that_is_closed(store: RevocationStore, link: Proxy, start: Watch) -> None:
    """Closed and refused: at most L; and back at once when it opens."""
    witness = start(link.url)
    link.cut()
    cut = boot_clock()
    kill(store)
    witness.until("stale")
    bounded(witness, cut)
    link.heal()
    healed = boot_clock()
    witness.until("revoked")
    witness.watch(token=token(store))
    witness.until("ok")
    print(f"back {(boot_clock() - healed) / 1e6:.0f} ms after it opened")


def test_a_link_that_flaps(store: RevocationStore, link: Proxy, start: Watch) -> None:
    """Closed every few milliseconds, with a kill in between: each is in force within L, and none is ever lost."""
    witness = start(link.url)
    for number in range(6):
        name = "s-" + "bcdefg"[number] * 16
        witness.watch(token=token(store, name))
        witness.until("ok")
        link.drop()
        killed = kill(store, name)
        link.drop()
        witness.until("revoked")
        bounded(witness, killed)
