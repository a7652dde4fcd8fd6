# SPDX-License-Identifier: Apache-2.0
"""Vectors of what an implementation that is wrong in one line would get wrong.

Each stands at the edge of a rule, on the side that a slip would move.  ``tests/mutants`` has such slips.
"""

import hashlib
from typing import Any, NamedTuple

from tests.vectors import memory_vectors
from tests.vectors.discharge_vectors import named
from tests.vectors.follower_vectors import NAMES, Script
from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.holder_vectors import called, one_hop, two_hops
from tests.vectors.second import (
    ANYTHING,
    AT,
    FIRST,
    HOP,
    HOP2,
    NONCE,
    SECOND,
    THIRD,
    Token,
    bound,
    call,
    canonical,
    discharge,
    hop,
    identifier,
    jcs,
    joined,
    mint,
    mint_bound,
    packet,
    prefixed,
    requiring,
    text,
)
from tests.vectors.spend_vectors import COSTS, OPENED, pool, refund

TO: dict[str, Any] = {"hop": HOP, "to": "acme/worker"}
GET: dict[str, Any] = {"args": {}, "tool": "orders.get"}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Edge(NamedTuple):
    """A vector, but for its name."""

    spec: str
    expect: str
    token: Token | str | bytes
    why: str
    more: dict[str, Any] = {}  # noqa: RUF012 - never changed


def vectors() -> Vectors:
    """All of this file."""
    parts = (
        packets() | texts() | calls() | sizes() | names() | tools() | members() | lists() | holders() | discharges(),
        approvals() | delegations() | unseen_bodies() | ages() | several() | amounts() | pools() | earlier(),
        values() | bounds() | globs() | urls() | rules(),
    )
    return {
        f"edge-{name}": vector(edge.spec, edge.expect, edge.token, edge.why, **edge.more)
        for part in parts
        for name, edge in part.items()
    }


def after(*caveats: Any, **changes: Any) -> Token:
    """A token that allows anything, and then these caveats."""
    return mint(ANYTHING, *caveats, **changes)


def bumped(written: str, by: int = 1) -> str:
    """A text whose last character has other bits behind the last byte."""
    return written[:-1] + ALPHABET[ALPHABET.index(written[-1]) + by]


def packets() -> dict[str, Edge]:
    """SPEC 2.1: each byte has one place."""
    token = mint()
    body, signature = token.raw()[:-35], token.signature
    head = b"\x02" + packet(1, b"acme") + packet(2, token.identifier)
    first = canonical(ANYTHING)
    third = requiring(token).raw()
    long = b"\x02" + bytes([len(first) + 128, 0]) + first
    end = b"\0" + packet(6, signature)
    wrong = {
        "caveat-closed-by-1": (head + b"\0" + packet(2, first) + b"\1" + end, "a caveat is closed by 0 alone"),
        "header-closed-by-1": (head + b"\1" + packet(2, first) + b"\0" + end, "so is the header"),
        "third-closed-by-1": (third[:-36] + b"\1" + third[-35:], "and a third-party caveat"),
        "caveat-long-length": (head + b"\0" + long + b"\0" + end, "a caveat's length below 128 in two bytes"),
        "signature-kind": (body + b"\0\5\x20" + signature, "another kind of field before the signature"),
        "signature-length": (body + b"\0\6\x21" + signature, "another length before the signature"),
        "caveats-closed-by-1": (body + b"\1\6\x20" + signature, "the caveats are closed by 0"),
    }
    last = bytes([*signature[:-1], signature[-1] ^ 1])
    return {name: Edge("2.1", "malformed", raw, why) for name, (raw, why) in wrong.items()} | {
        "signature-last-bit": Edge("5.1", "bad_signature", token._replace(signature=last), "the last bit counts too")
    }


def texts() -> dict[str, Edge]:
    """SPEC 2.2 and 2.3: characters and their number."""
    good = mint().text()
    slash = next(made for n in range(99) if "_" in (made := mint(model=f"m{n}").text()[5:]))
    minus = next(made for n in range(99) if "-" in (made := mint(model=f"m{n}").text()[5:]))
    padded = requiring(mint())
    return {
        "text-spaces": Edge("2.2", "malformed", f"{good[:49]}    {good[49:]}", "four spaces inside"),
        "text-slash": Edge("2.2", "malformed", "arx1_" + slash.replace("_", "/"), "/ for _ in a long text"),
        "text-plus": Edge("2.2", "malformed", "arx1_" + minus.replace("-", "+"), "+ for - in a long text"),
        "text-7168": Edge("2.2", "grant", of_size(7168), "the longest text"),
        "text-7169": Edge("2.2", "malformed", of_size(7169), "a character more, and all else right"),
        "joined-7168": Edge("2.3", "grant", joined_of_size(padded, 7168), "the longest credential"),
        "joined-7169": Edge("2.3", "malformed", joined_of_size(padded, 7169), "each part is short enough"),
    }


def filler(count: int) -> dict[str, Any]:
    """A caveat that allows anything, and is long."""
    return {"allow": [{"tool": "*"}, {"args": {"x": "a" * count}, "tool": "a"}]}


def of_size(chars: int) -> str:
    """A token of so many characters."""
    raw = (chars - 5) * 3 // 4
    token = mint(filler(5000 + raw - len(mint(filler(5000)).raw())))
    assert len(token.text()) == chars
    return token.text()


