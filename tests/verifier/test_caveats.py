# SPDX-License-Identifier: Apache-2.0
"""Each member of a caveat takes something away, and whatever is not one of them takes everything."""

from typing import Any

import pytest

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import Failure, MalformedTokenError, UnknownCaveatError
from arx_verifier.journal.decision import unpack
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token import wire
from arx_verifier.token.caveats import KNOWN, Caveat, read_caveat
from tests.support import (
    ANYTHING,
    AT,
    INCARNATION,
    access,
    code_of,
    forge_caveats,
    identifier,
    mint,
    sign,
    unchecked,
    verifier,
)

pytestmark = pytest.mark.spec("6.1")

HOP = wire.text_of(b"\7" * 9)


def after(*caveats: Caveat, **changes: Any) -> str:
    """A token that allows anything, and then these caveats."""
    return mint(ANYTHING, *caveats, **changes).encode()


EXAMPLES = {
    "after": Caveat(after=((("untrusted", "private"), ("mail.send", "web.*")),), opened=AT),
    "distinct": Caveat(distinct=((("mail.send",), ("to", "cc"), 5, "task"),), opened=AT),
    "marks": Caveat(marks=(("call", "untrusted", "session", ("web.*",)), ("from", "ok", "task", ("ci",))), opened=AT),
    "only_after": Caveat(only_after=(("tested", 3_600_000, ("deploy.run",)),), opened=AT),
    "opened": Caveat(after=((("untrusted",), ("mail.send",)),), opened=0),
    "allow": Caveat(
        allow=(Rule(tool="a.b", args={"x": 1, "y": Constraint(one_of=("p", "q"), optional=True)}, open=True),)
    ),
    "aud": Caveat(aud=("billing", "orders")),
    "call": Caveat(call=("d" * 43, AT, "n" * 22)),
    "depth": Caveat(depth=0),
    "exp": Caveat(exp=AT),
    "fresh": Caveat(fresh=0),
    "delegate_to": Caveat(delegate_to=("acme/*", "acme/**", "*")),
    "hop": Caveat(hop=HOP, to="acme/worker"),
    "nbf": Caveat(nbf=0),
    "net": Caveat(net=("10.0.0.0/8", "2001:db8::/32")),
    "key": Caveat(hop=HOP, key="k" * 43, sig="s" * 86, to="acme"),
    "once": Caveat(once=("a-1.B_2", AT)),
    "operators": Caveat(operators=("ada", "Corp.b@b_2-")),
    "require": Caveat(require=("call", "holder")),
    "shown": Caveat(shown=(("untrusted", AT), ("private", 0))),
    "sig": Caveat(depth=0, hop=HOP, key="k" * 43, sig="s" * 86, to="acme"),
    "spend": Caveat(spend=("refund", "usd", "2.5", "task", AT)),
    "task": Caveat(task="t-1"),
    "to": Caveat(exp=9, hop=HOP, to="acme"),
}


@pytest.mark.parametrize("member", sorted(KNOWN))
def test_each_member_survives_the_way_through_bytes(member: str) -> None:
    """Every member has an example here, and is read as it was written."""
    assert read_caveat(EXAMPLES[member].encode()) == EXAMPLES[member]
    assert EXAMPLES[member].check() == EXAMPLES[member]


def test_exp_is_exclusive_and_the_earliest_counts() -> None:
    """A token is over at ``exp``, not after it; a later ``exp`` gives nothing back."""
    assert code_of(after(Caveat(exp=AT + 1))) == "ok"
    assert code_of(after(Caveat(exp=AT))) == "expired"
    assert code_of(after(Caveat(exp=AT), Caveat(exp=AT + 9000))) == "expired"
    assert code_of(after(Caveat(exp=AT + 90_000_000)), access(at=AT + 540_000)) == "expired"


def test_nbf_is_inclusive_and_the_latest_counts() -> None:
    """A token begins at ``nbf``; an earlier ``nbf`` gives nothing back."""
    assert code_of(after(Caveat(nbf=AT))) == "ok"
    assert code_of(after(Caveat(nbf=AT + 1))) == "not_yet_valid"
    assert code_of(after(Caveat(nbf=AT + 1), Caveat(nbf=0))) == "not_yet_valid"


def test_aud_must_name_this_service() -> None:
    """An audience that is listed passes, in each list."""
    assert code_of(after(Caveat(aud=("billing", "orders")))) == "ok"
    assert code_of(after(Caveat(aud=("billing",)))) == "wrong_audience"
    assert code_of(after(Caveat(aud=("orders",)), Caveat(aud=("billing",)))) == "wrong_audience"
    assert code_of(after(Caveat(aud=("orders2", "order")))) == "wrong_audience"


