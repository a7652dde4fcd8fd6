# SPDX-License-Identifier: Apache-2.0
"""The call at the end of a presented text: the fast reader and the careful one find the same call.  SPEC 8."""

from collections.abc import Iterator

from arx_verifier.errors import MalformedTokenError, UnknownCaveatError
from arx_verifier.token import wire
from arx_verifier.token.call_proof import split_call
from arx_verifier.token.caveats import count_members, read_caveat
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.token.wire import JOINT, TOKEN_PREFIX
from tests.fuzz.corpus import vectors

MAX_BYTES = 8_000


def check(data: bytes) -> None:
    """Read text, and the text that has these bytes, by both readers."""
    for text in (data.decode("latin-1"), TOKEN_PREFIX + wire.text_of(data)):
        call = split_call(text)
        try:
            macaroon = Macaroon.parse(text)
        except MalformedTokenError:
            continue
        if not macaroon.packets:  # the identifier can look like a call, but is then no identifier of SPEC 4
            assert call is None or _is_no_identifier(macaroon)
            continue
        last = macaroon.packets[-1]
        if call is None:
            # What the fast reader does not know must not be a call that the careful one accepts.
            if isinstance(last, bytes) and macaroon.is_one_shot:
                try:
                    found = read_caveat(last)
                except (MalformedTokenError, UnknownCaveatError):
                    continue
                # A call is alone in its caveat, with a digest of 32 and a nonce of 16 bytes; others are refused later.
                if found.call is not None and count_members(found) == 1 and _is_whole(*found.call):
                    raise AssertionError("the fast reader missed a call")
            continue
        assert last == call.caveat
        assert macaroon.parts()[1] == call.signature
        assert text.startswith(call.head)


def _is_no_identifier(macaroon: Macaroon) -> bool:
    try:
        macaroon.unverified_identifier  # noqa: B018 - it parses
    except MalformedTokenError:
        return True
    return False


def _is_whole(digest: str, at: int, nonce: str) -> bool:
    try:
        return (len(wire.bytes_of(digest)), len(str(at)), len(wire.bytes_of(nonce))) == (32, 13, 16)
    except MalformedTokenError:
        return False


def seeds() -> Iterator[bytes]:
    """Return the texts and the bytes of the vectors' tokens that have a call."""
    for vector in vectors():
        token = vector["token"].partition(JOINT)[0]
        try:
            if Macaroon.parse(token).is_one_shot:
                yield token.encode()
                yield wire.split_text(token)
        except MalformedTokenError:
            continue
