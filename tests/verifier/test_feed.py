# SPDX-License-Identifier: Apache-2.0
"""The follower without a store: what it refuses to read, and how it behaves alone.

How it follows a real store, across processes and failures, is in ``tests/revocation``.
"""

import asyncio
import contextlib
import logging
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_verifier.errors import SettingsError
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.history import NOWHERE
from arx_verifier.revocation.store_link import EpochEntry, FeedError, Link, StoreAnswer, read_answer, read_push
from arx_verifier.revocation.store_url import Address
from tests.servers import until

INCARNATION = "I" * 22
ENTRY = [b"6-0", [b"op", b"kill", b"s", b"realm", b"t", b"1", b"by", b"x", b"why", b"y"]]
ANSWER: list[Any] = [INCARNATION.encode(), 6, 1_700_000_000_000, 1_000, b"OK", 3_690_000, b"c" * 40, 7, [ENTRY]]


def test_an_answer_is_read() -> None:
    """The one known form, with its entries."""
    entry = EpochEntry(INCARNATION, 6, "kill", "realm")
    assert read_answer(ANSWER) == StoreAnswer(
        INCARNATION, 6, 1_700_000_000_000, 1_000, "OK", 3_690_000, "c" * 40, (entry,), 7
    )


@pytest.mark.parametrize("index", range(9))
@pytest.mark.parametrize("value", [None, b"\xff", [[]], 1.5, True, {}])
def test_an_unknown_answer_is_refused(index: int, value: object) -> None:
    """Whatever one member is replaced by, the answer is not used."""
    with pytest.raises(FeedError, match="unknown form"):
        read_answer([*ANSWER[:index], value, *ANSWER[index + 1 :]])


@pytest.mark.parametrize(
    "frame", [None, 5, b"OK", [], ANSWER[:8], [*ANSWER, b"more"], [*ANSWER[:4], b"MAYBE", *ANSWER[5:]]]
)
def test_a_frame_that_is_no_answer_is_refused(frame: object) -> None:
    """A shorter, longer or other frame, or a status of a later version, is not guessed at."""
    with pytest.raises(FeedError, match="unknown form"):
        read_answer(frame)


def test_a_push_is_read() -> None:
    """The one known form."""
    assert read_push([b"smessage", b"ch", b"I 7 thaw agent:acme"]) == EpochEntry("I", 7, "thaw", "agent:acme")


@pytest.mark.parametrize(
    "payload", [b"", b"I 7 thaw", b"I x thaw realm", b"I 7 thaw realm more", b"\xff 7 thaw realm", 7]
)
def test_an_unknown_push_is_refused(payload: object) -> None:
    """A push of another form ends the connection; the next probe brings the truth."""
    with pytest.raises(FeedError, match="unknown form"):
        read_push([b"smessage", b"ch", payload])


@pytest.mark.parametrize("url", ["http://store", "valkey.sock", "redis://user:pa/ss@store", ""])
def test_an_address_of_another_kind_is_refused_without_telling_it(url: str) -> None:
    """A URL that cannot be read may hold a password: no piece of it is shown, chained errors included."""
    with pytest.raises(SettingsError) as caught:
        Follower(url, "acme", "v")
    assert "pa" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("realm", "name"), [("Acme", "v"), ("acme", ""), ("acme", "!since:x"), ("acme", "v" * 201)])
def test_unusable_names_are_refused(realm: str, name: str) -> None:
    """A realm must be one, and a verifier must not be mistaken for the registry's own mark."""
    with pytest.raises(SettingsError):
        Follower("redis://store", realm, name)


