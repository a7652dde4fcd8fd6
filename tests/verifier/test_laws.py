# SPDX-License-Identifier: Apache-2.0
"""The three laws of a token, as properties: attenuation never widens, nothing can be taken out, one form only."""

import contextlib
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import MalformedTokenError
from arx_verifier.request import AccessRequest
from arx_verifier.token import wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon
from tests.support import ANYTHING, AT, AUDIENCE, QUICK, access, code_of, mint, sign, verifier

SCALARS = st.sampled_from(["o-1", "o-2", "a/b", "a/b/c", "5", "5.5", 5, 6, 0, True, False, "10.0.0.1", "10.1.0.1"])
LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "equal": SCALARS | st.lists(SCALARS, max_size=3).map(tuple),
    "one_of": st.lists(SCALARS, min_size=1, max_size=3).map(tuple),
    "none_of": st.lists(SCALARS, min_size=1, max_size=3).map(tuple),
    "range": st.sampled_from([(0, 5), (5, 5), (6, 9), ("0.5", "5.5"), ("5", "6"), (-3, 0)]),
    "min": st.sampled_from([0, 5, "5", "5.5"]),
    "max": st.sampled_from([0, 5, "5", "5.5"]),
    "glob": st.sampled_from(["o-*", "*", "a/*", "*-1"]),
    "subpath": st.sampled_from(["a", "a/b", "a/b/c"]),
    "cidr": st.sampled_from(["10.0.0.0/8", "10.0.0.0/16", "11.0.0.0/8", "::/0"]),
    "min_length": st.integers(0, 6),
    "max_length": st.integers(0, 6),
    "contains": st.just(("o-1",)),
    "subset": st.just(("o-1", "o-2", 5)),
    "any": st.just(True),
    "each": SCALARS | st.lists(SCALARS, max_size=2).map(tuple) | st.just({"fields": {"id": 5}}),
    "fields": st.dictionaries(
        st.sampled_from(["id", "n"]), SCALARS | st.just({"max": 5, "optional": True}), max_size=2
    ),
    "not": SCALARS,
    "optional": st.just(True),
}


def constraint(members: dict[str, Any]) -> Constraint:
    """A constraint of these members."""
    return Constraint(**{"not_" if name == "not" else name: value for name, value in members.items()})


CONSTRAINTS = SCALARS | st.builds(
    lambda name, value_of, optional, opened: constraint(
        {name: value_of[name]}
        | ({"optional": True} if optional else {})
        | ({"open": True} if opened and name == "fields" else {})
    ),
    st.sampled_from([name for name in LEAVES if name != "optional"]),
    st.fixed_dictionaries(LEAVES),
    st.booleans(),
    st.booleans(),
)
PARTED = st.sampled_from([{}, {"id": 5}, {"id": 5, "n": 5.0}, {"n": 0}, [{"id": 5}], ["o-1"], [], [5, 5.0], 5.5])
RULES = st.builds(
    Rule,
    tool=st.sampled_from(["orders.get", "orders.put", "orders.*", "*", "files.read"]),
    args=st.none() | st.dictionaries(st.sampled_from(["id", "path", "n"]), CONSTRAINTS, max_size=2),
    open=st.booleans(),
)
CAVEATS = st.one_of(
    st.builds(Caveat, allow=st.lists(RULES, min_size=1, max_size=3).map(tuple)),
    st.builds(Caveat, exp=st.integers(AT - 2, AT + 2)),
    st.builds(Caveat, nbf=st.integers(AT - 2, AT + 2)),
    st.builds(Caveat, depth=st.integers(0, 3)),
    st.builds(Caveat, aud=st.sampled_from([(AUDIENCE,), ("billing",), (AUDIENCE, "billing")])),
    st.builds(Caveat, net=st.sampled_from([("192.0.2.0/24",), ("10.0.0.0/8", "2001:db8::/32")])),
    st.builds(Caveat, delegate_to=st.sampled_from([("acme/**",), ("acme/*",), ("**",), ("other",)])),
    st.builds(Caveat, task=st.sampled_from(["t-1", "t-2"])),
    st.builds(Caveat, fresh=st.sampled_from([0, 60_000])),
    st.builds(Caveat, require=st.just(("call",))),
    st.builds(
        Caveat,
        to=st.sampled_from(["acme/w", "acme", "other", "acme/a/b"]),
        hop=st.sampled_from(["BwcHBwcHBwcH", "CAgICAgICAgI"]),
        exp=st.none() | st.just(AT + 1),
    ),
)
CHAINS = st.lists(CAVEATS, max_size=4)
REQUESTS = st.builds(
    access,
    tool=st.sampled_from(["orders.get", "orders.put", "files.read", "x"]),
    args=st.dictionaries(st.sampled_from(["id", "path", "n", "m"]), SCALARS | PARTED, max_size=3),
    at=st.integers(AT - 2, AT + 2),
    peer=st.sampled_from(["192.0.2.7", "10.1.1.1", "2001:db8::1", None]),
)


