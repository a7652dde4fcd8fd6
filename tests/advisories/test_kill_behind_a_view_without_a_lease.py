# SPDX-License-Identifier: Apache-2.0
"""A killed agent went on at a service that watches, while the service could not use its view of the revocation epoch.

Without a lease, or with a token of a later sequence than the view's, the view named that and not the kill that it
knew.  Watch mode lets such a call go on.  Now a kill or a freeze that the view knows counts, however old the view is.
"""

import asyncio
from collections.abc import Callable

import pytest

from arx_verifier import Constraint, Rule
from arx_verifier.clock import now_ms
from arx_verifier.journal.decision import Decision
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.reasons import Refused
from arx_verifier.verification.verifier import Verifier
from arx_verifier.verification.watch import Watch, WatchedCall

pytestmark = pytest.mark.spec("12.7")

RULES = (Rule(tool="orders.get", args={"order_id": Constraint(glob="o-*")}),)
UNUSABLE: dict[str, Callable[[UnsafeLocalEpochs], None]] = {
    "fenced": lambda epochs: epochs.fence("the clock of this machine is wrong"),
    "closed": lambda epochs: epochs.close(),
    "syncing": lambda epochs: epochs.adopt(epochs.incarnation, epochs.seq, {}, epochs.freezes()),
}


def watching(realm: UnsafeTestRealm) -> Verifier:
    return realm.verifier.watching(Watch(now_ms() + 3_600_000))


def decide(verifier: Verifier, token: str, order: str) -> Decision:
    return verifier.decide(token, AccessRequest("orders.get", {"order_id": order}, now_ms()))


@pytest.mark.parametrize("state", UNUSABLE)
@pytest.mark.parametrize("kill_first", [True, False])
@pytest.mark.parametrize(("op", "code"), [("kill", "revoked"), ("freeze", "frozen")])
def test_a_kill_counts_without_a_lease(state: str, kill_first: bool, op: str, code: str) -> None:
    """It ends running calls with and without a grant, and refuses a new call and a message that calls nothing."""
    realm = UnsafeTestRealm("orders")
    verifier, caller, other = watching(realm), realm.caller(*RULES), realm.caller(*RULES, session="s-other")
    running = []
    for order in ("o-1", "x-1"):
        decision = decide(verifier, caller.token("orders.get", order_id=order), order)
        running.append(decision.grant or decision.watch)
    allowed, watched = running
    assert isinstance(allowed, Grant)
    assert isinstance(watched, WatchedCall)
    steps: list[Callable[[], object]] = [
        lambda: getattr(realm.epochs, op)("session:s-test"),
        lambda: UNUSABLE[state](realm.epochs),
    ]
    for step in steps if kill_first else reversed(steps):
        step()
    for call in running:
        ended = call.look_again()
        assert ended is not None
        assert ended.code == code
    for order in ("o-1", "x-1"):
        refused = decide(verifier, caller.token("orders.get", order_id=order), order)
        assert (refused.outcome, refused.code, refused.watch) == ("deny", code, None)
        goes_on = decide(verifier, other.token("orders.get", order_id=order), order)
        assert goes_on.outcome == "would_refuse"
    found = asyncio.run(verifier.recognize_async(caller.token(""), AccessRequest("", {}, now_ms())))
    assert isinstance(found, Refused)
    assert found.code == code


def test_a_kill_counts_that_overtook_other_entries() -> None:
    """The view is behind the token's birth, and has got a later kill of its session before the entries between."""
    realm = UnsafeTestRealm("orders")
    verifier = watching(realm)
    realm.epochs.kill("session:s-other")
    caller = realm.caller(*RULES)
    realm.epochs.adopt("another", 0, {}, {})
    realm.epochs.start()
    assert realm.epochs.ended("another", 5, ("session:s-test",)) is None
    assert not realm.epochs.apply(9, "kill", "session:s-test")
    behind = realm.epochs.check("another", 5, ("session:s-test",))
    ended = realm.epochs.ended("another", 5, ("session:s-test",))
    assert behind is not None
    assert ended is not None
    assert (behind.code, ended.code) == ("behind", "revoked")
    # A token of the history before is refused by a view that may be used, and by no view that may be a wrong one.
    token = caller.token("orders.get", order_id="o-1")
    assert decide(verifier, token, "o-1").code == "revoked"
    realm.epochs.fence("the store contradicts itself")
    assert decide(verifier, caller.token("orders.get", order_id="o-1"), "o-1").outcome == "would_refuse"
