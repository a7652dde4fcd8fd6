# SPDX-License-Identifier: Apache-2.0
"""What is compiled returns and raises what the Python function of its name does, of ordinary values and of every other.

In pure Python both are the same function.  ``ARX_REQUIRE_COMPILED=1`` requires that they are not.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import _native, jcs
from arx_verifier.errors import MalformedTokenError
from arx_verifier.token import call_proof, chain, wire
from tests.support import QUICK, access, aligned_parents, mint, sign

BYTES = st.binary(max_size=300)
KEYS = st.binary(min_size=32, max_size=32) | BYTES
ODD = st.none() | st.integers() | st.text(max_size=8) | st.binary(max_size=8).map(bytearray) | st.just(())
TEXTS = (
    st.binary(max_size=60).map(wire.text_of)
    | st.text("ABCDQRwxyz0189-_+/=~\n \u00e9\u20ac", max_size=12)
    | st.builds(lambda raw, end: wire.text_of(raw) + end, st.binary(max_size=900), st.sampled_from(["", "A", "=", "+"]))
)
THIRD = st.builds(wire.ThirdPartyPacket, st.none() | BYTES, BYTES, BYTES)
PACKETS = st.builds(
    wire.Packets,
    st.none() | BYTES,
    BYTES,
    st.lists(BYTES | THIRD, max_size=66).map(tuple),
    st.binary(min_size=32, max_size=32),
)
CHOSEN: dict[str, Callable[..., Any]] = {
    "base64_of": wire.base64_of,
    "bytes_of": wire.bytes_of,
    "read_text": wire.read_text,
    "appended": chain.appended,
    "cut_out": wire.cut_out,
    "walk": wire.walk,
    "extend": chain.extend,
    "fold": chain.fold,
    "states_of": chain.states_of,
    "ends_in": chain.ends_in,
    "links_of": chain.links_of,
    "split_call": call_proof.split_call,
    "tool_digest": call_proof.tool_digest,
    "http_digest": call_proof.http_digest,
    "sha256_of": wire.sha256_of,
    "is_flat": jcs.is_flat,
}


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns, or the kind and text of what it raises."""
    try:
        return function(*args)
    except Exception as error:  # whatever it is, both must do it
        return type(error), str(error)


def agree(name: str, *args: Any) -> Any:
    """Hold what is chosen to the reference, and return what both say."""
    answer = outcome(CHOSEN[name], *args)
    assert answer == outcome(_native.REFERENCES[name], *args)
    return answer


SIGNED = [sign(parent, access()) for parent in aligned_parents()]


def test_each_reference_is_tried_here() -> None:
    """Each function that can be compiled has its comparison below, and a build that has to be compiled is."""
    assert _native.REFERENCES.keys() == CHOSEN.keys()
    assert _native.COMPILED or "ARX_REQUIRE_COMPILED" not in os.environ, _native.about_build()
    for name, function in CHOSEN.items():
        assert (function is _native.REFERENCES[name]) != _native.COMPILED


@QUICK
@given(BYTES | st.binary(min_size=800, max_size=2000), TEXTS, ODD)
def test_base64(raw: bytes, text: str, odd: Any) -> None:
    """Text of bytes, bytes of text, and of what is neither."""
    assert agree("bytes_of", agree("base64_of", raw)) == raw
    agree("bytes_of", text)
    agree("bytes_of", text.encode("utf-8"))
    agree("base64_of", odd)
    agree("bytes_of", odd)


@QUICK
@given(st.text(wire.base64_of(bytes(range(256))).decode(), min_size=1, max_size=9), st.integers(0, 8), st.characters())
def test_no_character_but_those_of_the_alphabet(text: str, at: int, character: str) -> None:
    """One character, any there is, at any place of a group."""
    agree("bytes_of", text[:at] + character + text[at + 1 :])
    agree("bytes_of", (text[:at] + character + text[at + 1 :]).encode("utf-8", "surrogatepass"))


