# SPDX-License-Identifier: Apache-2.0
"""Vectors of calls with two faults: which code is the answer (SPEC 6.1, 10.4 and 11)."""

from typing import Any

from tests.vectors.discharge_vectors import REFUND
from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import (
    ANYTHING,
    AT,
    HOP,
    OTHER_KEY,
    SECOND,
    Token,
    bound,
    bound_call,
    call,
    discharge,
    hop,
    joined,
    links,
    mint,
    mint_bound,
    requiring,
)

TO: dict[str, Any] = {"hop": HOP, "to": "acme/worker"}
ELSEWHERE: dict[str, Any] = {"aud": ["billing"]}
UNKNOWN: dict[str, Any] = {"zone": "eu"}
EYES: dict[str, Any] = {"require": ["eyes"]}
ASKED: dict[str, Any] = {"args": {"x": 1}, "tool": "orders.get"}
BEYOND: dict[str, Any] = {"args": {"x": 2**53}}


def vectors() -> Vectors:
    """All of this file."""
    return {
        f"order-{name}": given for name, given in (first_steps() | in_a_caveat() | of_caveats() | last_steps()).items()
    }


def after(*caveats: Any, **changes: Any) -> Token:
    """A token that allows anything, and then these caveats."""
    return mint(ANYTHING, *caveats, **changes)


def broken(token: Token) -> Token:
    """The same with another signature."""
    return token._replace(signature=bytes([token.signature[0] ^ 1]) + token.signature[1:])


def first_steps() -> Vectors:
    """SPEC 11, steps 1 to 4 a."""
    strange = mint(admin=True, kid="k2.0", key=OTHER_KEY)
    cases: dict[str, tuple[str, Token, str]] = {
        "form-before-key": ("malformed", strange, "an identifier with a further member; its key is unknown too"),
        "form-before-audience": ("malformed", mint(v=2, aud="billing"), "another version, and another audience"),
        "long-name-before-signature": ("malformed", broken(mint(agent="a" * 97)), "a text above 96 characters"),
        "location-before-audience": ("malformed", mint(location=b"acme2", aud="billing"), "of another realm"),
        "audience-before-key": ("wrong_audience", mint(aud="billing", kid="k2.0", key=OTHER_KEY), "for others"),
        "key-before-signature": ("unknown_key", broken(mint(kid="k2.0", key=OTHER_KEY)), "with a key that is not here"),
        "signature-before-names": ("bad_signature", broken(mint(agent="Acme/support")), "no path, once it is proven"),
        "signature-before-life": ("bad_signature", broken(mint(exp=AT + 90_000_000)), "too long, once it is proven"),
        "names-before-caveats": ("malformed", after(UNKNOWN, session="s 1"), "the identifier is read first"),
        "names-before-time": ("malformed", after(session="s 1", exp=AT - 1), "a session that is none, and it expired"),
    }
    return {name: vector("11", expect, token, why) for name, (expect, token, why) in cases.items()}


