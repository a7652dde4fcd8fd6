# SPDX-License-Identifier: Apache-2.0
"""Protected functions: no call runs without a grant."""

import asyncio
from typing import Any

import pytest

from arx_verifier.enforcement.base.guard import current_grant, protect
from arx_verifier.errors import SettingsError, refusal
from arx_verifier.journal.decision import InMemoryDecisions
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


def test_a_method_runs_with_its_object_and_arguments_by_name(realm: Realm) -> None:
    """The object is no argument; all else is given by name, of a static method the first value as well."""

    class Orders:
        region = "eu"

        @protect(realm.verifier, tool="orders.get")
        def get(self, order_id: str) -> str:
            return self.region + order_id

        @protect(realm.verifier, tool="orders.get")
        async def get_later(self, order_id: str) -> str:
            return self.region + order_id

        @classmethod
        @protect(realm.verifier, tool="orders.get")
        def get_of_all(cls, order_id: str) -> str:
            return cls.region + order_id

        @staticmethod
        @protect(realm.verifier, tool="orders.get")
        def get_apart(order_id: str) -> str:
            return order_id

    token, orders = realm.token().encode(), Orders()
    assert orders.get(order_id="A-1", arx_token=token) == "euA-1"
    assert asyncio.run(orders.get_later(order_id="A-1", arx_token=token)) == "euA-1"
    assert Orders.get_of_all(order_id="A-1", arx_token=token) == "euA-1"
    assert orders.get_apart(order_id="A-1", arx_token=token) == "A-1"
    assert realm.codes == ["ok"] * 4
    for call in (orders.get, Orders.get_of_all, Orders.get_apart):
        with pytest.raises(TypeError, match="by name"):
            call("A-1", arx_token=token)
    with pytest.raises(type(refusal("missing_token"))):
        orders.get(order_id="A-1")


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
