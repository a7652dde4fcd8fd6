# SPDX-License-Identifier: Apache-2.0
"""Requests that are changed at random, sent byte by byte to a guarded application of Express: SPEC 8.4.

The changes are those of the gateway's test: spellings of paths, members twice, other codings of characters and bodies,
framing in two ways, headers twice.  The application's parsers read whatever they can.
"""

import contextlib
import socket
import subprocess
from collections import Counter
from random import Random
from typing import Final

import pytest

from tests.gateway.mutations import EVERYWHERE, OF_PATHS, Sent, changed
from tests.servers import child
from tests.typescript.node import PROGRAMS, node

JSON: Final = [(b"content-type", b"application/json")]
BASES: Final = [
    Sent(b"GET", b"/orders/o-1?limit=5", coding="none"),
    Sent(b"GET", b"/orders?limit=5&note=x", coding="none"),
    Sent(b"POST", b"/orders/o-1", JSON, b'{"amount":20,"note":"x","lines":[{"id":1}]}'),
    Sent(b"POST", b"/orders", JSON, b'{"order_id":"o-1","amount":20,"id":7}'),
    Sent(b"DELETE", b"/orders/o-1"),
]
REFUSED: Final = ("none", "flip", "cut", "twice", "other", "basic", "bare", "stale")


def credentials_of(way: str, token: bytes) -> list[bytes]:
    """The values of ``Authorization`` for what is done with a token."""
    odd = {
        "none": [],
        "flip": [b"Bearer " + token[:-8] + (b"A" if token[-8:-7] != b"A" else b"B") + token[-7:]],
        "cut": [b"Bearer " + token[:-9]],
        "twice": [b"Bearer " + token] * 2,
        "other": [b"Bearer arx1_AgE"],
        "bare": [token],
        "basic": [b"Basic " + token],
        "lower": [b"bearer " + token],
        "spaced": [b"Bearer   " + token],
        "stale": [b"Bearer " + token[:60]],
    }
    return odd.get(way, [b"Bearer " + token])


def answered(port: int, request: bytes) -> bytes:
    """The first line of an answer; empty if there is none."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        with contextlib.suppress(OSError):
            link.sendall(request)
            link.shutdown(socket.SHUT_WR)
        answer = b""
        while part := link.recv(65536):
            answer += part
        return answer.partition(b"\r\n")[0]
    return b""


@pytest.mark.slow
@pytest.mark.spec("8.4")
@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.nightly)])
def test_no_handler_gets_what_was_not_judged(count: int) -> None:
    """It would end the server, as an error that nobody takes does."""
    command = [str(node()), str(PROGRAMS / "attacked.ts")]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        port, token = process.stdout.readline().split()
        assert answered(int(port), BASES[0].raw("x", credentials_of("signed", token))) == b"HTTP/1.1 200 OK"
        seen: Counter[bytes] = Counter()
        source = changed(Random(count), BASES, (*EVERYWHERE, *OF_PATHS))
        for sent, _ in zip(source, range(count), strict=False):
            line = answered(int(port), sent.raw("x", credentials_of(sent.token, token)))
            assert process.poll() is None, (sent, process.communicate())
            assert not (line == b"HTTP/1.1 200 OK" and sent.token in REFUSED), sent
            seen[line[9:12]] += 1
        assert seen[b"200"] > count / 20, seen  # a run in which nothing runs would find nothing
        assert seen[b"400"] > count / 10, seen
