# SPDX-License-Identifier: Apache-2.0
"""In liceat, a holder could strip the last restriction from a token.

ARx folds every caveat into the signature: at no place can one be removed, reordered, doubled, spliced in or swapped
with one of another token.
"""

import pytest

from arx_verifier.constraints.rule import Rule
from arx_verifier.token import wire
from arx_verifier.token.caveats import Caveat
from tests.support import ANYTHING, AT, code_of, mint

CHAIN = (
    Caveat(allow=(Rule(tool="orders.get"),)),
    Caveat(exp=AT + 1000),
    Caveat(to="acme/w", hop="BwcHBwcHBwcH"),
    Caveat(task="t-sub"),
)
TOKEN = mint(ANYTHING, *CHAIN)
PACKETS = TOKEN.packets
FOREIGN = mint(ANYTHING, *reversed(CHAIN), session="s-other").packets
PLACES = range(len(PACKETS))


def code_with(caveats: tuple[bytes | wire.ThirdPartyPacket, ...], signature: bytes | None = None) -> str:
    """Return the decision about the token with other caveats."""
    parts = wire.decode(TOKEN.to_bytes())
    changed = parts._replace(caveats=caveats, signature=signature or parts.signature)
    return code_of(wire.TOKEN_PREFIX + wire.text_of(wire.encode(changed)))


def test_the_token_itself_is_good() -> None:
    """What follows fails for what was changed, not for another reason."""
    assert code_with(PACKETS) == "ok"


@pytest.mark.parametrize("at", PLACES)
def test_none_can_be_removed(at: int) -> None:
    """Without the caveat at this place, or all from it on, the signature is another."""
    assert code_with(PACKETS[:at] + PACKETS[at + 1 :]) == "bad_signature"
    assert code_with(PACKETS[:at]) == "bad_signature"


@pytest.mark.parametrize("at", PLACES)
def test_none_can_change_places(at: int) -> None:
    """Whichever two caveats are swapped."""
    for other in PLACES:
        if other != at:
            swapped = list(PACKETS)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            assert code_with(tuple(swapped)) == "bad_signature"


@pytest.mark.parametrize("at", PLACES)
def test_none_can_be_doubled_or_spliced_in(at: int) -> None:
    """Not even a restriction may be added under the old signature."""
    for more in (PACKETS[at], FOREIGN[at], Caveat(exp=AT + 5).encode()):
        assert code_with((*PACKETS[:at], more, *PACKETS[at:])) == "bad_signature"


@pytest.mark.parametrize("at", PLACES)
def test_none_can_be_taken_from_another_token(at: int) -> None:
    """A caveat of another token, or its whole chain, does not fit under this signature."""
    if FOREIGN[at] != PACKETS[at]:
        assert code_with((*PACKETS[:at], FOREIGN[at], *PACKETS[at + 1 :])) == "bad_signature"
    assert code_with(FOREIGN) == "bad_signature"


def test_an_earlier_signature_cannot_be_had() -> None:
    """Neither a shortened nor an empty nor a zero signature opens the token of one caveat less."""
    for signature in (bytes(32), TOKEN.parts()[1][::-1], TOKEN.identifier[:32]):
        assert code_with(PACKETS[:-1], signature) == "bad_signature"