@pytest.mark.spec("6.3")
def test_depth_counts_the_delegations_that_follow() -> None:
    """A depth binds what comes after it, and the smallest that is left counts."""
    to = Caveat(hop=HOP, to="acme/w")
    assert code_of(after(to, to, to, to)) == "ok"
    assert code_of(after(to, to, to, to, to)) == "too_deep"
    assert code_of(after(to, depth=0)) == "too_deep"
    assert code_of(after(to, to, Caveat(depth=0))) == "ok"
    assert code_of(after(to, Caveat(depth=1), to)) == "ok"
    assert code_of(after(to, Caveat(depth=1), to, to)) == "too_deep"
    assert code_of(after(Caveat(depth=1), Caveat(depth=9), to, to)) == "too_deep"
    assert code_of(after(Caveat(depth=0, hop=HOP, to="acme/w"))) == "ok"
    assert code_of(after(Caveat(depth=0, hop=HOP, to="acme/w"), to)) == "too_deep"


@pytest.mark.spec("6.3")
def test_delegate_to_binds_what_follows() -> None:
    """Every later holder must match every list before it."""
    assert code_of(after(Caveat(delegate_to=("acme/*",)), Caveat(hop=HOP, to="acme/w"))) == "ok"
    assert code_of(after(Caveat(delegate_to=("acme/*",)), Caveat(hop=HOP, to="acme2/w"))) == "name_not_allowed"
    assert code_of(after(Caveat(delegate_to=("acme/*",)), Caveat(hop=HOP, to="acme/w/x"))) == "name_not_allowed"
    assert code_of(after(Caveat(hop=HOP, to="other"), Caveat(delegate_to=("acme/*",)))) == "ok"
    both = (Caveat(delegate_to=("acme/**",)), Caveat(delegate_to=("acme/a/*",)))
    assert code_of(after(*both, Caveat(hop=HOP, to="acme/a/b"))) == "ok"
    assert code_of(after(*both, Caveat(hop=HOP, to="acme/b"))) == "name_not_allowed"
    assert (
        code_of(after(Caveat(delegate_to=("other",)), Caveat(delegate_to=("**",)), Caveat(hop=HOP, to="acme")))
        == "name_not_allowed"
    )


def test_net_must_hold_the_peer() -> None:
    """The peer is in one network of each list; who has no address is in none."""
    token = after(Caveat(net=("192.0.2.0/24", "2001:db8::/32")))
    for peer in ("192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1"):
        assert code_of(token, access(peer=peer)) == "ok"
    for stranger in (None, "", "192.0.3.7", "::ffff:192.0.3.7", "2001:db9::1", "192.0.2.7:80", "unix", "192.0.2.007"):
        assert code_of(token, access(peer=stranger)) == "network_not_allowed"
    assert code_of(after(Caveat(net=("192.0.2.0/24",)), Caveat(net=("10.0.0.0/8",)))) == "network_not_allowed"


@pytest.mark.spec("6.3")
def test_require_call_refuses_the_bare_token() -> None:
    """With ``require`` the task's token alone is refused, and each signed call is accepted."""
    token = mint(Caveat(allow=ANYTHING.allow, require=("call",)))
    assert code_of(token.encode()) == "proof_missing"
    assert code_of(sign(token, access())) == "ok"


@pytest.mark.parametrize("proof", ["holder", "signature"])
def test_require_holder_refuses_a_bearer_token(proof: str) -> None:
    """No key is behind it, so the proof is missing, also when a call is there."""
    token = mint(ANYTHING, Caveat(require=(proof,)))
    assert code_of(token.encode()) == code_of(sign(token, access())) == "proof_missing"


def test_every_allow_must_match() -> None:
    """Rules of one caveat are alternatives, caveats are not."""
    get, put = Rule(tool="orders.get"), Rule(tool="orders.put")
    assert code_of(after(Caveat(allow=(get, put)))) == "ok"
    assert code_of(after(Caveat(allow=(get,)), Caveat(allow=(put,)))) == "tool_not_allowed"
    attenuate = after(Caveat(allow=(Rule(tool="orders.get", args={"id": "o-1"}),)))
    assert code_of(attenuate, access(args={"id": "o-1"})) == "ok"
    assert code_of(attenuate, access(args={"id": "o-2"})) == "argument_not_allowed"
    assert code_of(attenuate, access(args={})) == "argument_not_allowed"
    assert code_of(attenuate, access(args={"id": "o-1", "more": 1})) == "argument_not_allowed"


