# SPDX-License-Identifier: Apache-2.0
"""Real servers for tests: one Valkey and one PostgreSQL a run, a fresh realm or database a test, verifier processes.

What only ``arx_caps`` can start is imported by the fixtures, so that the verifier's tests also run where it alone is
installed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arx_verifier.revocation.epoch import boot_clock

if TYPE_CHECKING:
    from arx_caps.embedded import EmbeddedValkey
    from arx_caps.revocation.store import RevocationStore
    from tests.postgres import Postgres

FAST_LEASE_MS = 300
LONG_LEASE_MS = 5_000  # a loaded machine renews a short one late, and a call is then refused as `stale`

VERIFIER = """
import sys
from arx_verifier.revocation.follower import Follower
url, realm, name = sys.argv[1:4]
follower = Follower(url, realm, name)
print("live" if follower.catch_up(0, 0, 10) else "dead", flush=True)
for line in sys.stdin:
    command, incarnation, born, target = line.split()
    refused = follower.check(incarnation, int(born), (target,))
    while command == "watch" and refused is None:
        refused = follower.check(incarnation, int(born), (target,))
    print("accepted" if refused is None else refused.code, flush=True)
"""


def until(holds: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait for a condition that gives no event: another process's, or a server's.

    Raises:
        AssertionError: It did not hold in time.
    """
    deadline, begun = time.monotonic() + within_s, time.monotonic()
    while not holds():
        now = time.monotonic()
        assert now < deadline, "did not happen in time"
        # At most a third of the processor: what is waited for needs it too, and some questions take 20 ms of it.
        time.sleep(min(0.2, max(0.002, 2 * (now - begun))))
        begun = time.monotonic()


def run_together(*calls: Callable[[], object]) -> None:
    """Run each call in a thread of its own, all at once, and wait until the last one has ended."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def listens(port: int) -> bool:
    """Whether a server listens at a port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def child(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process that a failing test kills: ``Popen`` alone would wait until it ends, which may be never.

    Args:
        command: The program and its arguments.
        options: As of ``subprocess.Popen``.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free a moment ago, and whose cluster bus ports exist."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            one = held.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            if one.getsockname()[1] < 55_000:
                ports.append(int(one.getsockname()[1]))
        return ports


@contextlib.contextmanager
def nonce_store(folder: Path) -> Iterator[EmbeddedValkey]:
    """Run a server until a store of nonces in it takes each call: it refuses those of the server's first seconds."""
    import redis

    from arx_caps.embedded import EmbeddedValkey

    with EmbeddedValkey(folder) as server:
        with redis.Redis.from_url(server.url) as raw:
            until(lambda: raw.info("server")["uptime_in_seconds"] > 1)
        yield server


class VerifierProcess:
    """A verifier in a process of its own, which decides on command."""

    def __init__(self, url: str, realm: str, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", VERIFIER, url, realm, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert self.read() == "live"

    def read(self) -> str:
        """Read one answer."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def send(self, command: str, incarnation: str, born: int, target: str) -> None:
        """Say ``check`` for one decision, or ``watch`` for decisions until one is a refusal."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command} {incarnation} {born} {target}\n")
        self._process.stdin.flush()

    def pause(self) -> None:
        """Stop it for a while, as a busy machine does."""
        freeze(self.pid)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A running server with ``.url``; its data end with the run."""
    with nonce_store(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A running server that the test may stop, freeze and break."""
    from arx_caps.embedded import EmbeddedValkey

    with EmbeddedValkey(tmp_path_factory.mktemp("own")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL, with a database ``made`` that has the mint's tables and nothing in them."""
    from arx_caps.mint.db.mint_database import MintDatabase
    from tests.postgres import running

    with running() as server:
        made = server.database(name="made")
        with MintDatabase(made) as db:
            db.create()
        yield server


def on_both(*marks: pytest.MarkDecorator) -> list[Any]:
    """Return the parameters of both databases, the second one with these marks."""
    return ["sqlite", pytest.param("postgresql", marks=[pytest.mark.servers, *marks])]


BOTH = on_both()
# These modules test what the database does; all others what stands on it: `.ci/nightly` runs them on PostgreSQL, and
# `.ci/run` those of the mint that ask the database most.
ABOUT_DATABASES = frozenset(
    f"test_{name}"
    for name in (
        *(
            "audit_log",
            "backups",
            "crashes",
            "database",
            "database_faults",
            "idempotency",
            "pagination",
            "races",
            "repositories",
        ),
        *("statement", "unit_of_work"),
    )
)


ASK_DATABASES_MOST = frozenset({"test_approvals", "test_session_tree", "test_tasks"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that use ``database`` on both systems, except those with the marker ``sqlite``."""
    if "database" in metafunc.fixturenames and metafunc.definition.get_closest_marker("sqlite") is None:
        module = metafunc.definition.path.stem
        late = pytest.mark.slow if module in ASK_DATABASES_MOST else pytest.mark.nightly
        marks = () if module in ABOUT_DATABASES else (late,)
        metafunc.parametrize("database", on_both(*marks), indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Both databases in turn: None for a file in the realm's folder, else the URL of a fresh PostgreSQL database."""
    yield from fresh_database(request)


@pytest.fixture(scope="module", params=on_both(pytest.mark.slow))
def module_database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """As ``database``, for a realm that the tests of a module share."""
    yield from fresh_database(request)


def fresh_database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Make the database that a fixture's parameter names, and remove it again."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield None
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.database(template="made")
    yield url
    server.drop(url)


def empty_database(request: pytest.FixtureRequest, file: Path) -> Iterator[str]:
    """Yield the URL of a database with nothing in it, on the system that a fixture's parameter names, and remove it."""
    if request.param == "sqlite":
        yield f"sqlite:///{file}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.database()
    yield url
    server.drop(url)


def freeze(pid: int) -> int:
    """Stop a process and wait until each of its threads stands; returns the time, boot clock, ns."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: all(_is_stopped(stat) for stat in Path(f"/proc/{pid}/task").glob("*/stat")))
    return boot_clock()


def _is_stopped(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:  # it has just ended
        return False


@contextlib.contextmanager
def begun_store(url: str, realm: str, **begin: int) -> Iterator[RevocationStore]:
    """Begin a realm in a server: its functions are loaded, its history is begun with these settings."""
    from arx_caps.revocation.store import RevocationStore

    with RevocationStore(url, realm) as store:
        store.load_functions()
        store.init(**begin)
        yield store


@pytest.fixture
def realm_name() -> str:
    """A realm that no other test uses."""
    return "t" + secrets.token_hex(6)


@pytest.fixture
def realm_store(valkey: EmbeddedValkey, realm_name: str) -> Iterator[RevocationStore]:
    """A store of a fresh realm: functions loaded, history begun."""
    with begun_store(valkey.url, realm_name) as store:
        yield store


@pytest.fixture
def fast_store(valkey: EmbeddedValkey, realm_name: str) -> Iterator[RevocationStore]:
    """As ``realm_store``, with a lease of ``FAST_LEASE_MS``."""
    with begun_store(valkey.url, realm_name, lease_ms=FAST_LEASE_MS) as store:
        yield store


@pytest.fixture
def own_fast_store(own_valkey: EmbeddedValkey, realm_name: str) -> Iterator[RevocationStore]:
    """As ``fast_store``, in a server that may be broken."""
    with begun_store(own_valkey.url, realm_name, lease_ms=FAST_LEASE_MS) as store:
        yield store


@pytest.fixture
def free_port() -> int:
    """A loopback port that was free a moment ago."""
    return free_ports(1)[0]