def in_a_caveat() -> Vectors:
    """SPEC 6.1: the seven steps of a caveat."""
    deep = b"[" * 15 + b"]" * 15
    once = [{"once": [f"a-{n}", AT]} for n in range(8)]
    rule = {"allow": [{"args": {"x": {"regex": "a"}}, "tool": "*"}]}
    form: dict[str, tuple[str, Any, str]] = {
        "canonical-before-unknown": ("malformed", b'{"zone":"eu","exp":1900000000000}', "out of order"),
        "null-before-unknown": ("malformed", b'{"exp":null,"zone":"eu"}', "null has no form"),
        "fraction-before-unknown": ("malformed", b'{"zone":1.5}', "a fraction has no form, in any member"),
        "huge-before-unknown": ("malformed", b'{"zone":9007199254740992}', "beyond 2^53-1, in any member"),
        "17-levels-before-unknown": ("malformed", b'{"zone":[' + deep + b"]}", "17 containers"),
        "unknown-16-levels": ("unknown_caveat", b'{"zone":' + deep + b"}", "16 containers"),
        "unknown-negative": ("unknown_caveat", b'{"zone":-1}', "a value below zero has a form"),
        "astral-name-before-unknown": ("malformed", '{"\U0001f600":1}'.encode(), "a name beyond U+FFFF"),
        "empty-name-before-unknown": ("malformed", b'{"":1}', "a name that is empty"),
        "unknown-before-type": ("unknown_caveat", b'{"exp":"x","zone":"eu"}', "a member that does not exist"),
        "unknown-before-operand": ("unknown_caveat", rule | UNKNOWN, "what does not exist comes before a wrong value"),
        "type-before-proof": ("malformed", {"exp": "x"} | EYES, "a wrong value comes before an unknown proof"),
        "operand-before-proof": ("malformed", rule | EYES, "an operand of a rule is a value, too"),
        "fraction-before-proof": (
            "malformed",
            b'{"allow":[{"args":{"x":{"max":1.5}},"tool":"*"}],"require":["eyes"]}',
            "a fraction has no form",
        ),
        "network-before-proof": ("malformed", {"net": ["10.0.0.1/8"]} | EYES, "a network with bits beyond its prefix"),
        "hop-before-proof": ("malformed", {"hop": "aG9wLTAwMD+x", "to": "acme/w"} | EYES, "a hop in another alphabet"),
        "key-before-proof": ("malformed", TO | {"key": "k" * 43, "sig": "s" * 86} | EYES, "a bearer token has no key"),
    }
    found = {name: vector("6.1", expect, after(caveat), why) for name, (expect, caveat, why) in form.items()}
    ninth = after(*once, {"once": ["a-8", AT], "require": ["holder"]})
    cases: dict[str, tuple[str, Token, str]] = {
        "proof-before-depth": ("unknown_caveat", after(TO | EYES, depth=0), "its form comes before what it means"),
        "depth-before-name": ("too_deep", after({"delegate_to": ["b/*"], "depth": 0}, TO), "neither may follow"),
        "depth-before-aud": ("too_deep", after(TO | ELSEWHERE, depth=0), "`to` comes before `aud`"),
        "name-before-aud": ("name_not_allowed", after({"delegate_to": ["b/*"]}, TO | ELSEWHERE), "likewise"),
        "aud-before-require": (
            "wrong_audience",
            after(ELSEWHERE | {"require": ["holder"]}),
            "a bearer token elsewhere",
        ),
        "require-before-once": ("proof_missing", ninth, "the ninth `once`, in a caveat that wants a holder"),
    }
    return found | {name: vector("6.1", expect, token, why) for name, (expect, token, why) in cases.items()} | signed()


def signed() -> Vectors:
    """SPEC 6.1 and 16.2: the signature of a delegation among other faults."""
    root, shallow = mint_bound(), mint_bound(depth=0)

    def called(token: Token) -> Token:
        return token.with_caveats(bound_call(token, SECOND, ASKED, hops=(HOP,)))

    forged = hop(root, SECOND, "acme/worker", SECOND.public, **ELSEWHERE)
    deep = hop(shallow, SECOND, "acme/worker", SECOND.public)
    late = root.with_caveats(ELSEWHERE).with_caveats(hop(root, SECOND, "acme/worker", SECOND.public))
    return {
        "depth-before-signature": vector(
            "6.1", "too_deep", called(shallow.with_caveats(deep)), "not signed by its holder, and too deep"
        ),
        "signature-before-aud": vector(
            "6.1", "bad_signature", called(root.with_caveats(forged)), "not signed by its holder, and for others"
        ),
        "aud-before-later-signature": vector(
            "6.1", "wrong_audience", called(late), "the caveat before is refused first"
        ),
    }


def of_caveats() -> Vectors:
    """SPEC 6.1: the first caveat decides."""
    asked = requiring(mint(), b"who")
    token = requiring(mint())

    def discharged(*caveats: dict[str, Any]) -> str:
        return joined(token, bound(discharge(*caveats), token))

    cases: dict[str, tuple[str, Token, str]] = {
        "aud-then-unknown": ("wrong_audience", after(ELSEWHERE, UNKNOWN), "the first one decides"),
        "unknown-then-aud": ("unknown_caveat", after(UNKNOWN, ELSEWHERE), "the first one decides"),
        "malformed-then-unknown": ("malformed", after({"exp": "x"}, UNKNOWN), "the first one decides"),
        "unknown-then-malformed": ("unknown_caveat", after(UNKNOWN, {"exp": "x"}), "the first one decides"),
        "unknown-then-no-allow": ("unknown_caveat", mint({"exp": AT + 1}, UNKNOWN), "what is missing is found last"),
        "third-party-then-aud": ("unknown_caveat", asked.with_caveats(ELSEWHERE), "at its place"),
        "aud-then-third-party": ("wrong_audience", requiring(after(ELSEWHERE), b"who"), "at its place"),
    }
    found = {name: vector("6.1", expect, made, why) for name, (expect, made, why) in cases.items()}
    return found | {
        "discharge-aud-then-depth": vector(
            "6.6", "wrong_audience", discharged(ELSEWHERE, {"depth": 1}), "the first one decides", request=REFUND
        ),
        "discharge-depth-then-aud": vector(
            "6.6", "malformed", discharged({"depth": 1}, ELSEWHERE), "the first one decides", request=REFUND
        ),
        "discharge-unknown-and-depth": vector(
            "6.6", "unknown_caveat", discharged({"depth": 1} | UNKNOWN), "as in any caveat", request=REFUND
        ),
    }


