# SPDX-License-Identifier: Apache-2.0
"""Where an issuer's keys come from: when they are asked for, how long they are believed, what is no key set."""

import json
import os
from pathlib import Path

import pytest

from arx_caps.mint.keys.jwks import FRESH_S, MAX_BYTES, MAX_KEYS, RETRY_S, STALE_S, KeySets, read_key_set
from arx_verifier.errors import RequestError, UnavailableError
from tests.mint.issuer import jwks, key_server, public_jwk

pytestmark = pytest.mark.spec("CONTROL 1.4")


class Clock:
    """A clock moved by hand, s."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def kids(found: list[dict[str, object]]) -> list[object]:
    return [key["kid"] for key in found]


def test_a_file_is_read_when_it_changes(tmp_path: Path) -> None:
    """Keys of a file that was replaced are the new ones, at once; a file that is gone has none."""
    file, sets = tmp_path / "keys.json", KeySets(tmp_path)
    file.write_bytes(jwks("ec"))
    assert kids(sets.find("keys.json", "ec")) == ["ec"]
    assert sets.find("keys.json", "ed") == []
    other = tmp_path / "other.json"
    other.write_bytes(jwks("ed"))
    other.replace(file)
    assert sets.find("keys.json", "ec") == []
    assert kids(sets.find(str(file), "ed")) == ["ed"]
    file.unlink()
    with pytest.raises(UnavailableError, match="No such file") as caught:
        sets.find("keys.json", "ed")
    assert caught.value.code == "issuer_unavailable"


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe without a writer would block a thread of the mint for each request."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "/dev/zero"):
        with pytest.raises(UnavailableError, match="not a regular file"):
            KeySets(tmp_path).find(name, "ec")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [1]}',
        b'{"keys": [], "keys": []}',
        json.dumps({"keys": [{}] * (MAX_KEYS + 1)}).encode(),
        b'{"keys": []' + b" " * MAX_BYTES + b"}",
        json.dumps({"keys": [public_jwk("ec"), public_jwk("rsa", d="AA")]}).encode(),
        json.dumps({"keys": [public_jwk("ed", d="AA")]}).encode(),
    ],
)
def test_what_is_no_key_set_is_refused_whole(tmp_path: Path, raw: bytes) -> None:
    """Not JSON, too much of it, or a private key among the public ones."""
    with pytest.raises(RequestError):
        read_key_set(raw)
    (tmp_path / "keys.json").write_bytes(raw)
    with pytest.raises(UnavailableError):
        KeySets(tmp_path).find("keys.json", "ec")


@pytest.mark.servers
def test_an_address_is_asked_seldom(tmp_path: Path) -> None:
    """Once for many; again for a key that is not known, at most every ten seconds; again when the set is old."""
    clock = Clock()
    sets = KeySets(tmp_path, clock=clock)
    with key_server() as server:
        server.body = jwks("ec")
        for _ in range(3):
            assert kids(sets.find(server.url, "ec")) == ["ec"]
        assert server.asked == 1
        server.body = jwks("ec", "ed")
        for _ in range(3):
            assert sets.find(server.url, "ed") == []
        assert server.asked == 1, "a stranger who invents key ids makes no traffic"
        clock.now += RETRY_S
        assert kids(sets.find(server.url, "ed")) == ["ed"]
        for _ in range(3):
            assert sets.find(server.url, "none") == []
        assert server.asked == 2
        server.body = jwks("ed")
        clock.now += FRESH_S
        assert sets.find(server.url, "ec") == [], "a key that the issuer took back is not believed for ever"
        assert server.asked == 3


@pytest.mark.servers
def test_an_issuer_that_falls_silent_is_believed_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Errors leave the last set in use, for an hour and no longer; then nothing is believed until it answers."""
    clock = Clock()
    sets = KeySets(tmp_path, clock=clock)
    with key_server() as server:
        address = f"{server.url}?key=s3cret"
        assert kids(sets.find(address, "ec")) == ["ec"]
        server.status = 500
        clock.now += FRESH_S
        assert kids(sets.find(address, "ec")) == ["ec"]
        assert server.asked == 2
        assert caplog.messages == [f"the keys at {server.url} cannot be read: its address answered 500"]
        clock.now += STALE_S - FRESH_S
        with pytest.raises(UnavailableError, match="answered 500"):
            sets.find(address, "ec")
        server.status = 200
        with pytest.raises(UnavailableError):
            sets.find(address, "ec")
        clock.now += RETRY_S
        assert kids(sets.find(address, "ec")) == ["ec"]


@pytest.mark.servers
def test_an_address_is_not_followed_elsewhere(tmp_path: Path) -> None:
    """A redirect, an answer without end, and a set with a private key are no key sets."""
    with key_server() as server, key_server() as other:
        server.status, server.headers = 302, {"Location": other.url}
        with pytest.raises(UnavailableError, match="302"):
            KeySets(tmp_path).find(server.url, "ec")
        assert other.asked == 0
        server.status, server.headers, server.body = 200, {}, b" " * (MAX_BYTES + 1)
        with pytest.raises(UnavailableError, match="more than"):
            KeySets(tmp_path).find(server.url, "ec")
        server.body = json.dumps({"keys": [public_jwk("ec", d="AA")]}).encode()
        with pytest.raises(UnavailableError, match="private key"):
            KeySets(tmp_path).find(server.url, "ec")
    with pytest.raises(UnavailableError, match="ConnectError"):
        KeySets(tmp_path).find(server.url, "ec")
