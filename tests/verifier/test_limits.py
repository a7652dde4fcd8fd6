# SPDX-License-Identifier: Apache-2.0
"""Every limit of SPEC 14 at its edge: the last that is allowed and the first that is not."""

from collections.abc import Callable
from typing import Any

import pytest

from arx_verifier.constraints.constraint import Constraint, Url
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import ArxError
from arx_verifier.token import chain, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Identifier, Macaroon
from arx_verifier.verification.nonces import MemoryNonces
from tests.support import ANYTHING, AT, KEY, REALM, access, code_of, forge_caveats, identifier, mint, sign, unchecked

pytestmark = pytest.mark.spec("14")

HOP = "BwcHBwcHBwcH"
DAY = 86_400_000


def of_size(chars: int) -> str:
    """A good token of exactly this many characters."""

    def filled(count: int) -> str:
        rules = [Rule(tool="*", args={"x": Constraint(equal="y" * n, optional=True)}) for n in (3000, count)]
        return mint(ANYTHING, *(Caveat(allow=(rule,)) for rule in rules)).encode()

    guess = (chars - len(filled(0))) * 3 // 4
    return next(text for count in range(guess - 8, guess + 8) if len(text := filled(count)) == chars)


def after(*caveats: Caveat) -> str:
    """A token that allows anything, and then these caveats."""
    return mint(ANYTHING, *caveats).encode()


def raw(member: str, value: str) -> str:
    """A signed token with a caveat of this text."""
    return forge_caveats(f'{{"{member}":{value}}}'.encode())


EDGES: dict[str, tuple[str, str, str]] = {
    # what: the last that is allowed, the first that is not, and its code
    "caveats": (after(*[Caveat(exp=AT + 9)] * 63), forge_caveats(*[b'{"exp":1800000000009}'] * 64), "malformed"),
    "depth of a caveat": (raw("depth", "16"), raw("depth", "17"), "malformed"),
    "depth of an identifier": (mint(depth=16).encode(), mint(depth=17).encode(), "malformed"),
    "fresh": (raw("fresh", "60000"), raw("fresh", "60001"), "malformed"),
    "integers": (raw("exp", str(2**53 - 1)), raw("exp", str(2**53)), "malformed"),
    "a task's name": (raw("task", f'"{"t" * 64}"'), raw("task", f'"{"t" * 65}"'), "malformed"),
    "a short task's name": (raw("task", '"t"'), raw("task", '""'), "malformed"),
    "an audience's name": (raw("aud", f'["orders","{"a" * 64}"]'), raw("aud", f'["orders","{"a" * 65}"]'), "malformed"),
    "a short audience's name": (raw("aud", '["orders","a"]'), raw("aud", '["orders",""]'), "malformed"),
    "a path's segments": (
        after(Caveat(to="a/b/c/d/e/f/g/h", hop=HOP)),
        after(unchecked(Caveat, to="a/b/c/d/e/f/g/h/i", hop=HOP)),
        "malformed",
    ),
    "a path's bytes": (
        after(Caveat(to="a" * 64, hop=HOP)),
        after(unchecked(Caveat, to="a" * 65, hop=HOP)),
        "malformed",
    ),
    "a pattern's bytes": (raw("delegate_to", f'["{"a" * 64}"]'), raw("delegate_to", f'["{"a" * 65}"]'), "malformed"),
    "a tool's name": (
        after(Caveat(allow=(Rule(tool="t" * 96), Rule(tool="*")))),
        after(unchecked(Caveat, allow=(unchecked(Rule, tool="t" * 97), Rule(tool="*")))),
        "malformed",
    ),
    "a token's life": (mint(iat=AT, exp=AT + DAY).encode(), mint(iat=AT, exp=AT + DAY + 1).encode(), "malformed"),
    "a token's shortest life": (mint(iat=AT, exp=AT + 1).encode(), mint(iat=AT + 1, exp=AT + 1).encode(), "malformed"),
    "a subject": (
        mint(subject=("i" * 512, "s" * 512)).encode(),
        mint(subject=("i" * 512, "s" * 513)).encode(),
        "malformed",
    ),
    "an issuer": (mint(subject=("i" * 512, "")).encode(), mint(subject=("i" * 513, "")).encode(), "malformed"),
    "a session's name": (mint(session="s" * 64).encode(), mint(session="s" * 65).encode(), "malformed"),
    "a policy's digest": (mint(policy="p" * 64).encode(), mint(policy="p" * 65).encode(), "malformed"),
    "iat ahead": (
        mint(iat=AT + 60_000).encode(),
        mint(iat=AT + 60_001).encode(),
        "not_yet_valid",
    ),
    "a decimal": (
        after(Caveat(allow=(Rule(tool="*", args={"x": Constraint(max="1" * 32, optional=True)}),))),
        after(
            unchecked(
                Caveat,
                allow=(unchecked(Rule, tool="*", args={"x": unchecked(Constraint, max="1" * 33, optional=True)}),),
            )
        ),
        "malformed",
    ),
    "nbf from the beginning": (raw("nbf", "0"), raw("nbf", "-1"), "malformed"),
}


@pytest.mark.parametrize("what", EDGES)
def test_a_limit_is_where_spec_says(what: str) -> None:
    """One less or one more decides."""
    last, first, code = EDGES[what]
    assert code_of(last) == "ok"
    assert code_of(first) == code


