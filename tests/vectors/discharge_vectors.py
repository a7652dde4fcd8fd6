# SPDX-License-Identifier: Apache-2.0
"""Vectors of third-party caveats, discharges and calls that are the only one of their name (SPEC 6.4 to 6.8)."""

from typing import Any

from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import (
    ANYTHING,
    AT,
    Token,
    bound,
    call,
    canonical,
    discharge,
    joined,
    mint,
    requiring,
)

REFUND = {"args": {"order": "o-1"}, "tool": "orders.refund"}
APPROVED: dict[str, Any] = {
    "allow": [{"args": {"order": "o-1"}, "tool": "orders.refund"}],
    "exp": AT + 60_000,
    "once": ["a-1", AT - 1000],
    "task": "a-1",
}


def named(name: str) -> bytes:
    """A third-party caveat of another name."""
    return canonical({"id": name})


def vectors() -> Vectors:
    """All of this file."""
    return good() | missing() | unsigned() | misshapen() | attenuated() | once()


def good() -> Vectors:
    """SPEC 6.6, 6.7: what is granted."""
    token = requiring(mint())
    made = bound(discharge(APPROVED), token)
    own = requiring(token.with_caveats({"exp": AT + 9000}), named("sub"))
    both = bound(discharge(APPROVED), own), bound(discharge(third_party=named("sub")), own)
    inner = requiring(discharge(APPROVED), named("inner"))
    nested = bound(inner, token), bound(discharge(third_party=named("inner")), token)
    return {
        "discharge-good": vector("6.6", "grant", joined(token, made), "approved, and this very call", request=REFUND),
        "discharge-one-shot": vector(
            "6.6",
            "grant",
            joined(token.with_caveats(call(REFUND)), made),
            "bound to the token before its call",
            request=REFUND,
        ),
        "discharge-other-tool": vector("6.4", "grant", token, "what is required does not bind this tool"),
        "discharge-two": vector("6.7", "grant", joined(own, *reversed(both)), "in any order", request=REFUND),
        "discharge-nested": vector("6.7", "grant", joined(token, *nested), "a discharge that requires", request=REFUND),
    }


def missing() -> Vectors:
    """SPEC 6.4: what is not answered."""
    token = requiring(mint())
    twice = requiring(token)
    half = bound(requiring(discharge(), named("inner")), token)
    return {
        "discharge-missing": vector("6.4", "missing_discharge", token, "no approval", request=REFUND),
        "discharge-missing-every": vector(
            "6.4", "missing_discharge", requiring(mint(), named("x")), "binds every call"
        ),
        "discharge-missing-inner": vector(
            "6.7", "missing_discharge", joined(token, half), "the discharge requires another", request=REFUND
        ),
        "discharge-missing-twin": vector(
            "6.7", "missing_discharge", joined(twice, bound(discharge(), twice)), "one answers one", request=REFUND
        ),
        "discharge-asked-last": vector(
            "6.4",
            "argument_not_allowed",
            requiring(mint(APPROVED)),
            "no approval would help",
            request=REFUND | {"args": {}},
        ),
    }


def unsigned() -> Vectors:
    """SPEC 6.7: what was not made for this token."""
    token = requiring(mint())
    attenuated, sibling = token.with_caveats({"task": "t-1"}), token.with_caveats({"task": "t-2"})
    made = discharge(APPROVED)
    bit = bound(made, token)
    bit = bit._replace(signature=bytes([bit.signature[0] ^ 1]) + bit.signature[1:])
    forged, endless = token._replace(signature=bytes(32)), requiring(mint(exp=AT + 90_000_000))
    cases: dict[str, tuple[Token, Token, str]] = {
        "unbound": (token, made, "as it was made, not bound"),
        "wider-parent": (attenuated, bound(made, token), "bound to the token before it was attenuated"),
        "attenuated-parent": (token, bound(made, attenuated), "bound to an attenuated token"),
        "sibling": (attenuated, bound(made, sibling), "bound to another token"),
        "bound-to-call": (
            token.with_caveats(call(REFUND)),
            bound(made, token.with_caveats(call(REFUND))),
            "bound to the signature behind the call",
        ),
        "other-key": (token, bound(discharge(APPROVED, key=bytes(32)), token), "made with another caveat key"),
        "added-unsigned": (token, bound(made, token).with_caveats({"exp": AT + 1}), "attenuated after it was bound"),
        "signature-bit": (token, bit, "one bit of the signature"),
        "removed": (token, bound(made, token)._replace(caveats=()), "its caveat is gone"),
        "before-the-identifier": (endless, bound(discharge(key=bytes(32)), endless), "and the token lives too long"),
        "forged-token": (forged, bound(made, forged), "the token itself is not signed"),
    }
    return {
        f"discharge-{name}": vector("6.7", "bad_signature", joined(one, other), why, request=REFUND)
        for name, (one, other, why) in cases.items()
    }


