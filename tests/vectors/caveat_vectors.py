# SPDX-License-Identifier: Apache-2.0
"""Vectors of caveats, delegations and per-call proofs (SPEC 5.2, 6 and 8)."""

from typing import Any

from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import ANYTHING, AT, HOP, HOP2, Token, call, mint

TO: dict[str, Any] = {"hop": HOP, "to": "acme/worker"}
TO2: dict[str, Any] = {"hop": HOP2, "to": "acme/worker/helper"}


def vectors() -> Vectors:
    """All of this file."""
    return shapes() | members() | delegations() | calls()


def after(*caveats: Any, **changes: Any) -> Token:
    """A token that allows anything, and then these caveats."""
    return mint(ANYTHING, *caveats, **changes)


def shapes() -> Vectors:
    """SPEC 6.1, 6.2 and 3."""
    raw = {
        "empty": (b"{}", "it restricts nothing"),
        "no-object": (b"[]", "a list"),
        "text": (b"time < 2030", "a caveat of another system"),
        "reordered": (b'{"nbf":1,"exp":1900000000000}', "members out of order"),
        "doubled": (b'{"exp":1,"exp":1900000000000}', "a member said twice"),
        "spaced": (b'{"exp": 1900000000000}', "white space"),
        "escaped": (b'{"\\u0065xp":1900000000000}', "an escape without need"),
        "float": (b'{"exp":1900000000000.0}', "a fraction"),
        "exponent": (b'{"exp":19e11}', "an exponent"),
        "negative": (b'{"exp":-1}', "a negative time"),
        "huge": (b'{"exp":9007199254740992}', "beyond 2^53-1"),
        "null": (b'{"exp":null}', "null does not exist"),
        "wrong-type": (b'{"exp":"1900000000000"}', "a number written as text"),
        "bool": (b'{"depth":true}', "true is not 1"),
        "empty-list": (b'{"allow":[]}', "a list that allows nothing"),
        "hop-alone": (b'{"hop":"aG9wLTAwMDAx"}', "hop without to"),
        "to-alone": (b'{"to":"acme/worker"}', "to without hop"),
        "host-bits": (b'{"net":["10.0.0.1/8"]}', "a network with bits beyond its prefix"),
        "net-mapped": (b'{"net":["::ffff:0:0/96"]}', "a network of IPv4 inside IPv6"),
        "net-mapped-dots": (b'{"net":["::ffff:0.0.0.0/96"]}', "the same network, its last bits as IPv4"),
        "net-mapped-part": (b'{"net":["::ffff:a00:0/104"]}', "10.0.0.0/8 inside IPv6"),
        "net-zeros": (b'{"net":["2001:db8:0:0:1::1/128"]}', "of equal runs of zeros the first one is left out"),
        "net-one-zero": (b'{"net":["2001:db8:1::1:1:1:1/128"]}', "a single group of zeros is written as 0"),
        "net-upper-case": (b'{"net":["2001:DB8::/32"]}', "hex digits in upper case"),
        "net-dots": (b'{"net":["64:ff9b::192.0.2.0/120"]}', "the last bits as IPv4"),
        "net-zone": (b'{"net":["fe80::%eth0/64"]}', "a network with a zone"),
        "net-no-prefix": (b'{"net":["192.0.2.7"]}', "an address without the length of its prefix"),
        "net-mask": (b'{"net":["10.0.0.0/255.0.0.0"]}', "a mask"),
        "not-utf8": (b'{"task":"\xff"}', "not UTF-8"),
    }
    unknown = {
        "unknown": (b'{"before":1900000000000}', "a member that does not exist"),
        "unknown-case": (b'{"Exp":1}', "names have one case"),
        "unknown-beside": (b'{"exp":1900000000000,"zone":"eu"}', "an unknown member beside a known one"),
        "unknown-proof": (b'{"require":["eyes"]}', "a proof that does not exist"),
    }
    found = {f"caveat-{name}": vector("6.1", "malformed", after(r), why) for name, (r, why) in raw.items()}
    found |= {f"caveat-{name}": vector("6.1", "unknown_caveat", after(r), why) for name, (r, why) in unknown.items()}
    found["caveat-no-allow"] = vector("6.2", "malformed", mint({"exp": AT + 1}), "the first caveat allows nothing")
    late = mint({"exp": AT + 1}, ANYTHING)
    found["caveat-late-allow"] = vector("6.2", "malformed", late, "what a token is for stands first")
    return found


