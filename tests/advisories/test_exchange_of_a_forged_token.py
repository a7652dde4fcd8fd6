# SPDX-License-Identifier: Apache-2.0
"""A service could exchange a token that it had forged for one in any agent's name.

A verifier can mint: a service that may exchange for another one, or a thief of its key, wrote a token with the
link of a task that it was called for, and whatever else it liked.  The mint proved it, as it must, looked for the
grant by that link, and signed the rest with the other service's key: another agent, another person, a session and a
task that never were, so that no kill of the real ones reached it, delegations without end and a life as long as the
realm allows.  And since it believed the token's birth, one whose task had been killed was good again.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from arx_caps.agent.tasks.task import Task
from arx_verifier.token.caveats import read_caveat
from arx_verifier.token.macaroon import Identifier, Macaroon
from tests.mint.harness import Harness, now_ms, open_unit
from tests.mint.test_token_exchange import Shop, called
from tests.support import access, sign


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_unit(tmp_path_factory.mktemp("named") / "realm") as unit:
        yield Shop(unit)


def forged(shop: Shop, of: Task, /, **changes: Any) -> str:
    """What the service called orders can make of a token that it was called with, by its own key."""
    macaroon = of.bundle.tokens["orders"]
    identifier = macaroon.unverified_identifier
    assert isinstance(identifier, Identifier)
    key, _ = shop.harness.mint.key_schedule.audience_keys("orders")[identifier.kid]
    forged_identifier = msgspec.structs.replace(identifier, **changes)
    own = tuple(read_caveat(packet) for packet in macaroon.packets if isinstance(packet, bytes))
    made = Macaroon.mint(forged_identifier, key=key, realm=shop.harness.realm.name, caveats=own)
    return sign(made, access("orders.get", at=now_ms()), audience="orders")


def hour(identifier: Identifier) -> int:
    return identifier.exp + 3_600_000


LIES: dict[str, Any] = {
    "agent": "acme/treasurer",
    "session": "s-aaaaaaaaaaaaaaaa",
    "task": "t-aaaaaaaaaaaaaaaa",
    "subject": ("https://idp.example", "the treasurer"),
    "depth": 16,
    "policy": "A" * 22,
    "exp": hour,
}


@pytest.mark.parametrize("member", LIES)
def test_only_what_the_mint_wrote_is_exchanged(shop: Shop, member: str) -> None:
    """A token with other facts of the task than the mint granted is refused, under any signature."""
    task = shop.start()
    own = task.bundle.tokens["orders"].unverified_identifier
    assert isinstance(own, Identifier)
    lie = LIES[member]
    text = forged(shop, task, **{member: lie(own) if callable(lie) else lie})
    assert shop.exchange("orders", text)["code"] == "exchange_not_allowed"
    assert "access_token" in shop.exchange("orders", forged(shop, task))  # the truth, by the same key


def test_the_description_of_the_agent_is_the_mints_word(shop: Shop) -> None:
    """Model, owner and purpose in the new token are as enrolled, whatever the presented one says."""
    task = shop.start()
    honest = _about(shop.exchange("orders", called(task)))
    lies = {"model": "a-better-one", "meta": ("9", "other", "anything")}
    assert _about(shop.exchange("orders", forged(shop, task, **lies))) == honest != tuple(lies.values())


def _about(answer: dict[str, Any]) -> tuple[Any, Any]:
    identifier = Macaroon.parse(answer["access_token"]).unverified_identifier
    assert isinstance(identifier, Identifier)
    return identifier.model, identifier.meta


@pytest.mark.sqlite
@pytest.mark.parametrize("kind", ["task", "session", "agent", "link"])
def test_a_later_birth_brings_nothing_back(unit: Harness, kind: str) -> None:
    """What was killed is held against the birth that the mint remembers, not against the token's."""
    shop = Shop(unit)
    task = shop.start()
    parent = shop.proven(task.tokens["orders"], "orders")
    unit.epochs.kill(next(target for target in parent.targets if target.partition(":")[0] == kind))
    assert shop.exchange("orders", called(task))["code"] == "revoked"
    incarnation, seq, _ = shop.harness.mint.epochs.view()
    assert seq > parent.identifier.born[1]
    assert shop.exchange("orders", forged(shop, task, born=(incarnation, seq), iat=now_ms()))["code"] == "revoked"