def test_the_password_is_never_shown(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Neither the follower's name nor its log has it, not even when the connection fails."""
    caplog.set_level(logging.DEBUG)
    follower = Follower(f"unix://user:hunter2@{tmp_path}/none.sock", "acme", "v", password="hunter3")
    assert not follower.catch_up(0, 0, 0.1)
    follower.close()
    assert "cannot connect" in caplog.text
    shown = repr(follower) + repr(Address("redis://:hunter2@store")) + caplog.text
    assert "hunter" not in shown


@pytest.mark.spec("10.5")
def test_without_a_store_nothing_is_accepted(tmp_path: Path) -> None:
    """Syncing, never live; closing ends the waiting and the thread, and may be repeated."""
    follower = Follower(f"unix://{tmp_path}/none.sock", "acme", "v")
    refused = follower.check("I", 0, ())
    assert refused is not None
    assert refused.code == "syncing"
    thread = follower._thread
    assert thread is not None, "the first use starts it"
    waiting: list[bool] = []
    waiter = threading.Thread(target=lambda: waiting.append(follower.catch_up(0, 0, 60)))
    waiter.start()
    until(lambda: follower._waiters)
    follower.close()
    waiter.join(10)
    assert waiting == [False]
    assert not thread.is_alive()
    follower.close()
    refused = follower.check("I", 0, ())
    assert refused is not None
    assert refused.code == "closed"
    assert not follower.catch_up(0, 0, 60), "a closed follower is not waited for"


def test_an_async_wait_ends_in_time(tmp_path: Path) -> None:
    """An event loop is given back when nothing answers, and no caller is left waiting."""
    follower = Follower(f"unix://{tmp_path}/none.sock", "acme", "v")
    assert not asyncio.run(follower.catch_up_async(0, 0, 0.05))
    assert follower._waiters == []
    follower.close()


class Scripted:
    """A store that answers as a test wants: the real one cannot be made to say these things."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self.connections = 0
        self._stop = threading.Event()
        self.answer = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        open_now: list[socket.socket] = []
        while not self._stop.is_set():
            for ready in select.select([self._listener, *open_now], [], [], 0.02)[0]:
                if ready is self._listener:
                    open_now.append(self._listener.accept()[0])
                    self.connections += 1
                    continue
                with contextlib.suppress(OSError):
                    asked = ready.recv(65536)
                    if not asked:
                        open_now.remove(ready)
                        ready.close()
                        continue
                    ready.sendall(b"%1\r\n+proto\r\n:3\r\n" * asked.count(b"HELLO"))
                    ready.sendall(b"+OK\r\n" * asked.count(b"SETINFO"))
                    ready.sendall(self.answer * asked.count(b"arx1_probe"))
        for sock in (self._listener, *open_now):
            sock.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    store = Scripted(tmp_path / "s.sock")
    yield store
    store.close()


@pytest.mark.servers
@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n",
        b"-ERR no\r\n",
        b"*1\r\n+x\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b"!3\r\nbad\r\n",
        b"?what\r\n",
        b">3\r\n$12\r\nsunsubscribe\r\n$2\r\nch\r\n:0\r\n",
    ],
)
def test_an_answer_it_does_not_know_drops_the_connection(scripted: Scripted, answer: bytes) -> None:
    """Nothing is guessed from it: connect again, subscribe again, ask again; never live."""
    scripted.answer = answer
    follower = Follower(scripted.url, "acme", "v")
    follower.start()
    until(lambda: scripted.connections >= 3)
    refused = follower.check("I", 0, ())
    assert refused is not None
    assert refused.code == "syncing"
    follower.close()


@pytest.mark.servers
def test_a_dropped_connection_is_never_opened_again(scripted: Scripted) -> None:
    """The client library would reconnect without the subscription; a link refuses instead."""
    reader, writer = socket.socketpair()
    link = Link(Address(scripted.url).connection(1.0), "acme", reader).open()
    link.close()
    with pytest.raises(FeedError, match="closed"):
        link.probe("v", NOWHERE, hurry=False)
    with pytest.raises(FeedError, match="closed"):
        list(link.frames())
    assert scripted.connections == 1
    reader.close()
    writer.close()
