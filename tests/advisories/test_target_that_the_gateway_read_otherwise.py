# SPDX-License-Identifier: Apache-2.0
"""A caller of the gateway could have a rule see another path than the service behind it.

Each byte that is not UTF-8 was one and the same character for the rules, and where `httptools` is not installed, a
fragment was part of an argument: a rule that forbids `o-2` saw `o-2#x`, and the service got `o-2`.
"""

import hashlib
import socket
import time
from pathlib import Path

import pytest

from arx_verifier import Constraint, Rule
from arx_verifier.request import HttpCall
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.call_proof import CallSigner, http_fields
from tests.adapters.asgi_server import serving
from tests.gateway.served_door import Recorder, open_door

pytestmark = pytest.mark.servers
RULE = Rule(
    tool="orders.get", args={"order_id": Constraint(none_of=("o-2",)), "note": Constraint(optional=True, glob="*")}
)
ROUTES = {"GET /orders/{order_id}?{note}": "orders.get"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/orders/o-1", b"200"),
        ("/orders/o-2", b"403"),
        ("/orders/o-2#x", b"400"),
        ("/orders/o-1?note=a#&note=b", b"400"),
        ("/orders/%ff", b"400"),
        ("/orders/%c3%bf", b"200"),
    ],
)
def test_a_target_has_one_reading(path: str, status: bytes, tmp_path: Path) -> None:
    """Also with the parser that passes a fragment on."""
    realm, upstream = UnsafeTestRealm("orders"), Recorder()
    with (
        serving(upstream) as port,
        open_door(realm, tmp_path, "h11", url=f"http://127.0.0.1:{port}", routes=ROUTES) as url,
    ):
        host, _, first = url.removeprefix("http://").partition("/")
        call = HttpCall("GET", f"/{first}{path}", hashlib.sha256(b"").digest())
        token = CallSigner(realm.caller(RULE).macaroon, "orders").sign(http_fields(call), time.time_ns() // 1_000_000)
        with socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), timeout=60) as connection:
            head = f"GET {call.target!s} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(4096).split()[1] == status
    assert len(upstream.arrived) == (status == b"200")
