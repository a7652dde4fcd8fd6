# SPDX-License-Identifier: Apache-2.0
"""A reader of an agent program's log could find a session's token in a traceback.

A token that no header can hold, for example with a line feed from a file behind it, made the HTTP client raise an error
that quotes the header; the library's own error was chained to it, and ``--debug`` printed both.
"""

import traceback

import pytest

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.jose import SigningKey
from arx_verifier.clock import now_ms
from arx_verifier.errors import TokenError

SECRET = "arx1_" + "S" * 40


@pytest.mark.parametrize("odd", ["\n", "\r\nX: y", " ", "\0", "\x7f", "é", "€"])
def test_no_error_quotes_a_token(odd: str, free_port: int) -> None:
    """It is refused as malformed before anything is sent, and no part of it is in what a program would log."""
    client = MintClient(f"http://127.0.0.1:{free_port}", now=now_ms)
    with pytest.raises(TokenError) as caught:
        client.call("GET", "/v1/whoami", key=SigningKey.generate(), token=SECRET + odd)
    client.close()
    assert caught.value.code == "malformed"
    assert "SSSS" not in "".join(traceback.format_exception(caught.value)).replace("SECRET", "")
