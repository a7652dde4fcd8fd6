# SPDX-License-Identifier: Apache-2.0
"""A secret is found in an answer in each spelling and however its bytes are cut; other bytes are not held back."""

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from arx_caps.gateway.base.leaks import Leaks
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.upstream.credentials import Secret

SECRET = 'key/of="the" upstream+1'
LEAKS = Leaks("orders", [Secret(SECRET)])


async def once(parts: list[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def passed(parts: list[bytes], into: list[bytes]) -> None:
    """Pass parts, and keep what came out in ``into``."""

    async def run() -> None:
        async for part in LEAKS.passed(once(parts)):
            into.append(part)

    asyncio.run(run())


@pytest.mark.parametrize(
    "text", [SECRET, json.dumps(SECRET), json.dumps(SECRET).replace("/", "\\/"), quote(SECRET, safe="")]
)
@pytest.mark.parametrize("size", [1, 2, 5, 7, 1000])
def test_a_secret_in_parts_is_found(text: str, size: int) -> None:
    """No byte of it is passed on."""
    data = f"before kkey {text.strip(chr(34))} after".encode()
    out: list[bytes] = []
    with pytest.raises(UpstreamError, match="answered with its credential"):
        passed([data[place : place + size] for place in range(0, len(data), size)], out)
    assert b"before kkey ".startswith(b"".join(out))


def test_other_bytes_pass_when_they_come() -> None:
    """What may become a secret waits for the next part."""
    out: list[bytes] = []
    passed([b"data: 1\n\n", b"x key/o", b"f something else", b" key"], out)
    assert out == [b"data: 1\n\n", b"x ", b"key/of something else", b" ", b"key"]


def test_a_short_secret_is_not_looked_for() -> None:
    """It is in answers by chance."""
    assert not Leaks("orders", [Secret("1234567")])
    assert "key/of" not in repr([LEAKS, vars(LEAKS), vars(LEAKS)["_forms"]])
