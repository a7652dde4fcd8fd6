# SPDX-License-Identifier: Apache-2.0
"""Frames between a relay and its followers: the same messages however they are cut, each known or refused."""

import contextlib
from collections.abc import Iterator

import msgspec

from arx_verifier.revocation.relay_link import Down, Frames, Leave, Probe, Push, RelayScan, Up, frame

MAX_BYTES = 2_048
DECODERS = (msgspec.msgpack.Decoder(Up), msgspec.msgpack.Decoder(Down))


def check(data: bytes) -> None:
    """Cut the input into frames in two ways, and parse each as either side would."""
    size, stream = (data[0] % 16 + 1 if data else 1), data[1:]
    whole, cut = _bodies([stream]), _bodies([stream[at : at + size] for at in range(0, len(stream), size)])
    assert whole[: len(cut)] == cut[: len(whole)]
    for body in whole:
        for decoder in DECODERS:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                message = decoder.decode(body)
                [again] = Frames().feed(frame(message))
                assert decoder.decode(again) == message


def _bodies(chunks: list[bytes]) -> list[bytes]:
    frames = Frames()
    bodies: list[bytes] = []
    with contextlib.suppress(ValueError):
        for chunk in chunks:
            bodies.extend(frames.feed(chunk))
    return bodies


def seeds() -> Iterator[bytes]:
    """Return frames of each kind."""
    yield b"\2" + frame(RelayScan("k", 0)) + frame(Leave())
    yield b"\3" + frame(Probe("v1", "aW5jYXJuYXRpb24tMDAwMQ", 7, "c" * 40, 100, hurry=True))
    yield b"\5" + frame(Push("aW5jYXJuYXRpb24tMDAwMQ", 8, "kill", "session:s-1"))
    yield b"\1" + b"\0\0\0\2[]"
    yield b"\1" + b"\xff\xff\xff\xff"
