# SPDX-License-Identifier: Apache-2.0
"""What signs the calls of an RPC channel: for the origin that the channel leads to, and for no other."""

from typing import Any

import pytest

from arx_caps.agent.tools.repeated_call import came_early
from arx_caps.agent.tools.rpc_calls import RpcSigner
from arx_caps.agent.tools.running_task import running
from arx_verifier import AttenuationError
from tests.agent.holding import task

TOOLS = {"/orders.Orders/Get": "orders.get"}


def test_the_audience_is_that_of_the_origin() -> None:
    """Scheme, host and port count, with the default port of gRPC; two audiences of one origin stay apart."""
    held = task(
        origins={"orders": ("https://orders.example", "http://[::1]:50051"), "payments": ("http://[::1]:50051",)}
    )
    for target in ("orders.example:443", "Orders.Example", "dns:orders.example:443", "dns:///orders.example"):
        assert RpcSigner(target, True, TOOLS, task=held).sign("/orders.Orders/Get", None, None)[0][0] == "authorization"
    for target, is_secure, why in (
        ("orders.example:443", False, "belongs to no audience"),
        ("orders.example:8443", True, "belongs to no audience"),
        ("[::1]:50051", False, "serves orders and payments"),
        ("ipv6:[::1]:50051,[::2]:50051", False, "expected one host and port"),
        ("unix:///run/orders.sock", False, "expected one host and port"),
        ("xds:///orders", True, "expected one host and port"),
        ("", True, "expected one host and port"),
    ):
        with pytest.raises(AttenuationError, match=why):
            RpcSigner(target, is_secure, TOOLS, task=held)
    assert RpcSigner("ipv6:[::1]:50051", False, TOOLS, task=held, audience="payments")


def test_a_current_task_of_another_origin_signs_nothing() -> None:
    """The channel is made before its tasks, so each call asks; a method without a tool needs no task."""
    signer = RpcSigner("127.0.0.1:50051", False, TOOLS)
    assert signer.sign("/orders.Orders/Health", [("a", "b")], None) == [("a", "b")]
    with running(task()), pytest.raises(AttenuationError) as caught:
        signer.sign("/orders.Orders/Get", None, None)
    assert caught.value.code == "unknown_origin"
    with running(task(origins={"orders": ("http://127.0.0.1:50051",)})):
        ((_, header),) = signer.sign("/orders.Orders/Get", None, None)
    assert header.startswith("Bearer arx1_")
    assert "arx1_" not in repr(header) + repr(signer)


@pytest.mark.parametrize(
    ("metadata", "is_early"),
    [
        (None, False),
        ([("arx-problem-bin", b"{")], False),
        ([("arx-problem-bin", b'{"code":"replayed","failures":[{"place":"call","rule":"start"}]}')], False),
        ([("other-bin", b'{"code":"proof_invalid","failures":[{"place":"call","rule":"start"}]}')], False),
        ([("arx-problem-bin", b'{"code":"proof_invalid","failures":[{"place":"call","rule":"start"}]}')], True),
    ],
)
def test_only_an_early_call_is_known_as_one(metadata: Any, is_early: bool) -> None:
    assert came_early(metadata) is is_early
