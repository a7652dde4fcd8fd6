# SPDX-License-Identifier: Apache-2.0
"""Batches: one form, and a statement that holds for exactly these bytes of exactly this service."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.audit.ingest.entries import Reader
from arx_caps.audit.merkle.tree import EMPTY_ROOT, leaf_hash, node_hash
from arx_caps.audit.shipping.batch import MAX_RECORDS, Batch, hold_statement, open_statement, read_mark, sign_batch
from arx_caps.credentials.keyfile import PublicKey, SigningKey
from arx_verifier.errors import GrantError, RequestError, TokenError
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import ChainFacts, Sealed, seal

pytestmark = pytest.mark.spec("LOG 2.1")

NOW = 1_800_000_000_000
KEY = SigningKey.generate()
WHERE = {"realm": "acme", "issuer": "https://mint.example"}
FACTS = ChainFacts(agent="acme/support", session="s-1", audience="orders")


def record(sequence: int, facts: ChainFacts = FACTS, verifier: str = "v1", boot: str = "b1") -> Sealed:
    return seal(Decision("ok", NOW, facts, "orders.get").pack(), verifier, boot, sequence)


RECORDS = (record(7), record(8))


def batch(**changes: Any) -> Batch:
    made = Batch("v1", "orders", "b1", 7, None, RECORDS, False)
    return made._replace(**changes)


def find(holder: str, kid: str) -> PublicKey | None:
    return KEY.public if (holder, kid) == ("service:orders", KEY.kid) else None


def check(statement: str, given: Batch, body: bytes | None = None, **changes: Any) -> PublicKey:
    parts = {**WHERE, "now": NOW} | changes
    opened = open_statement(statement, find, now=parts.pop("now"))
    hold_statement(opened, given, given.encode() if body is None else body, **parts)
    return opened.key


def signed(given: Batch, key: SigningKey = KEY, **changes: Any) -> str:
    parts = {**WHERE, "now": NOW} | changes
    return sign_batch(key, given, given.encode(), **parts)


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=9),
    st.integers(2, 2**40),
    st.none() | st.just(1),
    st.lists(st.builds(Sealed, st.binary(min_size=1, max_size=9), st.binary(max_size=9)), max_size=3).map(tuple),
    st.booleans(),
)
def test_a_batch_reads_back_as_it_was(
    name: str, first: int, lost: int | None, records: tuple[Sealed, ...], closed: bool
) -> None:
    """Writing and reading are inverse, and any MessagePack reader sees an array of fixed positions."""
    made = Batch(name, "orders", "b1", first, lost, records, closed)
    assert Batch.decode(made.encode()) == made
    assert msgpack.unpackb(made.encode())[:3] == [1, name, "orders"]
    assert made.last == first + len(records) - 1


@given(st.binary(max_size=60))
def test_junk_is_no_batch(junk: bytes) -> None:
    """Whatever is posted is a batch or a refusal of the request."""
    with pytest.raises(RequestError):
        Batch.decode(junk)


@pytest.mark.parametrize(
    "changes",
    [
        {"first": 0},
        {"first": 7, "lost_from": 7},
        {"lost_from": 0},
        {"records": (Sealed(b"", b""),)},
        {"records": (Sealed(b"x" * 65_536, b""),)},
        {"records": (Sealed(b"x", b""),) * (MAX_RECORDS + 1)},
        {"records": (Sealed(b"x", b"y" * (5 << 20)),)},
    ],
)
def test_what_no_verifier_makes_is_refused(changes: dict[str, Any]) -> None:
    """Places below 1, losses behind the beginning, records that no log takes, and too much at once."""
    with pytest.raises(RequestError):
        Batch.decode(batch(**changes).encode())


def test_another_version_is_refused() -> None:
    """What it means is not known."""
    with pytest.raises(RequestError, match="version 2"):
        Batch.decode(msgpack.packb([2, "v1", "orders", "b1", 7, None, [], False]))


def test_records_are_held_to_their_batch() -> None:
    """One of another place, run, verifier or service, or with another body, is refused; counts name no service."""
    assert [entry.sequence for entry in Reader().read(batch())] == [7, 8]
    assert Reader().read(batch(records=(record(7, ChainFacts()),)))
    good = record(7)
    for wrong in (
        record(8),
        record(7, boot="b2"),
        record(7, verifier="v2"),
        record(7, ChainFacts(audience="mail")),
        Sealed(good.kept, good.body + b"\0"),
        Sealed(good.kept[:-1], good.body),
    ):
        with pytest.raises(RequestError, match="record 7"):
            Reader().read(batch(records=(wrong,)))


@pytest.mark.spec("LOG 2.2")
def test_the_root_is_that_of_the_log_s_tree() -> None:
    """So that a reader of the records can see which batch they came in."""
    one, two = (leaf_hash(kept) for kept, _ in batch().records)
    assert batch().root == node_hash(one, two)
    assert batch(records=()).root == EMPTY_ROOT


@pytest.mark.spec("LOG 2.2")
def test_a_statement_holds_for_these_bytes_alone() -> None:
    """Another batch, body, realm, mint, key or time: refused."""
    good = signed(batch())
    assert check(good, batch()).kid == KEY.kid
    others = ({"boot": "b2"}, {"verifier": "v2"}, {"first": 6}, {"closed": True}, {"lost_from": 2}, {"records": ()})
    for changes in others:
        with pytest.raises(GrantError):
            check(good, batch(**changes))
    for wrong in ({"realm": "other"}, {"issuer": "https://evil.example"}, {"now": NOW + 301_000}, {"now": 0}):
        with pytest.raises(GrantError):
            check(good, batch(), **wrong)
    with pytest.raises(GrantError, match="sha256"):
        check(good, batch(), batch().encode() + b"\0")
    with pytest.raises(GrantError, match='not enrolled for the service "mail"'):
        check(signed(batch(audience="mail")), batch(audience="mail"))
    with pytest.raises(GrantError, match="not enrolled"):
        check(signed(batch(), SigningKey.generate()), batch())


@pytest.mark.spec("LOG 2.2")
def test_a_statement_of_another_kind_is_refused() -> None:
    """A proof or an assertion by the same key is no statement; neither is junk."""
    head, claims, signature = signed(batch()).split(".")
    proof = KEY.sign({"typ": "dpop+jwt", "kid": KEY.kid}, {"iat": NOW // 1000})
    for wrong in (proof, "", "a.b.c", f"{head}.{claims}.{signature[:-4]}AAAA", f"{head}.{claims}", "x" * 5000):
        with pytest.raises(GrantError):
            check(wrong, batch())


@pytest.mark.spec("LOG 2.3")
def test_an_answer_that_says_no_mark_is_none() -> None:
    """Whatever stands between verifier and mint cannot make records go away."""
    assert read_mark(b'{"high_water":7,"boot":"b1","more":1}').high_water == 7
    for wrong in (b"", b"{}", b'{"high_water":"7"}', b"<html>"):
        with pytest.raises(TokenError):
            read_mark(wrong)
