# SPDX-License-Identifier: Apache-2.0
"""A call with an access token could be made by an approval that showed operators other marks than its session has.

The mint found the approval by its arguments: one of another session of the client, in which the call was then made
although the session of the call has what must not precede it.  Of the same session it was found too, and answered in
vain: no service takes it after a further mark.
"""

from typing import Any

import pytest

from arx_caps.agent.tasks.approval import Approval
from arx_caps.agent.tasks.task import Task
from arx_caps.service.access_tokens import TakenApproval, open_access_token, take_approval
from arx_verifier.errors import GrantError
from arx_verifier.request import AccessRequest
from tests.mint.harness import Harness, now_ms
from tests.mint.test_approvals_after_marks import realm
from tests.mint.test_handle_approvals import POLICY, TOOL, Service
from tests.mint.test_tasks import verifier

__all__ = ["realm"]
pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 5.12")]
AFTER = (
    POLICY.format(bearer='bearer = "allow"')
    .replace(
        'approvals = [{ tools = ["orders.refund"], once = false }]',
        """marks = [{ tools = ["orders.private"], set = "private" }, { tools = ["orders.web"], set = "untrusted" }]
after = [
  { mark = "private", tools = ["orders.refund"], do = "approve" },
  { mark = "untrusted", tools = ["orders.refund"], do = "approve" },
]""",
        1,
    )
    .replace(
        "allow = [ {", 'allow = [ { tool = "orders.private", any = true }, { tool = "orders.web", any = true }, {', 1
    )
)


ALONE = AFTER.replace('ttl = "8h"', 'ttl = "5m"')  # as an access token: the next one is of another session


class MarkedService(Service):
    """A service with a ledger, and a client whose refunds need an approval once it has read something."""

    def __init__(self, harness: Harness, ledger: Any, policy: str = AFTER) -> None:
        super().__init__(harness)
        harness.use(policy)
        self.judge = verifier(harness, "orders", ledger=ledger)

    def call(self, token: str, tool: str) -> str:
        """Make a call as a gateway does."""
        task = Task(open_access_token(self.mint, self.key, token).bundle)
        return self.judge.decide(task.call_token("orders", tool, {}), AccessRequest(tool, {}, now_ms())).code

    def refund(self, taken: TakenApproval) -> str:
        """Make the call that was approved."""
        assert taken.bundle is not None
        assert taken.discharge is not None
        task, args = Task(taken.bundle), {"amount": 5}
        token = task.call_token("orders", TOOL, args, approvals=[Approval.from_text(taken.discharge.encode())])
        return self.judge.decide(token, AccessRequest(TOOL, args, now_ms())).code


def test_it_is_of_the_marks_that_are_set_now(realm: tuple[Harness, Any, str]) -> None:
    """Of a later task of the session as well; one that is waiting or approved is found again while no mark follows."""
    service = MarkedService(*realm[:2])
    token = service.token()
    with pytest.raises(GrantError) as unneeded:
        service.ask(token)
    assert unneeded.value.code == "conflict"
    assert service.call(token, "orders.private") == "ok"
    asked = service.ask(token)
    later = service.token()
    assert service.ask(later).id == asked.id
    service.answer(asked.id)
    assert service.ask(later).id == asked.id
    assert service.call(later, "orders.web") == "ok"
    with pytest.raises(GrantError) as changed:
        take_approval(service.mint, service.key, token, asked.id)
    assert changed.value.code == "approval_expired"
    second = service.ask(later)
    assert (second.id != asked.id, second.state) == (True, "waiting")
    service.answer(second.id)
    assert service.refund(take_approval(service.mint, service.key, token, second.id)) == "ok"


def test_it_is_of_the_session_of_the_call(realm: tuple[Harness, Any, str]) -> None:
    """The client has read something else in its next session, which no operator was shown."""
    service = MarkedService(*realm[:2], ALONE)
    first = service.token()
    assert service.call(first, "orders.private") == "ok"
    asked = service.ask(first)
    service.answer(asked.id)
    second = service.token()
    assert service.call(second, "orders.web") == "ok"
    assert service.ask(second).id != asked.id
    assert service.refund(take_approval(service.mint, service.key, first, asked.id)) == "ok"
