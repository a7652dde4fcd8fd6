# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON: one byte form for typed structs, RFC 8785 for arguments."""

import json
import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import jcs
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import MalformedTokenError, RequestError

RULE = msgspec.json.Decoder(Rule)
CONSTRAINT = msgspec.json.Decoder(Constraint)

# RFC 8785 appendix B: the bits of a double and how ECMAScript writes it.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

scalars = st.none() | st.booleans() | st.integers(-jcs.MAX_INTEGER, jcs.MAX_INTEGER) | st.text()
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
plain_names = names.filter(lambda name: not any(c > "\uffff" for c in name))


def trees(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


class TestTypedForm:
    """``decode`` takes one spelling of a value and no other."""

    @pytest.mark.spec("3.2")
    @pytest.mark.parametrize(
        "raw",
        [
            b'{"args":{"a":{"range":[0,5]}},"tool":"t"}',
            b'{"args":{},"tool":"t"}',
            b'{"open":true,"tool":"t"}',
            '{"args":{"é":"\U0001f600","\ufffd":true},"tool":"t"}'.encode(),
            b'{"args":{"a":{"not":{"equal":"x"},"optional":true}},"tool":"t"}',
        ],
    )
    def test_decode_then_encode_gives_the_same_bytes(self, raw: bytes) -> None:
        """
        What is accepted is written again byte for byte.
        """
        assert jcs.encode(jcs.decode(RULE, raw)) == raw

    @pytest.mark.spec("3.1", "3.2")
    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"null",
            b"[]",
            b'{"tool":"t"} ',
            b' {"tool":"t"}',
            b'{"tool": "t"}',
            b'{"tool":"t","args":{}}',  # another order
            b'{"args":{"b":1,"a":1},"tool":"t"}',
            b'{"args":{"a":1,"a":1},"tool":"t"}',
            b'{"tool":"t","tool":"t"}',
            b'{"tool":"\\u0074"}',
            b'{"args":{"\\u0061":1},"tool":"t"}',
            b'{"args":{"a":"\\/"},"tool":"t"}',
            b'{"args":null,"tool":"t"}',
            b'{"open":false,"tool":"t"}',
            b'{"open":1,"tool":"t"}',
            b'{"args":{"a":1.0},"tool":"t"}',
            b'{"args":{"a":1e2},"tool":"t"}',
            b'{"args":{"a":-0},"tool":"t"}',
            b'{"args":{"a":01},"tool":"t"}',
            b'{"args":{"a":NaN},"tool":"t"}',
            b'{"args":{"a":null},"tool":"t"}',
            b'{"args":{"a":9007199254740992},"tool":"t"}',
            b'{"args":{"a":-9007199254740992},"tool":"t"}',
            b'{"args":{"a":99999999999999999999999999},"tool":"t"}',
            b'{"args":{"a":"\\ud800"},"tool":"t"}',
            b'{"args":{"a":"\xed\xa0\x80"},"tool":"t"}',
            b'{"args":{"a":"\xff"},"tool":"t"}',
            b'{"args":{"a":"\xc0\x80"},"tool":"t"}',
            '{"args":{"\U0001f600":1},"tool":"t"}'.encode(),
            b'{"Tool":"t","tool":"t"}',
            b'{"extra":1,"tool":"t"}',
            b'{"args":{"a":{"Equal":1}},"tool":"t"}',
            b'{"args":{"a":{"equal":1,"nonsense":2}},"tool":"t"}',
            b'{"args":{"a":{"optional":false,"equal":1}},"tool":"t"}',
            b'\xef\xbb\xbf{"tool":"t"}',
            b'{"tool":"t"}\x00',
            b"[" * 100_000,
            b'{"args":' * 100_000,
        ],
    )
    def test_every_other_spelling_is_refused(self, raw: bytes) -> None:
        """
        Another order, space, escape, number form, type or unknown member is malformed, never another exception.
        """
        with pytest.raises(MalformedTokenError):
            jcs.decode(RULE, raw)

    @pytest.mark.spec("3.1")
    @given(st.binary(max_size=80))
    def test_no_bytes_raise_anything_else(self, raw: bytes) -> None:
        """
        Arbitrary bytes are decoded to a value with just these bytes, or malformed.
        """
        try:
            value = jcs.decode(RULE, raw)
        except MalformedTokenError:
            return
        assert jcs.encode(value) == raw

    @pytest.mark.spec("3.1")
    def test_members_are_sorted_by_their_written_name(self) -> None:
        """
        ``not`` is written under that name, in its place.
        """
        value = Constraint(subpath="/a", not_="/a/b", any_of=("x",), one_of=("y",))
        raw = jcs.encode(value)
        assert raw == b'{"any_of":["x"],"not":"/a/b","one_of":["y"],"subpath":"/a"}'
        assert jcs.decode(CONSTRAINT, raw) == value

    def test_the_error_does_not_quote_the_token(self) -> None:
        """
        A refusal before the signature is proven repeats nothing of what came.
        """
        with pytest.raises(MalformedTokenError) as caught:
            jcs.decode(RULE, b'{"args":{"a":"secret\xff"},"tool":"t"}')
        assert "secret" not in str(caught.value)


