# SPDX-License-Identifier: Apache-2.0
"""JSON objects and their canonical form: a body has one meaning, and its digest covers it.  SPEC 3, 8.2, RFC 8785."""

import json
import math
from collections.abc import Iterator

from arx_verifier.errors import RequestError
from arx_verifier.jcs import jcs
from arx_verifier.request import MAX_INTEGER, read_json_object
from tests.fuzz.corpus import vectors

MAX_BYTES = 4_096


def check(data: bytes) -> None:
    """Read an object, write it canonically, and read that."""
    try:
        value = read_json_object(data)
    except RequestError:
        return
    # The standard library reads the same, and finds no name twice.
    assert json.loads(data) == value
    try:
        canonical = jcs(value)
    except RequestError:
        return  # a name that two orders of names would sort differently
    # RFC 8785 writes 1e20 as digits, which mean a double there too, and not the integer that Python reads.
    assert json.loads(canonical, parse_int=float) == value
    try:
        again = read_json_object(canonical)
    except RequestError:
        # A body cannot have so large an integer.
        assert any(abs(number) > MAX_INTEGER for number in _floats(value))
        return
    assert jcs(again) == canonical
    assert all(math.isfinite(found) for found in _floats(value))


def _floats(value: object) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _floats(each)


def seeds() -> Iterator[bytes]:
    """Return the arguments of the vectors, and numbers at the edges."""
    for vector in vectors():
        yield json.dumps(vector["request"]["args"]).encode()
    for number in ("9007199254740991", "-0.0", "1e400", "5e-324", "1E21", "0.1", "1e-999999999999", "1.0", "20.000"):
        yield b'{"a":[' + number.encode() + b"]}"
    yield '{"\U0001f600":1,"﷐":2,"é":"\\ud83d\\ude00"}'.encode()
    yield b'{"a":"\\ud800"}'
    yield b'{"a":{"b":' * 16 + b"1" + b"}}" * 16
