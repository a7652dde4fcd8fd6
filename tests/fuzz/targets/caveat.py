# SPDX-License-Identifier: Apache-2.0
"""First-party and third-party caveats: canonical JSON with known members, or a refusal.  SPEC 3, 6."""

from collections.abc import Iterator

from arx_verifier.errors import MalformedTokenError, UnknownCaveatError
from arx_verifier.token.caveats import read_caveat, read_proven
from arx_verifier.token.discharge import ThirdPartyCaveat
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.token.wire import JOINT
from tests.fuzz.corpus import vectors

MAX_BYTES = 4_096


def check(data: bytes) -> None:
    """Parse bytes as a caveat, by the holder's reader and by the verifier's."""
    try:
        proven = read_proven(data)
    except (MalformedTokenError, UnknownCaveatError):
        proven = None
    try:
        caveat = read_caveat(data)
    except (MalformedTokenError, UnknownCaveatError):
        pass
    else:
        assert caveat.encode() == data
        assert proven is not None, "the verifier refuses what the holder's reader accepts"
    try:
        third_party = ThirdPartyCaveat.read(data)
    except UnknownCaveatError:
        pass
    else:
        assert third_party.encode() == data


def seeds() -> Iterator[bytes]:
    """Return the caveats in the vectors' tokens."""
    for vector in vectors():
        try:
            macaroon = Macaroon.parse(vector["token"].partition(JOINT)[0])
        except MalformedTokenError:
            continue
        for packet in macaroon.packets:
            yield packet if isinstance(packet, bytes) else packet.identifier
