# SPDX-License-Identifier: Apache-2.0
"""Decision records: one byte form, bounded, complete, without secrets."""

import hashlib
import json
import os
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.errors import AuditError, Failure
from arx_verifier.journal.decision import UNPROVEN, Decision, InMemoryDecisions, unpack, unpack_record
from arx_verifier.journal.record import (
    MAX_RECORD_BYTES,
    ChainFacts,
    Gap,
    digest_arguments,
    keep_arguments,
    new_salt,
    seal,
)
from arx_verifier.journal.tally import RefusalCount
from arx_verifier.request import BOXES

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


@pytest.mark.spec("12.3")
@given(
    st.builds(
        ChainFacts,
        agent=TEXT,
        named=st.tuples(TEXT, TEXT),
        task=st.none() | TEXT,
        model=st.none() | TEXT,
        subject=st.none() | st.tuples(TEXT, TEXT),
        meta=st.tuples(st.tuples(TEXT, TEXT)),
    ),
    st.integers(0, 2**60),
    TEXT,
    st.tuples(st.builds(Failure, TEXT, TEXT, TEXT, TEXT)),
    st.tuples(st.builds(RefusalCount, TEXT, TEXT, st.integers(0, 2**40))),
    st.sampled_from((None, *BOXES)),
)
def test_a_record_reads_back_as_it_was(
    facts: ChainFacts, at: int, text: str, failures: tuple[Failure], counts: tuple[RefusalCount], box: str | None
) -> None:
    """Packing and unpacking are inverse, and any MessagePack reader sees version, chain and call."""
    digest, salt = digest_arguments({"a": text})
    more = {
        "request_id": text,
        "traceparent": text,
        "arguments": text.encode(),
        "ends": 3,
        "counts": counts,
        "box": box,
    }
    gap = Gap("lost", 1, 2, 2, 5, 6)
    decision = Decision("ok", at, facts, text, digest, salt, "i", 7, 12, failures, text, **more, gap=gap)
    payload = decision.pack()
    assert unpack(payload) == decision
    version, chain, person, (call, rest) = msgpack.unpackb(payload)
    assert (version, chain[0], call[0], rest[0]) == (1 if box is None else 4, facts.agent, at, salt)
    assert person[0] == (list(facts.subject) if facts.subject else None)


@pytest.mark.spec("12.3")
def test_a_record_keeps_its_leaf_when_its_body_is_erased() -> None:
    """The kept part says who, what and why, names the body by its digest, and has nothing in it about a person."""
    facts = msgspec.structs.replace(FACTS, subject=("https://idp.example", "ann"), meta=(("owner", "bob"),))
    decision = denied(peer="192.0.2.77", request_id="rq-1", traceparent="00-abc", arguments=b'{"a":"zoe"}')
    decision.facts = facts
    kept, body = seal(decision.pack(), "v1", "b1", 7)
    version, verifier, boot, sequence, chain, call, digest = msgpack.unpackb(kept)
    assert (version, verifier, boot, sequence) == (1, "v1", "b1", 7)
    assert digest == hashlib.sha256(body).digest()
    assert call[7] == [["caveat 3 (acme/worker)", "amount range"]]
    assert chain[:3] == ["acme/support", "s-abcdefghij234567", ["acme/worker", "acme/helper"]]
    for private in (b"ann", b"bob", b"192.0.2.77", b"rq-1", b"00-abc", b"zoe", b"idp", b"at most 20", b"50"):
        assert private not in kept
        assert private in body
    whole, erased = unpack_record(kept, body), unpack_record(kept, None)
    assert whole == msgspec.structs.replace(decision, sequence=7, verifier="v1", boot="b1")
    assert (erased.erased, erased.subject, erased.peer, erased.salt) == (True, None, None, b"")
    assert (erased.code, erased.tool, erased.links) == (decision.code, decision.tool, decision.links)
    assert erased.failures == (Failure("caveat 3 (acme/worker)", "amount range", "", ""),)
    for other in (body + b"\0", body[:-1] + b"\x01", b""):
        with pytest.raises(AuditError):
            unpack_record(kept, other)


@pytest.mark.spec("12.3", "12.5")
def test_every_body_has_a_salt() -> None:
    """Without one a body of few possible values, such as an address, could be guessed from its digest."""
    counted = Decision("counted", 1, UNPROVEN, counts=(RefusalCount("expired", "10.0.0.1", 3),))
    bodies = {seal(msgspec.structs.replace(counted).pack(), "v", "b", 1).body for _ in range(600)}
    assert len(bodies) == 600