def permits(token: Macaroon, request: AccessRequest) -> bool:
    """Whether a verifier allows it, bare or signed: a required call is always given."""
    return code_of(sign(token, request), request) == "ok"


@pytest.mark.spec("6.1")
@QUICK
@given(st.lists(RULES, min_size=1, max_size=3), CHAINS, CHAINS, REQUESTS)
def test_attenuation_never_widens(
    granted: list[Rule], held: list[Caveat], added: list[Caveat], asked: AccessRequest
) -> None:
    """First law: what an attenuated token permits, the token it was made of permits too, whatever was added."""
    wider = mint(Caveat(allow=tuple(granted)), *held)
    attenuated = wider.attenuate(*added)
    if permits(attenuated, asked):
        assert permits(wider, asked)
    if code_of(attenuated.encode(), asked) == "ok":
        assert code_of(wider.encode(), asked) == "ok", "a bare token is no wider than a signed one"


@pytest.mark.spec("5.2", "6.1")
@QUICK
@given(CHAINS, REQUESTS, st.sampled_from(["acme/w", "acme", "other"]), st.none() | CAVEATS)
def test_delegate_never_widens(held: list[Caveat], asked: AccessRequest, to: str, taken: Caveat | None) -> None:
    """First law, for delegations: the receiver of a token can do no more than its delegator."""
    wider = mint(ANYTHING, *held)
    if permits(wider.delegate(to, taken), asked):
        assert permits(wider, asked)


@pytest.mark.spec("6.1")
@QUICK
@given(st.lists(RULES, min_size=2, max_size=4), REQUESTS)
def test_a_chain_permits_what_each_of_its_rules_permits(rules: list[Rule], asked: AccessRequest) -> None:
    """First law, exactly: caveats are a conjunction, however a verifier puts their rules together."""
    alone = [permits(mint(Caveat(allow=(rule,))), asked) for rule in rules]
    assert permits(mint(*(Caveat(allow=(rule,)) for rule in rules)), asked) == all(alone)


@pytest.mark.spec("6.1")
@QUICK
@given(st.lists(CONSTRAINTS, min_size=2, max_size=4), SCALARS | st.none() | PARTED)
def test_constraints_of_one_argument_are_a_conjunction(constraints: list[Any], value: Any) -> None:
    """The same for one argument that every hop constrains, where putting together does the most."""
    rules = [Rule(tool="*", args={"x": each}) for each in constraints]
    asked = access(args={"x": value})
    alone = [permits(mint(Caveat(allow=(rule,))), asked) for rule in rules]
    assert permits(mint(*(Caveat(allow=(rule,)) for rule in rules)), asked) == all(alone)


@pytest.mark.spec("6.1")
@QUICK
@given(CHAINS, REQUESTS)
def test_the_order_of_restrictions_of_a_request_does_not_matter(held: list[Caveat], asked: AccessRequest) -> None:
    """Restrictions of the request alone hold in any order; only delegations and what binds them have one."""
    plain = [caveat for caveat in held if caveat.to is None and caveat.delegate_to is None and caveat.depth is None][:3]
    outcomes = {permits(mint(ANYTHING, *order), asked) for order in permutations(plain)}
    assert len(outcomes) == 1


