# SPDX-License-Identifier: Apache-2.0
"""The compiled walk over a chain says what the Python one says; and an ordinary call is decided by the twins alone."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import codec, compiled, spool
from arx_verifier.caveats import Caveat
from arx_verifier.discharge import Requirement, require_discharge
from arx_verifier.keys import KeyRing
from arx_verifier.macaroon import Macaroon
from arx_verifier.proven import ProvenChain
from benchmarks import world
from tests.support import ANYTHING, AT, AUDIENCE, KEY, QUICK, REALM, identifier, mint

PATHS = st.sampled_from(["acme/a", "acme/a/b"])
ORDINARY: dict[str, list[Any]] = {
    "allow": [None, None, ANYTHING.allow],
    "aud": [None, None, (AUDIENCE,), ("x", AUDIENCE)],
    "depth": [None, None, 3, 9],
    "exp": [None, None, AT, AT + 1, 2**53 - 1],
    "hand_to": [None, None, ("acme/**",), ("x", "acme/a", "acme/a/b")],
    "require": [None, None, ("call",), ("call", "call")],
    "task": [None, None, "t-sub", "t.2"],
}
ODD: dict[str, list[Any]] = {
    "aud": [("x",)],
    "depth": [0],
    "fresh": [None, None, 5],
    "hand_to": [("other/*",)],
    "nbf": [None, None, AT - 5],
    "net": [None, None, ("10.0.0.0/8",)],
    "once": [None, None, None, ("a-1", AT)],
    "require": [("holder",), ("sig",)],
    "task": ["t-\u00e9"],
}


def caveats(*, odd: bool) -> st.SearchStrategy[Caveat]:
    """Caveats with some of their members."""
    names = [*ORDINARY, *ODD] if odd else [*ORDINARY]
    members = {name: ORDINARY.get(name, []) + (ODD.get(name, []) if odd else []) for name in names}
    return st.builds(Caveat, **{name: st.sampled_from(values) for name, values in members.items()})


ODD_PACKETS = st.sampled_from(
    [
        b"",
        b"{}",
        b'{"hop":"AAAAAAAAAAAA"}',
        b'{"hop":"AAAA',
        b'{"hop":"AAAAAAAAAAA=","to":"acme/a"}',
        b'{"hop":"AAAAAAAAAAAAA","to":"acme/a"}',
        b'{"new":1}',
        b'{"call":["",1,""]}',
        codec.ThirdParty(None, b"a", b"b"),
        codec.ThirdParty(None, b'{"id":"a","tools":["b","c"]}', b"b"),
    ]
)
HOPS = st.binary(min_size=9, max_size=9)
STEPS = st.booleans().flatmap(
    lambda odd: st.lists(
        (caveats(odd=odd) | st.tuples(PATHS, st.none() | caveats(odd=odd), HOPS))
        | (ODD_PACKETS if odd else st.nothing()),
        max_size=4,
    )
)
WHO: dict[str, st.SearchStrategy[Any]] = {
    "agent": PATHS,
    "depth": st.integers(0, 6) | st.just(6),
    "meta": st.sampled_from([None, ("1",), ("", "ops", "x")]),
    "model": st.sampled_from([None, "m-1"]),
    "policy": st.sampled_from([None, "p" * 22]),
    "subject": st.sampled_from([None, ("https://idp.example", "\u00e9")]),
}
RING = KeyRing({"k1.0": KEY}, realm=REALM)


def proven(who: dict[str, Any], packets: tuple[Any, ...], read: Callable[..., Any]) -> dict[str, Any]:
    """All that a chain says after its caveats were read, and of which types it is."""
    key = RING.get("k1.0")
    assert key is not None
    made = ProvenChain(key, identifier(**who), bytes(32), b"")
    read(made, packets, AUDIENCE)
    said = {name: getattr(made, name, "not there") for name in ProvenChain.__slots__}
    said["_allows"] = [(allow.weight, [rule.tool for rule in allow.rules]) for allow in made._allows]
    return said | {"types": [type(one) for one in said.values()]}


def of(steps: list[Any], *, allows: bool) -> tuple[Macaroon, tuple[Any, ...]]:
    """The token that these steps make, and packets that no holder of ours would write."""
    token, packets = mint() if allows else Macaroon.mint(identifier(), key=KEY, realm=REALM), []
    for step in steps:
        if isinstance(step, Caveat):
            token = token.attenuate(step) if step != Caveat() else token
        elif isinstance(step, tuple) and not isinstance(step, codec.ThirdParty):
            token = token.hand_over(step[0], step[1], hop=step[2])
        else:
            packets.append(step)
    return token, tuple(packets)


@QUICK
@given(st.fixed_dictionaries(WHO), st.sampled_from([True, True, True, False]), STEPS)
def test_chains(who: dict[str, Any], allows: bool, steps: list[Any]) -> None:
    """A chain says the same of itself, whatever its caveats are: known words, new ones, and what no verifier takes."""
    token, odd = of(steps, allows=allows)
    for packets in (token.packets, (*token.packets, *odd), (*odd, *token.packets)):
        meant = proven(who, packets, compiled.REFERENCES["read_caveats"])
        assert proven(who, packets, ProvenChain.read_caveats) == meant


@pytest.mark.skipif(not compiled.COMPILED, reason="without the compiled build all are references")
def test_an_ordinary_call_needs_no_reference(tmp_path: Path) -> None:
    """Once its words are known, a call is decided by the twins alone, at first sight and when its parent was seen."""
    texts = list(world.calls(world.handed(3), count=4))
    plain, journal = world.open_token().encode(), spool.Journal(tmp_path, "v1", "orders")
    made = [world.verifier(tmp_path, decisions=journal, cache_bytes=size) for size in (0, 1 << 20)]
    wanted = Requirement("approval-1", ("orders.close",)).encode()
    demanding = list(world.calls(require_discharge(world.handed(3), wanted, KEY), count=2))
    assert {made[1].decide(text, world.REQUEST).code for text in (*texts[:2], plain, plain, demanding[0])} == {"ok"}

    def never(*_: Any) -> Any:
        raise AssertionError("the reference was asked")

    try:
        for name in compiled.REFERENCES:
            compiled._TWINS.refer(name, never)
        for checked, text in itertools.product(made, (texts[2], plain)):
            assert checked.decide(text, world.REQUEST).code == "ok"
        assert made[1].decide(texts[3], world.REQUEST).code == "ok"
        assert made[0].decide(demanding[1], world.REQUEST).code == "ok"
        narrowed = Macaroon.parse(plain).hand_over("acme/b", Caveat(exp=AT)).encode()
    finally:
        for name, reference in compiled.REFERENCES.items():
            compiled._TWINS.refer(name, reference)
    journal.close()
    assert Macaroon.parse(narrowed).packets[:-1] == Macaroon.parse(plain).packets
