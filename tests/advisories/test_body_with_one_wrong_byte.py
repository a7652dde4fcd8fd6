# SPDX-License-Identifier: Apache-2.0
"""A caller could make a guarded service fail, unrecorded, with a JSON body whose one byte beyond ASCII is no UTF-8.

The fast parser of small bodies counted that byte as the one opening brace that an object has, and its decoder's
``UnicodeDecodeError`` is no ``DecodeError``.  The gateway and the mint read bodies by the same function.
"""

import pytest

from arx_caps.mcp.errors import WireError
from arx_caps.mcp.message import read_message
from arx_verifier.errors import RequestError
from arx_verifier.request import read_json_object
from tests.verifier.serving import Realm, answered

TOOLS = {"POST /pay": "orders.pay"}


@pytest.mark.parametrize("body", [b'"\x9d"', b'"\xb7"k:6.0}', b'"*ts&o\xb0": "nnd"}'])
@pytest.mark.spec("8.4")
def test_the_body_is_refused(body: bytes) -> None:
    """Each reader has its own error for it, and the service answers 400."""
    with pytest.raises(RequestError):
        read_json_object(body)
    with pytest.raises(WireError):
        read_message(body)
    realm = Realm()
    token = realm.token().encode()
    headers = [(b"content-type", b"application/json")]
    assert answered(realm, "/pay", token, method="POST", body=body, headers=headers, tools=TOOLS).status == 400
