# SPDX-License-Identifier: Apache-2.0
"""What requires a discharge and what is one: their bytes, and the holder's errors before any request."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import AttenuationError, MalformedTokenError, UnknownCaveatError
from arx_verifier.token import chain, discharge, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import (
    ThirdPartyCaveat,
    bind,
    caveat_key,
    join,
    require_discharge,
    third_party_caveats,
)
from arx_verifier.token.macaroon import Macaroon
from tests.support import AT, KEY, QUICK, REALM, access, mint, sign

CAVEAT_KEY = bytes(range(7, 39))
WANTED = ThirdPartyCaveat("r1.0:t-abc", ("payments.refund",))
RAW = WANTED.encode()
KEYS = st.binary(min_size=32, max_size=32)


def made(*caveats: Caveat, raw: bytes = RAW, key: bytes = CAVEAT_KEY) -> Macaroon:
    """An unbound discharge."""
    return discharge.issue_discharge(raw, key, realm=REALM, caveats=caveats)


@pytest.mark.spec("6.4")
def test_a_third_party_has_one_form() -> None:
    """Canonical JSON, sorted; what it says of tools is optional."""
    assert RAW == b'{"id":"r1.0:t-abc","tools":["payments.refund"]}'
    assert ThirdPartyCaveat("x").encode() == b'{"id":"x"}'
    assert ThirdPartyCaveat.read(RAW) == WANTED
    assert ThirdPartyCaveat.read(b'{"id":"x"}') == ThirdPartyCaveat("x")


@pytest.mark.spec("6.4")
@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{}", b"who", b'"x"', b'{"id":1}', b'{"id":""}', b'{"id":"x","tools":[]}', b'{"id":"x","tools":null}'),
        *(b'{"id":"x","tools":["*.*"]}', b'{"id":"x","tools":["a b"]}', b'{"id":"x","tools":"a"}', b'{"id": "x"}'),
        *(b'{"tools":["a"],"id":"x"}', b'{"id":"x","more":1}', b'{"id":"x","id":"x"}', b'{"id":"%s"}' % (b"x" * 161)),
        *(b'{"id":"\\u0041"}', b'{"id":"\xff"}', b"[" * 500),
    ],
)
def test_another_identifier_is_unknown(raw: bytes) -> None:
    """Its requirement is unreadable, so no discharge satisfies it."""
    with pytest.raises(UnknownCaveatError):
        ThirdPartyCaveat.read(raw)
    for make in (lambda: require_discharge(mint(), raw, CAVEAT_KEY), lambda: made(raw=raw)):
        with pytest.raises(UnknownCaveatError):
            make()


@pytest.mark.spec("6.4")
def test_a_third_party_without_a_reader_is_not_written() -> None:
    """What ``read`` refuses, ``encode`` does."""
    for wrong in (
        ThirdPartyCaveat(""),
        ThirdPartyCaveat("x", ()),
        ThirdPartyCaveat("x", ("a b",)),
        ThirdPartyCaveat("x" * 161),
    ):
        with pytest.raises(UnknownCaveatError):
            wrong.encode()


@pytest.mark.spec("6.4")
def test_a_third_party_binds_its_tools() -> None:
    """By the patterns of rules; without any, every call, even one that is no tool."""
    some = ThirdPartyCaveat("x", ("payments.refund", "orders.*"))
    assert [some.binds(tool) for tool in ("payments.refund", "orders.get", "payments.list", "orders", "")] == [
        *(True, True, False, False, False)
    ]
    assert ThirdPartyCaveat("x").binds("anything")
    assert ThirdPartyCaveat("x").binds("")


@pytest.mark.spec("6.5")
def test_a_third_party_is_the_same_bytes_each_time() -> None:
    """A mint that signs again gives the same token; under another signature, key or name another box."""
    first = require_discharge(mint(), RAW, CAVEAT_KEY, b"https://mint.example")
    assert require_discharge(mint(), RAW, CAVEAT_KEY, b"https://mint.example") == first
    [third] = [packet for packet in first.packets if isinstance(packet, wire.ThirdPartyPacket)]
    assert third[:2] == (b"https://mint.example", RAW)
    assert len(third.verification_id) == 72
    others = [
        require_discharge(mint(depth=3), RAW, CAVEAT_KEY),
        require_discharge(mint(), ThirdPartyCaveat("y").encode(), CAVEAT_KEY),
        require_discharge(mint(), RAW, KEY),
    ]
    nonces = {
        other.packets[-1][2][:24] for other in [first, *others] if isinstance(other.packets[-1], wire.ThirdPartyPacket)
    }
    assert len(nonces) == 4
    assert Macaroon.parse(first.encode()) == first
    assert third_party_caveats(first) == (WANTED,)
    assert third_party_caveats(mint()) == ()


@pytest.mark.spec("6.5")
@QUICK
@given(KEYS, KEYS, st.integers(0, 71), st.integers(1, 255))
def test_only_the_signature_before_opens_it(signature: bytes, key: bytes, at: int, flip: int) -> None:
    """Any changed byte, or another signature, and the decision has no facts."""
    sealed = discharge.seal(signature, key, RAW)
    assert discharge.unseal(signature, sealed) == key
    changed = bytearray(sealed)
    changed[at] ^= flip
    assert discharge.unseal(signature, bytes(changed)) is None
    assert discharge.unseal(chain.extend(signature, b""), sealed) is None
    assert discharge.unseal(signature, sealed[:-1]) is None
    assert discharge.unseal(signature, sealed + b"\0") is None


@pytest.mark.spec("6.5")
@QUICK
@given(KEYS, st.text(max_size=160))
def test_caveat_keys_are_hkdf(key: bytes, name: str) -> None:
    """As ``cryptography`` derives them."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = b"arx/1/discharge/" + name.encode()
    assert caveat_key(key, name) == HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)


