# SPDX-License-Identifier: Apache-2.0
"""The vectors of SPEC: made by a second implementation, decided by this one, and never changed unseen."""

import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import jcs
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.token import call_proof
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon
from tests.support import QUICK, identifier, spec_examples, unchecked
from tests.vectors import make_vectors, second
from tests.vectors.subject import call_before, failed_vectors, present_before, request_of, verifier_of

FOLDER = Path(__file__).parent.parent / "vectors" / "tokens"
VECTORS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
REACHED = ("ok", "insufficient_budget")  # the codes of a call that was spent


@pytest.mark.parametrize("name", VECTORS)
def test_each_vector_comes_out_as_it_says(name: str) -> None:
    """Grant or the very reason, on first sight."""
    vector = VECTORS[name]
    checked, request = verifier_of(vector), request_of(vector)
    present_before(checked, vector, request)
    call_before(checked, vector)
    for _ in range(vector["times"]):
        decision = checked.decide(vector["token"], request)
    assert ("grant" if decision.allowed else decision.code) == vector["expect"], vector["comment"]


@pytest.mark.parametrize("name", [name for name, vector in VECTORS.items() if vector["times"] == 1])
def test_each_vector_comes_out_alike_when_seen(name: str) -> None:
    """A verifier that decided it before decides it again alike; only a call that was granted is spent."""
    vector = VECTORS[name]
    checked, request = verifier_of(vector), request_of(vector)
    present_before(checked, vector, request)
    call_before(checked, vector)
    first = checked.decide(vector["token"], request).code
    again = checked.decide(vector["token"], request).code
    parts = [Macaroon.parse(text) for text in vector["token"].split("~")] if first in REACHED else []
    packets = [packet for part in parts for packet in part.packets if isinstance(packet, bytes)]
    if any(b'"spend":' in packet for packet in packets):
        return  # the second call finds less in the pool
    if "calls" in vector and first == "ok":
        return  # the second call finds what the first has set
    once = any(b'"once":' in packet for packet in packets)
    used = {"replayed"} if parts and parts[0].is_one_shot else {"already_used"} if once else {first}
    assert again in used


def test_every_family_comes_out_as_it_says() -> None:
    """Each vector of each family that the runner knows is answered right, in this process."""
    assert failed_vectors() == {}


def test_the_files_are_what_the_script_makes() -> None:
    """Running the script again changes nothing: no file differs, is missing or is left over."""
    made = make_vectors.build()
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == made


def test_there_are_enough_and_refusals_lead() -> None:
    """The example that SPEC 13 names for a reason is refused with it, and most vectors are refusals."""
    expected = Counter(vector["expect"] for vector in VECTORS.values())
    examples = spec_examples()
    assert all(VECTORS[example]["expect"] == code for code, example in examples.items())
    assert set(expected) == {*examples, "grant"}
    assert len(VECTORS) >= 60
    assert expected["grant"] * 3 < len(VECTORS)
    assert all(vector["comment"] and vector["spec"] for vector in VECTORS.values())


@pytest.mark.parametrize("name", [name for name, vector in VECTORS.items() if vector["expect"] == "grant"])
def test_what_is_granted_is_canonical_to_both_writers(name: str) -> None:
    """Every object in a good token is written alike by the typed writer and by the standard library's."""
    for token in map(Macaroon.parse, VECTORS[name]["token"].split("~")):
        for packet in (token.identifier, *token.packets):
            raw = packet if isinstance(packet, bytes) else packet.identifier
            assert second.canonical(json.loads(raw)) == raw
            assert jcs.encode(msgspec.json.decode(raw)) == raw


TEXTS = st.text(st.characters(codec="utf-8", max_codepoint=0xFFFF), max_size=12)
SCALARS = st.one_of(TEXTS, st.integers(-(2**53) + 1, 2**53 - 1), st.booleans())
CONSTRAINTS = SCALARS | st.builds(
    unchecked,
    st.just(Constraint),
    one_of=st.none() | st.lists(SCALARS, min_size=1, max_size=3).map(tuple),
    not_=st.none() | SCALARS,
    glob=st.none() | TEXTS,
    optional=st.booleans(),
)
RULES = st.builds(
    unchecked,
    st.just(Rule),
    tool=TEXTS,
    args=st.none() | st.dictionaries(TEXTS.filter(bool), CONSTRAINTS, max_size=3),
    open=st.booleans(),
)


@QUICK
@given(st.lists(RULES, min_size=1, max_size=2), st.none() | TEXTS.filter(bool), st.none() | st.integers(0, 2**53 - 1))
def test_caveats_are_canonical_to_a_second_writer(rules: list[Rule], task: str | None, exp: int | None) -> None:
    """The bytes of any caveat are those that ``json.dumps`` writes of the same value."""
    raw = unchecked(Caveat, allow=tuple(rules), task=task, exp=exp).encode()
    assert second.canonical(json.loads(raw)) == raw


@QUICK
@given(TEXTS.filter(bool), st.none() | st.tuples(TEXTS, TEXTS), st.integers(0, 2**53 - 1))
def test_identifiers_are_canonical_to_a_second_writer(agent: str, subject: tuple[str, str] | None, exp: int) -> None:
    """The bytes of any identifier are those that ``json.dumps`` writes of the same value."""
    raw = jcs.encode(identifier(agent=agent, subject=subject, exp=exp))
    assert second.canonical(json.loads(raw)) == raw


def test_the_second_writer_signs_calls_alike() -> None:
    """Both implementations make the same one-shot token of the same call."""
    for request in (
        {"tool": "orders.put", "args": {"a": "ä", "b": [1, None]}},
        {"tool": "x", "args": {}, "http": {"method": "GET", "target": "/a?b", "body": ""}},
    ):
        made = second.mint().with_caveats(second.call(request)).text()
        signer = call_proof.CallSigner(Macaroon.parse(second.mint().text()), "orders")
        asked = request_of({"request": request | {"at": second.AT}})
        assert signer.sign(call_proof.fields_of(asked), second.AT, second.NONCE) == made