@pytest.mark.spec("6.2")
def test_the_first_caveat_must_allow_something() -> None:
    """A mint that forgot to say what a token is for made none."""
    assert code_of(mint(Caveat(exp=AT + 1)).encode()) == "malformed"
    assert code_of(mint(Caveat(exp=AT + 1), ANYTHING).encode()) == "malformed"


@pytest.mark.parametrize("member", ["Spend", "Exp", "EXP", "exp ", "allow\\u0000", "tool", "expires", "ä"])
def test_an_unknown_member_prohibits(member: str) -> None:
    """What this version does not know, it does not ignore; the reserved members are unknown too."""
    for raw in (f'{{"{member}":1}}', f'{{"{member}":{{"a":[1]}}}}'):
        assert code_of(forge_caveats(raw.encode())) == "unknown_caveat"
    first, then = [f'"{name}":{value}' for name, value in sorted([(member, 1), ("exp", AT + 9)])]
    assert code_of(forge_caveats(f"{{{first},{then}}}".encode())) == "unknown_caveat"
    assert code_of(forge_caveats(f"{{{then},{first}}}".encode())) == "malformed"


def test_an_unknown_proof_prohibits() -> None:
    """``require`` of something newer is not ignored."""
    assert code_of(forge_caveats(b'{"require":["call","eyes"]}')) == "unknown_caveat"
    with pytest.raises(UnknownCaveatError):
        unchecked(Caveat, require=("eyes",)).check()


BAD = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"1",
    b'"exp"',
    b"\xff\xfe",
    b"exp = 5",
    b'{"exp":5',
    b'{"exp":5}}',
    b'{"exp":5} ',
    b' {"exp":5}',
    b'{"exp": 5}',
    b'{"exp":5,"exp":6}',
    b'{"nbf":5,"exp":6}',
    b'{"\\u0065xp":5}',
    b'{"exp":5.0}',
    b'{"exp":5e3}',
    b'{"exp":05}',
    b'{"exp":+5}',
    b'{"exp":-5}',
    b'{"exp":-0}',
    b'{"exp":"5"}',
    b'{"exp":true}',
    b'{"exp":null}',
    b'{"exp":9007199254740992}',
    b'{"exp":1' + b"0" * 5000 + b"}",
    b'{"exp":NaN}',
    b'{"exp":Infinity}',
    b'{"depth":17}',
    b'{"depth":-1}',
    b'{"fresh":60001}',
    b'{"nbf":-1}',
    b'{"allow":[]}',
    b'{"allow":{}}',
    b'{"allow":[{"tool":""}]}',
    b'{"allow":[{"args":{}}]}',
    b'{"allow":[{"tool":"a b"}]}',
    b'{"allow":[{"tool":"a.*.b"}]}',
    b'{"allow":[{"open":false,"tool":"a"}]}',
    b'{"allow":[{"args":{"x":{}},"tool":"a"}]}',
    b'{"allow":[{"args":{"x":1.5},"tool":"a"}]}',
    b'{"allow":[{"args":{"x":null},"tool":"a"}]}',
    b'{"allow":[{"args":{"x":[1]},"tool":"a"}]}',
    b'{"allow":[{"args":{"x":{"regex":"a+"}},"tool":"a"}]}',
    b'{"allow":[{"args":{"x":{"cidr":"10.0.0.1/8"}},"tool":"a"}]}',
    b'{"allow":[{"args":{"y":1,"x":1},"tool":"a"}]}',
    b'{"allow":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"aud":[]}',
    b'{"aud":"orders"}',
    b'{"aud":[""]}',
    b'{"delegate_to":[]}',
    b'{"delegate_to":["a/**/b"]}',
    b'{"delegate_to":["Acme"]}',
    b'{"net":[]}',
    b'{"net":["10.0.0.1/8"]}',
    b'{"net":["everywhere"]}',
    b'{"once":["a"]}',
    b'{"once":["",1]}',
    b'{"once":["a:b",1]}',
    b'{"once":["a",-1]}',
    b'{"once":["a","1"]}',
    b'{"once":["%s",1]}' % (b"x" * 65),
    b'{"require":[]}',
    b'{"task":""}',
    b'{"to":"acme/w"}',
    b'{"hop":"BwcHBwcHBwcH"}',
    b'{"hop":"BwcHBwcHBwc","to":"acme/w"}',
    b'{"hop":"BwcHBwcHBwc=","to":"acme/w"}',
    b'{"hop":"BwcHBwcH+wcH","to":"acme/w"}',
    b'{"hop":"BwcHBwcHBwcH","to":"Acme/w"}',
    b'{"hop":"BwcHBwcHBwcH","to":"acme//w"}',
    b'{"hop":"BwcHBwcHBwcH","to":"a/b/c/d/e/f/g/h/i"}',
    b'{"call":["d",1,"n"]}',
    b'{"call":[]}',
]


