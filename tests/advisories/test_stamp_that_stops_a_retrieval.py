# SPDX-License-Identifier: Apache-2.0
"""One entry of a memory could stop the retrieval of all: its stamp had the right MAC and a writer that is none.

A service with the memory key, or one of another version, makes such a stamp.  Without any taint it was trusted.
"""

import os
import time
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import MalformedTokenError
from arx_verifier.memory.memory import Memory
from arx_verifier.memory.stamp import STAMP_PREFIX, MemoryKeys, digest_content, parse_stamp
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.wire import text_of
from tests.support import QUICK

pytestmark = pytest.mark.spec("18.5")
KEYS = MemoryKeys({"memory.1": os.urandom(32)})
LINK = b"token-id-0000001"
GOOD = ["acme/research", [], "s-test", "t-test", [], [LINK], None]


def sealed(writer: bytes) -> str:
    """An authentic stamp of the content ``x`` by these bytes."""
    fields = (digest_content("x"), "agent", time.time_ns() // 1_000_000, 0, "test", 0, "d-1", writer)
    return STAMP_PREFIX + text_of(KEYS.seal(fields))


def changed(place: int, value: Any) -> bytes:
    """A writer with another value at a place."""
    return bytes(msgpack.packb([*GOOD[:place], value, *GOOD[place + 1 :]], use_bin_type=True))


VALUES = st.recursive(
    st.none() | st.integers(-1, 300) | st.text(max_size=6) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
WRITERS = st.binary(max_size=40) | st.builds(changed, st.integers(0, 6), VALUES)


@pytest.mark.parametrize("frozen", ["agent:acme/other", "agent:acme"])
@pytest.mark.parametrize(
    "writer",
    [
        b"",
        b"\xc1",
        b"\x97\xd9\x01\xff",
        changed(0, "no/../path"),
        changed(0, ""),
        changed(1, ["acme//x"]),
        changed(2, None),
        changed(5, [LINK[1:]]),
        changed(6, b"short"),
        bytes(msgpack.packb([*GOOD, 1])),
    ],
)
def test_a_writer_that_is_none_is_forged(writer: bytes, frozen: str) -> None:
    """With a taint and without; the other entries of the retrieval are returned."""
    realm = UnsafeTestRealm("memory")
    memory = Memory(KEYS, realm.epochs, realm.decisions)
    caller = realm.caller(Rule(tool="memory.*"), agent="acme/writer")
    request = AccessRequest("memory.write", {}, time.time_ns() // 1_000_000, None)
    good = memory.stamp(realm.verifier.verify(caller.token("memory.write"), request), "x")
    bad = sealed(writer)
    entries = [(bad, "x"), (good, "x")]
    assert [verdict.status for verdict in memory.check_all(entries)] == ["forged", "trusted"]
    realm.epochs.freeze(frozen)
    expected = "tainted" if frozen == "agent:acme" else "trusted"
    assert [verdict.status for verdict in memory.check_all(entries)] == ["forged", expected]


@QUICK
@given(WRITERS)
def test_no_writer_makes_a_check_fail(writer: bytes) -> None:
    """A check has a result for all bytes, and a tool that shows stamps refuses those that a check calls forged."""
    realm = UnsafeTestRealm("memory")
    realm.epochs.freeze("agent:acme")
    memory, stamp = Memory(KEYS, realm.epochs, realm.decisions), sealed(writer)
    status = memory.check(stamp, "x").status
    assert status in ("forged", "tainted", "trusted", "unknown")
    if status == "forged":
        with pytest.raises(MalformedTokenError):
            parse_stamp(stamp)
