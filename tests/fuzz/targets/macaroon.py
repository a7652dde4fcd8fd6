# SPDX-License-Identifier: Apache-2.0
"""The bytes and the text of a macaroon: what is accepted has one spelling.  SPEC 2, 4."""

import contextlib
from collections.abc import Iterator

from arx_verifier import jcs
from arx_verifier.errors import MalformedTokenError
from arx_verifier.token import wire
from arx_verifier.token.macaroon import Macaroon, read_identifier
from arx_verifier.token.wire import JOINT, TOKEN_PREFIX
from tests.fuzz.corpus import vectors

MAX_BYTES = 8_000


def check(data: bytes) -> None:
    """Parse bytes, and then the text that has these bytes, and then the input as text."""
    with contextlib.suppress(MalformedTokenError):
        assert wire.encode(wire.decode(data)) == data
    for text in (TOKEN_PREFIX + wire.text_of(data), data.decode("latin-1")):
        try:
            macaroon = Macaroon.parse(text)
        except MalformedTokenError:
            continue
        assert macaroon.encode() == text
        assert Macaroon.from_bytes(macaroon.to_bytes()) == macaroon
        try:
            identifier = macaroon.unverified_identifier
        except MalformedTokenError:
            continue
        assert jcs.encode(identifier) == macaroon.identifier
        assert read_identifier(macaroon.identifier) == identifier


def seeds() -> Iterator[bytes]:
    """Return the bytes and the texts of the vectors' tokens."""
    for vector in vectors():
        token = vector["token"].partition(JOINT)[0]
        yield token.encode("utf-8", "surrogatepass")
        try:
            yield wire.split_text(token)
        except MalformedTokenError:
            continue
