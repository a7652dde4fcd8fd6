# SPDX-License-Identifier: Apache-2.0
"""In pymacaroons 0.13.0, a holder could append an unsigned caveat, and the token still verified.

No authority is gained by it, but the chain that is audited can be forged.  ARx refuses it as ``bad_signature``.
"""

import pymacaroons  # type: ignore[import-untyped]
import pytest

from arx_verifier.token import wire
from arx_verifier.token.caveats import Caveat
from tests.support import AT, KEY, code_of, mint

APPENDED = [
    Caveat(to="acme/scapegoat", hop="BwcHBwcHBwcH").encode(),
    Caveat(exp=AT + 1000).encode(),
    b'{"unknown":1}',
    b"junk",
    b"",
]


def appended(caveat: bytes) -> bytes:
    """A token with one more caveat under its old signature."""
    parts = wire.decode(mint().to_bytes())
    return wire.encode(parts._replace(caveats=(*parts.caveats, caveat)))


@pytest.mark.parametrize("caveat", APPENDED)
def test_an_unsigned_caveat_refuses_the_token(caveat: bytes) -> None:
    """Known or unknown, widening or attenuation: the chain does not end in this signature."""
    assert code_of(wire.TOKEN_PREFIX + wire.text_of(appended(caveat))) == "bad_signature"


def test_the_defect_is_there() -> None:
    """pymacaroons accepts what no checker of it accepts: the reason why it does not decide here."""
    token = pymacaroons.Macaroon.deserialize(wire.text_of(appended(b"junk")))
    witness = pymacaroons.Verifier()
    witness.satisfy_exact(mint().packets[0].decode())  # type: ignore[union-attr]
    assert token.caveats[-1].caveat_id_bytes == b"junk"
    assert witness.verify(token, KEY)
