# SPDX-License-Identifier: Apache-2.0
"""The strict reading of JSON arguments: one byte string, one meaning."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arx_verifier import request as access_module
from arx_verifier.errors import RequestError
from arx_verifier.request import MAX_JSON_DEPTH, AccessRequest, HttpCall, read_json_object

pytestmark = pytest.mark.spec("8.2")

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-(2.0**53) + 1, 2.0**53 - 1)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), VALUES, max_size=5))
def test_ordinary_objects_read_as_json_reads_them(value: dict[str, object]) -> None:
    """What holds no ambiguity is read as ``json`` reads it, escaped or not."""
    for escape in (True, False):
        assert read_json_object(json.dumps(value, ensure_ascii=escape).encode()) == value


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":1,"\\u0061":2}', "twice"),
        (b'{"a":[{"b":{"c":1,"c":1}}]}', "twice"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "Infinity"),
        (b'{"a":1e999}', "2\\^53"),
        (b'{"a":1e16}', "2\\^53"),
        (b'{"a":-9007199254740992.0}', "2\\^53"),
        (b'{"a":20.000000000000000001}', "more digits"),
        (b'{"a":[0.1234567890123456789]}', "more digits"),
        (b'{"a":1e-400}', "more digits"),
        (b'{"a":0.' + b"1" * 5000 + b"}", "too long"),
        (b'{"a":9007199254740992}', "2\\^53"),
        (b'{"a":-9007199254740992}', "2\\^53"),
        (b'{"a":' + b"9" * 100_000 + b"}", "2\\^53"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":"\\uDC00x"}', "surrogate"),
        (b'{"a":[{"\\udfff":1}]}', "surrogate"),
        (b'{"\\ud83d":1,"\\ude00":2}', "surrogate"),
        (b'{"a":"\xed\xa0\x80"}', "UTF-8"),
        (b'{"a":"\x01"}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        ("{}".encode("utf-16"), "UTF-8"),
        (b"{} {}", "not JSON"),
        (b"[]", "not an object"),
        (b'"a"', "not an object"),
        (b"", "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":' + b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH + b"}", "deeper"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "deeper"),
        (b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}", "deeper"),
        (b"[" * 1_000_000, "deeper"),
    ],
)
def test_what_two_readers_could_see_differently_is_refused(raw: bytes, why: str) -> None:
    """Duplicates, non-numbers, large integers, half surrogates and depth end in one refusal with a reason."""
    with pytest.raises(RequestError, match=why) as caught:
        read_json_object(raw)
    assert caught.value.code == "malformed_request"
    assert len(str(caught.value)) < 200


def test_the_bounds_themselves_are_allowed() -> None:
    """The largest integer, a whole surrogate pair and exactly 32 levels are read."""
    assert read_json_object(b'{"a":9007199254740991,"b":"\\ud83d\\ude00"}') == {
        "a": 2**53 - 1,
        "b": "\N{GRINNING FACE}",
    }
    deep = b'{"a":' + b"[" * (MAX_JSON_DEPTH - 1) + b"]" * (MAX_JSON_DEPTH - 1) + b"}"
    assert "a" in read_json_object(deep)


@pytest.mark.timeout(60)  # what reads these in time that grows with the square takes many minutes
def test_reading_is_linear_in_time() -> None:
    """A megabyte of what is slow to read elsewhere is refused or read."""
    for raw in (b'{"a":' + b"1" * 2**20 + b"}", b'{"a":0.' + b"1" * 2**20 + b"}", b'{"a":"' + b"\\ud" * 2**18 + b'"}'):
        with pytest.raises(RequestError):
            read_json_object(raw)
    read_json_object(json.dumps({f"k{i}": [i, "\N{GRINNING FACE}"] for i in range(40_000)}).encode())


PIECES = [b"{", b"}", b"[", b"]", b":", b",", b'"', b'"a"', b'"b"', b'"a":', b'"b":1', b" ", b"-", b".", b"e", b"E+"]
PIECES += [
    b"0",
    b"1",
    b"17",
    b"0.5",
    b"true",
    b"null",
    b"9" * 15,
    b"9" * 16,
    b"1e308",
    b"\\u0061",
    b"\xc3\xa9",
    b"\x01",
    b"NaN",
]


def outcome(raw: bytes) -> str:
    try:
        return repr(read_json_object(raw))  # which separates 1 from 1.0 and from true
    except RequestError as error:
        return f"refused: {error}"


@given(st.lists(st.sampled_from(PIECES), max_size=9).map(b"".join), st.booleans())
def test_the_quick_reader_says_what_the_careful_one_says(raw: bytes, inside: bool) -> None:
    """Which of the two reads a body is seen by nothing but the time it takes."""
    raw = b"{" + raw + b"}" if inside else raw
    quick = outcome(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access_module, "_read_plain", lambda _: None)
        assert quick == outcome(raw)


def test_a_name_said_twice_is_seen_by_the_quick_reader() -> None:
    """It would take the last one: a colon more than names there are leaves the body to the other."""
    assert access_module._read_plain(b'{"a":1,"b":2}') == {"a": 1, "b": 2}
    for raw in (b'{"a":1,"a":2}', b'{"a":"x:y"}', b'{"a":[1]}', b'{"a":{"b":1}}', b'{"a":1234567890123456}'):
        assert access_module._read_plain(raw) is None


@given(st.binary(max_size=60))
def test_no_bytes_end_in_anything_but_a_refusal(raw: bytes) -> None:
    """Whatever comes, the answer is an object or a ``RequestError``."""
    with contextlib.suppress(RequestError):
        assert isinstance(read_json_object(raw), dict)


def test_a_request_cannot_be_changed_after_it_was_judged() -> None:
    """Requests are frozen."""
    request = AccessRequest(tool="orders.get", args={}, at=1, http=HttpCall("GET", b"/", b"\0" * 32))
    with pytest.raises(AttributeError):
        request.tool = "orders.pay"  # type: ignore[misc]
    assert msgspec.structs.replace(request, at=2).at == 2
