# SPDX-License-Identifier: Apache-2.0
"""The mint waited for an issuer's name and for each of its addresses beyond the time that an answer has.

The resolver of names has times of its own, often half a minute; a thread of the mint waited as long. Nor may a request
whose caller has gone on be sent later: a refresh token would be used twice, and its issuer would end the grant.
"""

import socket
import threading
from typing import Any

import pytest

from arx_caps.http.client import THREAD, fetch
from arx_verifier.errors import RequestError
from tests.mint.issuer import key_server

pytestmark = pytest.mark.spec("CONTROL 9.3")


def test_the_time_of_an_answer_includes_the_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the name resolves at last, nothing is sent."""
    resolve, opened = socket.getaddrinfo, threading.Event()

    def slowly(*args: Any, **kwargs: Any) -> Any:
        opened.wait(30)
        return resolve(*args, **kwargs)

    bounds: Any = {"timeout": 60.0, "longest": 1_000_000}
    with key_server() as server:
        monkeypatch.setattr(socket, "getaddrinfo", slowly)
        with pytest.raises(RequestError, match="did not come within"):
            fetch(server.url, total_s=0.2, bearer="canary", **bounds)
        [waits] = [each for each in threading.enumerate() if each.name == THREAD]
        opened.set()
        waits.join()
        assert server.asked == 0
        assert fetch(server.url, total_s=60.0, **bounds)[0] == 200