def members() -> Vectors:
    """SPEC 6.1: what each member refuses."""
    return {
        "exp-reached": vector("6.1", "expired", after({"exp": AT}), "exp is exclusive"),
        "exp-later-is-no-gain": vector("6.1", "expired", after({"exp": AT}, {"exp": AT + 9}), "the earliest counts"),
        "exp-before": vector("6.1", "grant", after({"exp": AT + 1}), "a millisecond before the end"),
        "nbf-ahead": vector("6.1", "not_yet_valid", after({"nbf": AT + 1}), "a millisecond early"),
        "nbf-reached": vector("6.1", "grant", after({"nbf": AT}), "nbf is inclusive"),
        "aud-other": vector("6.1", "wrong_audience", after({"aud": ["billing"]}), "this service is not listed"),
        "aud-listed": vector("6.1", "grant", after({"aud": ["billing", "orders"]}), "this service is listed"),
        "net-outside": vector("6.1", "network_not_allowed", after({"net": ["10.0.0.0/8"]}), "another network"),
        "net-unknown": vector(
            "6.1",
            "network_not_allowed",
            after({"net": ["0.0.0.0/0"]}),
            "no address is in no network",
            request={"peer": None},
        ),
        "net-inside": vector("6.1", "grant", after({"net": ["10.0.0.0/8", "192.0.2.0/24"]}), "in one of them"),
        "net-mapped": vector(
            "6.1", "grant", after({"net": ["192.0.2.0/24"]}), "IPv4 inside IPv6", request={"peer": "::ffff:192.0.2.7"}
        ),
        "net-ipv6": vector(
            "6.1", "grant", after({"net": ["2001:db8:0:0:1::/80"]}), "RFC 5952", request={"peer": "2001:db8:0:0:1::9"}
        ),
        "net-all-of-ipv6": vector("6.1", "network_not_allowed", after({"net": ["::/0"]}), "an IPv4 address is in none"),
        "net-mapped-in-ipv6": vector(
            "6.1",
            "network_not_allowed",
            after({"net": ["::/0"]}),
            "IPv4 inside IPv6 is unwrapped, and so in no network of IPv6",
            request={"peer": "::ffff:192.0.2.7"},
        ),
        "require-call-missing": vector("6.1", "proof_missing", after({"require": ["call"]}), "the task's token itself"),
        "fresh-any": vector("6.1", "grant", after({"fresh": 60_000}), "the view is younger"),
        "task-named": vector("6.1", "grant", after({"task": "t-sub"}), "a sub-task that lives"),
        "operators-named": vector("6.1", "grant", after({"operators": ["ada", "b.o@b"]}), "operators who are active"),
        "operators-none": vector("6.1", "malformed", after({"operators": []}), "an empty list"),
        "operators-no-name": vector("6.1", "malformed", after({"operators": ["ada", ".bob"]}), "a dot comes first"),
    }


def delegations() -> Vectors:
    """SPEC 5.2 and 6.3."""
    other = {"hop": HOP, "to": "acme2/worker"}
    return {
        "delegation-too-deep": vector("6.3", "too_deep", after(TO, TO2, depth=1), "two, and one was allowed"),
        "delegation-none": vector("6.3", "too_deep", after({"depth": 0}, TO), "a caveat forbade it"),
        "delegation-depth-not-widened": vector(
            "6.3", "too_deep", after({"depth": 0}, {"depth": 9}, TO), "a larger depth"
        ),
        "delegation-depth-of-hop": vector(
            "6.3", "too_deep", after(TO | {"depth": 0}, TO2), "a hop's depth binds the next"
        ),
        "delegation-name": vector(
            "6.1", "name_not_allowed", after({"delegate_to": ["acme/*"]}, other), "acme2 is not acme"
        ),
        "delegation-name-below": vector(
            "4.4", "name_not_allowed", after({"delegate_to": ["acme/*"]}, TO2), "* is one segment only"
        ),
        "delegation-bad-path": vector(
            "4.4", "malformed", after({"hop": HOP, "to": "acme//worker"}), "an empty segment is no path"
        ),
        "delegation-bad-hop": vector(
            "5.2", "malformed", after({"hop": "aG9wLTAwMD+x", "to": "acme/w"}), "a hop in the other alphabet"
        ),
        "delegation-deep-enough": vector("6.3", "grant", after(TO, TO2, depth=2), "two were allowed"),
        "delegation-earlier-name": vector(
            "6.3", "grant", after(other, {"delegate_to": ["acme/*"]}), "delegate_to binds what follows"
        ),
        "delegation-all-below": vector("4.4", "grant", after({"delegate_to": ["acme/**"]}, TO, TO2), "** is any depth"),
        "delegation-own-depth": vector("6.3", "grant", after(TO | {"depth": 0}), "a hop's depth does not bind itself"),
    }


