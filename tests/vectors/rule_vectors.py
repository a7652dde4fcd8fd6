# SPDX-License-Identifier: Apache-2.0
"""Vectors of rules and constraints (SPEC 7)."""

from typing import Any

from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import ANYTHING, call, mint

NO, TOOL = "argument_not_allowed", "tool_not_allowed"
# name: constraint, value, expect, comment; the argument is called x.
ONE: dict[str, tuple[Any, Any, str, str]] = {
    "equal-other": ("o-1", "o-2", NO, "another text"),
    "equal-type": (5, "5", NO, "text is not a number"),
    "equal-bool": (1, True, NO, "true is not 1"),
    "equal-fraction": (1, 1.5, NO, "a fraction is no integer"),
    "equal-list-fraction": ({"equal": [1, 2]}, [1, 2.5], NO, "a fraction is no integer in a list"),
    "one-of-fraction": ({"one_of": [1, 2]}, 1.5, NO, "a fraction is no integer"),
    "none-of-float": ({"none_of": [5]}, 5.0, NO, "5.0 is 5"),
    "none-of-fraction": ({"none_of": [5]}, 5.5, NO, "a kind that it does not speak of"),
    "not-float": ({"not": 5}, 5.0, NO, "5.0 is 5, under not too"),
    "contains-fraction": ({"contains": [1]}, [1, 2.5], NO, "an item of a kind that it does not speak of"),
    "subset-float": ({"subset": [1, 2]}, [1.0, 3.0], NO, "3 is more"),
    "equal-case": ("O-1", "o-1", NO, "compared by code point"),
    "equal-normalised": ("\u00e9", "e\u0301", NO, "no Unicode normalisation"),
    "one-of-none": ({"one_of": ["a", "b"]}, "c", NO, "not among them"),
    "any-not": ({"not": {"any": True}}, "a", NO, "no value is none"),
    "any-other-member": ({"any": True, "max": 5}, 6, NO, "members hold together"),
    "none-of-hit": ({"none_of": ["a"]}, "a", NO, "among them"),
    "none-of-other-kind": ({"none_of": ["a"]}, 5, NO, "a kind that it does not speak of"),
    "not-other-kind": ({"not": {"range": [0, 5]}}, "9", NO, "under not too"),
    "not-hit": ({"not": "a"}, "a", NO, "what is excluded"),
    "range-above": ({"range": [0, 5]}, 6, NO, "above"),
    "range-below": ({"range": [0, 5]}, -1, NO, "below"),
    "range-text": ({"range": [0, 5]}, "3", NO, "a decimal where integers are spoken of"),
    "range-fraction": ({"range": [0, 5]}, 2.5, NO, "a fraction where integers are spoken of"),
    "range-number-above": ({"max": "19.99"}, 19.990000000000002, NO, "above, by the last digit of a double"),
    "range-number-rounded": ({"max": "0.3"}, 0.30000000000000004, NO, "what doubles make of 0.1 + 0.2"),
    "range-number-tiny": ({"max": "0"}, 5e-324, NO, "the least double is above 0"),
    "range-number-huge": ({"min": "0"}, 1e21, NO, "beyond 2^53-1"),
    "range-float-huge": ({"min": 0}, 9007199254740992.0, NO, "2^53 is beyond what JSON carries"),
    "range-decimal-above": ({"max": "5.5"}, "5.51", NO, "above, exactly"),
    "range-exponent": ({"max": "5.5"}, "5e0", NO, "no decimal"),
    "glob-slash": ({"glob": "a/*"}, "a/b/c", NO, "* is no slash"),
    "glob-anchored": ({"glob": "a*"}, "ba", NO, "the whole text"),
    "glob-nul": ({"glob": "a*"}, "a\0b", NO, "a reader in C ends it at the NUL"),
    "glob-line-break": ({"glob": "*.txt"}, "a\n.txt", NO, "two lines"),
    "glob-line-separator": ({"glob": "a*"}, "a\u2028b", NO, "two lines to a reader of Unicode"),
    "glob-not-line-break": ({"not": {"glob": "b*"}}, "a\nb", NO, "a form that it does not speak of"),
    "subpath-sibling": ({"subpath": "/data"}, "/database", NO, "cut at a slash"),
    "subpath-dots": ({"subpath": "/data"}, "/data/../etc", NO, "two dots"),
    "subpath-escaped": ({"subpath": "/data"}, "/data/%2e%2e/etc", NO, "two escaped dots"),
    "subpath-backslash": ({"subpath": "/data"}, "/data\\..\\etc", NO, "a backslash"),
    "url-user": (
        {"url": {"host": "a.example", "scheme": "https"}},
        "https://a.example@b.example/",
        NO,
        "user information",
    ),
    "url-host": ({"url": {"host": "a.example", "scheme": "https"}}, "https://a.example.b.example/", NO, "another host"),
    "url-scheme": ({"url": {"host": "a.example", "scheme": "https"}}, "http://a.example/", NO, "another scheme"),
    "url-address": ({"url": {"host": "*.example", "scheme": "http"}}, "http://169.254.169.254/", NO, "an address"),
    "cidr-outside": ({"cidr": "10.0.0.0/8"}, "11.0.0.1", NO, "another network"),
    "cidr-zeros": ({"cidr": "10.0.0.0/8"}, "010.0.0.1", NO, "an odd spelling"),
    "length-above": ({"max_length": 3}, "abcd", NO, "too long"),
    "equal-list-order": ({"equal": ["a", "b"]}, ["b", "a"], NO, "another order"),
    "equal-list-twice": ({"equal": ["a", "b"]}, ["a", "b", "b"], NO, "an item more"),
    "equal-list-kind": ({"equal": [1]}, [True], NO, "another type"),
    "equal-list-not": ({"not": {"equal": ["a"]}}, [1], NO, "a type that it does not speak of"),
    "contains-missing": ({"contains": ["a", "b"]}, ["a", "c"], NO, "b is missing"),
    "subset-more": ({"subset": ["a", "b"]}, ["a", "c"], NO, "c is more"),
    "all-of-one": ({"all_of": [{"min": 1}, {"max": 5}]}, 6, NO, "one of two fails"),
    "any-of-none": ({"any_of": ["a", {"glob": "b*"}]}, "c", NO, "none holds"),
    "fields-other": ({"fields": {"country": "DE"}}, {"country": "FR"}, NO, "a member with another value"),
    "fields-missing": ({"fields": {"country": "DE", "zip": {"length": 5}}}, {"country": "DE"}, NO, "zip is missing"),
    "fields-unnamed": ({"fields": {"country": "DE"}}, {"country": "DE", "to": "me"}, NO, "a member that is not named"),
    "fields-none": ({"fields": {}}, {"country": "DE"}, NO, "no member"),
    "fields-null": ({"fields": {"a": {"max": 1, "optional": True}}}, {"a": None}, NO, "null is not absent"),
    "fields-list": ({"fields": {}}, [], NO, "a list is no object"),
    "fields-deep": ({"fields": {"a": {"fields": {"b": {"max": 5}}}}}, {"a": {"b": 6}}, NO, "a member of a member"),
    "fields-open-named": ({"fields": {"a": 1}, "open": True}, {"a": 2, "b": 2}, NO, "open is for what is not named"),
    "fields-open-deep": (
        {"fields": {"a": {"fields": {"b": 1}}}, "open": True},
        {"a": {"b": 1, "c": 2}},
        NO,
        "open is for its own object alone",
    ),
    "each-one": ({"each": {"glob": "*@a.example"}}, ["x@a.example", "x@b.example"], NO, "one item is another"),
    "each-text": ({"each": {"length": 1}}, "abc", NO, "text has no items"),
    "each-1025": ({"each": {"any": True}}, [0] * 1025, NO, "too long a list"),
    "each-order": ({"each": ["a", {"max": 5}]}, [5, "a"], NO, "another order"),
    "each-more": ({"each": ["a", "a"]}, ["a", "a", "a"], NO, "an item more"),
    "each-less": ({"each": ["a", "a"]}, ["a"], NO, "an item less"),
    "each-none": ({"each": []}, [None], NO, "no item"),
    "each-object-more": (
        {"each": [{"fields": {"n": 1, "sku": "a"}}]},
        [{"n": 1, "sku": "a", "to": "x"}],
        NO,
        "a pinned object has nothing else",
    ),
    "fields": (
        {"fields": {"country": "DE", "zip": {"length": 5}}},
        {"country": "DE", "zip": "10115"},
        "grant",
        "each member as its constraint",
    ),
    "fields-optional": ({"fields": {"a": {"max": 1, "optional": True}}}, {}, "grant", "a member may be absent"),
    "fields-open": ({"fields": {"a": 1}, "open": True}, {"a": 1, "b": [{}]}, "grant", "and any others"),
    "fields-4-levels": (
        {"fields": {"a": {"fields": {"a": {"fields": {"a": {"fields": {"a": 1}}}}}}}},
        {"a": {"a": {"a": {"a": 1}}}},
        "grant",
        "as deep as it may be",
    ),
    "each": ({"each": {"fields": {"n": {"max": 5}}}}, [{"n": 5}, {"n": 1.0}], "grant", "every item"),
    "each-empty": ({"each": {"max": 5}}, [], "grant", "no item is wrong"),
    "each-1024": ({"each": {"any": True}}, [0] * 1024, "grant", "as long as it may be"),
    "each-pinned": (
        {"each": [{"fields": {"n": 2, "sku": "a"}}, {"fields": {"n": 1, "sku": "b"}}]},
        [{"n": 2, "sku": "a"}, {"n": 1.0, "sku": "b"}],
        "grant",
        "exactly this list of objects",
    ),
    "each-list-of-lists": ({"each": [{"each": {"max": 5}}, {"equal": ["a"]}]}, [[1, 5], ["a"]], "grant", "lists"),
    "equal": ("o-1", "o-1", "grant", "the same text"),
    "equal-float": (1, 1.0, "grant", "RFC 8785 writes 1.0 as 1"),
    "equal-minus-zero": (0, -0.0, "grant", "RFC 8785 writes -0 as 0"),
    "equal-list-float": ({"equal": ["a", 1, True]}, ["a", 1.0, True], "grant", "the same list"),
    "one-of-float": ({"one_of": ["a", 5]}, 5.0, "grant", "5.0 is 5"),
    "none-of-other-float": ({"none_of": [5]}, 6.0, "grant", "an integer that is none of them"),
    "contains-float": ({"contains": [1, 2]}, [3, 2.0, 1], "grant", "2.0 is 2"),
    "subset-floats": ({"subset": [1, 2]}, [1.0, 2, 2.0], "grant", "nothing else"),
    "range-float": ({"range": ["0", "5"]}, 3.0, "grant", "3.0 is 3"),
    "range-float-integer": ({"range": [0, 5]}, 5.0, "grant", "5.0 is 5, under integer bounds too"),
    "range-number": ({"range": ["19.99", "19.99"]}, 19.99, "grant", "the decimal of its shortest digits"),
    "equal-list": ({"equal": ["a", 1, "a"]}, ["a", 1, "a"], "grant", "the same list"),
    "range-edges": ({"range": [5, 5]}, 5, "grant", "both ends included"),
    "range-negative": ({"range": [-9007199254740991, -1]}, -1, "grant", "operands may be negative"),
    "range-decimal": ({"max": "5.5"}, "5.50", "grant", "a value may have trailing zeros"),
    "range-decimal-integer": ({"max": "5.5"}, 5, "grant", "an integer under decimal bounds"),
    "glob": ({"glob": "a/*/c-*"}, "a/b/c-d", "grant", "two stars, two segments"),
    "subpath": ({"subpath": "/data"}, "/data/a/b", "grant", "below"),
    "subpath-last-slash": ({"subpath": "/data"}, "/data/", "grant", "one slash at the end"),
    "subpath-below-last-slash": ({"subpath": "/data"}, "/data/a/", "grant", "one slash at the end"),
    "subpath-two-last-slashes": ({"subpath": "/data"}, "/data//", NO, "an empty segment"),
    "url": (
        {"url": {"host": "*.a.example", "path": "/v1", "scheme": "https"}},
        "https://x.a.example/v1/y?z",
        "grant",
        "fits",
    ),
    "cidr-mapped": ({"cidr": "10.0.0.0/8"}, "::ffff:10.1.1.1", "grant", "IPv4 inside IPv6"),
    "any-of": ({"any_of": ["a", {"glob": "b*"}]}, "bc", "grant", "the second holds"),
    "length-code-points": ({"length": 1}, "\U0001f600", "grant", "by code points"),
}


