# SPDX-License-Identifier: Apache-2.0
"""Vectors of JSON bodies (SPEC 8.4): the arguments that a body has, or the refusal of one that readers read apart."""

from typing import Any

Vectors = dict[str, dict[str, Any]]
BAD = "malformed_request"


def vectors() -> Vectors:
    """All of this file."""
    refused: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "no value"),
        "list": (b"[1]", "no object"),
        "text": (b'"a"', "no object"),
        "null": (b"null", "no object"),
        "two": (b"{}{}", "two values"),
        "after": (b'{"a":1} x', "text behind"),
        "cut": (b'{"a":', "cut short"),
        "doubled": (b'{"a":1,"a":2}', "a name twice"),
        "doubled-same": (b'{"a":1,"a":1}', "a name twice, with one value"),
        "doubled-escaped": (b'{"a":1,"\\u0061":2}', "a name twice, once with an escape"),
        "doubled-deep": (b'{"x":[{"a":1,"a":2}]}', "a name twice, at depth"),
        "doubled-proto": (b'{"__proto__":1,"__proto__":2}', "a name twice that some readers take for none"),
        "bom": (b'\xef\xbb\xbf{"a":1}', "a byte-order mark"),
        "utf-16": ('{"a":1}'.encode("utf-16-le"), "UTF-16"),
        "latin-1": (b'{"a":"\xe9"}', "no UTF-8"),
        "overlong": (b'{"a":"\xc0\xaf"}', "a slash in two bytes"),
        "surrogate-bytes": (b'{"a":"\xed\xa0\x80"}', "half of a pair as bytes"),
        "surrogate": (b'{"a":"\\ud800"}', "half of a pair"),
        "surrogate-low": (b'{"a":"\\udc00\\ud800"}', "a pair in the wrong order"),
        "surrogate-name": (b'{"\\ud800":1}', "half of a pair in a name"),
        "control": (b'{"a":"\x01"}', "a control character as itself"),
        "line": (b'{"a":"b\nc"}', "a line break in a text"),
        "escape": (b'{"a":"\\x41"}', "an escape that JSON does not have"),
        "escape-short": (b'{"a":"\\u41"}', "an escape of two digits"),
        "escape-no-hex": (b'{"a":"\\u00g1"}', "an escape of another letter"),
        "name-half-quoted": (b'{a":1}', "a name without its first quote"),
        "control-before-letter": (b'{"a":"\x01n"}', "a control character in the place of a backslash"),
        "decimal-129": (b'{"a":1.5' + b"0" * 126 + b"}", "a fraction, and 129 characters"),
        "exponent-129": (b'{"a":1e' + b"0" * 126 + b"1}", "an exponent, and 129 characters"),
        "single-quotes": (b"{'a':1}", "other quotes"),
        "bare-name": (b"{a:1}", "a name without quotes"),
        "trailing-comma": (b'{"a":1,}', "a comma behind the last member"),
        "comment": (b'{"a":1/*b*/}', "a comment"),
        "space": (b'{"a":\xc2\xa01}', "white space that JSON does not have"),
        "nan": (b'{"a":NaN}', "no number"),
        "infinity": (b'{"a":-Infinity}', "no number"),
        "plus": (b'{"a":+1}', "a sign that numbers do not have"),
        "zeros": (b'{"a":01}', "a leading zero"),
        "dot-first": (b'{"a":.5}', "no digit before the dot"),
        "dot-last": (b'{"a":5.}', "no digit behind the dot"),
        "hexadecimal": (b'{"a":0x10}', "another base"),
        "beyond": (b'{"a":9007199254740992}', "beyond 2^53-1"),
        "beyond-negative": (b'{"a":-9007199254740992}', "below -(2^53-1)"),
        "beyond-exponent": (b'{"a":1e16}', "beyond 2^53-1, with an exponent"),
        "beyond-fraction": (b'{"a":9007199254740993.0}', "beyond 2^53-1, with a fraction of zero"),
        "beyond-doubles": (b'{"a":1e999}', "beyond every double"),
        "digits": (b'{"a":20.000000000000000001}', "more digits than a double carries"),
        "digits-small": (b'{"a":1e-400}', "below every double"),
        "digits-integer": (b'{"a":4503599627370497.25}', "a fraction that the double next to it does not have"),
        "33-levels": (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "33 containers"),
        "deep": (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "5 001 containers"),
        "true-case": (b'{"a":True}', "a word of Python"),
    }
    read: dict[str, tuple[bytes, Any, str]] = {
        "object": (b"{}", {}, "no members"),
        "kinds": (b'{"a":[1,-2,true,false,null,"x",{}]}', {"a": [1, -2, True, False, None, "x", {}]}, "each kind"),
        "white-space": (b' \t\r\n{ "a" :\n1 }\n', {"a": 1}, "white space of JSON"),
        "escapes": (b'{"\\u0061\\/":"\\ud83d\\ude00\\n\\u0000"}', {"a/": "\U0001f600\n\0"}, "escapes, and a pair"),
        "utf-8": ('{"é":"\U0001f600\u2028"}'.encode(), {"é": "\U0001f600\u2028"}, "characters as themselves"),
        "bom-inside": (b'{"a":"\xef\xbb\xbf"}', {"a": "\ufeff"}, "U+FEFF in a text"),
        "empty-name": (b'{"":1}', {"": 1}, "a name that is empty"),
        "proto": (b'{"__proto__":{"a":1},"constructor":2}', {"__proto__": {"a": 1}, "constructor": 2}, "names"),
        "digits": (b'{"10":1,"9":2}', {"10": 1, "9": 2}, "names of digits"),
        "largest": (b'{"a":9007199254740991}', {"a": 2**53 - 1}, "the largest number"),
        "least": (b'{"a":-9007199254740991.0}', {"a": -(2**53) + 1}, "the least number, with a fraction of zero"),
        "fraction": (b'{"a":19.50}', {"a": 19.5}, "a fraction, and a zero behind it"),
        "exponent": (b'{"a":[1E2,50e-1,1e-7]}', {"a": [100, 5, 1e-7]}, "exponents"),
        "shortest": (b'{"a":0.30000000000000004}', {"a": 0.30000000000000004}, "17 digits that a double carries"),
        "zeros-behind": (b'{"a":1.0000000000000000000000}', {"a": 1}, "many digits, and one value"),
        "decimal-128": (b'{"a":1.5' + b"0" * 125 + b"}", {"a": 1.5}, "a fraction, and 128 characters"),
        "exponent-128": (b'{"a":1e' + b"0" * 125 + b"1}", {"a": 10}, "an exponent, and 128 characters"),
        "minus-zero": (b'{"a":-0}', {"a": 0}, "zero with a sign"),
        "32-levels": (b'{"a":' + b"[" * 31 + b"]" * 31 + b"}", {"a": nested(31)}, "32 containers"),
        "brackets-in-text": (b'{"a":"' + b"[" * 40 + b'"}', {"a": "[" * 40}, "brackets in a text"),
        "same-name-elsewhere": (b'{"a":{"a":1},"b":{"a":2}}', {"a": {"a": 1}, "b": {"a": 2}}, "once in each object"),
    }
    return {f"json-{name}": vector(why, raw, BAD) for name, (raw, why) in refused.items()} | {
        f"json-read-{name}": vector(why, raw, expect) for name, (raw, expect, why) in read.items()
    }


def nested(levels: int) -> list[Any]:
    """Lists in each other."""
    return [] if levels == 1 else [nested(levels - 1)]


def vector(comment: str, body: bytes, expect: Any) -> dict[str, Any]:
    """One vector; ``expect`` are the arguments, or the reason code."""
    return {"comment": comment, "spec": "8.4", "body": body.hex(), "expect": expect}
