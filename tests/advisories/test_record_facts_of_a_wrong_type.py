# SPDX-License-Identifier: Apache-2.0
"""A service could allow calls whose records no reader accepts, with a request id that is a number.

The id of a JSON-RPC request is a number as often as it is text, and the time in seconds is a float.  Passed on as they
are they went into the record, each call was allowed, and no reader took the record for one.
"""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.writer import Journal
from arx_verifier.request import AccessRequest
from tests.support import access, mint, verifier

WRONG: list[dict[str, Any]] = [
    {"request_id": 7},
    {"traceparent": b"00-a"},
    {"peer": ("192.0.2.7", 4711)},
    {"at": time.time() * 1000},
    {"at": True},
    {"box": "a box of its own"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: next(iter(wrong)))
def test_a_request_is_what_a_record_can_say(wrong: dict[str, Any]) -> None:
    """Another type raises where the request is built, before any decision."""
    with pytest.raises(TypeError, match="whole number of ms"):
        msgspec.structs.replace(access(), **wrong)
    with pytest.raises(TypeError, match="text or None"):
        AccessRequest(**({"tool": "orders.get", "args": {}, "at": 1} | wrong))


def test_whatever_is_allowed_is_read_back(tmp_path: Path) -> None:
    """With all that a request can say, in odd text too."""
    checked = verifier(decisions=Journal(tmp_path, "v1", "orders"))
    for text in ("7", "", "\ud800", "x" * 9000, None):
        request = msgspec.structs.replace(access(), request_id=text, traceparent=text, peer=text)
        assert checked.decide(mint().encode(), request).allowed
    checked.close()
    assert [decision.code for decision in read_journal(tmp_path)] == ["ok"] * 5
