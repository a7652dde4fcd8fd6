# SPDX-License-Identifier: Apache-2.0
"""A one-shot token is good for one call: its digest, its place, its width and its three alignments."""

import base64
import hashlib
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.errors import AttenuationError, RequestError
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.token import call_proof, chain, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon
from tests.support import (
    ANYTHING,
    AT,
    AUDIENCE,
    KEY,
    QUICK,
    access,
    aligned_parents,
    both_codes,
    code_of,
    http_call,
    mint,
    sign,
    verifier,
)

NONCE = bytes(range(16))


def length_prefixed(*fields: bytes) -> bytes:
    """Fields, each behind its length in four bytes."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


@pytest.mark.spec("8.2")
def test_the_digest_is_sha256_over_length_prefixed_fields() -> None:
    """An implementation that knows SPEC alone computes the same digest, for both kinds of call."""
    name = base64.urlsafe_b64encode(NONCE).rstrip(b"=")
    start = (b"arx/1/call", b"orders", str(AT).encode(), name)
    call = http_call("PUT", b"/orders/1?a=%20b", b"body")
    for request, fields in (
        (access(http=call), (b"http", b"PUT", b"/orders/1?a=%20b", hashlib.sha256(b"body").digest())),
        (access("orders.put", {"b": 1, "a": "x"}), (b"tool", b"orders.put", b'{"a":"x","b":1}')),
    ):
        expected = base64.urlsafe_b64encode(hashlib.sha256(length_prefixed(*start, *fields)).digest()).rstrip(b"=")
        caveat = Macaroon.parse(sign(mint(), request, nonce=NONCE)).packets[-1]
        assert caveat == b'{"call":["%b",%d,"%b"]}' % (expected, AT, name)


@QUICK
@given(st.binary(min_size=16, max_size=16), st.integers(10**12, 10**13 - 1), st.sampled_from([0, 1, 2]))
def test_a_signed_call_is_the_standard_attenuation(nonce: bytes, at: int, alignment: int) -> None:
    """Signing by text gives what appending the caveat gives: an ordinary macaroon in canonical text."""
    parent = aligned_parents()[alignment]
    text = sign(parent, access(at=at), nonce=nonce)
    one_shot = Macaroon.parse(text)
    assert one_shot.encode() == text
    caveat = one_shot.packets[-1]
    assert isinstance(caveat, bytes)
    assert call_proof.split_call(text) is not None
    assert parent.attenuate(Caveat(call=(caveat[10:53].decode(), at, wire.text_of(nonce)))) == one_shot


@pytest.mark.parametrize("alignment", [0, 1, 2])
def test_split_gives_the_parents_part_and_the_calls(alignment: int) -> None:
    """The head is the same for every call of one parent; head and rest are the parent's bytes."""
    parent = aligned_parents()[alignment]
    first, second = (call_proof.split_call(sign(parent, access(at=at))) for at in (AT, AT + 7))
    assert first is not None
    assert second is not None
    assert (first.head, first.rest) == (second.head, second.rest)
    assert len(first.rest) == alignment
    assert wire.split_text(first.head) + first.rest == parent.parts()[0]
    assert first.issued_at == AT
    assert second.issued_at == AT + 7
    assert first.signature != second.signature


@pytest.mark.spec("8.1")
@QUICK
@given(st.text(max_size=300) | st.text(st.sampled_from("arx1_-AB"), max_size=300))
def test_what_does_not_end_in_a_call_is_not_split(text: str) -> None:
    """Any text at all can be looked at; only a call comes of a call."""
    assert call_proof.split_call(text) is None
    assert call_proof.split_call("arx1_" + text) is None


def test_a_plain_token_is_not_split() -> None:
    """A task's token is read as a whole."""
    for parent in aligned_parents():
        assert call_proof.split_call(parent.encode()) is None


@pytest.mark.parametrize("alignment", [0, 1, 2])
def test_every_flipped_character_is_refused(alignment: int) -> None:
    """No character of a one-shot token can be changed, met before or not: at every place, at every alignment."""
    parent = aligned_parents()[alignment]
    request = access()
    token = sign(parent, request)
    cold, warm = verifier(), verifier()
    first = access(at=AT + 1)
    assert warm.decide(sign(parent, first), first).code == "ok"
    for at, was in enumerate(token):
        for now in ("A" if was != "A" else "B", "_" if was != "_" else "-", "=", chr(ord(was) ^ 1)):
            altered = token[:at] + now + token[at + 1 :]
            codes = cold.decide(altered, request).code, warm.decide(altered, request).code
            assert codes[0] == codes[1], (at, now)
            assert codes[0] in ("malformed", "bad_signature", "wrong_audience", "unknown_key"), (at, now)
    assert cold.decide(token, request).code == warm.decide(token, request).code == "ok"