@pytest.mark.spec("6.6")
@pytest.mark.parametrize(
    "wrong",
    [
        Caveat(to="acme/x", hop="BwcHBwcHBwcH"),
        Caveat(depth=0),
        Caveat(delegate_to=("acme/**",)),
        Caveat(require=("call",)),
        Caveat(call=("a", 1, "b")),
    ],
)
def test_a_discharge_says_nothing_of_holders(wrong: Caveat) -> None:
    """Every verifier would refuse it."""
    with pytest.raises(MalformedTokenError, match="a discharge says nothing of"):
        made(Caveat(exp=AT), wrong)


@pytest.mark.spec("6.6")
def test_a_discharge_is_a_macaroon_of_its_realm() -> None:
    """Its chain begins with the caveat key; what follows attenuates it, and it is read back from its text."""
    rules = Caveat(allow=(Rule(tool="payments.refund", args={"order_id": "A-77"}),), exp=AT + 1)
    found = made(rules)
    assert (found.location, found.identifier, found.packets) == (REALM, RAW, (rules.encode(),))
    assert found.parts()[1] == chain.fold(chain.derive(CAVEAT_KEY), RAW, [rules.encode()])
    assert made().attenuate(rules) == Macaroon.parse(found.encode()) == found
    assert "secret" not in repr(found)


@pytest.mark.spec("6.5")
@pytest.mark.parametrize("key", [b"", b"short", bytes(31), bytes(33)])
def test_a_caveat_key_has_32_bytes(key: bytes) -> None:
    """Another length is a programmer's mistake, and raises at once."""
    with pytest.raises(ValueError, match="32 bytes"):
        made(key=key)
    with pytest.raises(ValueError, match="32 bytes"):
        require_discharge(mint(), RAW, key)


@pytest.mark.spec("6.6")
def test_a_call_is_no_parent() -> None:
    """Neither does it bind a discharge nor does a third-party caveat follow it."""
    call = Macaroon.parse(sign(mint(), access()))
    with pytest.raises(AttenuationError, match="the task's token"):
        bind(made(), call)
    with pytest.raises(AttenuationError, match="the task's token"):
        require_discharge(call, RAW, CAVEAT_KEY)


@pytest.mark.spec("6.6")
def test_a_bound_discharge_is_of_one_token() -> None:
    """Only its signature changes; it is another for every token."""
    whole, attenuated = mint(), mint().attenuate(Caveat(exp=AT + 5))
    to_whole, to_attenuated = bind(made(), whole), bind(made(), attenuated)
    assert to_whole.packets == to_attenuated.packets == made().packets
    assert len({each.parts()[1] for each in (made(), to_whole, to_attenuated)}) == 3
    assert to_whole == bind(made(), whole)


def test_a_third_party_that_does_not_fit_is_reported() -> None:
    """Too many caveats, or too many characters."""
    token: Any = mint(*[Caveat(exp=AT + 1)] * 63, Caveat(allow=(Rule(tool="*"),)))
    with pytest.raises(AttenuationError, match="64 caveats"):
        require_discharge(token, RAW, CAVEAT_KEY)
    with pytest.raises(AttenuationError, match="7168 characters"):
        require_discharge(mint(), RAW, CAVEAT_KEY, b"x" * 7000)


@pytest.mark.spec("2.3")
def test_joined_as_far_as_a_verifier_takes() -> None:
    """Eight discharges, 7 168 characters."""
    token, each = mint().encode(), bind(made(), mint())
    assert join(token, []) == token
    assert join(token, [each, each]) == f"{token}~{each.encode()}~{each.encode()}"
    assert join(token, [each] * 8).count("~") == 8
    with pytest.raises(AttenuationError, match="at most 8 discharges, not 9"):
        join(token, [each] * 9)
    long = bind(made(*[Caveat(task="x" * 64)] * 20), mint())
    with pytest.raises(AttenuationError, match="the limit is 7168"):
        join(token, [long] * 4)