def misshapen() -> Vectors:
    """SPEC 2.3, 6.4, 6.6, 6.7: what no verifier reads."""
    token = requiring(mint())
    made = bound(discharge(APPROVED), token)
    deep = [discharge(third_party=named(f"d{at}")) for at in range(5)]
    deep = [*(requiring(each, named(f"d{at + 1}")) for at, each in enumerate(deep[:4])), deep[4]]
    root = requiring(mint(), named("d0"))
    held: dict[str, Any] = {
        "depth": 1,
        "delegate_to": ["acme/**"],
        "require": ["call"],
        "call": ["d" * 43, AT, "n" * 22],
    }
    found = {
        f"discharge-with-{name}": vector(
            "6.6", "malformed", joined(token, bound(discharge({name: value}), token)), f"{name} in it", request=REFUND
        )
        for name, value in held.items()
    }
    over = {"hop": "aG9wLTAwMDAx", "to": "acme/worker"}
    cases: dict[str, tuple[str, str]] = {
        "with-delegation": (joined(token, bound(discharge(over), token)), "a delegation in it"),
        "unasked": (joined(mint(), made), "the token requires nothing"),
        "doubled": (joined(token, made, made), "the same twice"),
        "other-realm": (joined(token, bound(discharge(APPROVED, location=b"acme2"), token)), "another realm's name"),
        "too-deep": (joined(root, *(bound(each, root) for each in deep)), "five deep"),
        "nine": (joined(token, *[made] * 9), "nine of them"),
        "empty": (token.text() + "~", "nothing behind the joint"),
        "no-prefix": (joined(token, made).replace("~arx1_", "~"), "the second has no prefix"),
        "alone": (made.text(), "a discharge is no token"),
        "swapped": (joined(made, token), "the discharge stands first"),
    }
    found |= {
        f"discharge-{name}": vector("6.7", "malformed", text, why, request=REFUND)
        for name, (text, why) in cases.items()
    }
    third_party_caveats = {
        "text": (b"who", "no object"),
        "no-id": (canonical({"tools": ["a"]}), "no id"),
        "no-tools": (canonical({"id": "x", "tools": []}), "a list that binds nothing"),
        "member": (canonical({"id": "x", "need": 2}), "a member that does not exist"),
        "spaced": (b'{"id": "x"}', "white space"),
        "pattern": (canonical({"id": "x", "tools": ["*.refund"]}), "no pattern of tools"),
    }
    return found | {
        f"third-party-{name}": vector("6.4", "unknown_caveat", requiring(mint(), raw), why)
        for name, (raw, why) in third_party_caveats.items()
    }


def attenuated() -> Vectors:
    """SPEC 6.6: its caveats hold for the call."""
    token = requiring(mint())

    def with_discharge(*caveats: dict[str, Any]) -> str:
        return joined(token, bound(discharge(APPROVED, *caveats), token))

    other = REFUND | {"args": {"order": "o-2"}}
    dead = {"kills": {"task:a-1": 8}, "applied": 8}
    return {
        "discharge-other-call": vector(
            "6.6", "argument_not_allowed", with_discharge(), "another call than was approved", request=other
        ),
        "discharge-for-another-tool": vector(
            "6.6", "tool_not_allowed", with_discharge(), "what is presented holds for every call"
        ),
        "discharge-expired": vector("6.6", "expired", with_discharge({"exp": AT}), "it is over", request=REFUND),
        "discharge-killed": vector(
            "6.6", "revoked", with_discharge(), "this approval was withdrawn", request=REFUND, epoch=dead
        ),
        "discharge-approver-frozen": vector(
            "6.6",
            "frozen",
            with_discharge({"operators": ["ada"]}),
            "who approved it is frozen",
            request=REFUND,
            epoch={"freezes": {"operator:ada": 8}, "applied": 8},
        ),
        "discharge-unknown": vector(
            "6.6", "unknown_caveat", with_discharge({"zone": "eu"}), "a member that does not exist", request=REFUND
        ),
        "discharge-own-third-party": vector(
            "6.7",
            "unknown_caveat",
            joined(token, bound(requiring(discharge(), b"who"), token)),
            "what it requires is not known",
            request=REFUND,
        ),
    }


def once() -> Vectors:
    """SPEC 6.8: the only call of its name."""
    token = requiring(mint())
    made = bound(discharge(APPROVED), token)
    own = token.with_caveats({"once": ["a-1", AT]})
    used: dict[str, tuple[list[Any], str]] = {
        "old": (["a-1", AT - 86_400_000], "a day old"),
        "ahead": (["a-1", AT + 60_001], "from a minute ahead"),
        "before-start": (["a-1", AT - 60_001], "given before the store began"),
    }
    found = {
        f"once-{name}": vector("6.8", "already_used", mint(ANYTHING, {"once": value}), why)
        for name, (value, why) in used.items()
    }
    return found | {
        "once-early": vector(
            "6.8", "store_unavailable", mint(ANYTHING, {"once": ["a-1", AT + 1]}), "given at a time to come"
        ),
        "once-first": vector("6.8", "grant", mint(ANYTHING, {"once": ["a-1", AT]}), "the first of this name"),
        "once-second": vector("6.8", "already_used", mint(ANYTHING, {"once": ["a-1", AT]}), "the second", times=2),
        "once-approved-twice": vector(
            "6.8", "already_used", joined(token, made), "approved once, called twice", times=2, request=REFUND
        ),
        "once-elsewhere": vector(
            "6.8",
            "grant",
            joined(own, bound(discharge(APPROVED), own)),
            "a holder's name and that of an approval are two",
            request=REFUND,
        ),
        "once-nine": vector("6.8", "malformed", mint(ANYTHING, *({"once": [f"a-{n}", AT]} for n in range(9))), "nine"),
        "once-shape": vector("6.1", "malformed", mint(ANYTHING, {"once": ["a b", AT]}), "a name with a space"),
    }
