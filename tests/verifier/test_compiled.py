# SPDX-License-Identifier: Apache-2.0
"""A compiled twin says what the Python function says, of ordinary values and of every other.

Without the compiled build both are the same function; ``make test-compiled`` builds it and demands that it is there.
"""

import copy
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import (
    canonical,
    chain,
    codec,
    comparing,
    compiled,
    decisions,
    digests,
    matching,
    permitting,
    proofs,
    records,
    segment,
    spool,
)
from arx_verifier.arguments import ABSENT
from arx_verifier.decisions import Decision
from arx_verifier.errors import Failure, MalformedTokenError
from arx_verifier.proven import ProvenChain
from tests.support import QUICK, access, aligned_parents, mint, sign

BYTES = st.binary(max_size=300)
KEYS = st.binary(min_size=32, max_size=32) | BYTES
ODD = st.none() | st.integers() | st.text(max_size=8) | st.binary(max_size=8).map(bytearray) | st.just(())
TEXTS = (
    st.binary(max_size=60).map(codec.text_of)
    | st.text("ABCDQRwxyz0189-_+/=~\n \u00e9\u20ac", max_size=12)
    | st.builds(
        lambda raw, end: codec.text_of(raw) + end, st.binary(max_size=900), st.sampled_from(["", "A", "=", "+"])
    )
)
THIRD = st.builds(codec.ThirdParty, st.none() | BYTES, BYTES, BYTES)
PACKETS = st.builds(
    codec.Packets,
    st.none() | BYTES,
    BYTES,
    st.lists(BYTES | THIRD, max_size=66).map(tuple),
    st.binary(min_size=32, max_size=32),
)
SIGNED = [sign(parent, access()) for parent in aligned_parents()]
TWINS: dict[str, Callable[..., Any]] = {
    "base64_of": codec.base64_of,
    "bytes_of": codec.bytes_of,
    "read_text": codec.read_text,
    "appended": chain.appended,
    "walk": codec.walk,
    "extend": chain.extend,
    "fold": chain.fold,
    "states_of": chain.states_of,
    "ends_in": chain.ends_in,
    "next_link": chain.next_link,
    "split_call": proofs.split_call,
    "tool_digest": proofs.tool_digest,
    "salted": digests.salted,
    "is_flat": canonical.is_flat,
    "same_text": comparing.same_text,
    "within_integers": comparing.within_integers,
    "within_lengths": comparing.within_lengths,
    "among": comparing.among,
    "_one_star": matching._one_star,
    "permits": permitting.permits,
    "read_caveats": ProvenChain.read_caveats,
    "pack_facts": records.pack_facts,
    "_keep_at_once": spool.Journal._keep_at_once,
}


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns, or the kind and text of what it raises."""
    try:
        return function(*args)
    except Exception as error:  # whatever it is, both must do it
        return type(error), str(error)


def agree(name: str, *args: Any) -> Any:
    """Hold the twin to the reference, and return what both say."""
    said = outcome(TWINS[name], *args)
    assert said == outcome(compiled.REFERENCES[name], *args)
    return said


def test_each_reference_is_tried_here() -> None:
    """A function with a twin has its comparison below, and a build that is meant to be compiled is."""
    assert compiled.REFERENCES.keys() == TWINS.keys()
    assert compiled.COMPILED or "ARX_REQUIRE_COMPILED" not in os.environ, "the compiled twins are not there"
    for name, function in TWINS.items():
        assert (function is compiled.REFERENCES[name]) != compiled.COMPILED


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
@given(st.text(codec.base64_of(bytes(range(256))).decode(), min_size=1, max_size=9), st.integers(0, 8), st.characters())
def test_no_character_but_those_of_the_alphabet(text: str, at: int, character: str) -> None:
    """One character, any there is, at any place of a group."""
    agree("bytes_of", text[:at] + character + text[at + 1 :])
    agree("bytes_of", (text[:at] + character + text[at + 1 :]).encode("utf-8", "surrogatepass"))


@QUICK
@given(PACKETS, st.data())
def test_walk(packets: codec.Packets, data: st.DataObject) -> None:
    """Whole macaroons, cut and altered ones, with third parties and without."""
    body = codec.encode(packets)[: -len(codec.TAIL) - codec.SIGNATURE_BYTES]
    agree("walk", body)
    agree("walk", body[: data.draw(st.integers(0, len(body)))])
    altered = bytearray(body)
    altered[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from([0, 1, 2, 4, 0x7F, 0x80, 0x81, 0xFF]))
    agree("walk", bytes(altered))
    agree("walk", altered)


@QUICK
@given(PACKETS, st.integers(0, 400), st.sampled_from("AaZz09-_Qg+/=~\u00e9"), TEXTS)
def test_texts(packets: codec.Packets, at: int, character: str, odd: str) -> None:
    """A macaroon's text, whole, cut, longer and with another character at any place."""
    text = codec.TOKEN_PREFIX + codec.text_of(codec.encode(packets))
    agree("read_text", text)
    agree("read_text", text[:-at])
    agree("read_text", text[: len(text) - at] + character + text[len(text) - at + 1 :])
    agree("read_text", text[:at] + character + text[at + 1 :])
    agree("read_text", text + "A" * at)
    agree("read_text", codec.TOKEN_PREFIX + odd)
    agree("read_text", odd)


