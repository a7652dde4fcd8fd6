# SPDX-License-Identifier: Apache-2.0
"""An attacker must not write, change or reuse the state with which a client goes on with an approved call.

MCP gives `requestState` and task ids to the client and takes them back: a server that believes them lets an attacker
choose the approval, the arguments or the person.
"""

import msgspec
import pytest

from arx_caps.gateway.base.sealed_calls import PREFIX, Kind, SealedCalls, WaitingCall, digest_of
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token import wire

CALL = WaitingCall("a-1", "refund", digest_of("refund", {"amount": 5}), 1_000, 2_000)
ALICE, MALLORY = "s-1\0c-1\0agent:acme/a", "s-1\0c-2\0agent:acme/a"


@pytest.fixture
def realm() -> UnsafeTestRealm:
    """A realm with one audience."""
    return UnsafeTestRealm("orders")


def test_a_state_opens_for_its_principal_kind_and_audience_alone(realm: UnsafeTestRealm) -> None:
    """Two gateways of one audience have the same keys."""
    keys = realm.verifier.keys
    [kid] = keys.kids
    text = SealedCalls(keys).seal(CALL, "state", ALICE, kid)
    assert SealedCalls(keys).open(text, "state", ALICE) == CALL
    assert SealedCalls(keys).open(text, "state", MALLORY) is None
    assert SealedCalls(keys).open(text, "task", ALICE) is None
    other = UnsafeTestRealm("orders").verifier.keys
    assert SealedCalls(other).open(text, "state", ALICE) is None


@pytest.mark.parametrize("kind", ["state", "task"])
def test_a_forged_or_changed_state_opens_nothing(realm: UnsafeTestRealm, kind: Kind) -> None:
    """No byte of it can be another one, and its content in clear is none."""
    keys = realm.verifier.keys
    [kid] = keys.kids
    sealed = SealedCalls(keys)
    text = sealed.seal(CALL, kind, ALICE, kid)
    raw = wire.bytes_of(text.rpartition(".")[2])
    for at in range(len(raw)):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        assert sealed.open(f"{PREFIX}{kid}.{wire.text_of(changed)}", kind, ALICE) is None
    plain = msgspec.json.encode(CALL)
    for forged in (plain, bytes(12) + plain, raw[:20], b""):
        assert sealed.open(f"{PREFIX}{kid}.{wire.text_of(forged)}", kind, ALICE) is None
    for other in ("", PREFIX, f"{PREFIX}none.{wire.text_of(raw)}", text + "A" * 4_000, text.removeprefix(PREFIX)):
        assert sealed.open(other, kind, ALICE) is None


def test_the_client_cannot_read_it(realm: UnsafeTestRealm) -> None:
    """Neither approval nor arguments; the same call has another text each time."""
    keys = realm.verifier.keys
    [kid] = keys.kids
    first, second = (SealedCalls(keys).seal(CALL, "state", ALICE, kid) for _ in range(2))
    assert first != second
    assert b"a-1" not in wire.bytes_of(first.rpartition(".")[2])


def test_a_call_has_one_digest() -> None:
    """Of tool and arguments; another order of members is the same call."""
    assert digest_of("t", {"a": 1, "b": 2}) == digest_of("t", {"b": 2, "a": 1})
    others = [digest_of("t", {"a": 1}), digest_of("t", {"a": True}), digest_of("t", {"a": "1"}), digest_of("ta", {})]
    assert len(set(others)) == len(others)