def joined_of_size(token: Token, chars: int) -> str:
    """A token with a discharge, together of so many characters."""
    rest = chars - len(token.text()) - 1
    for count in range(rest * 3 // 4 - 400, rest):
        made = joined(token, bound(discharge(filler(count)), token))
        if len(made) == chars:
            return made
    raise AssertionError("no such discharge")


def signed_by(request: dict[str, Any], at: str, nonce: str, *, loose: bool = False) -> bytes:
    """SPEC 8.1: the caveat of a call with these very texts."""
    fields = (b"arx/1/call", b"orders", at.encode(), nonce.encode(), b"tool", request["tool"].encode())
    digest = text(hashlib.sha256(prefixed(*fields, jcs(request["args"]))).digest())
    return b'{"call":["%b",%b,"%b"]}' % ((bumped(digest) if loose else digest).encode(), at.encode(), nonce.encode())


def calls() -> dict[str, Edge]:
    """SPEC 8: the one spelling of a call, and what it covers."""
    nonce, now = text(NONCE), str(AT)
    loose = next(
        made for n in range(3) if len(made := mint(model="m" * (n + 1)).with_caveats(call(GET)).raw()) % 3 == 1
    )
    raw = {
        "call-digest-bits": (signed_by(GET, now, nonce, loose=True), "bits behind the digest's last byte"),
        "call-nonce-bits": (signed_by(GET, now, bumped(nonce)), "bits behind the nonce's last byte"),
        "call-time-zero": (signed_by(GET, "0" + now[1:], nonce), "no integer begins with zero"),
    }
    http = {"tool": "orders.get", "args": {}, "http": {"method": "GET", "target": "/o?q=a", "body": ""}}

    def asked(**changes: Any) -> dict[str, Any]:
        return {"request": http | {"http": http["http"] | changes}}

    signed = mint().with_caveats(call(http))
    query = mint().with_caveats(call(http | {"http": {"method": "GET", "target": "/o?q=a?", "body": ""}}))
    return {name: Edge("8.1", "malformed", mint().with_caveats(one), why) for name, (one, why) in raw.items()} | {
        "call-text-bits": Edge("2.2", "malformed", "arx1_" + bumped(text(loose)), "bits behind a call's signature"),
        "call-method-case": Edge("8.2", "proof_invalid", signed, "a method has one case", asked(method="get")),
        "call-query-mark": Edge("8.2", "grant", query, "a mark that ends a query", asked(target="/o?q=a?")),
        "call-query-mark-added": Edge("8.2", "proof_invalid", signed, "it is not empty", asked(target="/o?q=a?")),
        "call-tool-surrogate": Edge(
            "8.2", "malformed_request", signed, "half of a pair", {"request": {"args": {}, "tool": "a\ud800"}}
        ),
        "call-32-levels": nested_call(32, "grant", "as deep as arguments may be"),
        "call-33-levels": nested_call(33, "malformed_request", "deeper"),
        "call-zero": numbered(0.0, "zero is written as 0, whatever its sign"),
        "call-small": numbered(0.000123, "a small number without an exponent"),
        "call-exponent": numbered(1.5e-7, "and one with an exponent"),
    }


def nested_call(levels: int, expect: str, why: str) -> Edge:
    """A signed call with nested containers."""
    value: Any = 1
    for _ in range(levels - 1):
        value = [value]
    request = {"tool": "orders.get", "args": {"x": value}}
    return Edge("14", expect, mint().with_caveats(call(request)), why, {"request": request})


def numbered(value: float, why: str) -> Edge:
    """A signed call with a number."""
    request = {"tool": "orders.get", "args": {"x": value}}
    return Edge("8.2", "grant", mint().with_caveats(call(request)), why, {"request": request})


def sizes() -> dict[str, Edge]:
    """SPEC 14: how many caveats."""
    ends = [{"exp": AT + 1000 + n} for n in range(64)]
    token = requiring(mint(ANYTHING, *ends[:39]))  # forty and the third-party one

    def with_discharge(count: int, *called: Any) -> str:
        made = bound(discharge(*ends[:count]), token)
        return joined(token.with_caveats(*called), made)

    return {
        "64-with-call": Edge("14", "grant", mint(ANYTHING, *ends[:62]).with_caveats(call(GET)), "64 with the call"),
        "65-with-call": Edge("14", "malformed", mint(ANYTHING, *ends[:63]).with_caveats(call(GET)), "65 with it"),
        "64-with-discharge": Edge("14", "grant", with_discharge(23), "64 with those of the discharge"),
        "65-with-discharge": Edge("14", "malformed", with_discharge(24), "65 with them"),
        "64-with-both": Edge("14", "grant", with_discharge(22, call(GET)), "64 with call and discharge"),
        "65-with-both": Edge("14", "malformed", with_discharge(23, call(GET)), "65 with both"),
        "depth-16": Edge("14", "grant", mint(depth=16), "the largest depth"),
        "depth-17": Edge("14", "malformed", mint(depth=17), "a larger one"),
        "depth-16-in-caveat": Edge("14", "grant", after({"depth": 16}), "the largest depth"),
        "depth-17-in-caveat": Edge("14", "malformed", after({"depth": 17}), "a larger one"),
        "fresh-60001": Edge("6.1", "malformed", after({"fresh": 60_001}), "above any lease"),
        "exp-largest": Edge("3.1", "grant", after({"exp": 2**53 - 1}), "the largest integer"),
        "born-beyond": Edge("3.1", "malformed", mint(born=[identifier()["born"][0], 2**53]), "a larger one"),
    }


def names() -> dict[str, Edge]:
    """SPEC 4.4 and 4.1: names at their limits."""
    cases: dict[str, tuple[str, Token, str]] = {
        "agent-64": ("grant", mint(agent="a" * 64), "64 characters"),
        "agent-65": ("malformed", mint(agent="a" * 65), "65 characters"),
        "agent-8-segments": ("grant", mint(agent="/".join("abcdefgh")), "eight segments"),
        "agent-9-segments": ("malformed", mint(agent="/".join("abcdefghi")), "nine segments"),
        "agent-dot": ("malformed", mint(agent="acme/.x"), "a segment begins with a letter or a digit"),
        "agent-dash": ("malformed", mint(agent="-acme"), "so does the first"),
        "agent-slash": ("malformed", mint(agent="acme/"), "no segment is empty"),
        "session-64": ("grant", mint(session="s" * 64), "64 characters"),
        "session-65": ("malformed", mint(session="s" * 65), "65 characters"),
        "task-64": ("grant", mint(task="t" * 64), "64 characters"),
        "task-65": ("malformed", mint(task="t" * 65), "65 characters"),
        "policy-64": ("grant", mint(policy="p" * 64), "64 characters"),
        "policy-65": ("malformed", mint(policy="p" * 65), "65 characters"),
        "version-0": ("malformed", mint(v=0), "another version"),
        "subject-513": ("malformed", mint(subject=["https://idp.example", "x" * 513]), "a name of 513 characters"),
        "id-20": ("malformed", mint(id=text(bytes(15))), "15 bytes"),
        "id-24": ("malformed", mint(id=text(bytes(18))), "18 bytes"),
        "id-bits": ("malformed", mint(id=bumped(text(bytes(16)))), "bits behind the last byte"),
        "to-dash": ("malformed", after(TO | {"to": "acme/-worker"}), "a path as any other"),
        "to-9-segments": ("malformed", after(TO | {"to": "/".join("abcdefghi")}), "nine segments"),
        "sub-task-64": ("grant", after({"task": "t" * 64}), "64 characters"),
        "sub-task-65": ("malformed", after({"task": "t" * 65}), "65 characters"),
        "sub-task-line-end": ("malformed", after({"task": "t\n"}), "a line break behind"),
        "operator-64": ("grant", after({"operators": ["o" * 64]}), "64 characters"),
        "operator-65": ("malformed", after({"operators": ["o" * 65]}), "65 characters"),
        "hop-16": ("malformed", after(TO | {"hop": "aG9wLTAwMDAxaG9w"}), "a hop of 12 bytes"),
        "audience-begins-alike": ("wrong_audience", mint(aud="order"), "a part of this audience's name"),
    }
    mints = {"audience": "arx.mint"}
    return {name: Edge("4.4", *case) for name, case in cases.items()} | {
        "mint-with-task": Edge("4.1", "malformed", mint(aud="arx.mint"), "a token for the mint has no task", mints),
        "mint-without-task": Edge("4.1", "grant", mint(aud="arx.mint", task=None), "as it has none", mints),
        "audience-begins-with": Edge(
            "4.1", "wrong_audience", mint(), "another audience that begins as this", {"audience": "orders-eu"}
        ),
    }


def tools() -> dict[str, Edge]:
    """SPEC 4.4, 7.1 and 6.4: tools and patterns of them."""
    below = mint({"allow": [{"tool": "orders.*"}]})
    needing = requiring(mint(), canonical({"id": "x", "tools": ["orders.*"]}))

    def asked(tool: str) -> dict[str, Any]:
        return {"request": {"args": {}, "tool": tool}}

    def ruled(tool: str) -> Token:
        return mint({"allow": [{"tool": tool}]})

    wrong = {"two-dots": "orders..get", "first-dot": ".get", "last-dot": "orders.", "97": "t" * 97, "star": "orders*"}
    return {
        f"rule-tool-{name}": Edge(
            "4.4", "malformed", mint(ANYTHING, {"allow": [{"tool": "*"}, {"tool": tool}]}), "no tool"
        )
        for name, tool in wrong.items()
    } | {
        "rule-tool-96": Edge("4.4", "grant", ruled("t" * 96), "96 characters", asked("t" * 96)),
        "tool-prefix": Edge("7.1", "tool_not_allowed", below, "the prefix itself", asked("orders")),
        "tool-prefix-dot": Edge("7.1", "tool_not_allowed", below, "nothing behind the dot", asked("orders.")),
        "tool-prefix-without-dot": Edge("7.1", "tool_not_allowed", below, "no dot", asked("ordersx")),
        "tool-prefix-one": Edge("7.1", "grant", below, "a character behind the dot", asked("orders.x")),
        "needs-prefix": Edge("6.4", "missing_discharge", needing, "a tool of the pattern", asked("orders.refund")),
        "needs-prefix-dot": Edge("6.4", "grant", needing, "nothing behind the dot", asked("orders.")),
        "needs-prefix-without-dot": Edge("6.4", "grant", needing, "no dot", asked("ordersx")),
    }


def members() -> dict[str, Edge]:
    """SPEC 6.1: what a member may be."""
    empty = {name: after({name: []}) for name in ("aud", "net", "require", "delegate_to")}
    sig = text(bytes(range(64)))
    cases = {f"{name}-empty": (token, "an empty list") for name, token in empty.items()} | {
        "sig-alone": (after({"sig": sig}), "a signature in a bearer token"),
        "sig-in-delegation": (after(TO | {"sig": sig}), "and in its delegation"),
        "unit-17": (after(pool(unit="u" * 17)), "a unit of 17 characters"),
        "unit-digit": (after(pool(unit="1u")), "a unit that begins with a digit"),
        "pattern-upper-case": (after({"delegate_to": ["Acme/*"]}), "no segment of a path"),
        "pattern-two-stars-first": (after({"delegate_to": ["**/x"]}), "** stands last"),
        "pattern-part-star": (after({"delegate_to": ["acme/w*"]}), "a star is a whole segment"),
        "pattern-9-segments": (after({"delegate_to": ["a/b/c/d/e/f/g/h/**"]}), "nine segments"),
    }
    return {name: Edge("6.1", "malformed", token, why, {"costs": COSTS}) for name, (token, why) in cases.items()} | {
        "unit-16": Edge(
            "17.1", "budget_unsupported", after(pool(unit="u" * 16)), "16 characters, and no cost", {"costs": COSTS}
        )
    }


def lists() -> dict[str, Edge]:
    """SPEC 6.1: each of several caveats counts."""
    allow_low = {"allow": [{"args": {"x": {"max": 10}}, "tool": "*"}]}
    two_rules = {"allow": [{"args": {"x": {"max": 9}}, "tool": "*"}, {"args": {"x": 50}, "tool": "*"}]}
    fifty = {"request": {"args": {"x": 50}, "tool": "orders.get"}}
    nets = ({"net": ["10.0.0.0/8"]}, {"net": ["192.0.2.0/24"]})
    frozen = {"epoch": {"applied": 8, "freezes": {"operator:ada": 8}}}
    ended = {"epoch": {"applied": 8, "kills": {"task:t-one": 8}}}
    above = {"epoch": {"applied": 8, "kills": {"agent:acme": 8}}}
    early = {"epoch": {"applied": 9, "freezes": {"agent:acme": 3}}}
    return {
        "allow-first-counts": Edge(
            "6.2", "argument_not_allowed", mint(allow_low, two_rules), "the second allows it by two rules", fifty
        ),
        "allow-second-rule": Edge("7.1", "grant", mint(two_rules), "one rule is enough", fifty),
        "nbf-later-is-no-gain": Edge(
            "6.1", "not_yet_valid", after({"nbf": AT + 1}, {"nbf": AT - 9}), "the latest counts"
        ),
        "exp-order": Edge("6.1", "expired", after({"exp": AT + 9}, {"exp": AT}, {"exp": AT + 9}), "wherever it stands"),
        "net-first": Edge("6.1", "network_not_allowed", after(*nets), "each net counts"),
        "net-last": Edge("6.1", "network_not_allowed", after(*reversed(nets)), "wherever it stands"),
        "tasks-first": Edge("10.1", "revoked", after({"task": "t-one"}, {"task": "t-two"}), "the first ended", ended),
        "operators-first": Edge(
            "10.1", "frozen", after({"operators": ["ada"]}, {"operators": ["bob"]}), "the first is frozen", frozen
        ),
        "agent-above-alone": Edge("10.1", "revoked", mint(), "the path above the agent's was killed", above),
        "frozen-before-birth": Edge("10.2", "frozen", mint(), "a freeze stands, however old it is", early),
        "aud-second": Edge(
            "6.1", "wrong_audience", after({"aud": ["orders"]}, {"aud": ["billing"]}), "each aud counts"
        ),
        "aud-first": Edge("6.1", "wrong_audience", after({"aud": ["billing"]}, {"aud": ["orders"]}), "the first too"),
    }


def holders() -> dict[str, Edge]:
    """SPEC 16: bound tokens."""
    token = mint_bound()
    loose = hop(token, FIRST, "acme/worker", bumped(SECOND.public))
    both = ({"require": ["signature"]}, {"require": ["call"]})
    return {
        "bound-key-bits": Edge(
            "16.1", "malformed", called(token.with_caveats(loose), SECOND, HOP), "bits behind the next key's last byte"
        ),
        "bound-signature-then-call": Edge(
            "16.3", "proof_missing", called(mint_bound(ANYTHING, *both), FIRST), "a later caveat wants less"
        ),
        "bearer-holder-required": Edge(
            "6.1",
            "proof_missing",
            after({"require": ["holder"]}).with_caveats(call(GET)),
            "a bearer token has no holder",
        ),
        "bound-two-hops": Edge("16.2", "grant", called(two_hops(), THIRD, HOP, HOP2), "each by the holder before"),
        "bound-one-hop": Edge("16.2", "grant", called(one_hop(), SECOND, HOP), "by the first holder"),
    }


def discharges() -> dict[str, Edge]:
    """SPEC 2.3, 6.4, 6.7: how many, how deep, how long."""
    eight, nine = asking(8), asking(9)
    root = requiring(mint(), named("d0"))
    deep = [discharge(third_party=named(f"d{at}")) for at in range(4)]
    deep = [*(requiring(each, named(f"d{at + 1}")) for at, each in enumerate(deep[:3])), deep[3]]
    needs_one = requiring(requiring(mint(), named("x")), canonical({"id": "y", "tools": ["orders.refund"]}))
    return {
        "discharge-8": Edge("2.3", "grant", eight, "eight of them, all asked for"),
        "discharge-9": Edge("2.3", "malformed", nine, "nine, all asked for"),
        "discharge-4-deep": Edge("6.7", "grant", joined(root, *(bound(each, root) for each in deep)), "four deep"),
        "third-party-id-160": Edge("6.4", "missing_discharge", requiring(mint(), named("x" * 160)), "160 characters"),
        "third-party-id-161": Edge("6.4", "unknown_caveat", requiring(mint(), named("x" * 161)), "161 characters"),
        "third-party-id-empty": Edge("6.4", "unknown_caveat", requiring(mint(), named("")), "no character"),
        "third-party-first": Edge("6.4", "missing_discharge", needs_one, "the last one does not bind this tool"),
    }


def asking(count: int) -> str:
    """A token with third-party caveats, and the discharge of each."""
    token = mint()
    for at in range(count):
        token = requiring(token, named(f"n{at}"))
    return joined(token, *(bound(discharge(third_party=named(f"n{at}")), token) for at in range(count)))


def approvals() -> dict[str, Edge]:
    """SPEC 6.8: the names of approvals."""

    def once(*given: tuple[str, int]) -> Token:
        return after(*({"once": list(each)} for each in given))

    return {
        "once-eight": Edge("6.8", "grant", once(*((f"a-{n}", AT) for n in range(8))), "eight names"),
        "once-two-alike": Edge("6.8", "already_used", once(("a-1", AT), ("a-1", AT)), "one name twice"),
        "once-minute-ahead": Edge("6.8", "store_unavailable", once(("a-1", AT + 60_000)), "a minute ahead"),
        "once-at-start": Edge("6.8", "grant", once(("a-1", AT - 60_000)), "given when the store began"),
        "once-second-late": Edge("6.8", "already_used", once(("a-1", AT), ("a-2", AT - 60_001)), "each one counts"),
        "once-last-used": Edge("6.8", "already_used", once(("a-1", AT), ("a-2", AT)), "both are used", {"times": 2}),
    }


def delegations() -> dict[str, Edge]:
    """SPEC 5.2, 6.3: names and depths."""
    worker = {"hop": HOP2, "to": "acme/worker/helper"}

    def to(pattern: list[str], *hops: dict[str, Any], expect: str = "grant", why: str = "") -> Edge:
        return Edge("6.3", expect, after({"delegate_to": pattern}, *hops), why)

    refused = "name_not_allowed"
    wide_last = after({"delegate_to": ["acme/*"]}, {"delegate_to": ["partner/**", "acme/**"]}, worker)
    wide_first = after({"delegate_to": ["acme/**"]}, {"delegate_to": ["acme/*"]}, worker)
    return {
        "to-star": to(["acme/*"], TO, why="one segment"),
        "to-star-two": to(["acme/*"], worker, expect=refused, why="two segments"),
        "to-star-none": to(["acme/*"], TO | {"to": "acme"}, expect=refused, why="no segment"),
        "to-stars-none": to(["acme/**"], TO | {"to": "acme"}, why="** is any number of segments, none too"),
        "to-stars-two": to(["acme/**"], worker, why="or two"),
        "to-stars-other": to(["acme/**"], TO | {"to": "acme2"}, expect=refused, why="segments are whole"),
        "to-longer": to(["acme/worker"], worker, expect=refused, why="a name alone has nothing below"),
        "to-inner-star": to(["*/worker/helper"], worker, why="a star in another place"),
        "to-first-list": Edge("6.3", refused, wide_last, "the first list counts too"),
        "to-last-list": Edge("6.3", refused, wide_first, "so does the last one"),
        "to-each-hop": to(["acme/*"], TO, worker, expect=refused, why="it is for each later delegation"),
        "depth-exact": Edge("6.3", "grant", after(TO, worker, depth=2), "as many as allowed"),
        "depth-one-more": Edge("6.3", "too_deep", after(TO, worker, {"hop": HOP, "to": "a"}, depth=2), "one more"),
    }


def unseen_bodies() -> dict[str, Edge]:
    """SPEC 8.5, 11: bodies that are not seen."""
    rule = {"args": {"amount": {"max": 9}, "id": "o-1"}, "tool": "orders.put"}
    unseen = {"tool": "orders.put", "args": {"id": "o-1"}, "http": {"method": "POST", "target": "/o-1", "body": None}}
    wrong, other = unseen | {"args": {"id": "o-2"}}, unseen | {"tool": "orders.get"}
    token = mint({"allow": [rule]})
    huge = {"tool": "orders.get", "args": {"x": 2**53}, "http": {"method": "GET", "target": "/o", "body": ""}}
    return {
        "http-arguments-without-form": Edge(
            "8.2",
            "malformed_request",
            mint().with_caveats(call(huge)),
            "a proof of HTTP covers none",
            {"request": huge},
        ),
        "unseen-missing": Edge("8.5", "request_unseen", token, "the body may have the amount", {"request": unseen}),
        "unseen-wrong": Edge("8.5", "argument_not_allowed", token, "no body would help", {"request": wrong}),
        "unseen-tool": Edge("8.5", "tool_not_allowed", token, "nor here", {"request": other}),
    }


def ages() -> dict[str, Edge]:
    """SPEC 6.1, 10.4: how old the view of the epoch is."""
    old, seconds = {"epoch": {"age_ms": 30_000}}, 1000
    return {
        "fresh-old": Edge("6.1", "stale", after({"fresh": 20 * seconds}), "the view is older", old),
        "fresh-young": Edge("6.1", "grant", after({"fresh": 50 * seconds}), "the view is younger", old),
        "fresh-first": Edge(
            "6.1", "stale", after({"fresh": 20 * seconds}, {"fresh": 50 * seconds}), "the least counts", old
        ),
        "fresh-last": Edge(
            "6.1", "stale", after({"fresh": 50 * seconds}, {"fresh": 20 * seconds}), "wherever it is", old
        ),
        "fresh-none": Edge("6.1", "grant", mint(), "no age is asked for", old),
    }


def several() -> dict[str, Edge]:
    """SPEC 7.1: rules of several caveats."""
    low, high = ({"allow": [{"args": {"x": {"range": given}}, "tool": "*"}]} for given in ([0, 10], [0, 20]))
    more = {"allow": [{"args": {"x": {"range": [5, 20]}}, "tool": "*"}]}

    def asked(value: Any) -> dict[str, Any]:
        return {"request": {"args": {"x": value}, "tool": "orders.get"}}

    refused = "argument_not_allowed"
    return {
        "range-wider-again": Edge("7.1", refused, mint(low, high), "the first range counts", asked(15)),
        "range-narrower": Edge("7.1", refused, mint(high, low), "the last one too", asked(15)),
        "range-low-again": Edge("7.1", refused, mint(more, high), "and its lower bound", asked(4)),
        "range-both": Edge("7.1", "grant", mint(high, more), "within both", asked(5)),
    }


def amounts() -> dict[str, Edge]:
    """SPEC 17.2, 17.4: amounts at their limits, and costs by pattern."""
    tiny = {"times": 2, "request": refund("0.0000001"), "costs": COSTS}
    largest = {"request": refund(1_000_000_000), "costs": COSTS}
    below = {"costs": {"orders.*": {"usd": "0.4"}}}
    return {
        "cost-rounded-up": Edge("17.2", "budget_exhausted", after(pool("0.000001")), "never down to nothing", tiny),
        "cost-largest": Edge("17.2", "grant", after(pool("1000000000")), "the largest cost", largest),
        "cost-of-pattern": Edge("17.4", "insufficient_budget", after(pool("0.3")), "a cost by a pattern", below),
        "pool-opened-now": Edge("17.5", "grant", after(pool(opened=AT)), "opened at this moment", {"costs": COSTS}),
    }


def pools() -> dict[str, Edge]:
    """SPEC 17.3, 17.5: one pool named twice, and what a refused call costs."""
    lost = pool(opened=OPENED - 1)
    shot = after(pool("1")).with_caveats(call(GET))
    used = after({"once": ["a-1", AT]}, pool("0.8"))
    costs: dict[str, Any] = {"costs": COSTS}
    return {
        "pool-opened-first": Edge("17.3", "budget_exhausted", after(lost, pool()), "the first opening counts", costs),
        "pool-opened-last": Edge("17.3", "budget_exhausted", after(pool(), lost), "wherever it stands", costs),
        "pool-call-twice": Edge("11", "replayed", shot, "a call with a cost is spent too", costs | {"times": 2}),
        "pool-once-thrice": Edge("11", "already_used", used, "a refused call gives back", costs | {"times": 3}),
    }


def earlier() -> dict[str, Edge]:
    """What was granted before: caches and stores must not confuse two tokens."""
    helper = {"hop": HOP2, "to": "acme/helper"}
    parent = mint()
    first, second = (parent.with_caveats(call(GET, nonce=nonce)) for nonce in (NONCE, b"nonce-0000000002"))
    forged = second._replace(signature=bytes(32))
    spent, costs = after(pool("0.4")), {"costs": COSTS}

    def behind(*tokens: Token | str, **more: Any) -> dict[str, Any]:
        return {"before": [each if isinstance(each, str) else each.text() for each in tokens]} | more

    hour = after(pool("0.4", per="hour"))
    owned = after({"once": ["a-1", AT]})
    other = after({"once": ["a-1", AT]}, task="t-other")
    exhausted = "budget_exhausted"
    return {
        "before-second-call": Edge("8.3", "grant", second, "another call of one parent", behind(first)),
        "before-same-call": Edge("8.3", "replayed", first, "the same call again", behind(second, first)),
        "before-forged-call": Edge(
            "11", "bad_signature", forged, "the parent is known, the call is not", behind(first)
        ),
        "before-parent": Edge("11", "grant", first, "its parent was presented itself", behind(parent)),
        "before-task-pool": Edge("17.3", exhausted, spent.with_caveats(TO), "the task's pool", behind(spent, **costs)),
        "before-two-hops": Edge(
            "17.3", "grant", after(helper, pool("0.4")), "each hop has its own", behind(after(TO, pool("0.4")), **costs)
        ),
        "before-same-hop": Edge(
            "17.3", exhausted, after(TO, pool("0.4")), "one hop has one", behind(after(TO, pool("0.4")), **costs)
        ),
        "before-hour": Edge("17.3", "grant", after(pool("0.4", per="day")), "of another period", behind(hour, **costs)),
        "before-unit": Edge("17.3", "grant", after(pool("1", unit="calls")), "of another unit", behind(spent, **costs)),
        "before-name": Edge(
            "17.3", "grant", after(pool("0.4", name="other")), "of another name", behind(spent, **costs)
        ),
        "before-task": Edge(
            "17.3", "grant", mint(ANYTHING, pool("0.4"), task="t-2"), "of another task", behind(spent, **costs)
        ),
        "before-once": Edge("6.8", "already_used", owned.with_caveats(TO), "a name of the task", behind(owned)),
        "before-once-of-task": Edge("6.8", "grant", other, "another task has its own names", behind(owned)),
    }


def judged(test: Any, value: Any, expect: str, why: str, spec: str = "7.2") -> Edge:
    """A token whose rule tests the argument x."""
    request = {"args": {"x": value}, "tool": "orders.get"}
    return Edge(spec, expect, mint({"allow": [{"args": {"x": test}, "tool": "*"}]}), why, {"request": request})


NO = "argument_not_allowed"


def values() -> dict[str, Edge]:
    """SPEC 7.2: kinds of values."""
    return {
        "true-is-not-one": judged({"equal": True}, 1, NO, "1 is not true"),
        "false-is-not-zero": judged({"equal": False}, 0, NO, "0 is not false"),
        "one-is-not-true": judged({"equal": 1}, True, NO, "true is not 1"),
        "not-beyond": judged({"not": 5}, 2**53, NO, "no integer beyond 2^53-1 is one"),
        "contains-two-kinds": judged({"contains": [1, "a"]}, [1, "b"], NO, "all of them"),
        "subset-two-kinds": judged({"subset": [1, "a"]}, [1, "b"], NO, "none else"),
        "contains-both": judged({"contains": [1, "a"]}, ["a", 1, 1], "grant", "in any order"),
        "decimal-32": judged({"range": ["0", "9"]}, "1." + "0" * 30, "grant", "32 characters"),
        "decimal-33": judged({"range": ["0", "9"]}, "1." + "0" * 31, NO, "33 characters"),
        "decimal-leading-zero": judged({"range": ["0", "9"]}, "07", NO, "no decimal begins so"),
        "decimal-low-edge": judged({"range": ["0.5", "1.5"]}, 0, NO, "below a decimal bound"),
        "decimal-high-edge": judged({"range": ["0.5", "1.5"]}, 2, NO, "above a decimal bound"),
        "decimal-inside": judged({"range": ["0.5", "1.5"]}, 1, "grant", "an integer between decimals"),
        "none-of-bool": judged({"none_of": [1]}, True, NO, "another kind is not tested"),
        "one-of-bool": judged({"one_of": [1, 2]}, True, NO, "true is not 1"),
        "subset-bool": judged({"subset": [1]}, [True], NO, "nor in a list"),
        "optional-null": judged({"any": True, "optional": True}, None, "grant", "null is a value"),
    }


def bounds() -> dict[str, Edge]:
    """SPEC 7.2: operands that no value could meet."""
    bad: dict[str, tuple[Any, str]] = {
        "decimals-crossed": ({"range": ["2", "1"]}, "decimals that cross"),
        "min-above-max": ({"max": 1, "min": 2}, "bounds that cross"),
        "lengths-crossed": ({"max_length": 1, "min_length": 2}, "lengths that cross"),
        "all-of-empty": ({"all_of": []}, "nothing to hold"),
        "any-of-empty": ({"any_of": []}, "nothing to hold"),
        "glob-empty": ({"glob": ""}, "an empty pattern"),
        "subpath-empty": ({"subpath": ""}, "an empty path"),
        "operand-beyond": ({"max": 2**53}, "beyond 2^53-1"),
        "length-negative": ({"length": -1}, "no length"),
        "decimal-minus": ({"min": "-01"}, "no decimal"),
        "decimal-33-operand": ({"max": "1." + "0" * 30 + "1"}, "33 characters"),
    }
    return {name: judged(test, 1, "malformed", why) for name, (test, why) in bad.items()}


def globs() -> dict[str, Edge]:
    """SPEC 7.3: patterns and networks."""
    return {
        "glob-overlap": judged({"glob": "aba*bab"}, "abab", NO, "beginning and end do not overlap", "7.3"),
        "glob-overlap-segment": judged({"glob": "aba*bab/*"}, "abab/x", NO, "nor in a segment", "7.3"),
        "glob-order": judged({"glob": "x*ab*b*y"}, "xaby", NO, "each literal behind the one before", "7.3"),
        "glob-order-good": judged({"glob": "x*ab*b*y"}, "xabby", "grant", "as here", "7.3"),
        "glob-more-segments": judged({"glob": "a*/b*"}, "a/b/c", NO, "a star crosses no slash", "7.3"),
        "glob-fewer-segments": judged({"glob": "a*/b*"}, "a", NO, "nor is a slash left out", "7.3"),
        "glob-last-star-slash": judged({"glob": "a/*"}, "a/b/c", NO, "a last star neither", "7.3"),
        "cidr-zone": judged({"cidr": "fe80::/10"}, "fe80::1%eth0", NO, "an address with a zone", "7.3"),
        "cidr-not-other-version": judged({"not": {"cidr": "10.0.0.0/8"}}, "2001:db8::1", NO, "not tested", "7.3"),
        "cidr-not": judged({"not": {"cidr": "10.0.0.0/8"}}, "192.0.2.1", "grant", "another address", "7.3"),
    }


def working(count: int, size: int, expect: str, why: str) -> Edge:
    """A rule of so many constraints of two members, and arguments of that size."""
    tested = {f"a{n}": {"max": 9, "min": 0} for n in range(count)}
    args: dict[str, Any] = dict.fromkeys(tested, 5) | {"t": "t" * size}
    token = mint({"allow": [{"args": tested | {"t": {"any": True}}, "tool": "*"}]})
    return Edge("7.4", expect, token, why, {"request": {"args": args, "tool": "orders.get"}})


def urls() -> dict[str, Edge]:
    """SPEC 7.3: hosts that could be another one, and paths."""
    shop = {"url": {"host": "shop.example", "scheme": "https"}}
    hosts = {
        "2130706433": "a number",
        "0x7f.1": "hexadecimal",
        "127.1": "a short form",
        "-shop.example": "a dash first",
    }
    hosts |= {"shop-.example": "a dash last", "shop.example.": "a dot last", "*.localhost": "this machine's names"}
    others = {"a.localhost": "below this machine's name", "localhost": "this machine's name", "10.0.0.1": "an address"}
    return (
        {
            f"url-host-{at}": judged({"url": {"host": host, "scheme": "https"}}, 1, "malformed", why, "7.3")
            for at, (host, why) in enumerate(hosts.items())
        }
        | {
            f"url-not-{at}": judged({"not": shop}, f"https://{host}/", NO, f"{why} is not tested", "7.3")
            for at, (host, why) in enumerate(others.items())
        }
        | {
            "url-backslash": judged(shop, "https://shop.example/a\\b", NO, "some readers take it for a slash", "7.3"),
            "url-not-other": judged({"not": shop}, "https://other.example/", "grant", "another host", "7.3"),
            "subpath-backslash": judged(
                {"subpath": "/data"}, "/data/a\\b", NO, "some readers take it for a slash", "7.3"
            ),
        }
    )


def rules() -> dict[str, Edge]:
    """SPEC 7.1: names of arguments."""
    optional = {"allow": [{"args": {"a": {"any": True, "optional": True}}, "tool": "*"}]}

    def asked(**args: Any) -> dict[str, Any]:
        return {"request": {"args": args, "tool": "orders.get"}}

    astral = {"allow": [{"args": {"\U0001f600": 1}, "tool": "*"}]}
    unnamed = {"allow": [{"args": {"": 1}, "tool": "*"}]}
    inner = {"allow": [{"args": {"a": {"fields": {"\U0001f600": 1}}}, "tool": "*"}]}
    return {
        "optional-other": Edge("7.1", NO, mint(optional), "a closed rule names all arguments", asked(b=1)),
        "optional-both": Edge("7.1", NO, mint(optional), "also beside those that it names", asked(a=1, b=1)),
        "optional-none": Edge("7.1", "grant", mint(optional), "its own may be absent", asked()),
        "argument-astral": Edge("7.1", "malformed", mint(astral), "a name beyond U+FFFF"),
        "argument-unnamed": Edge("7.1", "malformed", mint(unnamed), "an empty name"),
        "work-of-members": working(200, 50_000, NO, "each member of a constraint is a test"),
        "work-of-members-fits": working(200, 40_000, "grant", "tests times size, and not one more"),
        "member-astral": Edge("7.2", "malformed", mint(inner), "so in an object"),
    }


def epochs() -> dict[str, dict[str, Any]]:
    """SPEC 10.3, 10.4: entries and answers that come in another order."""
    gap = Script().copied()
    gap.store.add("freeze", "agent:other")
    gap.push(gap.store.add("kill", NAMES[0])).check("revoked")
    closed = Script().copied().after(900).probe().close().answer().check("closed")
    behind = Script().copied().after(900).probe()
    behind.push(behind.store.add("kill", "agent:other"))
    behind.answer(seq=7, chain=behind.store.chains[7], entries=[]).check("ok").after(200).check("stale")
    return {
        "kill-before-a-gap": gap.vector("10.3", "a kill is in force before the entries that are missing before it"),
        "closed-in-between": closed.vector("10.4", "an answer opens no view that was closed"),
        "answer-behind": behind.vector("10.4", "an answer that knows less than the view lengthens no lease"),
    }


def stamps() -> dict[str, dict[str, Any]]:
    """SPEC 18: stamps of memory."""
    content, own = "the price is 5", memory_vectors.writer("acme/summary")
    entry, raw = memory_vectors.stamp(content), bytes(8)
    good = [AT, AT, memory_vectors.digests("agent:acme/good"), b"", 0]
    bad = [AT, AT, memory_vectors.digests("agent:acme/bad"), b"", 0]
    two = memory_vectors.stamp(content, raw, [good, bad], by=own, kind="derived")
    further = memory_vectors.stamp(content, raw, [good], bytes(32), by=own, kind="derived")
    frozen = {"agent:acme/bad": 8}
    agent = "agent:acme/research"
    since = {memory_vectors.window(agent, AT): 8}
    ended = {agent: 7, memory_vectors.window(agent, AT - 9, AT - 1): 8}
    return {
        "window-begins": memory_vectors.vector(
            "since is the entry's time", f"tainted {agent}", entry, "18.4", freezes=since
        ),
        "window-ended": memory_vectors.vector(
            "a window with an end replaces no freeze", f"tainted {agent}", entry, "18.4", freezes=ended
        ),
        "born-now": memory_vectors.vector("born at the view's place", "trusted", entry, applied=7),
        "second-source": memory_vectors.vector("each source", "tainted agent:acme/bad", two, "18.6", freezes=frozen),
        "further-member": memory_vectors.vector("the MAC is no member", "forged", further, "18.2"),
    }


def requests() -> dict[str, tuple[str, str, str, Any]]:
    """SPEC 8.4: comment, route, target and arguments of HTTP requests."""
    many = "&".join(f"a{n}=" for n in range(256))
    bad = "malformed_request"
    return {
        "path-two-slashes": ("an empty segment", "GET /orders/{id:path}", "/orders//1", bad),
        "path-parameters": ("what begins with ; is read in two ways", "GET /orders/{id}", "/orders/1;v=2", bad),
        "path-escaped-percent": ("escaped twice", "GET /orders/{id}", "/orders/%2525", bad),
        "path-empty": ("no parameter is empty", "GET /orders/{id}", "/orders/", None),
        "path-rest-empty": ("nor is a rest", "GET /orders/{id:path}", "/orders", None),
        "query-twice": ("a name twice", "GET /orders", "/orders?a=1&a=1", bad),
        "query-undeclared": ("a route that names some has no others", "GET /orders?{limit}", "/orders?offset=1", bad),
        "query-empty-fields": ("fields without a character are none", "GET /orders", "/orders?&a=1&", {"a": "1"}),
        "query-256": ("256 fields", "GET /orders", f"/orders?{many}", {f"a{n}": "" for n in range(256)}),
        "query-257": ("257 fields", "GET /orders", f"/orders?{many}&b=", bad),
    }
