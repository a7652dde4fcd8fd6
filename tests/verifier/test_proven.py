# SPDX-License-Identifier: Apache-2.0
"""What a proven chain allows: who, through whom, under which targets, and how much work that may cost."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import NOT_GIVEN, NOT_NAMED, MalformedTokenError
from arx_verifier.limits import MAX_TOOLS, size_of
from arx_verifier.token import chain, targets, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification import compiled_caveats
from arx_verifier.verification.authenticate import check_identifier
from arx_verifier.verification.chain_state import ProvenChain
from tests.support import (
    ANYTHING,
    AT,
    AUDIENCE,
    INCARNATION,
    KEY,
    REALM,
    TOKEN_ID,
    access,
    code_of,
    identifier,
    mint,
    verifier,
)

HOPS = (b"\1" * 9, b"\2" * 9)
RING = KeyRing({"k1.0": KEY}, realm=REALM, max_ttl_ms=600_000)


def proven(token: Macaroon) -> ProvenChain:
    """A chain as a verifier keeps it."""
    key = RING.get("k1.0")
    assert key is not None
    made = ProvenChain(key, check_identifier(token.unverified_identifier, AUDIENCE, RING), token.parts()[1], b"")
    made.read_caveats(token.packets, AUDIENCE)
    return made


@pytest.mark.spec("10.1")
def test_targets_name_everything_whose_end_ends_the_token() -> None:
    """Realm, key, subject, policy, agent and its ancestors, session, links, tasks, each holder and its ancestors."""
    token = (
        mint(subject=("https://idp.example", "ann"))
        .delegate("acme/a/b", Caveat(task="t-sub"), hop=HOPS[0])
        .delegate("acme/c", hop=HOPS[1])
    )
    first, second = chain.links_of(TOKEN_ID, tuple(map(wire.base64_of, HOPS)))
    assert set(proven(token).targets) == {
        "realm",
        "key:k1.0",
        targets.subject_target("https://idp.example", "ann"),
        "policy:" + "p" * 22,
        "agent:acme/support",
        "agent:acme",
        "session:s-aaaaaaaaaaaaaaaa",
        f"link:{TOKEN_ID}",
        "task:t-aaaaaaaaaaaaaaaa",
        "agent:acme/a/b",
        "agent:acme/a",
        "task:t-sub",
        f"link:{first}",
        "agent:acme/c",
        f"link:{second}",
    }
    assert all(len(target.encode()) <= targets.MAX_TARGET_BYTES for target in proven(token).targets)


@pytest.mark.parametrize("raw", [b'{"weather":"fair"}', b'{"exp":1.5}', b'{"allow":[{"tool":"a..b"}]}', b'{"to":"A"}'])
def test_what_no_chain_may_say_is_read_once(raw: bytes) -> None:
    """A caveat that is refused is refused again by what is remembered of its bytes, in the same words."""
    token = mint()
    body, signature = chain.appended(*token.parts(), raw)
    compiled_caveats.REFUSED.clear()
    first, again = (proven(Macaroon(body, signature)).refused for _ in range(2))
    assert first is not None
    assert first == again
    assert first.failures[0].place == f"caveat {len(token.packets) + 1}"
    assert list(compiled_caveats.REFUSED) == [raw]


@pytest.mark.spec("12.1")
def test_facts_keep_what_is_proven_apart_from_what_is_named() -> None:
    """The agent is proven; the holders are what the one before them wrote."""
    token = mint().delegate("acme/a", Caveat(task="t-sub"), hop=HOPS[0]).delegate("acme/b", hop=HOPS[1])
    facts = proven(token).facts
    assert (facts.agent, facts.named, facts.assurance) == ("acme/support", ("acme/a", "acme/b"), "bearer")
    assert (facts.task, facts.tasks, facts.session) == ("t-aaaaaaaaaaaaaaaa", ("t-sub",), "s-aaaaaaaaaaaaaaaa")
    assert len(facts.links) == 2
    grant = verifier().verify(token.encode(), access())
    assert (grant.agent, grant.holder, grant.task) == ("acme/support", "acme/b", "t-aaaaaaaaaaaaaaaa")
    assert verifier().verify(mint().encode(), access()).holder == "acme/support"


@pytest.mark.spec("4.2")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": AT, "iat": AT}, "ends when it begins"),
        ({"exp": AT - 1, "iat": AT}, "ends before it begins"),
        ({"exp": AT + 600_001, "iat": AT}, "lives longer than the realm's tokens"),
        ({"exp": 2**53 - 1, "iat": 0}, "lives for ever"),
        ({"holder": "x" * 43}, "is a bound token"),
        ({"task": None}, "has no task"),
        ({"id": "B" * 22}, "has an id with trailing bits"),
        ({"id": "+" * 21 + "A"}, "has an id in another alphabet"),
    ],
)
def test_identifiers_keep_the_realms_outer_limits(changes: dict[str, object], why: str) -> None:
    """A token whose identifier breaks a limit is malformed, although a right key made it."""
    token = Macaroon.mint(identifier(**changes), key=KEY, realm=REALM, caveats=(ANYTHING,))
    with pytest.raises(MalformedTokenError):
        proven(token)
    assert code_of(token.encode(), access(at=AT - 1), keys=RING) == "malformed"


@pytest.mark.spec("4.2")
def test_the_longest_life_is_allowed() -> None:
    """``exp - iat`` may be exactly the realm's maximum."""
    assert code_of(mint(exp=AT + 600_000, iat=AT).encode(), keys=RING) == "ok"


