# SPDX-License-Identifier: Apache-2.0
"""A removed, frozen or demoted operator could have a service's key enrolled by an earlier enrolment token.

A thief of an operator's key made enrolment tokens ahead; when the operator was removed, frozen or given a lesser role,
each was still good for a quarter of an hour, and with it for every key of an audience from then on.  And a stranger
with no enrolment token at all had the database remember a proof of his for each call.
"""

import pytest
from sqlalchemy import func, select

from arx_caps.credentials.jose import KeyFile, SigningKey
from arx_caps.mint.db.tables import USED_JTI
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from tests.mint.harness import ISSUER, Harness, Holder

pytestmark = pytest.mark.sqlite


def invitation(harness: Harness) -> str:
    """Let another operator, ``eve``, make an enrolment token."""
    key = KeyFile.generate("operator", "eve", ISSUER)
    body = {"name": "eve", "jwk": key.key.public.jwk, "role": "keys"}
    assert harness.operator().call("POST", "/v1/operators", body).status_code == 201
    signed = Holder(harness, key.key, None).call("POST", "/v1/operators/token", {"assertion": harness.assertion(key)})
    eve = Holder(harness, key.key, signed.json()["token"])
    answer = eve.call("POST", "/v1/services/invitations", {"audience": "orders"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["enrolment"])


def join(harness: Harness, enrolment: str) -> tuple[int, str | None]:
    answer = Holder(harness, SigningKey.generate(), None).call("POST", "/v1/services/keys", {"enrolment": enrolment})
    return answer.status_code, answer.json().get("code")


def test_it_is_refused_once_its_maker_is_removed(unit: Harness) -> None:
    """Also where the store did not answer the removal."""
    enrolment = invitation(unit)
    unit.operator().call("DELETE", "/v1/operators/eve")
    assert join(unit, enrolment) == (401, "bad_enrolment")
    assert unit.mint.db.services.list() == []


def test_it_is_worth_what_the_role_of_its_maker_is_worth_now(unit: Harness) -> None:
    """A lesser role takes it away, and the role of before brings it back."""
    enrolment = invitation(unit)
    root = unit.operator()
    assert root.call("PATCH", "/v1/operators/eve", {"role": "read-only"}).status_code == 200
    assert join(unit, enrolment) == (401, "bad_enrolment")
    assert root.call("PATCH", "/v1/operators/eve", {"role": "keys"}).status_code == 200
    assert join(unit, enrolment) == (201, None)


def test_it_is_frozen_with_its_maker(unit: Harness, epochs: UnsafeLocalEpochs) -> None:
    """A freeze straight in the store is enough."""
    enrolment = invitation(unit)
    epochs.freeze("operator:eve")
    assert join(unit, enrolment)[1] == "frozen"
    assert unit.mint.db.services.list() == []


def test_a_stranger_leaves_no_proof_behind(unit: Harness) -> None:
    """The mint keeps nothing of a caller without a token that the mint made."""

    def kept() -> int:
        with unit.mint.db.read() as c:
            return int(c.execute(select(func.count()).select_from(USED_JTI)).scalar_one())

    unit.client.get("/readyz")
    before = kept()
    assert {join(unit, "arxe1_" + "A" * 43) for _ in range(5)} == {(401, "bad_enrolment")}
    assert kept() == before
