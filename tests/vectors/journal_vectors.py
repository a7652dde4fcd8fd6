# SPDX-License-Identifier: Apache-2.0
"""Vectors of journal segments (SPEC 15.3): a file, what a reader finds in it once its writer is dead, and its end.

The bytes come from ``second_journal``, which shares no code with the verifier.
"""

import struct
import zlib
from typing import Any

import msgpack

from tests.vectors.second import AT
from tests.vectors.second_journal import CLOSED, ENDED, HEADER, NAMES, OPEN, decision_of, header, record

ONE, TWO, THREE = (decision_of(tool, AT, bytes(16)) for tool in ("orders.get", "orders.list", "orders.put"))
START = 256
A, B, C = record(ONE, 1), record(TWO, 2), record(THREE, 3)
ROOM = bytes(512)
MOST = 32_768
FLIP = bytes([0x41])


def vectors() -> dict[str, dict[str, Any]]:
    """All of this file."""
    return _whole() | _torn() | _damaged() | _limits() | _headers()


def segment(
    comment: str,
    raw: bytes,
    records: list[tuple[int, bytes | None]],
    *,
    damage: tuple[int, ...] = (),
    end: int | None = None,
    read: list[Any] | None = HEADER,
    state: str = "open",
) -> dict[str, Any]:
    """Return one vector; zeros at the end of the file are a number."""
    short = raw.rstrip(b"\0")
    return {
        "comment": comment,
        "spec": "15.3",
        "file": short.hex(),
        "zeros": len(raw) - len(short),
        "expect": {
            "header": dict(zip(NAMES, read, strict=True)) if read else None,
            "state": state if read else None,
            "records": [[sequence, payload.hex() if payload is not None else None] for sequence, payload in records],
            "damage": list(damage),
            "end": end,
        },
    }


def _changed(raw: bytes, at: int, new: bytes) -> bytes:
    return raw[:at] + new + raw[at + len(new) :]


def _whole() -> dict[str, dict[str, Any]]:
    body, two = A + B, [(1, ONE), (2, TWO)]
    later = [*HEADER[:3], 41, *HEADER[4:]]
    high = [*HEADER[:3], (1 << 32) - 1, *HEADER[4:]]
    wrapped = record(ONE, high[3]) + record(TWO, high[3] + 1)
    end = START + len(body)
    return {
        "open": segment("a writer was killed: its room ends the file", header(HEADER) + body + ROOM, two, end=end),
        "closed": segment("another file of the run follows", header(HEADER, CLOSED) + body, two, state="closed"),
        "ended": segment("the run ended in order", header(HEADER, ENDED) + body, two, state="ended"),
        "closed-other-state": segment("any other state is closed", header(HEADER, 9) + body, two, state="closed"),
        "empty": segment("a writer was killed before its first record", header(HEADER) + ROOM, [], end=START),
        "no-room": segment("the file ends with its header", header(HEADER), [], end=START),
        "full": segment("the last record ends with the file", header(HEADER) + body, two, end=end),
        "first-41": segment(
            "sequences go on from the header's, and the checksums begin with them",
            header(later) + record(ONE, 41) + record(TWO, 42) + ROOM,
            [(41, ONE), (42, TWO)],
            end=end,
            read=later,
        ),
        "first-above-32-bits": segment(
            "a checksum begins with the sequence modulo 2^32",
            header(high) + wrapped + ROOM,
            [(high[3], ONE), (high[3] + 1, TWO)],
            end=end,
            read=high,
        ),
        "denied": segment(
            "bytes of denials, in the byte order of the writer's machine, are no part of a record",
            _changed(header(HEADER) + body + ROOM, 12, b"\x7f\x01\0\0"),
            two,
            end=end,
        ),
        "lengths": segment(
            "records begin at multiples of four, whatever their payloads' lengths",
            header(HEADER) + b"".join(record(b"x" * n, n) for n in range(1, 10)) + ROOM,
            [(n, b"x" * n) for n in range(1, 10)],
            end=START + sum(len(record(b"x" * n, n)) for n in range(1, 10)),
        ),
    }


def _torn() -> dict[str, dict[str, Any]]:
    start = header(HEADER) + A
    end = START + len(A)
    whole = bytes(4) + B[4:]
    one = [(1, ONE)]
    return {
        "torn-whole": segment("killed before the length: no record, no damage", start + whole + ROOM, one, end=end),
        "torn-half": segment("killed within the payload", start + whole[:40] + ROOM, one, end=end),
        "torn-checksum": segment("killed within the checksum", start + whole[:6] + ROOM, one, end=end),
        "torn-then-bytes": segment(
            "behind a whole payload without its length there are only zeros",
            start + whole + b"\x01" + ROOM,
            one,
            damage=(end,),
        ),
        "torn-then-record": segment(
            "a length was zeroed and a record follows it", start + whole + C + ROOM, one, damage=(end,)
        ),
        "torn-far": segment(
            "an unfinished record reaches no further than the longest one",
            start + bytes(8 + MOST) + b"\x01" + ROOM,
            one,
            damage=(end,),
        ),
        "torn-as-far": segment(
            "an unfinished record may be the longest one", start + bytes(8 + MOST - 1) + b"\x01" + ROOM, one, end=end
        ),
        "torn-at-the-end": segment("at most seven bytes are no record", start + b"\x01" * 7, one, end=end),
    }


