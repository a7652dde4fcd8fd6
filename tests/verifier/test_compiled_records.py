# SPDX-License-Identifier: Apache-2.0
"""A compiled record has the same bytes, and its journal says the same of each."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import compiled, decisions, segment, spool
from arx_verifier.decisions import Decision
from arx_verifier.errors import Failure
from tests.support import QUICK
from tests.verifier.twins import ODD, SMALL, agree, outcome

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
