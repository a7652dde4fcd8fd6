# SPDX-License-Identifier: Apache-2.0
"""The embedded server: one a directory, gone with its parent, keeping what it acknowledged."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from arx_caps.embedded import MAX_SOCKET_PATH, EmbeddedValkey, socket_path
from arx_verifier.errors import SettingsError
from tests.servers import child, until

pytestmark = pytest.mark.servers

HOLDER = """
import os, sys, time
from arx_caps.embedded import EmbeddedValkey
server = EmbeddedValkey(sys.argv[1])
server.start()
server_pid = server.server_pid
child = os.fork() if sys.argv[2] == "forked" else 0
if child == 0 and sys.argv[2] == "forked":
    server.stop()
    time.sleep(60)
    os._exit(0)
print(server_pid, child, flush=True)
sys.stdin.read()
"""


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_acknowledged_writes_outlive_the_server(tmp_path: Path) -> None:
    """What was acknowledged is there after a kill -9 and a new start."""
    server = EmbeddedValkey(tmp_path / "data")
    with redis.Redis.from_url(server.start()) as client:
        client.set("kept", "yes")
        os.kill(server.server_pid, signal.SIGKILL)
    until(lambda: not server.running)
    server.stop()
    with server, redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"yes"


def test_settings_that_kills_rest_on(valkey: EmbeddedValkey) -> None:
    """Every acknowledged write is on disk, nothing is evicted, no TCP port is open."""
    with redis.Redis.from_url(valkey.url) as client:
        settings = client.config_get()
    wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "port": "0"}
    assert {name: settings[name] for name in wanted} == wanted


def test_only_this_user_reaches_the_socket(valkey: EmbeddedValkey) -> None:
    """The directory and the socket are closed to others."""
    assert stat.S_IMODE(valkey.data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((valkey.data_dir / "valkey.sock").stat().st_mode) == 0o700


@pytest.mark.skipif(sys.platform != "linux", reason="the system shows no environment of a process")
def test_its_processes_have_no_secret_of_arx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The passphrase of the root keys is in the environment of neither: each process of this user can read that."""
    monkeypatch.setenv("ARX_ROOT_PASSPHRASE", "s3cret")
    with EmbeddedValkey(tmp_path / "data") as server:
        guard = Path(f"/proc/{server.server_pid}/status").read_text().partition("PPid:\t")[2].split()[0]
        for pid in (server.server_pid, guard):
            assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_second_server_on_the_same_data_is_refused(valkey: EmbeddedValkey) -> None:
    """Two servers would write two histories into one file."""
    with pytest.raises(SettingsError, match=rf"in use by another server .*{os.getpid()}"):
        EmbeddedValkey(valkey.data_dir).start()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("victim", "forked"), [("parent", "alone"), ("parent", "forked"), ("guard", "alone")])
def test_the_server_does_not_outlive_a_killed_parent(tmp_path: Path, victim: str, forked: str) -> None:
    """
    SIGKILL the parent, or the guard between them: the server ends, and the next start works.  A forked child can
    neither stop the server nor keep it alive.
    """
    with child(
        [sys.executable, "-c", HOLDER, str(tmp_path), forked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        server, forked_pid = map(int, parent.stdout.readline().split())
        assert not gone(server)
        guard = int(Path(f"/proc/{server}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(parent.pid if victim == "parent" else guard, signal.SIGKILL)
        until(lambda: gone(server))
        parent.kill()
        if forked_pid:
            os.kill(forked_pid, signal.SIGKILL)
    with EmbeddedValkey(tmp_path) as again:
        assert again.running


def test_a_long_path_gets_a_short_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path has 103 bytes; beyond that it lies in a private short directory."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    deep = tmp_path / ("d" * 120)
    assert socket_path(deep).parent == tmp_path / f"arx-{os.getuid()}"
    with EmbeddedValkey(deep) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
    assert len(os.fsencode(tmp_path / "valkey.sock")) <= MAX_SOCKET_PATH
    assert socket_path(tmp_path) == tmp_path / "valkey.sock"


def test_a_short_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link planted where the sockets go is not followed."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / f"arx-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(SettingsError, match="not a directory of this user"):
        socket_path(tmp_path / ("d" * 120))


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The reason is the server's own, from its log."""
    (tmp_path / "appendonlydir").write_text("not a directory")
    with pytest.raises(SettingsError, match=r"did not start: .*appendonlydir"):
        EmbeddedValkey(tmp_path).start()
