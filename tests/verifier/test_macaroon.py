# SPDX-License-Identifier: Apache-2.0
"""A token in its holder's hands: read, attenuated, delegated, and silent about its secret."""

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import AttenuationError, MalformedTokenError
from arx_verifier.token import chain, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Identifier, Macaroon, OperatorIdentifier, read_identifier
from tests.support import ANYTHING, AT, KEY, QUICK, access, code_of, identifier, mint, sign

HOP = b"\7" * 9


def test_parse_is_the_inverse_of_encode() -> None:
    """Text, bytes and object say the same."""
    token = mint(ANYTHING, Caveat(exp=AT + 1))
    assert Macaroon.parse(token.encode()) == token
    assert Macaroon.from_bytes(token.to_bytes()) == token
    assert Macaroon.parse(token.encode()).encode() == token.encode()
    assert hash(Macaroon.parse(token.encode())) == hash(token)
    assert token.location == "acme"


@pytest.mark.spec("2.1")
@QUICK
@given(st.binary(max_size=150))
def test_only_the_one_form_is_read(junk: bytes) -> None:
    """Reading either gives these very bytes back or raises."""
    raw = mint().to_bytes()
    for candidate in (junk, raw + junk, raw[: len(junk)] + junk, junk + raw):
        try:
            token = Macaroon.from_bytes(candidate)
        except MalformedTokenError:
            continue
        assert token.to_bytes() == candidate


def test_a_location_is_utf8() -> None:
    """A location that is no text is refused when it is read, not when it is shown."""
    raw = wire.encode(wire.Packets(b"\xff", b"{}", (), bytes(32)))
    with pytest.raises(MalformedTokenError):
        Macaroon.from_bytes(raw)


@pytest.mark.spec("5.1")
def test_mint_writes_the_standard_chain() -> None:
    """What the mint writes is the HMAC chain of its bytes, from the derived key on."""
    token = mint(ANYTHING, Caveat(depth=1))
    caveats = [raw for raw in token.packets if isinstance(raw, bytes)]
    assert len(caveats) == 2
    assert token.parts()[1] == chain.fold(chain.derive(KEY), token.identifier, caveats)


def test_attenuation_needs_no_key_and_changes_nothing_before() -> None:
    """An attenuated token is a new one; its parent stays as good as it was."""
    parent = mint()
    before = parent.encode()
    child = parent.attenuate(Caveat(allow=(Rule(tool="orders.get"),)), Caveat(exp=AT + 5))
    assert parent.encode() == before
    assert child.packets[:1] == parent.packets
    assert len(child.packets) == 3
    first, second = (raw for raw in child.packets[1:] if isinstance(raw, bytes))
    assert child.parts()[1] == chain.extend(chain.extend(parent.parts()[1], first), second)
    assert code_of(parent.encode()) == code_of(child.encode()) == "ok"
    assert code_of(child.encode(), access("orders.delete")) == "tool_not_allowed"


def test_nothing_added_is_the_same_token() -> None:
    """An attenuation by nothing changes nothing."""
    assert mint().attenuate() == mint()


@pytest.mark.spec("5.2", "5.3")
def test_delegate_names_its_holder_and_link() -> None:
    """A delegation is one caveat with ``to`` and ``hop``, beside what it takes away."""
    plain = mint().delegate("acme/worker", hop=HOP)
    assert plain.packets[-1] == b'{"hop":"BwcHBwcHBwcH","to":"acme/worker"}'
    attenuate = mint().delegate("acme/worker", Caveat(exp=AT + 9, depth=0), hop=HOP)
    assert attenuate.packets[-1] == b'{"depth":0,"exp":%d,"hop":"BwcHBwcHBwcH","to":"acme/worker"}' % (AT + 9)


@pytest.mark.spec("5.3")
def test_two_delegations_have_two_links() -> None:
    """Without a given hop each delegation is killable alone."""
    parent = mint()
    assert parent.delegate("acme/a").packets[-1] != parent.delegate("acme/a").packets[-1]


@pytest.mark.spec("8.1")
def test_a_one_shot_token_takes_nothing_more() -> None:
    """What carries a call cannot be attenuated, delegated or signed again: nothing may follow a call."""
    one_shot = Macaroon.parse(sign(mint(), access()))
    assert one_shot.is_one_shot
    assert not mint().is_one_shot
    for misuse in (
        lambda: one_shot.attenuate(Caveat(exp=1)),
        lambda: one_shot.delegate("acme/worker"),
        lambda: one_shot.delegate("acme/worker", Caveat(exp=1)),
        lambda: sign(one_shot, access()),
    ):
        with pytest.raises(AttenuationError):
            misuse()


