# SPDX-License-Identifier: Apache-2.0
"""An attacker who saw an agent's assertion before the mint could open that agent's session.

Any user of the machine can listen at a loopback port while its mint restarts, and whatever ends TLS before a mint reads
bodies.  The assertion that an agent sent there named no key, so within its minute the thief opened the agent's session
with a key of his own, and the agent, which read that the mint did not answer, noticed nothing.
"""

import pytest

from arx_caps.credentials.jose import SigningKey, make_assertion
from tests.mint.harness import ISSUER, Harness, Holder, now_ms

pytestmark = pytest.mark.sqlite


def test_an_assertion_opens_a_session_for_its_own_key_alone(unit: Harness) -> None:
    """A thief's key opens nothing with it, and does not use it up either."""
    agent, key = unit.enrol(), SigningKey.generate()
    assertion = unit.assertion(agent, key)
    for _ in range(2):
        stolen = Holder(unit, SigningKey.generate(), None).call("POST", "/v1/sessions", {"assertion": assertion})
        assert (stolen.status_code, stolen.json()["code"]) == (401, "bad_assertion")
    assert Holder(unit, key, None).call("POST", "/v1/sessions", {"assertion": assertion}).status_code == 201


def test_an_assertion_that_names_no_key_opens_no_session(unit: Harness) -> None:
    """Left out, the binding is not taken for granted."""
    unbound = make_assertion(unit.enrol(), audience=ISSUER, now=now_ms())
    answer = Holder(unit, SigningKey.generate(), None).call("POST", "/v1/sessions", {"assertion": unbound})
    assert (answer.status_code, answer.json()["code"]) == (401, "bad_assertion")
