# SPDX-License-Identifier: Apache-2.0
"""Vectors of HTTP requests (SPEC 8.4): the arguments on which a decision is made, or the refusal."""

from typing import Any

Vectors = dict[str, dict[str, Any]]
_DECIMAL = "POST /refund/{amount:number}"
_WHOLE = "POST /refund/{amount:int}"


def vector(comment: str, route: str, target: str, expect: Any) -> dict[str, Any]:
    """One vector; ``expect`` are the arguments, or a reason code."""
    return {"comment": comment, "spec": "8.4", "route": route, "target": target, "expect": expect}


def vectors() -> Vectors:
    """All of this file."""
    wrong = {
        "plus": ("a sign that integers do not have", "+20"),
        "zeros": ("leading zeros, which some readers take for octal", "020"),
        "underscore": ("a separator of Python", "2_0"),
        "fraction": ("an integer with a fraction", "20.0"),
        "exponent": ("an exponent", "2e1"),
        "minus-zero": ("zero has no sign", "-0"),
        "digits-of-unicode": ("digits of Arabic, which some readers take for 20", "%D9%A2%D9%A0"),
        "full-width": ("digits of full width", "%EF%BC%92%EF%BC%90"),
        "space": ("white space, which some readers drop", "%2020"),
        "hexadecimal": ("another base", "0x14"),
        "text": ("no number", "all"),
    }
    numbers = {
        "zero-at-end": ("another spelling of 19.5", "19.50", None),
        "exponent": ("an exponent that RFC 8785 does not write", "195e-1", None),
        "nan": ("no number of JSON", "nan", None),
        "infinity": ("no number of JSON", "inf", None),
        "digits": ("more digits than a double carries", "19.500000000000000001", None),
        "integer": ("an integer is a number", "20", 20),
        "fraction": ("as RFC 8785 writes it", "19.5", 19.5),
        "small": ("as RFC 8785 writes it", "1e-7", 1e-7),
        "beyond": ("an integer that a double does not carry stays text", "9007199254740993", "9007199254740993"),
    }
    return (
        {
            f"path-int-{name}": vector(comment, _WHOLE, f"/refund/{text}", "malformed_request")
            for name, (comment, text) in wrong.items()
        }
        | {
            f"path-number-{name}": vector(
                comment,
                _DECIMAL,
                f"/refund/{text}",
                "malformed_request" if judged is None else {"amount": judged},
            )
            for name, (comment, text, judged) in numbers.items()
        }
        | {
            "path-int": vector("the number, not its text", _WHOLE, "/refund/20", {"amount": 20}),
            "path-int-negative": vector("a negative number", _WHOLE, "/refund/-20", {"amount": -20}),
            "path-int-escaped": vector("what is sent is decoded first", _WHOLE, "/refund/%32%30", {"amount": 20}),
            "path-int-largest": vector(
                "the largest integer of JSON", _WHOLE, "/refund/9007199254740991", {"amount": 9007199254740991}
            ),
            "path-int-beyond": vector(
                "a larger integer stays text", _WHOLE, "/refund/9007199254740992", {"amount": "9007199254740992"}
            ),
            "path-text": vector("text without a declaration", "POST /refund/{amount}", "/refund/20", {"amount": "20"}),
            "path-and-query": vector(
                "one kind for each argument",
                "POST /refund/{amount:int}?{limit:number}&{tag:list}&{note}",
                "/refund/20?limit=0.5&tag=7&note=7",
                {"amount": 20, "limit": 0.5, "tag": ["7"], "note": "7"},
            ),
            "query-int-beyond": vector(
                "a larger integer in the query",
                "GET /orders?{after:int}",
                "/orders?after=9007199254740992",
                "malformed_request",
            ),
        }
    )
