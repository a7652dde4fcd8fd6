# SPDX-License-Identifier: Apache-2.0
"""Bodies that come in parts: the same bytes however they are split, and none beyond the bound."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.enforcement.bounded_body import (
    BodyTooLongError,
    ClientGoneError,
    read_parts,
    read_stream,
    receive_body,
)

PARTS = st.lists(st.binary(max_size=5), max_size=6)


def received(parts: list[bytes], longest: int, ends: bool = True, **further: Any) -> bytes:
    """Return what is received of a request whose client sends these parts, and then ends the body or goes."""
    messages: list[Any] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request"} if ends else {"type": "http.disconnect"})

    async def receive() -> Any:
        return messages.pop(0)

    return bytes(asyncio.run(receive_body(receive, longest, **further)))


async def streamed(parts: list[bytes]) -> AsyncIterator[bytes]:
    """Yield the parts."""
    for part in parts:
        yield part


@given(PARTS, st.integers(0, 12))
def test_a_body_is_whole_or_refused(parts: list[bytes], longest: int) -> None:
    """Up to the bound it is the same bytes for every reader; one byte more is refused by all."""
    whole = b"".join(parts)
    readers = (
        lambda: received(parts, longest),
        lambda: (
            received(parts[1:], longest, message={"type": "http.request", "body": parts[0], "more_body": True})
            if parts
            else b""
        ),
        lambda: asyncio.run(read_stream(streamed(parts), longest)),
        lambda: read_parts(parts, longest),
    )
    for reader in readers:
        if len(whole) <= longest:
            assert reader() == whole
        else:
            with pytest.raises(BodyTooLongError):
                reader()


@given(PARTS)
def test_half_a_body_is_none(parts: list[bytes]) -> None:
    """A client that goes before the end has sent no body, whatever came of it."""
    with pytest.raises(ClientGoneError):
        received(parts, 100, ends=False)


def test_a_check_is_asked_before_a_part_is_kept() -> None:
    """With the size that the body would have; beyond the bound it is not asked."""
    sizes: list[int] = []
    assert received([b"ab", b"", b"c"], 3, check=sizes.append) == b"abc"
    assert sizes == [2, 2, 3, 3]
    sizes.clear()
    with pytest.raises(BodyTooLongError):
        received([b"ab", b"cd"], 3, check=sizes.append)
    assert sizes == [2]

    def refuse(size: int) -> None:
        if size > 2:
            raise PermissionError

    with pytest.raises(PermissionError):
        received([b"ab", b"c"], 3, check=refuse)
