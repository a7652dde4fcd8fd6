# SPDX-License-Identifier: Apache-2.0
"""Vectors of what languages read in different ways: numbers, lengths, names, surrogates, the order of members."""

from typing import Any

from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import ANYTHING, Token, call, canonical, identifier, mint, requiring

NO, FORM = "argument_not_allowed", "malformed_request"
FACE = "\U0001f600"  # one code point, two code units of UTF-16, four bytes of UTF-8


def vectors() -> Vectors:
    """All of this file."""
    return numbers() | lengths() | orders() | names() | surrogates()


def numbers() -> Vectors:
    """SPEC 8.2: numbers beyond 2^53-1, whatever their spelling."""
    cases: dict[str, tuple[Any, str, str]] = {
        "integer": (2**53, FORM, "an integer of JSON beyond 2^53-1"),
        "float": (2.0**53, FORM, "the same number, as a float"),
        "exponent": (1e16, FORM, "written with an exponent, which has an integer's value"),
        "huge": (1e300, FORM, "every number of this size is an integer"),
        "negative": (-(2**53), FORM, "below -(2^53-1)"),
        "negative-float": (-1e16, FORM, "below -(2^53-1), as a float"),
        "nested": ([{"y": [1e16]}], FORM, "at any depth"),
        "largest": (2**53 - 1, "grant", "the largest number"),
        "largest-float": (2.0**53 - 1, "grant", "the largest number, as a float"),
        "least": (-(2**53) + 1, "grant", "the least number"),
        "fraction": (4503599627370495.5, "grant", "a fraction of 17 digits"),
        "tiny": (5e-324, "grant", "the least fraction"),
    }
    found = {
        f"number-{name}": vector("8.2", expect, mint(), why, request={"args": {"x": value}})
        for name, (value, expect, why) in cases.items()
    }
    plain: dict[str, Any] = {"args": {"x": 1}, "tool": "orders.get"}
    for name, value in (("integer", 2**53), ("exponent", 1e16)):
        found[f"number-{name}-signed"] = vector(
            "8.2", FORM, mint().with_caveats(call(plain)), "no proof covers it", request={"args": {"x": value}}
        )
    return found


def lengths() -> Vectors:
    """SPEC 3.1: lengths are numbers of code points."""
    long = {"min_length": 3, "max_length": 3}

    def ruled(constraint: Any, value: Any, expect: str) -> dict[str, Any]:
        token = mint({"allow": [{"args": {"x": constraint}, "tool": "orders.get"}]})
        return vector("7.2", expect, token, "by code points", request={"args": {"x": value}})

    def named(characters: int) -> Token:
        return requiring(mint(), canonical({"id": FACE * characters, "tools": ["never"]}))

    issuer = [FACE * 512, "x" * 512]
    return {
        "length-meta": vector("4.1", "grant", mint(meta=[FACE * 64] * 3), "64 code points each"),
        "length-meta-above": vector("4.1", "malformed", mint(meta=[FACE * 65]), "65 code points"),
        "length-meta-four": vector("4.1", "malformed", mint(meta=["a"] * 4), "four texts"),
        "length-subject": vector("4.1", "grant", mint(subject=issuer), "512 code points each"),
        "length-subject-above": vector("4.1", "malformed", mint(subject=[FACE * 513, "x"]), "513 code points"),
        "length-model": vector("4.1", "grant", mint(model=FACE * 96), "96 code points"),
        "length-model-above": vector("4.1", "malformed", mint(model=FACE * 97), "97 code points"),
        "length-model-empty": vector("4.1", "malformed", mint(model=""), "a text has a character"),
        "length-id": vector("6.4", "grant", named(160), "160 code points"),
        "length-id-above": vector("6.4", "unknown_caveat", named(161), "161 code points"),
        "length-text": ruled(long, FACE * 3, "grant"),
        "length-text-above": ruled(long, FACE * 4, NO),
        "length-text-below": ruled(long, FACE * 2, NO),
        "length-combined": ruled({"length": 2}, "e\u0301", "grant"),
    }


