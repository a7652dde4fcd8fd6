# SPDX-License-Identifier: Apache-2.0
"""Discharges that an attacker made up, changed or mixed: none passes, and a discharge can only restrict."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arx_verifier.constraints.rule import Rule
from arx_verifier.token import chain, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import bind, join, seal
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.token.wire import JOINT
from tests.support import (
    ANYTHING,
    AT,
    QUICK,
    access,
    aligned_parents,
    mint,
    sign,
    verifier,
)
from tests.verifier.discharges import (
    APPROVED,
    ATTENUATED,
    CALL,
    GOOD,
    RAW,
    RULE,
    TOKEN,
    answering,
    code,
    named,
    refund,
    requiring,
    sent,
)

pytestmark = pytest.mark.spec("6.7")


@pytest.mark.parametrize("parent", aligned_parents(), ids=lambda parent: str(len(parent.parts()[0]) % 3))
def test_no_flipped_bit_passes(parent: Macaroon) -> None:
    """Any bit of the presented text, at each alignment, and after its parent was met: refused, and not by a crash."""
    token = requiring(parent)
    text = sent(token, [requiring(answering(APPROVED), named("sub")), answering(raw=named("sub"))], nonce=b"n" * 16)
    assert code(text) == "ok"
    warm, plain = verifier(), access("orders.get")
    assert code(sign(token, plain), plain, warm) == "ok"
    for at in range(len(text)):
        for bit in range(7) if at % 5 == 0 else (at % 7,):
            flipped = text[:at] + chr(ord(text[at]) ^ 1 << bit) + text[at + 1 :]
            found = warm.decide(flipped, refund()).code
            assert found in ("malformed", "bad_signature", "unknown_key", "wrong_audience", "proof_invalid"), (
                at,
                bit,
                found,
            )


MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "allow": st.sampled_from([None, (RULE,), (Rule(tool="*"),), (Rule(tool="orders.get"),)]),
    "aud": st.sampled_from([None, None, ("orders",), ("billing",)]),
    "exp": st.sampled_from([None, None, AT, AT + 1, AT + 10**9]),
    "nbf": st.sampled_from([None, None, AT, AT + 1]),
    "net": st.sampled_from([None, None, ("192.0.2.0/24",), ("10.0.0.0/8",)]),
    "fresh": st.sampled_from([None, None, 60_000]),
    "task": st.sampled_from([None, "t.1", "t.2"]),
    "once": st.sampled_from([None, ("a", AT), ("b", AT - 1)]),
}
CAVEATS = st.lists(
    st.fixed_dictionaries(MEMBERS).filter(lambda members: any(members.values())).map(lambda members: Caveat(**members)),
    max_size=3,  # type: ignore[arg-type]
)


def _names(caveats: list[Caveat]) -> set[str]:
    return {caveat.once[0] for caveat in caveats if caveat.once is not None}


@pytest.mark.spec("6.6")
@QUICK
@given(CAVEATS, CAVEATS)
def test_a_discharge_only_attenuates(of_token: list[Caveat], of_discharge: list[Caveat]) -> None:
    """What a discharge says is decided as if the holder had written it into the token, which could only take away."""
    assume(not _names(of_token) & _names(of_discharge))  # there the same name twice, here two names
    base = mint(ANYTHING, *of_token)
    token = requiring(base)
    found = verifier().decide(sent(token, [answering(*of_discharge)]), refund())
    written = base.attenuate(*of_discharge) if of_discharge else base
    meant = verifier().decide(sign(written, refund()), refund())
    assert (found.code, found.facts.tasks) == (meant.code, meant.facts.tasks)
    if found.grant is not None:
        assert meant.grant is not None
        assert (found.grant.exp, found.grant._proven.targets) == (meant.grant.exp, meant.grant._proven.targets)
        assert verifier().decide(sign(base, refund()), refund()).code == "ok"
    assert verifier().decide(sign(token, refund()), refund()).code != "ok"


@QUICK
@given(st.permutations(range(4)), st.sets(st.integers(0, 3)), st.integers(0, 3))
def test_only_all_of_them_answer_all(order: list[int], given_: set[int], swapped: int) -> None:
    """Any order, but each that is required; one made for another caveat answers nothing."""
    token, request = mint(), access("orders.get")
    for number in range(4):
        token = requiring(token, named(f"d{number}"), bytes([number]) * 32)
    made = {number: answering(raw=named(f"d{number}"), key=bytes([number]) * 32) for number in range(4)}
    some = [made[number] for number in order if number in given_]
    assert code(sent(token, some, request), request) == ("ok" if len(given_) == 4 else "missing_discharge")
    made[swapped] = answering(raw=named(f"d{swapped}"), key=bytes([(swapped + 1) % 4]) * 32)
    assert code(sent(token, [made[number] for number in order], request), request) == "bad_signature"


def test_an_answer_does_not_make_a_third_party_known() -> None:
    """An unreadable requirement is refused, also where a party that knows it answered rightly."""
    raw, key = b"ask the boss", b"k" * 32
    body, signature = mint().parts()
    sealed = seal(signature, chain.derive(key), raw)
    token = Macaroon(
        body + wire.caveat_packet(wire.ThirdPartyPacket(None, raw, sealed)),
        chain.extend_third_party(signature, sealed, raw),
    )
    start = wire.encode(wire.Packets(b"acme", raw, (), chain.extend(chain.derive(key), raw)))
    made = Macaroon.from_bytes(start)
    for text in (token.encode(), join(token.encode(), [bind(made, token)])):
        decision = verifier().decide(text, access())
        assert (decision.code, decision.failures[0].place) == ("unknown_caveat", "caveat 2")
    assert code(join(token.encode(), [made])) == "bad_signature"


@pytest.mark.parametrize("sealed", [b"", bytes(71), bytes(72), bytes(73), b"v" * 200])
def test_an_unsealed_box(sealed: bytes) -> None:
    """Unanswered while no discharge is presented; then nothing opens it."""
    body, signature = mint().parts()
    third = wire.ThirdPartyPacket(None, RAW, sealed)
    token = Macaroon(body + wire.caveat_packet(third), chain.extend_third_party(signature, sealed, RAW))
    assert code(sign(token, refund())) == "missing_discharge"
    assert code(sent(token, [GOOD])) == "bad_signature"


BOUND = bind(GOOD, TOKEN)
PIECES = st.sampled_from(
    [
        *("", "~", "arx1_", "arxb1_AAAA", "\u00e9", "\ud800", "A" * 300, mint().encode(), TOKEN.encode(), CALL),
        *(GOOD.encode(), BOUND.encode(), BOUND.encode()[:-1], BOUND.encode() + "A", ATTENUATED.encode()),
        sign(bind(answering(Caveat(allow=(Rule(tool="*"),))), TOKEN), refund()),
    ]
)


@QUICK
@given(st.lists(PIECES, max_size=11), st.booleans())
def test_nothing_else_is_granted(pieces: list[str], met: bool) -> None:
    """Whatever is joined: a refusal and no crash, but for a token and its discharge, in this order and alone."""
    checked, plain = verifier(), access("orders.get")
    if met:
        assert code(sign(TOKEN, plain), plain, checked) == "ok"
        assert code(TOKEN.encode(), plain, checked) == "ok"
    text = JOINT.join(pieces)
    found = checked.decide(text, refund())
    good = text in [f"{token}~{BOUND.encode()}" for token in (TOKEN.encode(), CALL)]
    assert found.allowed == (good or text == mint().encode()), found.code
    screened = checked.screen(text)
    assert not isinstance(screened, str) or screened in ("malformed", "bad_signature")


def test_many_joints_are_malformed() -> None:
    """As many as a header holds, and one more."""
    for text in ("~" * 7168, "~" * 7169, CALL + "~" * 3000, CALL + ("~" + BOUND.encode()) * 30):
        assert code(text) == "malformed"