def vectors() -> Vectors:
    """All of this file."""
    found = {}
    for name, (constraint, value, expect, comment) in ONE.items():
        token = mint({"allow": [{"args": {"x": constraint}, "tool": "orders.get"}]})
        found[f"rule-{name}"] = vector("7.2", expect, token, comment, request={"args": {"x": value}})
    return found | spelt() | worlds() | operands()


def spelt() -> Vectors:
    """SPEC 7.2, 8.2: a call that was signed with 5 is the call with 5.0."""
    token = mint({"allow": [{"args": {"x": {"range": [0, 5]}}, "tool": "orders.get"}]})
    asked = {"args": {"x": 5}, "tool": "orders.get"}
    signed = token.with_caveats(call(asked))
    return {
        "call-float": vector("7.2", "grant", signed, "signed as 5, came as 5.0", request={"args": {"x": 5.0}}),
        "call-fraction": vector(
            "8.2", "proof_invalid", signed, "signed as 5, came as 4.5", request={"args": {"x": 4.5}}
        ),
    }


def worlds() -> Vectors:
    """SPEC 7.1: tools, and the closed world of arguments."""

    def rule(expect: str, comment: str, rules: list[dict[str, Any]], **request: Any) -> dict[str, Any]:
        return vector("7.1", expect, mint({"allow": rules}), comment, request=request)

    get, wild = {"tool": "orders.get"}, {"tool": "orders.*"}
    closed = {"args": {"x": 1}, "tool": "*"}

    def nested(levels: int) -> list[Any]:
        return [] if levels == 1 else [nested(levels - 1)]

    both = mint({"allow": [get]}, {"allow": [{"tool": "orders.put"}]})
    attenuated = mint({"allow": [closed]}, {"allow": [{"args": {}, "open": True, "tool": "*"}]})
    return {
        "tool-other": rule(TOOL, "another tool", [get], tool="orders.put"),
        "tool-prefix-alone": rule(TOOL, "something follows the dot", [wild], tool="orders"),
        "tool-prefix-longer": rule(TOOL, "cut at a dot", [wild], tool="orders2.get"),
        "tool-none": rule(TOOL, "a request that is no tool", [{"tool": "*"}], tool=""),
        "tool-both": vector("6.1", TOOL, both, "caveats hold together"),
        "args-33-levels": rule(
            "malformed_request", "33 containers, also without a proof", [get], args={"x": nested(32)}
        ),
        "args-32-levels": rule("grant", "32 containers", [get], args={"x": nested(31)}),
        "args-half-a-pair": rule("malformed_request", "half of a surrogate pair", [get], args={"x": "\ud800"}),
        "args-unnamed": rule(NO, "an argument that is not named", [closed], args={"x": 1, "y": 2}),
        "args-missing": rule(NO, "a named argument is missing", [closed], args={}),
        "args-none": rule(NO, "an empty world", [{"args": {}, "tool": "*"}], args={"x": 1}),
        "args-not-reopened": vector(
            "7.1", NO, attenuated, "a later open opens nothing", request={"args": {"x": 1, "y": 2}}
        ),
        "args-optional-wrong": rule(
            NO, "optional is not any", [{"args": {"x": {"equal": 1, "optional": True}}, "tool": "*"}], args={"x": 2}
        ),
        "tool-prefix": rule("grant", "below the prefix", [wild], tool="orders.get.one"),
        "tool-second-rule": rule("grant", "rules of one caveat are alternatives", [{"tool": "a"}, get]),
        "args-any": rule("grant", "without args any pass", [get], args={"x": [1, {"y": None}]}),
        "args-open": rule("grant", "open", [{"args": {"x": 1}, "open": True, "tool": "*"}], args={"x": 1, "y": 2}),
        "args-any-missing": rule(
            NO, "any value, and there is none", [{"args": {"x": {"any": True}}, "tool": "*"}], args={}
        ),
        "args-any-unnamed": rule(
            NO, "any value of x, and no other", [{"args": {"x": {"any": True}}, "tool": "*"}], args={"x": 1, "y": 1}
        ),
        "args-any-null": rule(
            "grant", "any value, and null is one", [{"args": {"x": {"any": True}}, "tool": "*"}], args={"x": None}
        ),
        "args-any-object": rule(
            "grant", "any value", [{"args": {"x": {"any": True}}, "tool": "*"}], args={"x": {"a": [1.5, {}]}}
        ),
        "args-any-optional": rule(
            "grant", "any value or none", [{"args": {"x": {"any": True, "optional": True}}, "tool": "*"}], args={}
        ),
        "args-optional": rule(
            "grant", "absent", [{"args": {"x": {"equal": 1, "optional": True}}, "tool": "*"}], args={}
        ),
    }