@pytest.mark.parametrize("raw", BAD, ids=lambda raw: ascii(raw[:40]))
def test_other_shapes_are_malformed(raw: bytes) -> None:
    """Empty, doubled, reordered, spaced, wrongly typed, floating, negative or huge: refused, and so is the token."""
    assert code_of(forge_caveats(raw)) == "malformed"
    assert code_of(forge_caveats(raw, ANYTHING.encode())) == "malformed"


@pytest.mark.parametrize("raw", BAD, ids=lambda raw: ascii(raw[:40]))
def test_reading_raises_the_errors_of_arx_alone(raw: bytes) -> None:
    """What cannot be read raises ``MalformedTokenError`` where it is read or where its rules are compiled."""
    if raw == b'{"call":["d",1,"n"]}':  # a shape that is right but for its place
        return
    with pytest.raises(MalformedTokenError):
        read_caveat(raw).check()


def test_an_empty_caveat_cannot_be_made() -> None:
    """A holder that forgot what to restrict gets an error."""
    with pytest.raises(MalformedTokenError, match="empty"):
        mint().attenuate(unchecked(Caveat))


@pytest.mark.parametrize(
    "caveat",
    [
        unchecked(Caveat, to="acme/w"),
        unchecked(Caveat, hop=HOP),
        unchecked(Caveat, to="Acme", hop=HOP),
        unchecked(Caveat, delegate_to=("**/x",)),
        unchecked(Caveat, net=("10.0.0.1/8",)),
        unchecked(Caveat, allow=(unchecked(Rule, tool=""),)),
        unchecked(Caveat, allow=(unchecked(Rule, tool="a", args={"x": unchecked(Constraint)}),)),
        unchecked(Caveat, allow=(unchecked(Rule, tool="a", args={"x": unchecked(Constraint, range=(5, 1))}),)),
    ],
)
def test_check_shows_the_holder_what_every_verifier_would_refuse(caveat: Caveat) -> None:
    """``check`` refuses exactly what verification would refuse as malformed."""
    with pytest.raises(MalformedTokenError):
        caveat.check()
    assert code_of(after(caveat)) == "malformed"


def test_sub_tasks_add_their_target() -> None:
    """A ``task`` caveat makes the token end with that task."""
    epochs = UnsafeLocalEpochs(INCARNATION)
    epochs.kill("task:t-sub")
    assert code_of(after(Caveat(task="t-sub")), epochs=epochs) == "revoked"
    assert code_of(after(Caveat(task="t-other")), epochs=epochs) == "ok"


def test_a_denial_says_which_caveat_and_what_came() -> None:
    """A proven refusal names place, rule, expectation and what came: its record the first argument, its answer all."""
    token = after(Caveat(allow=(Rule(tool="orders.get", args={"id": "o-1", "max": Constraint(range=(1, 5))}),)))
    decision = verifier().decide(token, access(args={"id": "o-2", "max": 9}))
    assert decision.code == "argument_not_allowed"
    values = [
        Failure("caveat 2", "id equal", '"o-1"', '"o-2"'),
        Failure("caveat 2", "max range", "[1,5]", "9"),
    ]
    assert decision.all_failures() == tuple(values)
    assert list(decision.failures) == values[:1]
    assert unpack(decision.pack()).all_failures() == decision.failures
    assert "o-2" not in repr(decision.untold)
    assert identifier().id not in str(decision.all_failures())


def test_a_denied_tool_names_each_caveat_that_denies_it() -> None:
    """Only the caveats that do not allow the tool are reported, with what they allow."""
    get_or_put = Caveat(allow=(Rule(tool="orders.get"), Rule(tool="orders.put")))
    decision = verifier().decide(after(get_or_put, Caveat(allow=(Rule(tool="files.*"),))), access("orders.get"))
    assert decision.code == "tool_not_allowed"
    assert decision.failures == (Failure("caveat 3", "tool", "files.*", '"orders.get"'),)
