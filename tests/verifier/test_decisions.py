# SPDX-License-Identifier: Apache-2.0
"""Decision records: one byte form, bounded, complete, without secrets."""

import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.decisions import (
    MAX_RECORD_BYTES,
    UNPROVEN,
    ChainFacts,
    Decision,
    InMemoryDecisions,
    digest_arguments,
    unpack,
)
from arx_verifier.errors import AuditError, Failure
from arx_verifier.tally import Counted

FACTS = ChainFacts(
    agent="acme/support",
    session="s-abcdefghij234567",
    named=("acme/worker", "acme/helper"),
    links=("A" * 22, "B" * 22),
    task="t-abcdefghij234567",
    token="t" * 22,
    audience="orders",
    policy="p" * 22,
    kid="k1.0",
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def denied(**more: Any) -> Decision:
    failure = Failure("caveat 3 (acme/worker)", "amount range", "at most 20", "50")
    return Decision("argument_not_allowed", 1_700_000_000_000, FACTS, "orders.refund", failures=(failure,), **more)


@given(
    st.builds(ChainFacts, agent=TEXT, named=st.tuples(TEXT, TEXT), task=st.none() | TEXT, subject=st.none() | TEXT),
    st.integers(0, 2**60),
    TEXT,
    st.tuples(st.builds(Failure, TEXT, TEXT, TEXT, TEXT)),
    st.tuples(st.builds(Counted, TEXT, TEXT, st.integers(0, 2**40))),
)
def test_a_record_reads_back_as_it_was(
    facts: ChainFacts, at: int, text: str, failures: tuple[Failure], counts: tuple[Counted]
) -> None:
    """Packing and unpacking are inverse, and any MessagePack reader sees version, chain and call."""
    digest, salt = digest_arguments({"a": text})
    decision = Decision("ok", at, facts, text, digest, salt, "i", 7, 12, failures, text, text, counts)
    record = decision.pack()
    assert unpack(record) == decision
    version, chain, call = msgpack.unpackb(record)
    assert (version, chain[0], call[0]) == (1, facts.agent, at)


@given(st.binary(max_size=80))
def test_junk_is_no_record(junk: bytes) -> None:
    """Whatever stands in a journal, reading it ends in a decision or an ``AuditError``."""
    for record in (junk, b"\x93\x01" + junk, FACTS.packed + junk):
        with pytest.raises(AuditError):
            unpack(record)


def test_a_changed_shape_is_no_record() -> None:
    """Another version, a field more or less, and trailing bytes are refused."""
    record = denied().pack()
    whole = msgpack.unpackb(record)
    for other in ([2, *whole[1:]], [*whole, 1], [1, [*whole[1], 1], whole[2]], [1, whole[1], [*whole[2], 1]]):
        with pytest.raises(AuditError):
            unpack(msgpack.packb(other))
    with pytest.raises(AuditError):
        unpack(record + b"\x00")


def test_the_chain_is_packed_once() -> None:
    """Two calls with one token share the very bytes of their chain."""
    assert FACTS.packed is FACTS.packed
    assert denied().pack().startswith(FACTS.packed)


def test_a_grant_is_never_recorded() -> None:
    """What a verifier attaches for the service stays out of the record and of its JSON."""
    decision = Decision("ok", 1, FACTS, grant="the grant")
    assert b"the grant" not in decision.pack()
    assert "grant" not in decision.to_dict()


def test_hostile_texts_neither_fail_nor_grow_a_record() -> None:
    """Endless names and half surrogates are cut and escaped; the decision is still recorded."""
    decision = denied(peer="\ud800", correlation="x" * 100_000)
    decision.tool = "t" * 100_000
    decision.failures = tuple(Failure("p" * 9_000, "\udfff", "e" * 9_000, "c" * 9_000) for _ in range(500))
    record = decision.pack()
    assert len(record) < MAX_RECORD_BYTES
    read = unpack(record)
    assert read.peer == "\\ud800"
    assert len(read.failures) == 8
    with pytest.raises(AuditError):
        Decision("ok", 1, ChainFacts(agent="a" * MAX_RECORD_BYTES)).pack()


def test_an_argument_digest_cannot_be_compared_between_records() -> None:
    """Each record has a salt of its own, so equal arguments have unequal digests; no argument's code is run."""

    class Loud:
        def __repr__(self) -> str:
            raise AssertionError

    (one, salt_one), (two, salt_two) = digest_arguments({"a": 1}), digest_arguments({"a": 1})
    assert one != two
    assert salt_one != salt_two
    assert len(digest_arguments({"a": Loud()})[0]) == 32
    assert digest_arguments({"a": "\ud800"}) == (b"", b"")


def test_the_outcome_and_the_json_form_say_what_happened() -> None:
    """A decision's dictionary is plain JSON with outcome, reason and the whole chain."""
    told = json.loads(json.dumps(denied(sequence=4, verifier="v1", boot="b1").to_dict()))
    assert (told["outcome"], told["code"], told["id"]) == ("deny", "argument_not_allowed", "b1-4")
    assert told["named"] == ["acme/worker", "acme/helper"]
    assert told["failures"][0]["expected"] == "at most 20"
    assert Decision("ok", 1, FACTS).allowed
    assert not denied().allowed
    assert Decision("counted", 1, UNPROVEN).outcome == "counted"
    assert denied().id == ""


def test_unproven_refusals_are_counted_and_told_once_a_second() -> None:
    """The first is told at once; a flood becomes a record a second, with a bounded number of peers."""
    now = [1_000_000]
    sink = InMemoryDecisions(clock=lambda: now[0])
    sink.count("bad_signature", "10.0.0.1")
    for i in range(1000):
        sink.count("bad_signature", f"10.0.{i // 250}.{i % 250}")
    assert len(sink.decisions) == 1
    now[0] += 1000
    sink.count("malformed", None)
    assert len(sink.decisions) == 2
    counts = sink.decisions[1].counts
    assert sum(c.times for c in counts) == 1001
    assert len(counts) <= 66
    assert ("bad_signature", "*") in {(c.code, c.peer) for c in counts}
    sink.count("unknown_key", "10.0.0.1")
    sink.close()
    sink.close()
    assert [d.counts[0].code for d in sink.decisions[2:]] == ["unknown_key"]
    assert sink.append(denied()) == 4
