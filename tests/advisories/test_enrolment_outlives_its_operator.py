# SPDX-License-Identifier: Apache-2.0
"""A removed, frozen or demoted operator could have a service's key enrolled by an earlier enrolment token.

Whoever had an operator's key made enrolment tokens ahead; when the operator was removed, frozen or given a lesser role,
each was still good for a quarter of an hour, and with it for every key of an audience from then on.  And a stranger
with no enrolment token at all had the database remember a proof of his for each call.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from arx_caps.jose import KeyFile, SigningKey
from arx_caps.mint.db.tables import USED_JTI
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from tests.mint.world import ISSUER, Holder, World, local_world


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[World, UnsafeLocalEpochs]]:
    found = local_world(tmp_path / "realm")
    yield found
    found[0].mint.close()


def invitation(world: World) -> str:
    """Let another operator, ``eve``, make an enrolment token."""
    key = KeyFile.generate("operator", "eve", ISSUER)
    body = {"name": "eve", "jwk": key.key.public.jwk, "role": "keys"}
    assert world.operator().call("POST", "/v1/operators", body).status_code == 201
    signed = Holder(world, key.key, None).call("POST", "/v1/operators/token", {"assertion": world.assertion(key)})
    eve = Holder(world, key.key, signed.json()["token"])
    answer = eve.call("POST", "/v1/services/invitations", {"audience": "orders"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["enrolment"])


def join(world: World, enrolment: str) -> tuple[int, str | None]:
    answer = Holder(world, SigningKey.generate(), None).call("POST", "/v1/services/keys", {"enrolment": enrolment})
    return answer.status_code, answer.json().get("code")


def test_it_is_worth_nothing_once_its_maker_is_removed(made: tuple[World, UnsafeLocalEpochs]) -> None:
    """Also where the store did not answer the removal."""
    world, _ = made
    enrolment = invitation(world)
    world.operator().call("DELETE", "/v1/operators/eve")
    assert join(world, enrolment) == (401, "bad_enrolment")
    assert world.mint.db.services.list() == []


def test_it_is_worth_what_the_role_of_its_maker_is_worth_now(made: tuple[World, UnsafeLocalEpochs]) -> None:
    """A lesser role takes it away, and the role of before brings it back."""
    world, _ = made
    enrolment = invitation(world)
    root = world.operator()
    assert root.call("PATCH", "/v1/operators/eve", {"role": "read-only"}).status_code == 200
    assert join(world, enrolment) == (401, "bad_enrolment")
    assert root.call("PATCH", "/v1/operators/eve", {"role": "keys"}).status_code == 200
    assert join(world, enrolment) == (201, None)


def test_it_is_frozen_with_its_maker(made: tuple[World, UnsafeLocalEpochs]) -> None:
    """A freeze straight in the store is enough."""
    world, epochs = made
    enrolment = invitation(world)
    epochs.freeze("operator:eve")
    assert join(world, enrolment)[1] == "frozen"
    assert world.mint.db.services.list() == []


def test_a_stranger_leaves_no_proof_behind(made: tuple[World, UnsafeLocalEpochs]) -> None:
    """Whoever brings nothing that was made here has nothing kept of him."""
    world, _ = made

    def kept() -> int:
        with world.mint.db.read() as c:
            return int(c.execute(select(func.count()).select_from(USED_JTI)).scalar_one())

    world.client.get("/readyz")
    before = kept()
    assert {join(world, "arxe1_" + "A" * 43) for _ in range(5)} == {(401, "bad_enrolment")}
    assert kept() == before
