# SPDX-License-Identifier: Apache-2.0
"""In a design with one shared key, a thief of any verifier's key could mint tokens for all services.

ARx documents that a verifier can mint, and bounds it: each service has its own key.  What the thief of the key
of service A can make, service A accepts, and no other service does.
"""

import pytest

from arx_caps.mint.keys.root_keys import RootKeys
from arx_verifier import jcs
from arx_verifier.token import wire
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Macaroon
from tests.support import ANYTHING, KEY, OTHER_KEY, REALM, access, code_of, forge, identifier, mint, sign, verifier

ORDERS, BILLING = {"k1.0": KEY}, {"k1.0": OTHER_KEY}  # one key id, two audiences: the keys differ


def at_billing(token: str) -> str:
    """What the service that was not robbed says."""
    return code_of(token, audience="billing", keys=KeyRing(BILLING, realm=REALM))


def test_the_stolen_key_mints_for_its_own_service() -> None:
    """This is what a stolen key is worth, and what SPEC 9 says it is."""
    assert code_of(mint(agent="acme/thief", key=KEY).encode()) == "ok"


@pytest.mark.parametrize("audience", ["billing", "orders"])
def test_it_makes_nothing_that_another_service_accepts(audience: str) -> None:
    """Whatever the token says of its audience, bare, signed or delegated."""
    forged = mint(aud=audience, key=KEY)
    for token in (forged, forged.delegate("acme/w")):
        assert at_billing(token.encode()) in ("bad_signature", "wrong_audience")
        assert at_billing(sign(token, access(), audience="billing")) in ("bad_signature", "wrong_audience")
        assert at_billing(sign(token, access(), audience="orders")) in ("bad_signature", "wrong_audience")


def test_a_token_of_the_other_service_cannot_be_turned_round() -> None:
    """Nor can a caveat, or a token that the thief was sent, be used elsewhere."""
    sent = mint()
    named = identifier(aud="billing")
    assert at_billing(forge(jcs.encode(named), (ANYTHING.encode(),), key=KEY)) == "bad_signature"
    parts = wire.decode(sent.to_bytes())._replace(identifier=jcs.encode(named))
    assert at_billing(wire.TOKEN_PREFIX + wire.text_of(wire.encode(parts))) == "bad_signature"
    assert at_billing(sent.encode()) == "wrong_audience"


def test_the_mints_tokens_are_out_of_reach() -> None:
    """The mint has a key of its own, so a stolen audience key opens no session."""
    mints = verifier(audience="arx.mint", keys=KeyRing({"m1.0": OTHER_KEY}, realm=REALM))
    for kid in ("k1.0", "m1.0"):
        forged = Macaroon.mint(
            identifier(aud="arx.mint", task=None, kid=kid), key=KEY, realm=REALM, caveats=(ANYTHING,)
        )
        assert mints.decide(forged.encode(), access()).code in ("unknown_key", "bad_signature")


def test_the_keys_of_a_realm_are_all_different() -> None:
    """By audience, by number, by root, and the mint's own: knowing some of them is knowing no other."""
    roots = RootKeys({"k1": bytes(32), "k2": bytes(31) + b"\1"}, realm=REALM)
    audiences = [(audience, n) for audience in ("orders", "order", "orders/1") for n in (0, 1)]
    made = [roots.audience_key(root, audience, n) for root in roots.names for audience, n in audiences]
    keys = [key for _, key in (*made, *map(roots.mint_key, roots.names))]
    assert len(keys) == len(set(keys)) == 14
