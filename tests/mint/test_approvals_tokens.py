# SPDX-License-Identifier: Apache-2.0
"""Every token of a task requires the approvals that its policy asks for, by whichever way it is signed."""

from typing import Any

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_verifier.token.discharge import ThirdPartyCaveat, third_party_caveats
from arx_verifier.token.macaroon import Identifier
from arx_verifier.token.wire import ThirdPartyPacket
from tests.mint.harness import Harness, Holder
from tests.mint.test_token_exchange import PAY, POLICY, Shop

pytestmark = pytest.mark.spec("CONTROL 2.7")

APPROVED = POLICY.replace(
    "allow = [",
    'approvals = [{ tools = ["payments.*", "orders.cancel"], need = 2 },\n  { tools = ["orders.get"], once = false }]\n'
    'allow = [\n  { tool = "orders.cancel", args = {} },',
).replace(
    '{ orders = ["payments", "ledger"], ledger = ["payments"] }', '{ orders = ["payments"], ledger = ["payments"] }'
)
APPROVED = APPROVED.replace('audience = ["orders", "payments"]', 'audience = ["orders", "payments", "ledger"]')
WIDE, READS = ("payments.*", "orders.cancel"), ("orders.get",)


@pytest.fixture
def shop(unit: Harness) -> Shop:
    return Shop(unit, APPROVED)


def requires(shop: Shop, bundle: str, task: str) -> dict[str, list[tuple[str, ...] | None]]:
    """The tools of what each token of a bundle requires, each of this task under the token's own key."""
    found = {}
    for audience, macaroon in Bundle.parse(bundle).tokens.items():
        identifier = macaroon.unverified_identifier
        assert isinstance(identifier, Identifier)
        for each in third_party_caveats(macaroon):
            assert each.id == f"{identifier.kid}:{task}"
        found[audience] = [each.tools for each in third_party_caveats(macaroon)]
        last = [isinstance(packet, ThirdPartyPacket) for packet in macaroon.packets]
        assert last == sorted(last), "a third-party caveat stands before something that the mint says itself"
    return found


def start(shop: Shop, key: str | None = None, **body: Any) -> tuple[str, str]:
    holder: Holder = shop.agent
    headers = holder.headers("POST", "/v1/tasks") | ({} if key is None else {"Idempotency-Key": key})
    answer = shop.harness.client.post("/v1/tasks", json=PAY | body, headers=headers).json()
    return answer["task"]["id"], answer["bundle"]


def test_each_token_requires_what_its_own_calls_need(shop: Shop) -> None:
    """The tokens of the audiences whose tools an entry names carry it, whole and in its order."""
    task, bundle = start(shop)
    assert requires(shop, bundle, task) == {"orders": [WIDE, READS], "payments": [WIDE], "ledger": []}
    assert requires(shop, *reversed(start(shop, tools=["payments.refund"]))) == {"payments": [WIDE]}


def test_whatever_signs_again_requires_the_same(shop: Shop) -> None:
    """A repeat, an extension and an attenuation; a repeat is the same bytes."""
    task, bundle = start(shop, key="k")
    again, repeated = start(shop, key="k")
    assert (again, repeated) == (task, bundle)
    more = shop.agent.call("POST", f"/v1/tasks/{task}/extend", {}).json()["bundle"]
    assert requires(shop, more, task) == requires(shop, bundle, task)


def test_a_policy_that_asks_for_less_changes_nothing_that_was_granted(shop: Shop) -> None:
    """What was granted under a policy stays as it was; what is granted later is by the later one."""
    task, bundle = start(shop)
    shop.harness.use(POLICY)
    more = shop.agent.call("POST", f"/v1/tasks/{task}/extend", {"params": {"amount": 5}}).json()["bundle"]
    assert set(map(len, requires(shop, more, task).values())) == {0}
    row = shop.harness.mint.db.grants.list(task)[-1]
    assert '"need":2' in row.content
    assert requires(shop, bundle, task)["payments"] == [WIDE]


def test_a_part_of_a_task_requires_its_own(shop: Shop) -> None:
    """A part has a name of its own, and so an approval of the whole is none of it."""
    task, bundle = start(shop)
    part, inner = start(shop, parent=task)
    assert requires(shop, inner, part)["payments"] == requires(shop, bundle, task)["payments"]


def test_a_third_party_is_known_by_its_holder(shop: Shop) -> None:
    """The third-party caveat is canonical JSON that the holder of the token reads and sends back."""
    task, bundle = start(shop)
    (found,) = third_party_caveats(Bundle.parse(bundle).tokens["payments"])
    assert ThirdPartyCaveat.read(found.encode()) == found
    assert Task(Bundle.parse(bundle)).needs_approval("payments.refund")
    assert task in found.id
