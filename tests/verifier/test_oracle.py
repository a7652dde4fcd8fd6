# SPDX-License-Identifier: Apache-2.0
"""pymacaroons as an independent witness: it reads our tokens and we read its, to the same signatures."""

from collections.abc import Iterable
from typing import Any

import pymacaroons  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymacaroons import MACAROON_V2
from pymacaroons.exceptions import MacaroonInvalidSignatureException  # type: ignore[import-untyped]

from arx_verifier.constraints.rule import Rule
from arx_verifier.token import chain, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import bind, join
from arx_verifier.token.macaroon import Macaroon
from tests.support import ANYTHING, AT, KEY, QUICK, REALM, access, mint, sign, unchecked, verifier
from tests.verifier.discharges import CAVEAT_KEY, RAW, answering, named, requiring

pytestmark = pytest.mark.spec("5.1")

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
CHAINS = st.lists(
    st.one_of(
        st.builds(Caveat, exp=st.integers(0, 2**53 - 1)),
        st.builds(unchecked, st.just(Caveat), task=NAMES),
        st.builds(
            lambda name, value: Caveat(allow=(Rule(tool="orders.get", args={name: value}),)), NAMES.map(ascii), NAMES
        ),
        st.builds(Caveat, to=st.just("acme/w"), hop=st.just("BwcHBwcHBwcH")),
    ),
    max_size=6,
)


def theirs(token: Macaroon) -> pymacaroons.Macaroon:
    """The same token as pymacaroons reads it."""
    return pymacaroons.Macaroon.deserialize(wire.text_of(token.to_bytes()))


def accepts(token: pymacaroons.Macaroon, key: bytes, discharges: Iterable[pymacaroons.Macaroon] = ()) -> bool:
    """Whether pymacaroons finds the chain to be made with this key, all first-party caveats granted."""
    witness = pymacaroons.Verifier()
    witness.satisfy_general(lambda _: True)
    return bool(witness.verify(token, key, list(discharges)))


@QUICK
@given(CHAINS)
def test_it_reads_every_token_we_make(caveats: list[Caveat]) -> None:
    """Location, identifier, caveats and signature are the same, and the chain verifies under the same key."""
    token = mint(ANYTHING, *caveats)
    read = theirs(token)
    assert read.version == MACAROON_V2
    assert read.location == REALM
    assert read.identifier_bytes == token.identifier
    assert tuple(caveat.caveat_id_bytes for caveat in read.caveats) == token.packets
    assert bytes.fromhex(read.signature) == token.parts()[1]
    assert accepts(read, KEY)
    with pytest.raises(MacaroonInvalidSignatureException):
        accepts(read, KEY[:-1] + b"x")
    assert read.serialize().rstrip("=") == wire.text_of(token.to_bytes())


@QUICK
@given(st.binary(min_size=16, max_size=16))
def test_a_signed_call_is_an_ordinary_macaroon_to_it(nonce: bytes) -> None:
    """What a holder signs by text is what any macaroon library would have made."""
    parent = mint()
    signed = Macaroon.parse(sign(parent, access(), nonce=nonce))
    made = theirs(parent)
    made.add_first_party_caveat(signed.packets[-1])
    assert made.signature == signed.parts()[1].hex()
    assert accepts(theirs(signed), KEY)


@QUICK
@given(st.text(max_size=10), NAMES, st.lists(NAMES, max_size=5), st.binary(min_size=1, max_size=40))
def test_we_read_what_it_makes(location: str, name: str, caveats: list[str], key: bytes) -> None:
    """First-party tokens of pymacaroons decode here, fold to the same signature and re-encode to the same bytes."""
    made = pymacaroons.Macaroon(location or None, name, key, version=MACAROON_V2)
    for caveat in caveats:
        made.add_first_party_caveat(caveat)
    raw = wire.bytes_of(made.serialize().rstrip("="))
    packets = wire.decode(raw)
    assert (packets.location or b"").decode() == location
    assert packets.identifier == name.encode()
    assert list(packets.caveats) == [caveat.encode() for caveat in caveats]
    assert (
        chain.fold(chain.derive(key), packets.identifier, [caveat.encode() for caveat in caveats]).hex()
        == made.signature
    )
    assert wire.encode(packets) == raw


def folded(key: bytes, packets: wire.Packets) -> bytes:
    """The chain's signature, third-party caveats included."""
    signature = chain.extend(chain.derive(key), packets.identifier)
    for caveat in packets.caveats:
        if isinstance(caveat, wire.ThirdPartyPacket):
            signature = chain.extend_third_party(signature, caveat.verification_id, caveat.identifier)
        else:
            signature = chain.extend(signature, caveat)
    return signature