def last_steps() -> Vectors:
    """SPEC 11, step 4 c to step 6."""
    net = {"net": ["10.0.0.0/8"]}
    other = {"args": {"x": 2}, "tool": "orders.get"}
    signed_one = after(net).with_caveats(call(ASKED))
    ended = after(exp=AT)
    old = mint_bound().with_caveats(call(ASKED, at=AT - 10_001))
    bare = mint_bound().with_caveats(call(ASKED))
    small = {"allow": [{"args": {"x": {"max": 1}}, "tool": "*"}]}
    two = mint(small, {"allow": [{"tool": "orders.put"}]})
    asks = requiring(mint())
    link = links(b"token-id-0000001")[0]
    refund = REFUND | BEYOND
    cases: dict[str, tuple[str, Token, dict[str, Any], str]] = {
        "caveat-before-time": ("wrong_audience", after(ELSEWHERE, exp=AT), ASKED, "for others, and expired"),
        "expired-before-early": ("expired", after({"exp": AT}, {"nbf": AT + 1}), ASKED, "at no time at all"),
        "time-before-call": ("expired", ended.with_caveats(call(ASKED)), other, "expired, and another call"),
        "age-before-proof": ("proof_invalid", old, ASKED, "too old, and without its holder's proof"),
        "proof-before-digest": ("proof_missing", bare, other, "without its holder's proof, and another call"),
        "form-before-digest": ("malformed_request", signed_one, ASKED | BEYOND, "another call, which has no form"),
        "digest-before-network": ("proof_invalid", signed_one, other, "another call, from elsewhere"),
        "missing-before-network": (
            "proof_missing",
            after(net, {"require": ["call"]}),
            ASKED,
            "no call, from elsewhere",
        ),
        "network-before-tool": ("network_not_allowed", two.with_caveats(net), ASKED, "another tool, from elsewhere"),
        "tool-before-arguments": ("tool_not_allowed", two, other, "the first `allow` refuses x, the second the tool"),
        "arguments-before-form": ("argument_not_allowed", mint(small), ASKED | BEYOND, "above 1, and beyond 2^53-1"),
        "form-before-approval": ("malformed_request", asks, refund, "no approval would help"),
        "digest-before-form-of-http": (
            "proof_invalid",
            after().with_caveats(call(ASKED)),
            BEYOND | {"tool": "orders.get", "http": {"body": "", "method": "GET", "target": "/"}},
            "a proof of kind http does not cover the arguments",
        ),
    }
    found = {
        name: vector("11", expect, token, why, request=request) for name, (expect, token, request, why) in cases.items()
    }
    missing: dict[str, Any] = {"applied": 8, "kills": {"realm": 8}}
    kills: dict[str, Any] = {"applied": 9, "kills": {f"link:{link}": 9}, "freezes": {"realm": 8}}
    frozen: dict[str, Any] = {"applied": 9, "kills": {"realm": 9}, "freezes": {f"link:{link}": 8}}
    ahead: dict[str, Any] = {"incarnation": "another", "applied": 6}
    spent = after({"once": ["a-1", AT - 86_400_000]})
    twice = after({"once": ["a-1", AT]}).with_caveats(call(ASKED))
    return found | {
        "approval-before-epoch": vector("11", "missing_discharge", asks, "killed", request=REFUND, epoch=missing),
        "killed-before-frozen": vector("10.4", "revoked", mint(), "the realm is frozen, a link killed", epoch=kills),
        "killed-beside-frozen": vector("10.4", "revoked", mint(), "the realm is killed, a link frozen", epoch=frozen),
        "history-before-behind": vector("10.4", "revoked", mint(), "born ahead, in another history", epoch=ahead),
        "epoch-before-once": vector("11", "frozen", spent, "too old", epoch={"applied": 8, "freezes": {"realm": 8}}),
        "replay-before-once": vector("11", "replayed", twice, "both are spent", request=ASKED, times=2),
    }