def operands() -> Vectors:
    """SPEC 7.2: what no constraint may be, refused alike whether it is asked or not."""
    bad: dict[str, tuple[Any, str]] = {
        "empty": ({}, "it tests nothing"),
        "optional-alone": ({"optional": True}, "it tests nothing"),
        "unknown": ({"regex": "a+"}, "no such test"),
        "null": (None, "null does not exist"),
        "crossed": ({"range": [5, 1]}, "no number is in it"),
        "fraction": ({"max": 1.5}, "a fraction is written as text"),
        "decimal-zeros": ({"max": "1.50"}, "an operand has one spelling"),
        "mixed": ({"range": [1, "2.5"]}, "bounds of two kinds"),
        "host-bits": ({"cidr": "10.0.0.1/8"}, "bits beyond the prefix"),
        "cidr-mapped": ({"cidr": "::ffff:0:0/96"}, "a network of IPv4 inside IPv6"),
        "cidr-mapped-dots": ({"cidr": "::ffff:0.0.0.0/96"}, "the same network, its last bits as IPv4"),
        "cidr-zone": ({"cidr": "fe80::%eth0/64"}, "a network with a zone"),
        "two-stars": ({"glob": "a/**"}, "no such wildcard"),
        "glob-line-break": ({"glob": "a\n*"}, "a text of two lines is none that it speaks of"),
        "dots": ({"subpath": "/data/../etc"}, "a path that means another"),
        "nested": ({"not": {"any_of": ["a"]}}, "one level of logic"),
        "any-false": ({"any": False}, "any is written as true"),
        "any-number": ({"any": 1}, "1 is not true"),
        "fields-5-levels": (
            {"fields": {"a": {"fields": {"a": {"fields": {"a": {"each": [{"fields": {"a": 1}}]}}}}}}},
            "a level too many",
        ),
        "fields-null": ({"fields": {"a": None}}, "null does not exist"),
        "fields-empty-name": ({"fields": {"": 1}}, "a member without a name"),
        "fields-optional-alone": ({"fields": {"a": {"optional": True}}}, "a member that tests nothing"),
        "fields-in-logic": ({"any_of": [{"fields": {"a": 1}}]}, "logic takes plain tests"),
        "open-alone": ({"open": True}, "it tests nothing"),
        "open-without-fields": ({"each": 1, "open": True}, "a list has no members"),
        "open-false": ({"fields": {"a": 1}, "open": False}, "open is written as true"),
        "each-in-each": ({"each": {"fields": {"a": {"each": 1}}}}, "the work would be a product"),
        "each-optional": ({"each": {"max": 1, "optional": True}}, "an item is never absent"),
        "each-list": ({"each": [["a"]]}, "a list is no constraint"),
        "empty-one-of": ({"one_of": []}, "nothing is among nothing"),
    }
    found = {}
    for name, (constraint, comment) in bad.items():
        token = mint(ANYTHING, {"allow": [{"tool": "*"}, {"args": {"x": constraint}, "tool": "never.asked"}]})
        found[f"operand-{name}"] = vector("7.2", "malformed", token, comment)
    return found