def orders() -> Vectors:
    """SPEC 8.2: the arguments of a signed call, sent in another order than RFC 8785 writes."""
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "letters": ({"b": 1, "a": 2, "B": 3}, "upper case comes first"),
        "digits": ({"10": 1, "9": 2, "1": 3}, "names of digits are sorted as text"),
        "utf-16": ({FACE: 1, "\ue000": 2, "\uffff": 3}, "U+1F600 is D83D DE00, and so before U+E000"),
        "accents": ({"é": 1, "e": 2, "z": 3, "e\u0301": 4}, "by code units, not as a dictionary"),
        "nested": ({"x": [{"b": {"d": 1, "c": [2]}, "a": 1}]}, "at every depth"),
        "numbers": ({"x": [1e-7, 0.000001, 1.5e-10, 100.0, -0.0, 0.1]}, "numbers as ECMAScript writes them"),
        "escapes": ({"x": '\u0000\u001f"\\/\u007f\u2028é\b\t\n\f\r'}, "the escapes of RFC 8785"),
    }
    return {
        f"call-order-{name}": vector(
            "8.2", "grant", mint().with_caveats(call({"args": args, "tool": "orders.get"})), why, request={"args": args}
        )
        for name, (args, why) in cases.items()
    }


def names() -> Vectors:
    """SPEC 3.1: names that objects of JavaScript and Python have of themselves."""
    found: Vectors = {}
    for name in ("__proto__", "constructor", "toString", "hasOwnProperty", "__class__"):
        token = mint({"allow": [{"args": {name: {"any": True}}, "tool": "orders.get"}]})
        found[f"name-missing-{name}"] = vector("7.1", NO, token, "the argument is missing", request={"args": {}})
        found[f"name-given-{name}"] = vector(
            "7.1", "grant", token, "the argument is there", request={"args": {name: 1}}
        )
    closed = mint({"allow": [{"args": {}, "tool": "orders.get"}]})
    inner = mint({"allow": [{"args": {"x": {"fields": {"constructor": {"any": True}}}}, "tool": "orders.get"}]})
    signed: dict[str, Any] = {"args": {"toString": 1, "__proto__": {"a": 1}}, "tool": "orders.get"}
    optional = {"fields": {"toString": {"equal": 1, "optional": True}}}
    absent = mint({"allow": [{"args": {"x": optional}, "tool": "orders.get"}]})
    return found | {
        "name-unnamed": vector("7.1", NO, closed, "an argument that is not named", request={"args": {"__proto__": 1}}),
        "name-member-missing": vector("7.2", NO, inner, "the member is missing", request={"args": {"x": {}}}),
        "name-member-given": vector("7.2", "grant", inner, "it is there", request={"args": {"x": {"constructor": 1}}}),
        "name-member-optional": vector("7.2", "grant", absent, "it may be absent", request={"args": {"x": {}}}),
        "name-signed": vector("8.2", "grant", mint().with_caveats(call(signed)), "a name like any", request=signed),
        "name-caveat-proto": vector("6.1", "unknown_caveat", mint(ANYTHING, b'{"__proto__":1}'), "no such member"),
        "name-caveat-to-string": vector("6.1", "unknown_caveat", mint(ANYTHING, {"toString": 1}), "no such member"),
        "name-word": vector(
            "7.2",
            "malformed",
            mint({"allow": [{"args": {"x": {"constructor": 1, "equal": 1}}, "tool": "*"}]}),
            "no such test",
        ),
        "name-identifier": vector("4.1", "malformed", mint(__proto__=1), "no such member"),
        "name-tool": vector(
            "7.1", "tool_not_allowed", mint({"allow": [{"tool": "a"}]}), "no such rule", request={"tool": "constructor"}
        ),
    }


def surrogates() -> Vectors:
    """SPEC 3.1: half of a surrogate pair, written as an escape."""
    rule = b'{"allow":[{"args":{"x":%b},"tool":"*"}]}'
    named = canonical(identifier(model="m")).replace(b'"model":"m"', b'"model":"\\ud800"')
    cases: dict[str, tuple[bytes, str]] = {
        "value": (rule % b'"\\ud800"', "in an operand"),
        "low": (rule % b'{"one_of":["a","\\udfff"]}', "in a list of operands"),
        "pair": (rule % b'"\\ud83d\\ude00"', "a whole pair is written as itself"),
        "name": (b'{"allow":[{"args":{"\\ud800":1},"tool":"*"}]}', "in the name of an argument"),
        "unknown": (b'{"\\ud800":1}', "in the name of a member"),
        "utf-8": (rule % b'"\xed\xa0\x80"', "as bytes, which are no UTF-8"),
    }
    found = {
        f"surrogate-{name}": vector("3.1", "malformed", mint(ANYTHING, raw), why) for name, (raw, why) in cases.items()
    }
    return found | {"surrogate-identifier": vector("3.1", "malformed", mint(raw=named), "in the identifier")}