@pytest.mark.parametrize("alignment", [0, 1, 2])
def test_lost_and_added_characters_are_refused(alignment: int) -> None:
    """A token that is longer or shorter by any character is refused, warm as cold."""
    parent = aligned_parents()[alignment]
    token = sign(parent, access())
    altered = [token[:at] + token[at + 1 :] for at in range(0, len(token), 7)]
    altered += [token[:at] + "A" + token[at:] for at in range(0, len(token) + 1, 7)]
    altered += [token[:-1], token[:-3], token[:-4], token + "A", token + "AAAA", token + token[5:], token * 2]
    for text in altered:
        cold, warm = both_codes(parent, text, access())
        assert cold == warm != "ok"


@pytest.mark.parametrize("alignment", [1, 2])
def test_the_parents_bytes_in_the_tail_are_compared(alignment: int) -> None:
    """The parent's last bytes stand outside the cache's key, and changing them is seen all the same."""
    parent = aligned_parents()[alignment]
    token = sign(parent, access())
    split = call_proof.split_call(token)
    assert split is not None
    tail = wire.bytes_of(token[len(split.head) :])
    for rest in (b"\xff\xff"[:alignment], b"\1\1"[:alignment], b"]\1"[-alignment:]):
        assert rest != split.rest
        altered = split.head + wire.text_of(rest + tail[alignment:])
        assert call_proof.split_call(altered) == msgspec.structs.replace(split, rest=rest)
        cold, warm = both_codes(parent, altered, access())
        assert cold == warm
        assert cold in ("malformed", "bad_signature")


CALL = http_call()


@pytest.mark.spec("8.2")
@pytest.mark.parametrize(
    "other",
    [
        CALL._replace(method="GET"),
        CALL._replace(method="post"),
        CALL._replace(target=b"/orders/2?full=yes"),
        CALL._replace(target=b"/orders/1?full=no"),
        CALL._replace(target=b"/orders/1"),
        CALL._replace(target=b"/orders/1?full=yes&"),
        CALL._replace(target=b"/orders%2f1?full=yes"),
        CALL._replace(target=b"/Orders/1?full=yes"),
        CALL._replace(body_digest=hashlib.sha256(b"{} ").digest()),
        CALL._replace(method="POS", target=b"T/orders/1?full=yes"),
        None,
    ],
)
def test_a_call_is_good_for_its_http_request_alone(other: HttpCall | None) -> None:
    """Another method, path, query, body or transport is another call."""
    parent = mint()
    token = sign(parent, access(http=CALL))
    assert both_codes(parent, token, access(http=CALL)) == ("ok", "ok")
    assert both_codes(parent, token, access(http=other)) == ("proof_invalid", "proof_invalid")


@pytest.mark.spec("8.2")
@pytest.mark.parametrize(
    "other",
    [
        access("orders.put", {"id": 1}),
        access("orders.get", {"id": "1"}),
        access("orders.get", {"id": True}),
        access("orders.get", {"id": 1, "more": None}),
        access("orders.get", {}),
        access("orders.get", {"id": 1}, http=CALL),
    ],
)
def test_a_call_is_good_for_its_tool_and_arguments_alone(other: AccessRequest) -> None:
    """Another tool or other arguments are another call; the order of the arguments is not."""
    parent = mint()
    token = sign(parent, access("orders.get", {"id": 1}))
    assert both_codes(parent, token, access("orders.get", {"id": 1})) == ("ok", "ok")
    assert both_codes(parent, token, other) == ("proof_invalid", "proof_invalid")
    both = sign(parent, access(args={"a": 1, "b": 2}))
    assert code_of(both, access(args={"b": 2, "a": 1})) == "ok"


@pytest.mark.spec("8.2")
def test_a_call_names_its_audience() -> None:
    """A call signed for another service is not for this one, though the token is."""
    request = access()
    assert code_of(sign(mint(), request, audience="billing"), request) == "proof_invalid"
    assert code_of(sign(mint(), request, audience=AUDIENCE), request) == "ok"


@pytest.mark.spec("8.3")
@pytest.mark.parametrize(
    ("age", "code"),
    [
        (0, "ok"),
        (10_000, "ok"),
        (10_001, "proof_invalid"),
        (-2_000, "ok"),
        (-2_001, "proof_invalid"),
        (10**9, "expired"),
    ],
)
def test_a_call_lives_for_ten_seconds(age: int, code: str) -> None:
    """At most 10 s old and 2 s ahead, to the millisecond."""
    parent = mint()
    token = sign(parent, access(at=AT))
    warm = verifier()
    assert warm.decide(sign(parent, access()), access()).code == "ok"
    later = access(at=AT + age)
    assert code_of(token, later) == warm.decide(token, later).code == code


