# SPDX-License-Identifier: Apache-2.0
"""Whatever a stranger sends, the library raises its own errors and ``decide`` raises none."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import jcs
from arx_verifier.constraints.constraint import Constraint, read_constraint
from arx_verifier.constraints.rule import Rule, read_rule
from arx_verifier.errors import ArxError
from arx_verifier.request import AccessRequest, HttpCall, read_json_object
from arx_verifier.token import call_proof, wire
from arx_verifier.token.caveats import Caveat, canonical_hop, read_caveat, read_network
from arx_verifier.token.macaroon import Macaroon, read_identifier
from tests.support import ANYTHING, AT, QUICK, access, forge, forge_caveats, http_call, mint, sign, verifier

TOKEN = mint(ANYTHING, Caveat(exp=AT + 5000), Caveat(to="acme/w", hop="BwcHBwcHBwcH"))
TEXT = TOKEN.encode()
RAW = TOKEN.to_bytes()
PARTS = wire.decode(RAW)

# What is wrong: the bytes or texts that have it.
TEXTS: dict[str, list[str]] = {
    "truncated": [TEXT[:n] for n in range(0, len(TEXT), 11)],
    "oversized": [TEXT + "A" * 8000, "arx1_" + "A" * 10**6, "\u00e9" * 10**5, TEXT * 400],
    "not canonical": [TEXT + "=", TEXT + "\n", " " + TEXT, TEXT.replace("arx1_", "arx1_ "), TEXT.upper()],
    "unknown": [
        "arx3_" + TEXT[5:],
        "Bearer " + TEXT,
        "eyJhbGciOiJub25lIn0.e30.",
        "null",
        "{}",
        "\0",
        "\ud800",
        "~",
        "~~",
    ],
    "twice": [TEXT + TEXT, TEXT + "~" + TEXT, TEXT + TEXT[5:]],
}
BYTES: dict[str, list[bytes]] = {
    "truncated": [RAW[:n] for n in range(0, len(RAW), 7)],
    "extended": [RAW + b"\0", b"\0" + RAW, RAW + RAW, RAW + b"\2\1a\0"],
    "reordered": [wire.encode(PARTS._replace(caveats=PARTS.caveats[::-1]))],
    "duplicated": [wire.encode(PARTS._replace(caveats=PARTS.caveats * 2))],
    "emptied": [wire.encode(PARTS._replace(caveats=())), wire.encode(PARTS._replace(identifier=b""))],
    "unknown fields": [RAW.replace(b"\x02\x8b", b"\x09\x8b"), b"\xff" * 200, bytes(200), bytes(range(256))],
    "huge lengths": [b"\x02\x01\xff\xff\xff\xff\x0f", b"\x02\x02\xff\x7f", b"\x02\x02\x80\x80\x80\x80\x80\x80"],
    "many caveats": [b"\x02\x02\x01i\x00" + b"\x02\x01c\x00" * n + RAW[-35:] for n in (64, 65, 1000)],
}
JSON: dict[str, list[bytes]] = {
    "no JSON": [
        b"",
        b"{",
        b"}",
        b"nul",
        b"'a'",
        b"{'a':1}",
        b"{}{}",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"exp":1}\0',
        b"1e999",
    ],
    "wrong type": [b"[]", b"1", b"null", b'"x"', b"true", b"1.5", b'{"exp":[]}', b'{"allow":5}', b'{"allow":[[]]}'],
    "deep": [b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'{"allow":' + b"[" * 9000 + b"]" * 9000 + b"}"],
    "large numbers": [b'{"exp":' + b"9" * n + b"}" for n in (16, 17, 400, 9000)] + [b'{"exp":1e400}'],
    "surrogates": [b'{"task":"\\ud800"}', b'{"\\udfff":1}', b'{"task":"\xed\xa0\x80"}'],
    "twice": [b'{"exp":1,"exp":1}', b'{"allow":[{"tool":"a","tool":"a"}]}'],
}


def answers_only(call: Callable[[Any], object], *given: Any) -> None:
    """Call; an error of ARx is an answer too, any other fails the test."""
    with contextlib.suppress(ArxError):
        call(*given)


@pytest.mark.spec("2.2")
@pytest.mark.parametrize("kind", TEXTS)
def test_bad_texts_are_refused_and_never_raise(kind: str) -> None:
    """A verifier refuses every text, and the parser raises an ``ArxError``."""
    checked = verifier()
    for text in TEXTS[kind]:
        assert checked.decide(text, access()).code != "ok"
        for read in (
            Macaroon.parse,
            wire.split_text,
            wire.bytes_of,
            call_proof.split_call,
            canonical_hop,
            read_network,
        ):
            answers_only(read, text)


@pytest.mark.spec("2.1")
@pytest.mark.parametrize("kind", BYTES)
def test_bad_bytes_are_refused_and_never_raise(kind: str) -> None:
    """A verifier refuses every byte string, and the decoder raises an ``ArxError``."""
    checked = verifier()
    for raw in BYTES[kind]:
        assert checked.decide(wire.TOKEN_PREFIX + wire.text_of(raw), access()).code != "ok"
        for read in (Macaroon.from_bytes, wire.decode, wire.walk, read_identifier, read_caveat, read_json_object):
            answers_only(read, raw)


@pytest.mark.spec("3.1")
@pytest.mark.parametrize("kind", JSON)
def test_bad_json_is_refused_even_when_signed(kind: str) -> None:
    """As caveat or identifier of a token with a right signature, or read alone: refused."""
    checked = verifier()
    for raw in JSON[kind]:
        for read in (read_identifier, read_caveat):
            with pytest.raises(ArxError):
                read(raw)
        answers_only(read_json_object, raw)
        if len(raw) < 4000:
            assert checked.decide(forge_caveats(raw), access()).code in ("malformed", "unknown_caveat")
            assert checked.decide(forge(raw, (ANYTHING.encode(),)), access()).code == "malformed"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
ATTENUATE = mint(
    Caveat(
        allow=(
            Rule(
                tool="*",
                args={"x": Constraint(one_of=("a", 1, True), not_=2), "y": Constraint(glob="a*", max_length=3)},
            ),
            Rule(tool="orders.*", args={"x": Constraint(range=("0", "9"), subset=("a",))}),
        )
    )
)
REQUESTS = st.builds(
    AccessRequest,
    tool=st.text(max_size=12) | st.sampled_from(["orders.get", "x" * 10_000]),
    args=st.dictionaries(st.text(max_size=3) | st.sampled_from(["x", "y"]), VALUES, max_size=3),
    at=st.integers(0, 2**53 - 1) | st.just(AT),
    peer=st.none() | st.text(max_size=20) | st.just("::ffff:1.2.3.4"),
    http=st.none()
    | st.builds(HttpCall, st.text(max_size=5), st.binary(max_size=9) | st.text(max_size=9), st.binary(max_size=32)),
)


@QUICK
@given(REQUESTS)
def test_no_request_makes_decide_raise(request_: AccessRequest) -> None:
    """Tool, arguments, time, address and HTTP call can be anything of their types."""
    checked = verifier()
    assert checked.decide(mint().encode(), access()).code == "ok"
    for token in (
        mint().encode(),
        ATTENUATE.encode(),
        sign(mint(), access()),
        sign(ATTENUATE, access(http=http_call())),
        "junk",
    ):
        decision = checked.decide(token, request_)
        assert decision.code
        json.dumps(decision.to_dict())
        assert decision.pack()


RULES: list[Any] = [
    {},
    [],
    None,
    {"tool": 5},
    {"tool": "a", "args": []},
    {"tool": "a", "args": {"x": {"range": ["a", "b"]}}},
    {"tool": "a", "args": {"x": {"range": [1]}}},
    {"tool": "a", "args": {"x": {"one_of": [[]]}}},
    {"tool": "a", "args": {"x": {"one_of": [1.5]}}},
    {"tool": "a", "args": {"x": {"equal": 2**53}}},
    {"tool": "a", "args": {"x": {"min": float("nan")}}},
    {"tool": "a", "args": {"x": {"max": "1" * 33}}},
    {"tool": "a", "args": {"x": {"glob": 5}}},
    {"tool": "a", "args": {"x": {"url": "https://a.example"}}},
    {"tool": "a", "args": {"x": {"url": {"scheme": "https"}}}},
    {"tool": "a", "args": {"x": {"url": {"scheme": "https", "host": "a", "port": 0}}}},
    {"tool": "a", "args": {"x": {"cidr": "10.0.0.0/33"}}},
    {"tool": "a", "args": {"x": {"length": -1}}},
    {"tool": "a", "args": {"x": {"any_of": [{"any_of": [1]}]}}},
    {"tool": "a", "args": {"": 1}},
    {"tool": "a" * 97},
    {"tool": "a", "open": "yes"},
    {"tool": "a", "color": "red"},
]


@pytest.mark.spec("7.1")
@pytest.mark.parametrize("data", RULES, ids=repr)
def test_bad_rules_are_refused_where_they_are_read(data: Any) -> None:
    """A rule from a file or a caller's dict that breaks SPEC 7 raises an error of ARx."""
    with pytest.raises(ArxError):
        read_rule(data)


@pytest.mark.spec("7.1", "7.2")
@QUICK
@given(VALUES)
def test_any_data_is_a_rule_or_an_arx_error(data: Any) -> None:
    """Rules and constraints are read of anything without another error."""
    answers_only(read_rule, data)
    answers_only(read_rule, {"tool": "a", "args": {"x": data}})
    answers_only(read_constraint, data)


@QUICK
@given(VALUES)
def test_any_value_has_an_rfc_8785_form_or_is_a_request_error(data: Any) -> None:
    """The form that a call signs is written, or refused by the one error."""
    answers_only(jcs.jcs, data)