def test_texts_at_the_edges_of_length() -> None:
    """From no character to a few more than a credential may have."""
    for size in (*range(60), *range(7150, 7180)):
        for end in ("", codec.text_of(codec.TAIL + bytes(32)), codec.text_of(b"12" + codec.TAIL + bytes(32))):
            agree("read_text", codec.TOKEN_PREFIX + "A" * (size - len(end)) + end)


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
    agree("next_link", key, first)
    agree("next_link", odd, first)
    if len(key) == 32:
        signature = chain.extend(key, first)
        for compared in (signature, first, signature[:-1], key):
            twin, reference = compiled.REFERENCES["states_of"], compiled.REFERENCES["ends_in"]
            found = chain.ends_in(chain.states_of(key), first, compared)
            assert found == reference(twin(key), first, compared) == (compared == signature)


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
    raw = bytearray(codec.bytes_of(text[len(codec.TOKEN_PREFIX) :]))
    raw[-data.draw(st.integers(1, 134))] = data.draw(st.integers(0, 255))
    agree("split_call", codec.TOKEN_PREFIX + codec.text_of(bytes(raw)))


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
    agree("salted", prefix, written)


class Text(str):
    """Text that is of no exact type."""


SMALL = st.integers(-(2**53) - 2, -(2**53) + 2) | st.integers(2**53 - 2, 2**53 + 2) | st.integers()
ITEMS = st.text(max_size=3) | SMALL | st.booleans() | st.none() | st.floats() | st.just([]) | st.builds(Text)


@QUICK
@given(
    st.dictionaries(st.text(max_size=3) | st.integers() | st.builds(Text, st.text(max_size=2)), ITEMS, max_size=4) | ODD
)
def test_flat_arguments(value: Any) -> None:
    """Arguments of every type, at the edges of integers too."""
    agree("is_flat", value)


VALUES = ITEMS | st.text("ab/*\u20ac", max_size=6) | st.lists(st.integers(), max_size=3) | st.integers(-3, 3)
OPERANDS: dict[str, st.SearchStrategy[Any]] = {
    "same_text": st.tuples(VALUES),
    "within_integers": st.tuples(SMALL | st.integers(-3, 3), SMALL | st.integers(-3, 3)),
    "within_lengths": st.tuples(st.integers(-1, 3), st.integers(0, 4) | SMALL),
    "among": st.tuples(
        st.sampled_from([str, int, bool, Text]), st.frozensets(st.text("ab", max_size=2) | st.integers(-2, 2))
    ),
    "_one_star": st.tuples(st.text("a/", max_size=2), st.text("ab\u20ac", max_size=2)),
}
TESTS = st.sampled_from(sorted(OPERANDS)).flatmap(lambda name: st.tuples(st.just(name), OPERANDS[name]))


@QUICK
@given(TESTS, st.lists(VALUES, min_size=1, max_size=20))
def test_predicates(made: tuple[str, Any], values: list[Any]) -> None:
    """The test that is made of a constraint holds for the same values, of every type; a range says its bounds."""
    name, operands = made
    found, meant = TWINS[name](*operands), compiled.REFERENCES[name](*operands)
    assert getattr(found, "bounds", None) == getattr(meant, "bounds", None)
    for value in (*values, *operands, ABSENT):
        assert outcome(found, value) == outcome(meant, value)
    for args in ((), (1, 2)):
        assert outcome(found, *args)[0] is TypeError


@QUICK
@given(
    st.booleans(),
    st.lists(st.tuples(st.sampled_from("abc"), TESTS), max_size=3, unique_by=lambda test: test[0]),
    st.frozensets(st.sampled_from("abc")),
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=4) | ODD,
    st.booleans(),
)
def test_rules(closed: bool, made: list[Any], names: frozenset[str], args: Any, exact: bool) -> None:
    """A rule, closed, open or exact, permits the same arguments, also those in a mapping that is no dict."""
    tests = tuple((name, TWINS[kind](*operands)) for name, (kind, operands) in made)
    names = names | {name for name, _ in tests}
    exact = exact and closed and len(names) == len(tests)
    rule = permitting.CompiledRule("t", None, tests, names, closed, exact, 1)
    agree("permits", rule, args)
    if isinstance(args, dict):
        agree("permits", rule, MappingProxyType(args))
        agree("permits", rule, defaultdict(str, args))


def test_a_test_that_raises() -> None:
    """What a test raises comes through, but for a name that is not there."""

    def raising(value: Any) -> bool:
        raise value

    rule = permitting.CompiledRule("t", None, (("a", raising),), frozenset("a"), True, True, 1)
    for error in (KeyError("a"), ValueError("a")):
        agree("permits", rule, {"a": error})
    assert agree("permits", rule, {"a": KeyError("a")}) is False


