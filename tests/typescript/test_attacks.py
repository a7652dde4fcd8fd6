# SPDX-License-Identifier: Apache-2.0
"""Requests that are changed at random, sent byte by byte to a guarded application of Express: SPEC 8.4.

The changes are those of the gateway's test: spellings of paths, members twice, other codings of characters and bodies,
framing in two ways, headers twice.  The application's parsers read whatever they can.

Messages that are changed at random, sent to a guarded server of MCP over both transports: SPEC 8.2.
"""

import contextlib
import http.client
import json
import socket
import subprocess
import threading
from collections import Counter
from random import Random
from typing import Final

import pytest

from tests.gateway.mutations import EVERYWHERE, OF_PATHS, Sent, changed
from tests.servers import child
from tests.typescript.mcp_messages import Messages
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
    """It would end the server, as an error without a listener does."""
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


class Answers:
    """What a server of MCP answers.

    Args:
        messages: The source of what it is sent.
    """

    def __init__(self, messages: Messages) -> None:
        self._messages, self.seen, self.pings = messages, Counter[str](), set[object]()

    def take(self, text: bytes) -> None:
        """Compare an answer, or several, with what was sent by its id."""
        read = json.loads(text)
        for answer in read if isinstance(read, list) else [read]:
            result = answer.get("result", {})
            parts = [] if "isError" in result else [result.get(part) for part in ("content", "contents", "description")]
            named = json.dumps(parts)
            for sort, mark in (
                ("ran", '"o-'),
                ("refused", "dev.arx/refusal"),
                ("listed", '"tools"'),
                ("error", '"error"'),
            ):
                self.seen[sort] += mark in json.dumps(answer)
            if '"o-' in named and answer["id"] != "f-0":  # a second id of any message
                name = named.partition('"o-')[2].partition('"')[0].partition(":")[0]
                assert f"o-{name}" in self._messages.sent[json.dumps(answer["id"])], answer
            assert '"f-' not in named, answer
            self.pings.add(answer.get("id"))


COUNTS: Final = [3000, pytest.param(100_000, marks=pytest.mark.nightly)]


@pytest.mark.slow
@pytest.mark.spec("8.2")
@pytest.mark.parametrize("count", COUNTS)
def test_no_tool_of_mcp_gets_over_stdio_what_was_not_judged(count: int) -> None:
    """Malformed frames, ids twice, batches, cancellations, other spellings: it would end the server."""
    command = [str(node()), str(PROGRAMS / "mcp_attacked.ts"), "stdio"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with child(command, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        messages = Messages(count, json.loads(process.stderr.readline()))
        answers, wrong, stdin = Answers(messages), list[BaseException](), process.stdin

        def read() -> None:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    answers.take(line)
            except BaseException as error:
                wrong.append(error)
                process.kill()

        reader = threading.Thread(target=read)
        reader.start()
        with contextlib.suppress(BrokenPipeError):
            for _ in range(count):
                stdin.write(messages.next().replace(b"\n", b" ") + b"\n")
            stdin.write(b'\n{"jsonrpc":"2.0","id":"last","method":"ping"}\n')
            stdin.flush()
            stdin.close()
        reader.join()
        assert wrong == []
        assert process.wait() == 0, process.stderr.read()
        assert "last" in answers.pings
        assert min(answers.seen.values()) > count / 100, answers.seen


@pytest.mark.slow
@pytest.mark.spec("8.2")
@pytest.mark.parametrize("count", COUNTS)
def test_no_tool_of_mcp_gets_over_http_what_was_not_judged(count: int) -> None:
    """The same, as bodies: to one session and to none, some with a further token in a header."""
    command, dice = [str(node()), str(PROGRAMS / "mcp_attacked.ts"), "http"], Random(count)
    with child(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        tokens = json.loads(process.stderr.readline())
        messages = Messages(count, tokens)
        answers, statuses = Answers(messages), Counter[int]()
        link = http.client.HTTPConnection("127.0.0.1", tokens["port"], timeout=60)
        for _ in range(count):
            headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
            headers["mcp-protocol-version"] = "2025-06-18"
            if dice.random() < 0.2:
                headers["authorization"] = dice.choice(
                    ("Bearer {0}", "Bearer {0}x", "{0}", "Bearer {0}, Bearer {0}")
                ).format(tokens["narrow"])
            path = dice.choice(("/mcp", "/session"))
            if path == "/session":
                headers["mcp-session-id"] = dice.choice(("s", "s", "s", "x"))
            try:
                link.request("POST", path, messages.next(), headers)
                answer = link.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                process.kill()
                raise AssertionError(process.stderr.read()) from error
            statuses[answer.status] += 1
            if answer.status == 200 and body:
                answers.take(body)
        link.close()
        assert process.poll() is None
        assert min(answers.seen.values()) > count / 200, (answers.seen, statuses)
