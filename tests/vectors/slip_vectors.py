# SPDX-License-Identifier: Apache-2.0
"""Vectors of members, addresses, keys and lengths that an implementation with one wrong line would take for others."""

from typing import Any

from nacl.secret import SecretBox

from tests.vectors.edge_vectors import Edge, after, judged
from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import (
    ANYTHING,
    CAVEAT_KEY,
    HOP,
    THIRD_PARTY,
    Third,
    Token,
    bound,
    canonical,
    generated,
    joined,
    mint,
    step,
)

NO, WRONG = "argument_not_allowed", "malformed"


def vectors() -> Vectors:
    """All of this file."""
    found = rules() | operands() | values() | networks() | sealed() | texts()
    return {
        f"slip-{name}": vector(edge.spec, edge.expect, edge.token, edge.why, **edge.more)
        for name, edge in found.items()
    }


def rules() -> dict[str, Edge]:
    """SPEC 7.1: the form of a rule, beside one that allows the call."""
    bad: dict[str, tuple[Any, str]] = {
        "unknown-member": ({"tool": "*", "until": 1}, "a member that a rule does not have"),
        "proto-member": ({"__proto__": 1, "tool": "*"}, "a member that some readers take for none"),
        "no-tool": ({"args": {}}, "no tool"),
        "text": ("orders.get", "a text in the place of a rule"),
        "list": (["orders.get"], "a list in the place of a rule"),
        "open-false": ({"open": False, "tool": "*"}, "open is written as true alone"),
        "args-list": ({"args": [], "tool": "*"}, "a list in the place of the arguments"),
        "args-text": ({"args": "x", "tool": "*"}, "a text in the place of the arguments"),
    }
    return {
        f"rule-{name}": Edge("7.1", WRONG, mint({"allow": [{"tool": "*"}, rule]}), why)
        for name, (rule, why) in bad.items()
    }


def operands() -> dict[str, Edge]:
    """SPEC 7.2, 7.3: operands of another form, in a rule that is never asked."""
    bad: dict[str, tuple[Any, str]] = {
        "range-three": ({"range": [1, 2, 3]}, "three bounds"),
        "fields-list": ({"fields": []}, "a list in the place of members"),
        "fields-text": ({"fields": "x"}, "a text in the place of members"),
        "fields-unnamed": ({"fields": {"": 1}}, "a member without a name"),
        "cidr-two-gaps": ({"cidr": "2001::db8::/32"}, "two `::`"),
        "cidr-six-129": ({"cidr": "::/129"}, "beyond the address"),
        "cidr-number": ({"cidr": 5}, "a number"),
        "url-text": ({"url": "https://a.example/"}, "a text in the place of a URL's parts"),
        "url-two-gaps": ({"url": {"host": "[1::2::3]", "scheme": "https"}}, "two `::`"),
    }
    return {
        f"operand-{name}": Edge(
            "7.2", WRONG, after({"allow": [{"tool": "*"}, {"args": {"x": test}, "tool": "never.asked"}]}), why
        )
        for name, (test, why) in bad.items()
    }


def values() -> dict[str, Edge]:
    """SPEC 7.2, 7.3: values at the end of what a constraint allows, or of what it speaks of."""
    port = {"host": "a.example", "scheme": "https"}
    return {
        "min-largest": judged({"min": "0.5"}, 2**53 - 1, "grant", "the largest integer, as a decimal"),
        "min-length-0": judged({"min_length": 0}, "", "grant", "no character is enough"),
        "not-length-number": judged({"not": {"min_length": 1}}, 5, NO, "a number has no length"),
        "glob-star-none": judged({"glob": "o-*"}, "o-", "grant", "a star for no character", "7.3"),
        "glob-star-inside": judged({"glob": "a*b"}, "ab", "grant", "a star for no character between", "7.3"),
        "glob-stars-around": judged({"glob": "*a*"}, "ab", "grant", "no character first", "7.3"),
        "glob-stars-other": judged({"glob": "*a*"}, "bb", NO, "another character", "7.3"),
        "url-port-1": judged({"url": {**port, "port": 1}}, "https://a.example:1/", "grant", "the first port", "7.3"),
        "url-port-last": judged(
            {"url": {**port, "port": 65535}}, "https://a.example:65535/", "grant", "the last port", "7.3"
        ),
        "url-no-mark": judged({"not": {"url": port}}, "httpso", NO, "no `://`, so no URL", "7.3"),
        "url-value-two-gaps": judged({"not": {"url": port}}, "https://[1::2::3]/", NO, "two `::`", "7.3"),
    }