class TestArguments:
    """``jcs`` is RFC 8785."""

    @pytest.mark.spec("8.2")
    @pytest.mark.parametrize(("bits", "written"), NUMBERS.items())
    def test_numbers_are_written_as_ecmascript_does(self, bits: str, written: str) -> None:
        """
        Every sample of RFC 8785 appendix B comes out as it stands there; beyond 2^53-1 it is no argument.
        """
        [value] = struct.unpack(">d", bytes.fromhex(bits))
        assert jcs.number(value) == written
        if abs(value) <= jcs.MAX_INTEGER:
            assert jcs.jcs(value) == written.encode()
            return
        with pytest.raises(RequestError):
            jcs.jcs(value)

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_a_number_reads_back_as_itself(self, value: float) -> None:
        """
        Writing loses nothing, adds no plus or zero, and uses as few digits as Python's own shortest form.
        """
        written = jcs.number(value)
        assert float(written) == value
        digits = "".join(c for c in written.lower().split("e")[0] if c.isdigit()).strip("0")
        shortest = "".join(c for c in repr(value).split("e")[0] if c.isdigit()).strip("0")
        assert digits == shortest

    @pytest.mark.spec("8.2")
    def test_the_sample_of_the_rfc(self) -> None:
        """
        The document of RFC 8785 3.2.2 is written as in 3.2.3, without its number beyond 2^53-1.
        """
        value = {
            "numbers": [333333333.33333329, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": '\u20ac$\u000f\nA\'B"\\\\"/',
            "literals": [None, True, False],
        }
        assert jcs.jcs(value) == (
            b'{"literals":[null,true,false],"numbers":[333333333.3333333,4.5,0.002,1e-27],'
            b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
        )

    @pytest.mark.spec("8.2")
    def test_names_are_sorted_by_utf_16_units(self) -> None:
        """
        The sample of RFC 8785 3.2.3: a character beyond U+FFFF sorts before U+FB33.
        """
        names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
        written = jcs.jcs(dict.fromkeys(names, 1)).decode()
        assert list(json.loads(written)) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]

    @given(trees(scalars, plain_names))
    def test_the_quick_writer_gives_the_careful_one_s_bytes(self, value: Any) -> None:
        """
        Where no float and no rare name occurs, msgspec's sorted form is RFC 8785.
        """
        assert jcs._is_simple(value, jcs.MAX_DEPTH)
        assert jcs.jcs(value) == jcs._write(value).encode()

    @given(trees(scalars | st.floats(-(2.0**53) + 1, 2.0**53 - 1), names))
    def test_the_bytes_mean_the_same_value(self, value: Any) -> None:
        """
        Reading the canonical form gives the value back, and writing that gives the same bytes.
        """
        written = jcs.jcs(value)
        again = json.loads(written, parse_int=float)
        assert again == value
        assert jcs.jcs(again) == written

    def test_a_whole_float_and_its_integer_are_one_number(self) -> None:
        """
        JSON has one number type: 1.0 is written as 1.
        """
        assert jcs.jcs([1.0, -0.0, 1e2]) == jcs.jcs([1, 0, 100])

    @pytest.mark.spec("8.2")
    @pytest.mark.parametrize(
        "value",
        [
            math.nan,
            math.inf,
            -math.inf,
            2**53,
            -(2**53),
            10**400,
            "\ud800",
            "\udc00\ud800",
            {"\udfff": 1},
            {"\udfff": 1.5},
            {1: 2},
            {None: 1},
            {("a",): 1},
            (1, 2),
            {1, 2},
            b"bytes",
            object(),
            type("Text", (str,), {})("x"),
            type("Number", (int,), {})(1),
            type("Names", (dict,), {})(),
        ],
        ids=lambda value: type(value).__name__,
    )
    @pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"a": [{"b": v}]}, lambda v: [1.5, v]])
    def test_what_json_cannot_carry_is_refused(self, value: Any, wrap: Any) -> None:
        """
        NaN, infinities, integers that lose digits, half pairs, other names and other types are refused at any depth.
        """
        with pytest.raises(RequestError):
            jcs.jcs(wrap(value))

    @pytest.mark.spec("8.2")
    def test_depth_is_bounded(self) -> None:
        """
        32 containers are written, the 33rd is refused, and a loop does not end the stack.
        """

        def nested(levels: int) -> Any:
            value: Any = 1
            for _ in range(levels):
                value = [value]
            return value

        assert jcs.jcs(nested(32)) == b"[" * 32 + b"1" + b"]" * 32
        loop: list[Any] = []
        loop.append(loop)
        for value in (nested(33), nested(5000), loop, {"a": nested(32)}):
            with pytest.raises(RequestError):
                jcs.jcs(value)