def spliced(token: Macaroon, packets: list[Any]) -> str:
    """The token with other caveats under its own signature."""
    parts = wire.decode(token.to_bytes())
    return wire.TOKEN_PREFIX + wire.text_of(wire.encode(parts._replace(caveats=tuple(packets))))


@pytest.mark.spec("5.1")
@QUICK
@given(st.lists(CAVEATS, min_size=1, max_size=4), st.data())
def test_nothing_is_removed_reordered_doubled_or_altered(held: list[Caveat], data: st.DataObject) -> None:
    """Second law: any other sequence of caveats under the same signature is refused as ``bad_signature``."""
    token = mint(ANYTHING, *held)
    packets = list(token.packets)
    how = data.draw(st.sampled_from(["remove", "reorder", "double", "splice", "alter", "cut", "empty"]))
    at = data.draw(st.integers(0, len(packets) - 1))
    if how == "remove":
        other = packets[:at] + packets[at + 1 :]
    elif how == "reorder":
        other = data.draw(st.permutations(packets))
    elif how == "double":
        other = [*packets[: at + 1], packets[at], *packets[at + 1 :]]
    elif how == "splice":
        other = [*packets[:at], data.draw(CAVEATS).encode(), *packets[at:]]
    elif how == "alter":
        other = [*packets[:at], data.draw(CAVEATS).encode(), *packets[at + 1 :]]
    else:
        other = packets[:at] if how == "cut" else []
    if other != packets:
        assert code_of(spliced(token, other)) == "bad_signature"


@pytest.mark.spec("5.1")
@QUICK
@given(CHAINS, st.data())
def test_no_bit_can_be_flipped(held: list[Caveat], data: st.DataObject) -> None:
    """Second law, byte by byte: a flipped bit anywhere is refused before anything is believed."""
    raw = bytearray(mint(ANYTHING, *held).to_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    code = code_of(wire.TOKEN_PREFIX + wire.text_of(bytes(raw)))
    assert code in ("malformed", "bad_signature", "unknown_key", "wrong_audience")


@pytest.mark.spec("5.1")
@QUICK
@given(CHAINS, CHAINS)
def test_chains_cannot_be_crossed(mine: list[Caveat], theirs: list[Caveat]) -> None:
    """Second law, for two tokens: no signature of one is good for the caveats of the other."""
    first, second = mint(ANYTHING, *mine), mint(ANYTHING, *theirs)
    if first.packets != second.packets:
        assert code_of(spliced(first, list(second.packets))) == "bad_signature"
        assert code_of(spliced(second, list(first.packets))) == "bad_signature"


@pytest.mark.spec("2.1", "2.2")
@QUICK
@given(CHAINS)
def test_bytes_and_text_have_one_form(held: list[Caveat]) -> None:
    """Third law: encode and parse are inverse, for every token there is."""
    token = mint(ANYTHING, *held)
    text = token.encode()
    assert Macaroon.parse(text).encode() == text
    assert Macaroon.from_bytes(token.to_bytes()).to_bytes() == token.to_bytes()
    assert wire.encode(wire.decode(token.to_bytes())) == token.to_bytes()


@pytest.mark.spec("2.2")
@QUICK
@given(CHAINS, st.data())
def test_every_other_text_is_another_token_or_none(held: list[Caveat], data: st.DataObject) -> None:
    """Third law, the other way: a text that differs is refused by the reader or reads as another token."""
    token = mint(ANYTHING, *held)
    text = token.encode()
    at = data.draw(st.integers(0, len(text)))
    junk = data.draw(st.text(st.sampled_from("AQgw-_+/=~ \n"), max_size=3))
    other = text[:at] + junk + text[at + data.draw(st.integers(0, 3)) :]
    if other != text:
        with contextlib.suppress(MalformedTokenError):
            assert Macaroon.parse(other) != token
        assert verifier().decide(other, access()).code != "ok"