def test_a_chain_is_silent_and_is_not_pickled() -> None:
    """A cached chain holds a live signature, and shows none of it."""
    made = proven(mint())
    assert repr(made) == "<ProvenChain of session s-aaaaaaaaaaaaaaaa>"
    with pytest.raises(TypeError, match="signature"):
        pickle.dumps(made)


def test_compiled_tools_are_bounded() -> None:
    """A rule for any tool does not let a holder fill memory with names of tools."""
    made = proven(mint())
    for number in range(3 * MAX_TOOLS):
        assert made.judge_tool(f"tool.n{number}", {}) is None
    assert len(made._by_tool) <= MAX_TOOLS


@pytest.mark.spec("7.4")
def test_work_is_bounded_before_it_is_done() -> None:
    """Many tests times long arguments is refused by a count, not by a clock."""
    many = tuple(Constraint(min_length=n) for n in range(1, 41))
    rules = Caveat(allow=(Rule(tool="*", args={"x": Constraint(any_of=many[:40])}),))
    token = mint(rules).encode()
    assert code_of(token, access(args={"x": "y" * 100})) == "ok"
    decision = verifier().decide(token, access(args={"x": "y" * 1_000_000}))
    assert decision.code == "argument_not_allowed"
    assert decision.failures[0].rule == "size of the arguments"


@pytest.mark.spec("7.4")
def test_few_tests_are_free() -> None:
    """Ordinary rules take long arguments."""
    token = mint(Caveat(allow=(Rule(tool="*", args={"x": Constraint(max_length=2_000_000)}),))).encode()
    assert code_of(token, access(args={"x": "y" * 1_000_000})) == "ok"


@pytest.mark.spec("7.4")
def test_size_counts_characters_and_items() -> None:
    """What constraints could look at: text, the items of lists and their text, one for each argument."""
    assert size_of({}) == 0
    assert size_of({"a": 1, "b": "xyz", "c": ["de", 5]}) == 3 + 3 + 2 + 2