def networks() -> dict[str, Edge]:
    """SPEC 6.1, 7.3: addresses and networks."""
    one, last = "1:0:3:4:5:6:7:8", "1:2:3:4:5:6:7:0"
    bad = {
        "two-gaps": "2001::db8::/32",
        "six-129": "::/129",
        "four-33": "0.0.0.0/33",
        "gap-of-none": "1:2:3:4:5:6:7::8/128",
    }
    why = {"two-gaps": "two `::`", "gap-of-none": "`::` for no group"}
    return {
        f"net-{name}": Edge("6.1", WRONG, after({"net": [net]}), why.get(name, "beyond the address"))
        for name, net in bad.items()
    } | {
        "cidr-value-two-gaps": judged({"not": {"cidr": "2001:db8::/32"}}, "2001::db8::1", NO, "two `::`", "7.3"),
        "cidr-one-zero": judged({"cidr": f"{one}/128"}, one, "grant", "one group of zeros is written", "7.3"),
        "cidr-one-zero-gap": judged({"cidr": "1::3:4:5:6:7:8/128"}, one, WRONG, "and not shortened", "7.3"),
        "cidr-last-gap": judged({"cidr": f"{last}/128"}, "1:2:3:4:5:6:7::", "grant", "a value may shorten it", "7.3"),
        "cidr-four-all-bits": judged({"cidr": "10.0.0.1/32"}, "10.0.0.1", "grant", "one address", "7.3"),
        "cidr-six-all-bits": judged({"cidr": "::1/128"}, "::1", "grant", "one address", "7.3"),
        "cidr-four-no-bit": judged({"cidr": "0.0.0.0/0"}, "255.255.255.255", "grant", "every address", "7.3"),
    }


def sealed() -> dict[str, Edge]:
    """SPEC 6.5: a third-party caveat whose key has another length, and a discharge that was made with it."""
    request = {"request": {"args": {"order": "o-1"}, "tool": "orders.refund"}}

    def discharged(size: int) -> str:
        key = (generated(CAVEAT_KEY) * 2)[:size]
        root = mint()
        nonce = step(root.signature, b"arx/1/seal" + key + THIRD_PARTY)[:24]
        sealed_key = bytes(SecretBox(root.signature).encrypt(key, nonce))
        token = root.with_caveats(Third(b"m", THIRD_PARTY, sealed_key))
        return joined(token, bound(Token(b"acme", THIRD_PARTY, (), step(key, THIRD_PARTY)), token))

    return {
        f"sealed-key-{size}": Edge("6.5", "bad_signature", discharged(size), f"a key of {size} bytes", request)
        for size in (0, 31, 33)
    } | {"sealed-key-32": Edge("6.5", "grant", discharged(32), "a key of 32 bytes", request)}


def texts() -> dict[str, Edge]:
    """SPEC 2.1, 4.1, 4.4: lengths and kinds."""
    rule = {"args": {"a": ""}, "tool": "*"}
    value = "x" * (128 - len(canonical({"allow": [rule]})))
    token = mint({"allow": [{"args": {"a": value}, "tool": "*"}]})
    asked = {"request": {"args": {"a": value}, "tool": "orders.get"}}
    to = {"hop": HOP, "to": "acme/worker"}
    return {
        "caveat-128-bytes": Edge("2.1", "grant", token, "the first length of two bytes", asked),
        "model-list": Edge("4.1", WRONG, mint(model=["x"]), "a list in the place of a text"),
        "meta-one": Edge("4.1", "grant", mint(meta=["1"]), "one text of three"),
        "pattern-path-64": Edge("4.4", "name_not_allowed", after({"delegate_to": ["a" * 64]}, to), "64 characters"),
        "pattern-path-65": Edge("4.4", WRONG, after({"delegate_to": ["a" * 65]}, to), "65 characters"),
        "third-party-call": Edge(
            "6.4",
            "unknown_caveat",
            mint(ANYTHING).with_caveats(Third(b"m", canonical({"call": ["A" * 43, 1, "A" * 22]}), bytes(72))),
            "a third-party caveat is no call",
        ),
    }
