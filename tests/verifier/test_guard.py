# SPDX-License-Identifier: Apache-2.0
"""Protected functions: no call runs without a grant."""

import asyncio
from typing import Any

import pytest

from arx_verifier.decisions import InMemoryDecisions
from arx_verifier.errors import SettingsError, refusal
from arx_verifier.guard import current_grant, protect
from tests.verifier.serving import Realm, Slow


@pytest.fixture
def realm() -> Realm:
    return Realm()


def test_a_protected_function_runs_with_a_grant_only(realm: Realm) -> None:
    """The token is taken out, the arguments are judged by name, and the grant is there while the function runs."""
    seen: list[Any] = []

    @protect(realm.verifier, tool="orders.refund")
    def refund(order_id: str, amount: int) -> str:
        grant = current_grant()
        assert grant is not None
        seen.append(grant.tool)
        return f"{order_id} {amount}"

    token = realm.token().encode()
    assert refund(order_id="A-1", amount=5, arx_token=token) == "A-1 5"
    assert seen == ["orders.refund"]
    assert current_grant() is None
    for args, code in (({"amount": 50}, "argument_not_allowed"), ({"arx_token": ""}, "missing_token")):
        with pytest.raises(type(refusal(code))) as caught:
            refund(**({"order_id": "A-1", "amount": 5, "arx_token": token} | args))
        assert caught.value.code == code
        assert token not in str(caught.value)
    with pytest.raises(TypeError, match="by name"):
        refund("A-1", 5, arx_token=token)
    assert len(seen) == 1


@pytest.mark.parametrize("sink", [InMemoryDecisions, Slow])
def test_a_protected_coroutine_does_not_block_its_loop(sink: type[InMemoryDecisions]) -> None:
    """The asynchronous form decides in place, or in a thread where the decision may wait."""
    realm = Realm(sink())

    @protect(realm.verifier, tool="orders.get")
    async def get(order_id: str) -> str:
        assert current_grant() is not None
        return order_id

    assert asyncio.run(get(order_id="A-1", arx_token=realm.token().encode())) == "A-1"
    with pytest.raises(type(refusal("missing_token"))):
        asyncio.run(get(order_id="A-1"))
    assert realm.codes == ["ok", "missing_token"]


def test_what_cannot_be_protected_is_refused_at_definition(realm: Realm) -> None:
    """A tool without a name, or a function that wants the token itself."""
    with pytest.raises(SettingsError):
        protect(realm.verifier, tool="no tool")
    with pytest.raises(SettingsError):

        @protect(realm.verifier, tool="orders.get")
        def get(arx_token: str) -> None: ...