SAID = st.text(max_size=6) | st.text("ab\u00e9", max_size=300) | st.just("\ud800") | st.just("t" * 5000)
NUMBERS = st.sampled_from([-33, -2, -1, 0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**53, 2**64]) | SMALL
MANY = st.lists(SAID, max_size=3).map(tuple) | st.just(("x",) * 20)
FAILURES = st.lists(st.builds(Failure, SAID, SAID, SAID, SAID), max_size=3) | st.just(
    [Failure("a", "b", "c", "d")] * 20
)
DECISIONS = st.builds(
    Decision,
    code=st.sampled_from(["ok", "ok", "expired", "argument_not_allowed"]),
    at=st.integers(0, 999) | st.sampled_from([-1, 1000, 10**6]),
    facts=st.builds(decisions.ChainFacts, agent=SAID, named=st.lists(SAID, max_size=2).map(tuple)),
    tool=SAID,
    args_digest=st.binary(max_size=40),
    salt=st.binary(min_size=1, max_size=300),
    inc=SAID,
    applied=NUMBERS,
    age_ms=NUMBERS,
    failures=FAILURES.map(tuple),
    peer=st.none() | SAID,
    request_id=st.none() | SAID | st.just(5),
    traceparent=st.none() | SAID,
    arguments=st.none() | st.binary(max_size=300) | st.just(b"a" * 5000),
    ends=st.integers(-1, 300),
    counts=st.sampled_from([(), (), (decisions.Counted("expired", "192.0.2.7", 3),)]),
    gap=st.sampled_from([None, None, decisions.Gap("lost", 1, 2, 2, 0, 5)]),
)


def kept(folder: Path, keep: Callable[..., Any], made: list[Decision]) -> Any:
    """What a journal's files hold after these decisions, and what was said of each."""
    journal = spool.Journal(folder, "v1", "orders", segment_bytes=spool.MIN_SEGMENT_BYTES, clock=lambda: 0)
    journal.append(Decision("expired", 0, decisions.UNPROVEN, salt=b"s"))
    journal.append(Decision("ok", 0, decisions.UNPROVEN, salt=b"s"))
    said = [outcome(keep, journal, decision) for decision in made]
    places = [(one.sequence, one.verifier, one.boot == journal.boot) for one in made]
    journal.close()
    return said, places, [path.read_bytes()[segment.HEADER_BYTES :] for path in sorted(folder.glob("*.arxj"))]


@QUICK
@given(
    st.builds(
        decisions.ChainFacts,
        agent=SAID | NUMBERS,
        named=MANY,
        links=MANY,
        task=st.none() | SAID,
        tasks=MANY,
        subject=st.none() | st.tuples(SAID, SAID),
        meta=st.lists(st.tuples(SAID, SAID), max_size=2).map(tuple) | st.just((((("",),),),)),
    ),
    ODD,
)
def test_facts(facts: decisions.ChainFacts, odd: Any) -> None:
    """What a chain says, of any length and of odd texts."""
    agree("pack_facts", facts)
    agree("pack_facts", odd)


@QUICK
@given(st.lists(DECISIONS, min_size=1, max_size=12))
def test_records(made: list[Decision]) -> None:
    """The same bytes in the file, the same place told: of allows and denials, of odd texts, of what has no room."""
    with tempfile.TemporaryDirectory() as folder:
        again = [copy.copy(decision) for decision in made]
        found = kept(Path(folder, "a"), spool.Journal._keep_at_once, made)
        assert found == kept(Path(folder, "b"), compiled.REFERENCES["_keep_at_once"], again)


@pytest.mark.parametrize("name", sorted(TWINS))
def test_wrong_arguments_raise(name: str) -> None:
    """Too few, too many or others than any caller gives: an error as of the reference, and nothing worse."""
    for args in ((), (None,), (b"",) * 7, (bytes(32), bytes(95), object(), b"", b"")):
        said, meant = outcome(TWINS[name], *args), outcome(compiled.REFERENCES[name], *args)
        assert said == meant or (callable(said) and callable(meant))


def test_without_memory_a_field_that_is_not_closed_is_never_there() -> None:
    """Whichever allocation fails, a body whose last caveat is cut is refused or is out of memory, and no result."""
    nomemory = pytest.importorskip("_testcapi")
    cut = codec.bytes_of(mint().encode()[5:])[:-36]
    with pytest.raises(MalformedTokenError):
        codec.walk(cut)
    for failing in range(40):
        made: Any = None
        nomemory.set_nomemory(failing, failing + 1)
        try:
            made = codec.walk(cut)
        except Exception:
            made = None
        finally:
            nomemory.remove_mem_hooks()
        assert made is None


def test_tests_need_nothing_that_asks_them() -> None:
    """Whoever imports what makes tests alone has a process that lives when they are dropped."""
    code = "from arx_verifier import comparing; comparing.same_text('x'); comparing.within_integers(1, 2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
