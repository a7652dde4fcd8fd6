# SPDX-License-Identifier: Apache-2.0
"""A client of ``arx connect`` waited without end for an answer that the bridge could not write, or not in one piece.

The bridge ends where stdout takes nothing more, and waits where a non-blocking stdout is full.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.connect.conftest import ARX, WAIT_S, World, world
from tests.servers import until

__all__ = ["world"]
pytestmark = pytest.mark.servers
ABOUT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


def line(identity: int, method: str, params: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": identity, "method": method, "params": params}).encode() + b"\n"


def unread(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@contextlib.contextmanager
def bridge(world: World, stdout: int, errors: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a bridge whose stdout is a file descriptor, and whose stdin stays open."""
    command = [sys.executable, *ARX, "connect", "--task", str(world.bundle), world.url]
    with errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_a_bridge_that_cannot_answer_ends(world: World, tmp_path: Path) -> None:
    """
    With an error on stderr, while its client still has stdin open.
    """
    full = os.open("/dev/full", os.O_WRONLY)
    with bridge(world, full, tmp_path / "errors") as process:
        os.close(full)
        assert process.stdin is not None
        process.stdin.write(line(0, "initialize", ABOUT))
        process.stdin.flush()
        assert process.wait(WAIT_S) == 2
    assert (tmp_path / "errors").read_text() == "arx: stdout: No space left on device\n"


@pytest.mark.slow
def test_answers_are_whole_where_stdout_does_not_block(world: World, tmp_path: Path) -> None:
    """
    A client may read late, and have made the descriptor non-blocking for both ends.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = "o-" + "x" * 30_000
    with bridge(world, writer, tmp_path / "errors") as process, os.fdopen(reader, "rb") as answers:
        os.close(writer)
        assert process.stdin is not None
        calls = [line(n, "tools/call", {"name": "get", "arguments": {"order_id": text}}) for n in range(1, 9)]
        process.stdin.write(b"".join([line(0, "initialize", ABOUT), *calls]))
        process.stdin.flush()
        for _ in range(8):
            world.wait_for("POST tools/call")
        until(lambda: unread(reader) > len(text))  # more than the pipe takes at once follows
        seen = [json.loads(answers.readline()) for _ in range(9)]
    assert {each["id"] for each in seen} == {*range(9)}
    assert all(text in each["result"]["content"][0]["text"] for each in seen if each["id"])
