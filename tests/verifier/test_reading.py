# SPDX-License-Identifier: Apache-2.0
"""What caveats say together is kept for all tokens, and says of each what reading it anew would say."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arx_verifier.token import wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Identifier
from arx_verifier.verification import compiled_caveats
from tests.support import ANYTHING, AUDIENCE, QUICK, access, code_of, forge_caveats, identifier, mint

GOOD, BAD = "AAAAAAAAAAAA", "AAAAAAAAAAA="
HOPS = st.lists(st.sampled_from([GOOD, "BBBBBBBBBBBB", BAD, "AAAA"]), min_size=4, max_size=4)
CAVEATS = st.sampled_from(
    [
        *(f'{{"hop":"%","to":"acme/{to}"}}' for to in "abb"),
        '{"allow":[{"args":{"hop":"%"},"tool":"*"}]}', '{"weather":{"hop":"%"}}', '{"weather":1}', "{}", '{"exp":1.5}',
        ANYTHING.encode().decode(), '{"depth":0}', '{"depth":1}', '{"delegate_to":["acme/a"]}', '{"exp":5}',
        '{"nbf":7}',
        '{"aud":["orders"]}', '{"require":["call"]}', '{"require":["holder"]}', '{"fresh":9}', '{"once":["n",1]}',
        '{"task":"t-x"}', '{"net":["10.0.0.0/8"]}', '{"hop":"\0","to":"acme/a"}', "third",
    ]
)  # fmt: skip
THIRD = wire.ThirdPartyPacket(None, b"{}", b"v")


@pytest.fixture(autouse=True)
def emptied() -> Iterator[None]:
    compiled_caveats.KEPT.clear()
    yield
    compiled_caveats.KEPT.clear()


def members_read(packets: tuple[Any, ...], to: Identifier, audience: str) -> Any:
    """All that is read, comparable."""
    found, links = compiled_caveats.read_caveats(packets, to, audience)
    members = {name: getattr(found, name) for name in found.__slots__}
    members["allows"] = [allow.rules for allow in found.allows]
    return members, list(links)


@settings(QUICK, max_examples=300)
@given(st.lists(CAVEATS, max_size=4), st.lists(HOPS, min_size=2, max_size=3))
def test_what_is_kept_says_what_reading_says(words: list[str], hops: list[list[str]]) -> None:
    """Sequences that differ in hops, depth and audience alone, read one after the other and each as the first."""
    several = [
        ((ANYTHING.encode(), *map(_packet, words, each)), identifier(depth=depth), audience)
        for each in hops
        for depth in range(3)
        for audience in ("orders", "mail")
    ]
    anew = []
    for each in several:
        compiled_caveats.KEPT.clear()
        compiled_caveats.REFUSED.clear()
        anew.append(members_read(*each))
    assert [members_read(*each) for each in several * 2] == anew * 2


def _packet(word: str, hop: str) -> bytes | wire.ThirdPartyPacket:
    return THIRD if word == "third" else word.replace("%", hop).encode()


def test_a_wrong_hop_is_of_no_other() -> None:
    """Who writes a hop that is none is refused alone: the next token with the same words is granted."""
    for hop, code in ((BAD, "malformed"), (GOOD, "ok"), (BAD, "malformed"), ("B" * 12, "ok"), (BAD, "malformed")):
        assert code_of(forge_caveats(b'{"hop":"%b","to":"acme/w"}' % hop.encode())) == code


def test_an_argument_may_be_called_hop() -> None:
    """What its constraint says is cut out for no other token: two that differ there are each judged by its own."""
    for _ in range(2):
        for wanted in "AB":
            token = forge_caveats(b'{"allow":[{"args":{"hop":"%b"},"tool":"*"}]}' % (wanted.encode() * 12))
            for came in "AB":
                expected = "ok" if came == wanted else "argument_not_allowed"
                assert code_of(token, access(args={"hop": came * 12})) == expected


def test_the_third_token_with_the_same_words_is_read_at_once() -> None:
    """Words that come once are not kept together: the second token's are, and the third has them from there."""
    caveats = (ANYTHING, Caveat(exp=5))
    one, other, third = (mint(*caveats).delegate("acme/w").packets for _ in range(3))
    compiled_caveats.read_caveats(one, identifier(), AUDIENCE)
    assert not compiled_caveats.TOGETHER
    second, links = compiled_caveats.read_caveats(other, identifier(), AUDIENCE)
    again, others = compiled_caveats.read_caveats(third, identifier(), AUDIENCE)
    assert again is second
    assert links != others
    compiled_caveats.KEPT.clear()
    assert not compiled_caveats.TOGETHER