def test_a_credential_has_7168_characters_at_most() -> None:
    """To the character; more is refused before it is decoded."""
    assert len(of_size(7168)) == 7168
    assert code_of(of_size(7168)) == "ok"
    parts = wire.decode(wire.split_text(of_size(7168)))
    longer = wire.TOKEN_PREFIX + wire.text_of(wire.encode(parts._replace(caveats=(*parts.caveats, b"x"))))
    assert len(longer) > 7168
    assert code_of(longer) == "malformed"
    with pytest.raises(ArxError, match="more than 7168"):
        wire.split_text("arx1_" + "A" * 7164)


def test_a_holder_may_fill_the_credential() -> None:
    """What ``attenuate`` lets through a verifier reads, up to the last character that can be."""
    assert code_of(Macaroon.parse(of_size(7100)).attenuate(Caveat(exp=AT + 9)).encode()) == "ok"


def test_a_packet_of_16384_bytes_has_no_length() -> None:
    """Two length bytes end at 16 383; a third, or one that means more, is refused."""
    data = b"x" * 16_384
    for length in (b"\x80\x80\x01", b"\x80\x80"):
        body = b"\x02\x02" + length + data + b"\0"
        with pytest.raises(ArxError):
            wire.decode(body + wire.TAIL + bytes(32))


@pytest.mark.spec("8.3")
def test_call_times_at_their_edges() -> None:
    """A store refuses what was signed before it began, and takes what was signed in that very millisecond."""
    token = sign(mint(), access())
    assert code_of(token, nonces=MemoryNonces(now_ms=AT)) == "ok"
    assert code_of(token, nonces=MemoryNonces(now_ms=AT + 1)) == "proof_invalid"


@pytest.mark.spec("4.2")
def test_the_realms_own_maximum_counts() -> None:
    """A realm can say less than a day, and then that is its limit."""
    ring = KeyRing({"k1.0": KEY}, realm=REALM, max_ttl_ms=1000)
    assert code_of(mint(iat=AT, exp=AT + 1000).encode(), keys=ring) == "ok"
    assert code_of(mint(iat=AT, exp=AT + 1001).encode(), keys=ring) == "malformed"


@pytest.mark.spec("7.4")
def test_work_is_free_up_to_32_tests() -> None:
    """32 tests take an argument of any size; 33 are counted, against 2^24."""

    def token(tests: int) -> str:
        either = tuple(Constraint(max_length=2**40 + n) for n in range(tests - 2))
        rule = Rule(tool="*", args={"x": Constraint(any_of=either)})  # the rule and ``any_of`` count one each
        return mint(Caveat(allow=(rule,))).encode()

    big = access(args={"x": "y" * 600_000})
    assert code_of(token(32), big) == "ok"
    assert code_of(token(33), big) == "argument_not_allowed"
    assert code_of(token(33), access(args={"x": "y" * 500_000})) == "ok"


@pytest.mark.parametrize(
    ("constraint", "last", "first"),
    [
        (Constraint(subset=(1,)), [1] * 65_536, [1] * 65_537),
        (Constraint(contains=(1,)), [1] * 65_536, [1] * 65_537),
        (
            Constraint(url=Url(scheme="https", host="a.example")),
            "https://a.example/".ljust(8192, "p"),
            "https://a.example/".ljust(8193, "p"),
        ),
    ],
)
def test_what_one_test_looks_at_is_bounded(constraint: Constraint, last: Any, first: Any) -> None:
    """Longer lists and URLs hold for no such member, nor for its opposite."""
    token = mint(Caveat(allow=(Rule(tool="*", args={"x": constraint}),))).encode()
    assert code_of(token, access(args={"x": last})) == "ok"
    assert code_of(token, access(args={"x": first})) == "argument_not_allowed"
    opposite = Constraint(not_=constraint)
    token = mint(Caveat(allow=(Rule(tool="*", args={"x": opposite}),))).encode()
    assert code_of(token, access(args={"x": first})) == "argument_not_allowed"


SHAPES: list[Callable[[], Any]] = [
    lambda: identifier(),
    lambda: identifier(subject=("a", "b"), model="m"),
]


@pytest.mark.parametrize("make", SHAPES)
def test_what_the_mint_writes_is_within_every_limit(make: Callable[[], Identifier]) -> None:
    """Ordinary tokens are far below: a quarter of a credential at most."""
    token = Macaroon.mint(make(), key=KEY, realm=REALM, caveats=(ANYTHING,))
    assert len(token.encode()) < wire.MAX_CREDENTIAL_CHARS // 4


def test_links_and_hops_have_their_width() -> None:
    """A hop of 9 bytes fills 12 characters, an id of 16 fills 22 with two bits to spare, which must be zero."""
    for hop, code in ((HOP, "ok"), (HOP[:-1], "malformed"), (HOP + "A", "malformed"), (HOP[:-1] + "=", "malformed")):
        assert code_of(raw("hop", f'"{hop}","to":"acme/w"')) == code
    assert code_of(mint(id="A" * 22).encode()) == "ok"
    for wrong in ("A" * 21, "A" * 23, "A" * 21 + "B"):
        assert code_of(mint(id=wrong).encode()) == "malformed"
    assert [len(name) for name in chain.links_of("A" * 22, (HOP.encode(),))] == [22]
