# SPDX-License-Identifier: Apache-2.0
"""One call that could not be cut ended the rechecks of all others of its process: a kill cut none of them.

The thread that rechecks the calls of WSGI and gRPC ended with any error, such as that of a call whose event loop was
closed, and no later call started another one.
"""

import asyncio
import time
from typing import Any

import pytest

from arx_verifier.enforcement.grants.loop_calls import TaskCut
from arx_verifier.enforcement.grants.running_calls import RunningCalls
from arx_verifier.errors import AuditError
from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.request import AccessRequest
from tests.servers import until
from tests.verifier.serving import Realm
from tests.verifier.streaming import SESSION


class Full(InMemoryDecisions):
    """A sink of an application, which fails where it has no room."""

    def append(self, decision: Decision) -> int:
        if decision.outcome == "end":
            raise AuditError("there is no room")
        return super().append(decision)


@pytest.mark.spec("11")
@pytest.mark.parametrize("sink", [InMemoryDecisions, Full])
def test_a_call_that_cannot_be_ended_keeps_no_other_one(sink: type[InMemoryDecisions]) -> None:
    """Its event loop is closed, or its end cannot be recorded: a later call is cut all the same."""
    realm, cuts = Realm(sink()), list[bool]()
    request = AccessRequest("orders.get", {}, time.time_ns() // 1_000_000, None)
    calls = RunningCalls(realm.verifier, 1)

    async def begin() -> Any:
        cut = TaskCut()
        return calls.begin(realm.verifier.decide(realm.token().encode(), request), lambda *_: cut())

    lost = asyncio.run(begin())
    realm.epochs.kill(SESSION)
    until(lambda: lost.grant.ended is not None)
    call = calls.begin(realm.verifier.decide(realm.token().encode(), request), lambda *_: cuts.append(True))
    realm.epochs.kill(SESSION)
    until(lambda: bool(cuts), 10)
    call.close()