@QUICK
@given(PACKETS, st.data())
def test_walk(packets: wire.Packets, data: st.DataObject) -> None:
    """Whole macaroons, cut and altered ones, with third parties and without."""
    body = wire.encode(packets)[: -len(wire.TAIL) - wire.SIGNATURE_BYTES]
    agree("walk", body)
    agree("walk", body[: data.draw(st.integers(0, len(body)))])
    altered = bytearray(body)
    altered[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from([0, 1, 2, 4, 0x7F, 0x80, 0x81, 0xFF]))
    agree("walk", bytes(altered))
    agree("walk", altered)


@QUICK
@given(PACKETS, st.integers(0, 400), st.sampled_from("AaZz09-_Qg+/=~\u00e9"), TEXTS)
def test_texts(packets: wire.Packets, at: int, character: str, odd: str) -> None:
    """A macaroon's text, whole, cut, longer and with another character at any place."""
    text = wire.TOKEN_PREFIX + wire.text_of(wire.encode(packets))
    agree("read_text", text)
    agree("read_text", text[:-at])
    agree("read_text", text[: len(text) - at] + character + text[len(text) - at + 1 :])
    agree("read_text", text[:at] + character + text[at + 1 :])
    agree("read_text", text + "A" * at)
    agree("read_text", wire.TOKEN_PREFIX + odd)
    agree("read_text", odd)


def test_texts_at_the_edges_of_length() -> None:
    """From no character to a few more than a credential may have."""
    for size in (*range(60), *range(7150, 7180)):
        for end in ("", wire.text_of(wire.TAIL + bytes(32)), wire.text_of(b"12" + wire.TAIL + bytes(32))):
            agree("read_text", wire.TOKEN_PREFIX + "A" * (size - len(end)) + end)


@QUICK
@given(BYTES, KEYS, BYTES | st.sampled_from([bytes(size) for size in (127, 128, 16383, 16384)]) | ODD)
def test_one_caveat_more(body: bytes, key: bytes, caveat: Any) -> None:
    """The body and the signature after it, at each length of a packet's head."""
    agree("appended", body, key, caveat)


@QUICK
@given(KEYS, BYTES, st.lists(BYTES | THIRD, max_size=5), ODD)
def test_chain(key: bytes, first: bytes, caveats: list[Any], odd: Any) -> None:
    """One step, a whole chain, and the comparison at its end."""
    agree("extend", key, first)
    agree("extend", key, odd)
    agree("fold", key, first, tuple(caveats))
    agree("fold", key, first, caveats)
    name, hop = wire.text_of(key[:16].ljust(16)), wire.base64_of(first[:9].ljust(9))
    agree("links_of", name, (hop, hop[::-1], hop))
    agree("links_of", name, (hop, first[:12]))
    agree("links_of", name, (hop, odd))
    agree("links_of", name[:-1] + "B", ())
    agree("links_of", name, [hop])
    agree("links_of", odd, (hop,))
    if len(key) == 32:
        signature = chain.extend(key, first)
        for compared in (signature, first, signature[:-1], key):
            twin, reference = _native.REFERENCES["states_of"], _native.REFERENCES["ends_in"]
            found = chain.ends_in(chain.states_of(key), first, compared)
            assert found == reference(twin(key), first, compared) == (compared == signature)


@QUICK
@given(st.lists(st.text("ab", max_size=9).map(str.encode) | THIRD, max_size=5), st.sampled_from([b"a", b"ab"]), ODD)
def test_texts_cut_out_behind_a_mark(packets: list[Any], mark: bytes, odd: Any) -> None:
    """With the mark once, more than once, at the end or nowhere, and texts that are not there whole."""
    for size in (0, 1, 3, 10**6, -1, 2**70, odd):
        agree("cut_out", tuple(packets), mark, size)
    agree("cut_out", packets, mark, 2)
    agree("cut_out", (*packets, odd), mark, 2)
    agree("cut_out", tuple(packets), odd, 2)
    agree("cut_out", tuple(packets), b"", 2)


