# SPDX-License-Identifier: Apache-2.0
"""Another user could get the store's password, by leaving a ``.arx`` folder where ``arx`` was started.

Found in ARx before its first release: a user who ran ``arx`` in a folder of another, or in an unpacked source tree that
held a ``.arx``, sent ``ARX_STORE_PASSWORD`` to the store that its ``realm.toml`` names; and a mint named there could
report kills that never were.  A folder that is named, by ``--realm-dir`` or ``ARX_HOME``, is believed as before.
"""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from arx_caps.cli.access import place
from arx_caps.mint.server.init_realm import init_realm
from tests.cli.helpers import arx
from tests.servers import until

LOOK = ("verifier", "list", "--json")
LOGIN = {"ARX_STORE_PASSWORD": "hunter2"}


class Listener:
    """The store that the found folder names: it takes what it gets, and hangs up."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        with self._socket:
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    answer = connection.recv(4096)
                if not answer:
                    return
                self.heard.append(answer)

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._thread.join()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    listener = Listener()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    init_realm(".arx", name="acme", issuer="http://127.0.0.1:9", store=f"redis://127.0.0.1:{listener.port}")
    yield listener
    listener.close()


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o707, 0o711])
def test_a_folder_that_is_open_to_others_is_not_used_unasked(store: Listener, mode: int) -> None:
    """As a source tree is unpacked: ``arx`` asks nothing, sends nothing, and names the next step."""
    Path(".arx").chmod(mode)
    for words in (LOOK, ("doctor", "--json"), ("kill", "realm", "--direct", "--reason", "x", "--yes", "--json")):
        ran = arx(*words, env=LOGIN)
        assert (ran.exit_code, ran.json["code"]) == (exit_codes.USAGE, "foreign_realm")
        assert "open to other users" in ran.err
        assert "--realm-dir" in ran.err
    assert store.heard == []


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_of_another_user_is_not_used_unasked(
    store: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    """However private it is, and also when it is reached by a link."""
    if link:
        Path(".arx").rename(tmp_path / "elsewhere")
        Path(".arx").symlink_to(tmp_path / "elsewhere")
    own = os.geteuid()
    monkeypatch.setattr(place.os, "geteuid", lambda: own + 1)
    # root's folders are believed: here everything is root's where the test runs as root
    monkeypatch.setattr(place, "ROOT_UID", -1)
    ran = arx(*LOOK, env=LOGIN)
    assert (ran.exit_code, ran.json["code"]) == (exit_codes.USAGE, "foreign_realm")
    assert "another user" in ran.err
    assert store.heard == []


def test_a_folder_that_is_named_or_private_is_used(store: Listener) -> None:
    """What ``arx init`` made needs no name; a folder that is named may belong to any user."""
    assert arx(*LOOK, env=LOGIN).exit_code == exit_codes.UNREACHABLE
    until(lambda: any(b"hunter2" in value for value in tuple(store.heard)))
    Path(".arx").chmod(0o755)
    for words, more in ((("--realm-dir", ".arx"), {}), ((), {"ARX_HOME": ".arx"})):
        store.heard.clear()
        assert arx(*LOOK, *words, env=LOGIN | more).exit_code == exit_codes.UNREACHABLE
        until(lambda: any(b"hunter2" in value for value in tuple(store.heard)))