def _damaged() -> dict[str, dict[str, Any]]:
    whole = header(HEADER) + A + B + C + ROOM
    second, third = START + len(A), START + len(A) + len(B)
    hurt = [(1, ONE), (2, None), (3, THREE)]
    alone = struct.pack("<II", len(TWO), zlib.crc32(TWO)) + TWO
    alone += bytes(-len(alone) % 4)
    big = struct.pack(">II", len(TWO), zlib.crc32(TWO, 2)) + TWO
    return {
        "payload-changed": segment(
            "a record without its checksum is lost, the next one is read",
            _changed(whole, second + 20, FLIP),
            hurt,
            damage=(second,),
        ),
        "checksum-changed": segment(
            "so is one with another checksum", _changed(whole, second + 4, FLIP), hurt, damage=(second,)
        ),
        "checksum-without-sequence": segment(
            "a CRC-32 that begins with 0 is another checksum",
            header(HEADER) + A + alone + C + ROOM,
            hurt,
            damage=(second,),
        ),
        "moved": segment(
            "records that changed places have other checksums",
            header(HEADER) + B + A + C + ROOM,
            [(1, None), (2, None), (3, THREE)],
            damage=(START, START + len(B)),
        ),
        "big-endian": segment(
            "lengths are little-endian", header(HEADER) + A + big + ROOM, [(1, ONE)], damage=(second,)
        ),
        "unpadded": segment(
            "a record that does not begin at a multiple of four",
            header(HEADER) + record(b"x", 1)[:9] + record(b"y", 2) + ROOM,
            [(1, b"x")],
            damage=(START + 12,),
        ),
        "cut": segment("the file ends within a payload", whole[: third + 30], [(1, ONE), (2, TWO)], damage=(third,)),
        "cut-in-padding": segment(
            "the file ends before the padding of its last record",
            header(HEADER) + A + record(b"x", 2)[:9],
            [(1, ONE), (2, b"x")],
        ),
        "cut-in-checksum": segment(
            "the file ends within a record's first eight bytes", whole[: third + 7], [(1, ONE), (2, TWO)], end=third
        ),
    }


def _limits() -> dict[str, dict[str, Any]]:
    """A payload of zeros has a checksum, and costs a vector nothing."""
    start, place = header(HEADER) + A, START + len(A)
    most, more = bytes(MOST), bytes(MOST + 1)
    return {
        "longest": segment(
            "the longest payload", start + record(most, 2) + ROOM, [(1, ONE), (2, most)], end=place + 8 + MOST
        ),
        "too-long": segment(
            "a longer one cannot be, whatever its checksum, and ends the reading",
            start + record(more, 2) + record(THREE, 3) + ROOM,
            [(1, ONE)],
            damage=(place,),
        ),
    }


def _headers() -> dict[str, dict[str, Any]]:
    good = header(HEADER) + A + ROOM
    body = msgpack.packb(HEADER)

    def other(values: Any) -> bytes:
        return header(values) + A + ROOM

    def with_length(length: int, checksum: int) -> bytes:
        return _changed(good, 16, struct.pack("<II", length, checksum))

    longest = [HEADER[0], "a" * (232 - len(body) + len(HEADER[1]) + 1 - 3), *HEADER[2:]]
    longest[1] += "a" * (232 - len(msgpack.packb(longest)))
    bad = {
        "magic": ("another magic is no segment", _changed(good, 7, b"1")),
        "short": ("no segment is shorter than its header", good[:255]),
        "header-changed": ("the header has a checksum", _changed(good, 26, FLIP)),
        "header-checksum-changed": ("which must be its own", _changed(good, 20, FLIP)),
        "header-checksum-big-endian": (
            "and is little-endian",
            with_length(len(body), int.from_bytes(zlib.crc32(body).to_bytes(4, "big"), "little")),
        ),
        "header-into-records": ("a header does not reach into the records", with_length(234, zlib.crc32(good[24:258]))),
        "header-seven": ("a header has six members", other([*HEADER, 1])),
        "header-five": ("all of them", other(HEADER[:5])),
        "header-map": ("in an array", other(dict(zip(NAMES, HEADER, strict=True)))),
        "header-trailing": ("and nothing behind it", with_length(len(body) + 1, zlib.crc32(body + b"\0"))),
        "header-text-number": ("first is a number", other([*HEADER[:3], "1", *HEADER[4:]])),
        "header-first-zero": ("sequences begin with 1", other([*HEADER[:3], 0, *HEADER[4:]])),
        "header-first-too-large": ("and are below 2^53", other([*HEADER[:3], 1 << 53, *HEADER[4:]])),
        "header-boot-path": ("a run's name is a part of file names", other([*HEADER[:2], "../x", *HEADER[3:]])),
        "header-boot-upper-case": ("in small letters and digits", other([*HEADER[:2], "0123456789AB", *HEADER[3:]])),
        "header-boot-empty": ("at least one", other([*HEADER[:2], "", *HEADER[3:]])),
        "header-boot-too-long": ("at most 64", other([*HEADER[:2], "a" * 65, *HEADER[3:]])),
        "header-boot-newline": ("and no other character", other([*HEADER[:2], "0123456789ab\n", *HEADER[3:]])),
    }
    made = {name: segment(comment, raw, [], damage=(0,), read=None) for name, (comment, raw) in bad.items()}
    one, end = [(1, ONE)], START + len(A)
    boot = [*HEADER[:2], "a" * 64, *HEADER[3:]]
    made["header-boot-64"] = segment("the longest name of a run", other(boot), one, end=end, read=boot)
    made["header-longest"] = segment("a header of 232 bytes", other(longest), one, end=end, read=longest)
    made["state-before-header"] = segment(
        "the state is no part of the header's checksum", header(HEADER, OPEN) + A + ROOM, one, end=end
    )
    return made