@QUICK
@given(st.sampled_from(SIGNED), st.data())
def test_calls(text: str, data: st.DataObject) -> None:
    """One-shot texts at each alignment, whole and altered at any place of the tail."""
    split = agree("split_call", text)
    assert split is not None
    at = data.draw(st.integers(1, 182))
    character = data.draw(st.sampled_from("AaZz09-_Qg+/=~\u00e9"))
    agree("split_call", text[:-at] + character + text[len(text) - at + 1 :])
    agree("split_call", text[at:])
    agree("split_call", text[:-at])
    agree("split_call", text + text)
    raw = bytearray(wire.bytes_of(text[len(wire.TOKEN_PREFIX) :]))
    raw[-data.draw(st.integers(1, 134))] = data.draw(st.integers(0, 255))
    agree("split_call", wire.TOKEN_PREFIX + wire.text_of(bytes(raw)))


def test_no_call_at_the_edges_of_length() -> None:
    """What is too short or too long to carry a call, at each length around."""
    for size in (*range(12), *range(174, 186), *range(7160, 7176)):
        assert agree("split_call", "A" * size) is None
        assert agree("split_call", "\u00e9" * size) is None
    long = SIGNED[0].rjust(7168 + len(SIGNED[0]) % 4, "A")
    agree("split_call", long)
    assert agree("split_call", mint().encode()) is None


@QUICK
@given(BYTES, st.binary(min_size=95, max_size=95) | BYTES, st.text(max_size=20) | st.just("\ud800"), BYTES)
def test_digests(prefix: bytes, caveat: bytes, tool: str, written: bytes) -> None:
    """The digest of a call of a tool, and that of its record."""
    agree("tool_digest", prefix, caveat, tool, written)
    agree("sha256_of", prefix, written)


@QUICK
@given(
    BYTES,
    st.binary(min_size=95, max_size=95) | BYTES,
    st.sampled_from(["GET", "POST", "PURGE", "\u00e9", "\ud800"]),
    st.sampled_from([b"/a", b"", b"?", b"/a?", b"/a?b=?", b"/a?b", "/a?", "/\u00e9", "/\ud800"]) | BYTES,
    KEYS,
)
def test_digest_of_http(prefix: bytes, caveat: bytes, method: str, target: bytes | str, body_digest: bytes) -> None:
    """The digest of a call over HTTP, also of a method or a target that has no bytes."""
    agree("http_digest", prefix, caveat, method, target, body_digest)


@pytest.mark.parametrize("name", sorted(CHOSEN))
def test_wrong_arguments_raise(name: str) -> None:
    """Too few, too many or others than any caller gives: an error as of the reference, and nothing worse."""
    for args in ((), (None,), (b"",) * 7, (bytes(32), bytes(95), object(), b"", b"")):
        answer, meant = outcome(CHOSEN[name], *args), outcome(_native.REFERENCES[name], *args)
        assert answer == meant or (callable(answer) and callable(meant))


def test_without_memory_a_field_that_is_not_closed_is_never_there() -> None:
    """Whichever allocation fails, a body whose last caveat is cut is refused or is out of memory, and no result."""
    nomemory = pytest.importorskip("_testcapi")
    cut = wire.bytes_of(mint().encode()[5:])[:-36]
    with pytest.raises(MalformedTokenError):
        wire.walk(cut)
    for failing in range(40):
        made: Any = None
        nomemory.set_nomemory(failing, failing + 1)
        try:
            made = wire.walk(cut)
        except Exception:
            made = None
        finally:
            nomemory.remove_mem_hooks()
        assert made is None


SMALL = st.integers(-(2**53) - 2, -(2**53) + 2) | st.integers(2**53 - 2, 2**53 + 2) | st.integers()


@QUICK
@given(st.dictionaries(st.text(max_size=4) | ODD.filter(lambda odd: not isinstance(odd, bytearray)), SMALL | ODD) | ODD)
def test_flat_arguments(args: Any) -> None:
    """Integers around the limit, and values and names of every type."""
    agree("is_flat", args)
    agree("is_flat", {"a": True, "b": "text"})
    agree("is_flat", {"a": 1.5})
