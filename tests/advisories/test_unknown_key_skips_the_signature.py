# SPDX-License-Identifier: Apache-2.0
"""In agent-governance-toolkit, a caller could skip the signature check by naming an unknown issuer.

ARx: a key id that the verifier does not have is a refusal, as every look-up that can miss is.
"""

import pytest

from arx_verifier.token.keyring import KeyRing
from tests.support import ANYTHING, AT, KEY, OTHER_KEY, REALM, access, code_of, forge, mint, sign, verifier

RING = KeyRing({"k1.0": KEY}, realm=REALM)


@pytest.mark.parametrize("kid", ["k2.0", "k1.1", "k1", "K1.0", "*", "k1.0 ", "none", "../k1.0", "k1.0\0"])
@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
def test_an_unknown_key_id_refuses(kid: str, key: bytes) -> None:
    """For any maker of the token, bare or signed: no key, no grant."""
    token = mint(kid=kid, key=key)
    assert code_of(token.encode()) == "unknown_key"
    assert code_of(sign(token, access())) == "unknown_key"


def test_no_key_id_is_no_identifier() -> None:
    """An empty or missing key id is refused before any key is looked for."""
    for raw in (mint().identifier.replace(b'"k1.0"', b'""'), mint().identifier.replace(b'"kid":"k1.0",', b"")):
        assert code_of(forge(raw, (ANYTHING.encode(),))) == "malformed"


def test_a_key_that_was_taken_away_is_unknown() -> None:
    """Tokens of a key that is gone are refused at the next call, also those that were met before."""
    ring = KeyRing({"k1.0": KEY, "k2.0": OTHER_KEY}, realm=REALM)
    checked = verifier(keys=ring)
    parent = mint(kid="k2.0", key=OTHER_KEY)
    assert checked.decide(sign(parent, access()), access()).code == "ok"
    ring.replace({"k1.0": KEY})
    later = access(at=AT + 1)
    assert checked.decide(sign(parent, later), later).code == "unknown_key"
    assert checked.decide(parent.encode(), later).code == "unknown_key"