@pytest.mark.spec("8.2")
@pytest.mark.parametrize(
    "args", [{"x": float("nan")}, {"x": 2**53}, {"x": "\ud800"}, {"\udfff": 1}, {"x": b"raw"}, {1: 2}]
)
def test_arguments_without_a_form_cannot_be_signed_or_checked(args: dict[str, Any]) -> None:
    """What has no RFC 8785 form is the request's fault, and never an error of another kind."""
    with pytest.raises(RequestError):
        call_proof.tool_fields("orders.get", args)
    token = sign(mint(), access())
    assert both_codes(mint(), token, access(args=args)) == ("malformed_request", "malformed_request")


@pytest.mark.parametrize("at", [0, -1, 10**12 - 1, 10**13, 1_800_000_000])
def test_times_that_are_not_milliseconds_are_refused_where_they_are_made(at: int) -> None:
    """A holder that signs in seconds gets an error."""
    with pytest.raises(ValueError, match="13 digits"):
        sign(mint(), access(at=at))


def raw_call(digest: str = "A" * 43, at: str = str(AT), nonce: str = "A" * 22) -> bytes:
    """A call caveat of this text."""
    return f'{{"call":["{digest}",{at},"{nonce}"]}}'.encode()


@pytest.mark.spec("8.1")
@pytest.mark.parametrize(
    "caveat",
    [
        raw_call(digest="A" * 42 + "B"),
        raw_call(digest="A" * 42 + "="),
        raw_call(digest="A" * 42 + "\\"),
        raw_call(digest="+" + "A" * 42),
        raw_call(nonce="A" * 21 + "B"),
        raw_call(nonce="A" * 21 + '"'),
        raw_call(nonce="+" + "A" * 21),
        raw_call(nonce='"' + "A" * 21),
        raw_call(at="0" + str(AT)[1:]),
        raw_call(at="+" + str(AT)[1:]),
        raw_call(at="1_00000000000"),
        raw_call(at=" 80000000000 "),
        raw_call(at="1e12        "[:13].ljust(13)),
    ],
)
def test_calls_of_the_right_width_have_one_spelling(caveat: bytes) -> None:
    """Digest, time and nonce are canonical, or the proven token is malformed."""
    assert len(caveat) == 95
    for parent in aligned_parents():
        body, signature = parent.parts()
        text = one_shot_text(body, signature, caveat)
        assert call_proof.split_call(text) is None
        assert both_codes(parent, text, access()) == ("malformed", "malformed")


def one_shot_text(body: bytes, signature: bytes, caveat: bytes) -> str:
    """A token that ends in this caveat, rightly signed."""
    raw = body + wire.packet(wire.IDENTIFIER, caveat) + b"\0" + wire.TAIL + chain.extend(signature, caveat)
    return wire.TOKEN_PREFIX + wire.text_of(raw)


@pytest.mark.spec("8.1")
@pytest.mark.parametrize(
    "caveat",
    [
        raw_call(at=str(AT) + "0"),
        raw_call(nonce="A" * 21),
        raw_call(digest="A" * 44),
        b'{"call":["' + b"A" * 43 + b'",1800000000000,"' + b"A" * 22 + b'"],"exp":1900000000000}',
        b'{"aud":["orders"],"call":["' + b"A" * 43 + b'",1800000000000,"' + b"A" * 22 + b'"]}',
    ],
)
def test_calls_of_another_shape_are_malformed(caveat: bytes) -> None:
    """A call stands alone in its caveat, in its fixed width."""
    body, signature = mint().parts()
    assert both_codes(mint(), one_shot_text(body, signature, caveat), access()) == ("malformed", "malformed")


@pytest.mark.spec("8.1")
def test_nothing_follows_a_call() -> None:
    """A caveat after a call, or a second call, is malformed, however well it is signed."""
    parent = mint()
    once = Macaroon.parse(sign(parent, access()))
    body, signature = once.parts()
    for more in (b'{"exp":1900000000000}', once.packets[-1], ANYTHING.encode()):
        assert isinstance(more, bytes)
        assert both_codes(parent, one_shot_text(body, signature, more), access()) == ("malformed", "malformed")


def test_a_signer_is_silent_and_is_not_pickled() -> None:
    """What signs calls holds the task's signature, and shows none of it."""
    signer = call_proof.CallSigner(mint(), AUDIENCE)
    assert repr(signer) == "<CallSigner>"
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(signer)


def test_a_token_too_large_for_a_call_is_refused_when_signing_starts() -> None:
    """A holder learns at once that a token leaves no room for a call."""
    token = mint()
    for _ in range(63):
        token = token.attenuate(Caveat(exp=AT + 1))
    with pytest.raises(AttenuationError, match="too large"):
        call_proof.CallSigner(token, AUDIENCE)


def test_the_parent_cannot_be_had_from_a_call() -> None:
    """A one-shot token holds neither its parent's signature nor its text."""
    parent = mint()
    raw = Macaroon.parse(sign(parent, access())).to_bytes()
    assert parent.parts()[1] not in raw
    assert KEY not in raw