@pytest.mark.spec("12.5")
def test_a_forked_child_gives_out_other_salts() -> None:
    """Salts are drawn many at a time; two processes never share what is left."""
    new_salt()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"".join(new_salt() for _ in range(300)))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        theirs = file.read()
    os.waitpid(child, 0)
    ours = {new_salt() for _ in range(300)}
    assert len(ours) == 300
    assert not ours & {theirs[at : at + 16] for at in range(0, len(theirs), 16)}


@pytest.mark.spec("12.3")
@given(st.binary(max_size=80))
def test_junk_is_no_record(junk: bytes) -> None:
    """For any content of a journal, reading it ends in a decision or an ``AuditError``."""
    for record in (junk, b"\x94\x02" + junk, FACTS.packed + junk):
        with pytest.raises(AuditError):
            unpack(record)
        with pytest.raises(AuditError):  # sealing splits and joins; what it does not look into, the reader refuses
            unpack_record(*seal(record, "v", "b", 1))
    for record in (junk, b"\x97\x02" + junk):
        with pytest.raises(AuditError):
            unpack_record(record, None)


@pytest.mark.spec("12.3")
def test_a_changed_shape_is_no_record() -> None:
    """Another version, a field more or less, and trailing bytes are refused."""
    record = denied().pack()
    whole = msgpack.unpackb(record)
    _, chain, person, (call, rest) = whole
    others = [[2, *whole[1:]], [*whole, 1], [1, [*chain, 1], person, [call, rest]], [1, chain, person, [call]]]
    others += [[1, chain, person, [[*call, 1], rest]], [1, chain, person, [call, [*rest[:1], [], *rest[2:]]]]]
    for other in others:
        with pytest.raises(AuditError):
            unpack(msgpack.packb(other))
    with pytest.raises(AuditError):
        unpack(record + b"\x00")


@pytest.mark.spec("12.6")
def test_the_chain_is_packed_once() -> None:
    """Two calls with one token share the very bytes of their chain."""
    assert FACTS.packed is FACTS.packed
    assert denied().pack().startswith(FACTS.packed)


@pytest.mark.spec("12.3")
def test_a_grant_is_never_recorded() -> None:
    """What a verifier attaches for the service stays out of the record and of its JSON."""
    decision = Decision("ok", 1, FACTS, grant="the grant")
    assert b"the grant" not in decision.pack()
    assert "grant" not in decision.to_dict()


@pytest.mark.spec("12.3")
def test_hostile_texts_neither_fail_nor_grow_a_record() -> None:
    """Endless names and half surrogates are cut and escaped; the decision is still recorded."""
    decision = denied(peer="\ud800", request_id="x" * 100_000)
    decision.tool = "t" * 100_000
    decision.failures = tuple(Failure("p" * 9_000, "\udfff", "e" * 9_000, "c" * 9_000) for _ in range(500))
    record = decision.pack()
    assert len(record) < MAX_RECORD_BYTES
    read = unpack(record)
    assert read.peer == "\\ud800"
    assert len(read.failures) == 8
    with pytest.raises(AuditError):
        Decision("ok", 1, ChainFacts(agent="a" * MAX_RECORD_BYTES)).pack()


@pytest.mark.spec("12.5")
def test_an_argument_digest_cannot_be_compared_between_records() -> None:
    """Each record has a salt of its own, so equal arguments have unequal digests; no argument's code is run."""

    class Loud:
        def __repr__(self) -> str:
            raise AssertionError

    (one, salt_one), (two, salt_two) = digest_arguments({"a": 1}), digest_arguments({"a": 1})
    assert one != two
    assert salt_one != salt_two
    assert len(digest_arguments({"a": Loud()})[0]) == 32
    assert digest_arguments({"a": "\ud800"})[0] == b""
    assert keep_arguments({"b": 2, "a": Loud()}) == b'{"a":"(Loud)","b":2}'
    assert keep_arguments({"a": "x" * 9_000}) == b""
    assert digest_arguments({"b": 2})[0] != hashlib.sha256(b'{"b":2}').digest()


@pytest.mark.spec("12.4")
def test_the_outcome_and_the_json_form_say_what_happened() -> None:
    """A decision's dictionary is plain JSON with outcome, reason and the whole chain."""
    document = json.loads(json.dumps(denied(sequence=4, verifier="v1", boot="b1").to_dict()))
    assert (document["outcome"], document["code"], document["id"]) == ("deny", "argument_not_allowed", "b1-4")
    assert document["named"] == ["acme/worker", "acme/helper"]
    assert document["failures"][0]["expected"] == "at most 20"
    assert Decision("ok", 1, FACTS).allowed
    assert not denied().allowed
    assert Decision("counted", 1, UNPROVEN).outcome == "counted"
    assert denied().id == ""


@pytest.mark.spec("12.2")
def test_unproven_refusals_are_counted_and_recorded_once_a_second() -> None:
    """The first is recorded at once; a flood becomes a record a second, with a bounded number of peers."""
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