@QUICK
@given(st.lists(st.tuples(st.booleans(), NAMES), min_size=1, max_size=4), st.binary(min_size=1, max_size=40))
def test_third_party_caveats_fold_alike(caveats: list[tuple[bool, str]], key: bytes) -> None:
    """Sealed caveats of pymacaroons are read whole, and their chain is the same."""
    made = pymacaroons.Macaroon("here", "id", key, version=MACAROON_V2)
    for third, text in caveats:
        if third:
            made.add_third_party_caveat("https://approve.example", "shared secret", text)
        else:
            made.add_first_party_caveat(text)
    raw = wire.bytes_of(made.serialize().rstrip("="))
    packets = wire.decode(raw)
    assert [isinstance(caveat, wire.ThirdPartyPacket) for caveat in packets.caveats] == [third for third, _ in caveats]
    assert folded(key, packets) == packets.signature
    assert packets.signature.hex() == made.signature
    assert wire.encode(packets) == raw


def test_it_attenuates_our_tokens_and_we_accept_them() -> None:
    """Any macaroon library can attenuate an ARx token; the result is the token that we would have made."""
    made: Any = theirs(mint())
    made.add_first_party_caveat(Caveat(exp=AT + 5).encode())
    assert Macaroon.from_bytes(wire.bytes_of(made.serialize().rstrip("="))) == mint().attenuate(Caveat(exp=AT + 5))


SMALL = st.lists(st.builds(Caveat, task=st.sampled_from(["a", "b", "c"])), max_size=2)


@pytest.mark.spec("6.6")
@QUICK
@given(SMALL, SMALL, SMALL, st.integers(0, 2))
def test_it_proves_our_discharges(token: list[Caveat], outer: list[Caveat], inner: list[Caveat], spoil: int) -> None:
    """A token, a discharge and that one's discharge, bound: it finds them to belong together, and no others."""
    parent = requiring(mint(ANYTHING, *token), named("outer")).attenuate(*token)
    made = [requiring(answering(*outer, raw=named("outer")), named("inner")), answering(*inner, raw=named("inner"))]
    bound = [bind(each, parent) for each in made]
    assert accepts(theirs(parent), KEY, map(theirs, bound))
    request = access()
    assert verifier().decide(join(parent.encode(), bound), request).code == "ok"
    wrong = [
        [bound[0], made[1]],
        [bound[0], bind(made[1], mint())],
        [bound[0], bind(answering(*inner, raw=named("inner"), key=bytes(32)), parent)],
    ][spoil]
    with pytest.raises(MacaroonInvalidSignatureException):
        accepts(theirs(parent), KEY, map(theirs, wrong))
    assert verifier().decide(join(parent.encode(), wrong), request).code == "bad_signature"


@pytest.mark.spec("6.6")
@QUICK
@given(SMALL)
def test_we_prove_its_discharges(caveats: list[Caveat]) -> None:
    """What it requires, makes and binds with our identifiers is granted here; its random nonces are as good as ours."""
    token = theirs(mint())
    token.add_third_party_caveat("https://approve.example", CAVEAT_KEY, RAW)
    made = pymacaroons.Macaroon(REALM, RAW, CAVEAT_KEY, version=MACAROON_V2)
    for caveat in caveats:
        made.add_first_party_caveat(caveat.encode())
    texts = [wire.TOKEN_PREFIX + each.serialize().rstrip("=") for each in (token, token.prepare_for_request(made))]
    assert Macaroon.parse(texts[1]) == bind(answering(*caveats), Macaroon.parse(texts[0]))
    request = access("payments.refund")
    assert verifier().decide("~".join(texts), request).code == "ok"
    assert verifier().decide(texts[0], request).code == "missing_discharge"


WHICH = st.integers(0, 3)
THIRD_PARTIES = st.lists(st.tuples(WHICH, st.integers(0, 1)), max_size=3)
GIVEN = st.tuples(
    WHICH, st.integers(0, 1), THIRD_PARTIES, st.sampled_from(["parent", "parent", "parent", "other", "none"])
)


@settings(QUICK, max_examples=200)
@given(THIRD_PARTIES, st.lists(GIVEN, max_size=5), st.booleans())
def test_what_we_grant_it_proves(requires: list[Any], given_: list[Any], tidy: bool) -> None:
    """
    Whatever requires whatever, made with whichever key and bound to whatever: we grant nothing that it does not prove.
    """
    keys = [bytes([number]) * 32 for number in range(2)]
    if tidy:  # often enough all that is asked for is there, once
        requires = [(which, 0) for which in sorted({which for which, _ in requires})]
        given_ = [(which, 0, [], "parent") for which, _ in requires]
    parent = mint()
    for which, key in requires:
        parent = requiring(parent, named(f"d{which}"), keys[key])
    texts = []
    for which, key, more, to in given_:
        made = answering(raw=named(f"d{which}"), key=keys[key])
        for inner, its_key in more:
            made = requiring(made, named(f"d{inner}"), keys[its_key])
        texts.append(made if to == "none" else bind(made, parent if to == "parent" else mint()))
    found = verifier().decide("~".join([parent.encode(), *[each.encode() for each in texts]]), access())
    try:
        proven = accepts(theirs(parent), KEY, map(theirs, texts))
    except Exception:  # of several kinds; two that third-party caveat each other even end its stack
        proven = False
    assert proven or not found.allowed
    assert found.allowed or not tidy