@pytest.mark.spec("13")
def test_an_argument_is_reported_once_by_the_last_that_refuses_it() -> None:
    """Restated constraints are not reported again; a refusal by an earlier caveat alone is reported by that one."""

    def allowed(**args: Constraint) -> Caveat:
        return Caveat(allow=(Rule(tool="*", args=dict(args), open=True),))

    first = Caveat(allow=(Rule(tool="*", args={name: Constraint(max=9) for name in "abc"}),))
    token = mint(first, allowed(a=Constraint(max=5), b=Constraint(max=5)), allowed(a=Constraint(max=7)))
    made = proven(token)
    for _ in range(2):  # as they are written, and merged
        refused = made.judge_tool("orders.get", {"a": 10, "b": 10, "d": 1})
        assert refused is not None
        values = [(failure.place, failure.rule, failure.expected, failure.came) for failure in refused.all_failures()]
        assert values == [
            ("caveat 3", "a max", "7", "10"),
            ("caveat 2", "b max", "5", "10"),
            ("caveat 1", "c", NOT_GIVEN, "nothing"),
            ("caveat 1", "d", NOT_NAMED, "1"),
        ]


BOUNDS = st.integers(0, 3)
ATTENUATIONS = st.builds(
    lambda args, open_, more: Caveat(
        allow=(Rule(tool="*", args=args, open=open_), *[Rule(tool="*", args={"a": Constraint(max=m)}) for m in more])
    ),
    st.dictionaries(
        st.sampled_from("abc"),
        st.builds(lambda least, most: Constraint(min=least, max=least + most), BOUNDS, BOUNDS)
        | st.builds(lambda least: Constraint(min=least, optional=True), BOUNDS)
        | st.just("x"),
        max_size=3,
    ),
    st.booleans(),
    st.lists(BOUNDS, max_size=2),
)


@pytest.mark.spec("12.3", "13")
@given(
    st.lists(ATTENUATIONS, min_size=1, max_size=3),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 7) | st.just("x"), max_size=4),
)
def test_a_record_has_one_of_what_its_answer_reports(attenuations: list[Caveat], args: dict[str, Any]) -> None:
    """What is recorded of refused arguments is one of all that failed, whether the rules were merged or not."""
    made = proven(mint(*attenuations))
    for _ in range(3):
        refused = made.judge_tool("orders.get", args)
        if refused is not None:
            (answer,) = refused.failures
            assert answer in refused.all_failures()


@pytest.mark.spec("10.2")
def test_born_is_carried_with_the_incarnation() -> None:
    """A token born in another history of the kill store is over."""
    assert code_of(mint(born=(INCARNATION, 0)).encode()) == "ok"
    assert code_of(mint(born=(wire.text_of(rb"\9" * 2 + b"\1" * 14), 0)).encode()) == "revoked"


@pytest.mark.spec("12.1")
def test_every_chain_refused_for_its_caveats_keeps_its_facts() -> None:
    """A proven refusal is recorded with who it was, as far as the chain could be read."""
    checked = verifier()
    decision = checked.decide(mint(ANYTHING, Caveat(aud=("billing",))).encode(), access())
    assert decision.code == "wrong_audience"
    assert decision.facts.agent == "acme/support"
    assert decision.failures[0].place == "caveat 2"


HOP_LIKE = st.sampled_from(["AAAAAAAAAAAA", "hop", '"hop":"AAAAAAAAAAAA', 'x","hop":"AAAAAAAAAAAA', "\\"])
NAMED = st.fixed_dictionaries({}, optional={"hop": HOP_LIKE, "to": HOP_LIKE, "a": HOP_LIKE})


@given(NAMED, st.booleans(), HOP_LIKE)
def test_a_caveat_is_kept_for_every_hop_and_for_nothing_else(args: dict[str, str], handed: bool, text: str) -> None:
    """Writing another hop where the key has a gap gives the same caveat with that hop, whatever else is called so."""
    caveat = Caveat(allow=(Rule(tool="x", args=dict(args)),), require=("call",), net=("10.0.0.0/8",), aud=(text,))
    if handed:
        caveat = caveat.delegated_to("acme/w", "BwcHBwcHBwcH")
    key = compiled_caveats.key_of(caveat.encode(), caveat.hop)
    assert (key is None) == (not handed and "hop" in args)
    if key is not None:
        assert (compiled_caveats.GAP in key) == handed
        other = caveat.delegated_to("acme/w", "CCCCCCCCCCCC") if handed else caveat
        assert key.replace(compiled_caveats.GAP, compiled_caveats.HOP_MARK + b"CCCCCCCCCCCC") == other.encode()