@pytest.mark.spec("2.1", "14")
def test_a_token_has_at_most_64_caveats() -> None:
    """The holder who adds one too many gets an error, before a verifier would refuse it."""
    token = mint()
    for depth in range(63):
        token = token.attenuate(Caveat(exp=AT + 1000 + depth))
    assert code_of(token.encode()) == "ok"
    with pytest.raises(AttenuationError, match="64"):
        token.attenuate(Caveat(exp=AT + 1))
    with pytest.raises(AttenuationError):
        sign(token, access())


@pytest.mark.spec("2.2", "14")
def test_a_token_has_at_most_7168_characters() -> None:
    """What would not fit a header is refused where it is made, and everything up to it can be sent."""
    wide = Caveat(allow=(Rule(tool="*", args={"x": "y" * 900}),))
    token = mint()
    while len(token.encode()) + len(wire.text_of(wide.encode())) + 8 <= wire.MAX_CREDENTIAL_CHARS:
        token = token.attenuate(wide)
    with pytest.raises(AttenuationError, match="7168"):
        token.attenuate(wide)
    assert Macaroon.parse(token.encode()) == token


def test_nothing_secret_is_shown_or_pickled() -> None:
    """Neither repr nor a pickle of a token gives it away."""
    token = mint()
    secret = wire.text_of(token.parts()[1])
    for shown in (repr(token), str(token), f"{token!r}", repr([token])):
        assert secret not in shown
        assert token.parts()[1].hex() not in shown
        assert token.encode() not in shown
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="secret"):
            leak(token)


def test_equality_is_of_tokens() -> None:
    """Tokens differ by a signature too, and are never equal to their text."""
    assert mint() != mint(key=b"x" * 32)
    assert mint() != mint().encode()
    assert mint() != mint(session="s-b")


def test_what_is_read_before_proof_is_marked() -> None:
    """The identifier is readable by anyone, and its name warns."""
    assert mint().unverified_identifier == identifier()


@pytest.mark.spec("4.3")
def test_an_operators_identifier_has_its_own_shape() -> None:
    """An operator's token names an operator, no session and no epoch."""
    operator = OperatorIdentifier(aud="arx.mint", exp=2, iat=1, id="A" * 22, kid="m.0", operator="op-1", v=1)
    token = Macaroon.mint(operator, key=KEY, realm="acme", caveats=(ANYTHING,))
    assert token.unverified_identifier == operator
    assert code_of(token.encode()) == "wrong_audience"


@pytest.mark.spec("4.1")
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"agent":"acme"}',
        mint().identifier + b" ",
        b" " + mint().identifier,
        mint().identifier.replace(b'"v":1', b'"v":2'),
        mint().identifier.replace(b'"v":1', b'"v":1.0'),
        mint().identifier.replace(b'"v":1', b'"v":true'),
        mint().identifier.replace(b'"v":1', b'"v":1,"v":1'),
        mint().identifier.replace(b'"v":1', b'"v":1,"w":1'),
        mint().identifier.replace(b'"depth":4', b'"depth":-1'),
        mint().identifier.replace(b'"depth":4', b'"depth":17'),
        mint().identifier.replace(b'"depth":4', b'"depth":4.0'),
        mint().identifier.replace(b'"depth":4', b'"depth":"4"'),
        mint().identifier.replace(b'"depth":4', b'"depth":null'),
        mint().identifier.replace(b'"depth":4,', b""),
        mint().identifier.replace(b'"agent":"acme/support"', b'"agent":"acme\\/support"'),
        mint().identifier.replace(b'"agent":"acme/support"', b'"agent":""'),
        mint().identifier.replace(b'"kid":"k1.0"', b'"kid":"\\u006b1.0"'),
        mint().identifier.replace(b'"policy":"pppppppppppppppppppppp"', b'"policy":null'),
        mint().identifier.replace(b'"exp":', b'"exp":9999'),
        mint().identifier.replace(b'"exp":', b'"exp":-'),
        mint().identifier.replace(b'"iat":', b'"iat":0'),
        mint().identifier.replace(b",0]", b"]"),
        mint().identifier.replace(b",0]", b",0,0]"),
        mint().identifier.replace(b",0]", b",9007199254740992]"),
    ],
)
def test_identifiers_have_one_form(raw: bytes) -> None:
    """Missing, unknown, doubled, wrongly typed, out of bounds or written in another way: refused."""
    with pytest.raises(MalformedTokenError):
        read_identifier(raw)


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
NATURAL = st.integers(0, 2**53 - 1)


@pytest.mark.spec("4.1")
@QUICK
@given(
    st.fixed_dictionaries({"agent": TEXT, "session": TEXT, "exp": NATURAL, "iat": NATURAL, "depth": st.integers(0, 16)})
)
def test_identifiers_survive_the_way_through_bytes(changes: dict[str, Any]) -> None:
    """Whatever the mint writes, a verifier reads."""
    made = identifier(**changes)
    token = Macaroon.mint(made, key=KEY, realm="acme", caveats=(ANYTHING,))
    read = Macaroon.parse(token.encode()).unverified_identifier
    assert isinstance(read, Identifier)
    assert read == made