def calls() -> Vectors:
    """SPEC 8."""
    http = {
        "http": {"body": '{"id":1}', "method": "POST", "target": "/orders?x=1"},
        "args": {"id": 1},
        "tool": "orders.put",
    }
    tool = {"args": {"a": "ä", "b": [1, True, None]}, "tool": "orders.put"}
    needs = mint(ANYTHING | {"require": ["call"]})
    signed, by_tool = needs.with_caveats(call(http)), needs.with_caveats(call(tool))

    unseen = http | {"http": http["http"] | {"body": None}}  # type: ignore[operator]
    rule = {"args": {"id": {"min": 1}}, "tool": "orders.put"}
    in_path, other = mint({"allow": [rule]}), mint({"allow": [rule | {"args": {"id": {"min": 2}}, "open": True}]})

    def bare(target: str) -> dict[str, object]:
        return http | {"http": http["http"] | {"target": target}}  # type: ignore[operator]

    def changed(**members: str | None) -> dict[str, Any]:
        return http | {"http": http["http"] | members}  # type: ignore[operator]

    return {
        "call-other-method": vector("8.2", "proof_invalid", signed, "another method", request=changed(method="PUT")),
        "call-other-target": vector(
            "8.2", "proof_invalid", signed, "another query", request=changed(target="/orders?x=2")
        ),
        "call-other-body": vector("8.2", "proof_invalid", signed, "another body", request=changed(body='{"id":2}')),
        "call-other-kind": vector(
            "8.2", "proof_invalid", signed, "no HTTP", request={k: http[k] for k in ("args", "tool")}
        ),
        "call-other-tool": vector(
            "8.2", "proof_invalid", by_tool, "another tool", request=tool | {"tool": "orders.get"}
        ),
        "call-other-args": vector(
            "8.2", "proof_invalid", by_tool, "another argument", request=tool | {"args": {"a": 1}}
        ),
        "call-other-audience": vector(
            "8.2",
            "proof_invalid",
            needs.with_caveats(call(http, audience="billing")),
            "signed for another",
            request=http,
        ),
        "call-too-old": vector("8.3", "proof_invalid", signed, "10 s and 1 ms", request=http | {"at": AT + 10_001}),
        "call-too-early": vector(
            "8.3", "proof_invalid", signed, "2 s and 1 ms ahead", request=http | {"at": AT - 2_001}
        ),
        "call-twice": vector("8.3", "replayed", signed, "the same call again", request=http, times=2),
        "call-not-last": vector(
            "8.1", "malformed", signed.with_caveats({"exp": AT + 9}), "something follows", request=http
        ),
        "call-doubled": vector("8.1", "malformed", signed.with_caveats(call(http)), "a second call", request=http),
        "call-beside": vector(
            "8.1",
            "malformed",
            needs.with_caveats(call(http) | {"exp": AT + 9}),
            "not alone in its caveat",
            request=http,
        ),
        "call-short-time": vector(
            "8.1", "malformed", needs.with_caveats(call(http, at=180_000_000_000)), "twelve digits", request=http
        ),
        "call-short-nonce": vector(
            "8.1",
            "malformed",
            needs.with_caveats(call(http, nonce=b"too short")),
            "a nonce of nine bytes",
            request=http,
        ),
        "call-http-empty-query": vector(
            "8.2", "grant", needs.with_caveats(call(bare("/orders"))), "an empty query", request=bare("/orders?")
        ),
        "call-http-two-marks": vector(
            "8.2", "proof_invalid", needs.with_caveats(call(bare("/orders"))), "a query of ?", request=bare("/orders??")
        ),
        "call-http": vector("8.2", "grant", signed, "the request that was signed", request=http),
        "call-unseen": vector("8.5", "request_unseen", signed, "the proof is of a body", request=changed(body=None)),
        "call-unseen-open": vector(
            "8.5", "grant", needs.with_caveats(call(changed(body=None))), "any body", request=changed(body=None)
        ),
        "call-unseen-closed": vector(
            "8.5", "request_unseen", in_path.with_caveats(call(unseen)), "its arguments are ruled", request=unseen
        ),
        "call-unseen-wrong": vector(
            "8.5", "argument_not_allowed", other.with_caveats(call(unseen)), "a seen one is wrong", request=unseen
        ),
        "call-tool": vector("8.2", "grant", by_tool, "arguments as RFC 8785 writes them", request=tool),
        "call-oldest": vector("8.3", "grant", signed, "10 s old", request=http | {"at": AT + 10_000}),
        "call-earliest": vector("8.3", "grant", signed, "2 s ahead", request=http | {"at": AT - 2_000}),
    }
