# SPDX-License-Identifier: Apache-2.0
"""A caller could have one call accepted once by each worker of a service, without a warning.

Used calls were remembered in each process, which was the default: of 40 calls made again at another worker, four found
one that had not seen them.  Now a service file names the store that is at hand, and where it does not the second
process reports that, and the doctor while both run.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent import Task
from arx_caps.cli import exit_codes
from arx_caps.revocation import acl
from arx_caps.revocation.store import RevocationStore
from arx_verifier.service import open_verifier
from tests.cli.live import AGENT, Live, live_realm
from tests.servers import free_ports
from tests.topologies.fleet import LASTING, Server, running

pytestmark = pytest.mark.servers

WORKER = """
import json, logging, sys
from arx_verifier.request import AccessRequest
from arx_verifier.service import open_verifier
logging.basicConfig(level=logging.WARNING, format="%(name)s %(levelname)s %(message)s")
verifier = open_verifier(sys.argv[1])
print("up", flush=True)
for line in sys.stdin:
    call = json.loads(line)
    decision = verifier.decide(call["token"], AccessRequest("orders.get", call["args"], call["at"], "127.0.0.1"))
    print(decision.code, flush=True)
verifier.close()
"""


class Worker:
    """A process of a service, which decides on command."""

    def __init__(self, file: Path, log: Path) -> None:
        self._log, environment = log, {name: value for name, value in os.environ.items() if name[:4] != "ARX_"}
        with log.open("w") as err:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": err, "text": True}
            self._process = subprocess.Popen([sys.executable, "-c", WORKER, str(file)], env=environment, **pipes)
        assert self._read() == "up", log.read_text()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return str(self._process.stdout.readline().strip())

    def code(self, call: dict[str, Any]) -> str:
        """Have it decide."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> str:
        """End it in order; returns what it logged."""
        self._process.communicate(timeout=30)
        return self._log.read_text()


@contextlib.contextmanager
def workers(file: Path, folder: Path, count: int = 2) -> Iterator[list[Worker]]:
    started = [Worker(file, folder / f"worker-{number}.log") for number in range(count)]
    try:
        yield started
    finally:
        for worker in started:
            with contextlib.suppress(ValueError):  # it has ended
                worker.close()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("workers")
    with live_realm(folder / "realm", *free_ports(1)) as realm:
        realm.ok("agent", "enrol", AGENT, "--key-out", folder / "agent.key")
        realm.ok("session", "open", "--key", folder / "agent.key", "--out", folder / "session")
        words = ("task", "start", "lookup", "--param", "order_id=o-1", "--session", folder / "session")
        realm.ok(*words, "--out", folder / "task")
        yield realm


def called(up: Live) -> dict[str, Any]:
    """A call that is signed once, for any presenter."""
    args = {"order_id": "o-1"}
    held = Task.from_text((up.folder.parent / "task").read_text())
    return {"token": held.call_token("orders", "orders.get", args), "args": args, "at": time.time_ns() // 1_000_000}


def doctored(up: Live) -> dict[str, Any]:
    _, output, _ = up.run("doctor")
    [check] = [check for check in output["checks"] if check["name"] == "nonces"]
    return dict(check)


@pytest.mark.slow
def test_the_default_is_right_for_many_workers(up: Live, tmp_path: Path) -> None:
    """
    A service file names the realm's own store, and of two processes one accepts a call.
    """
    file = tmp_path / "orders.json"
    up.ok("service", "enrol", "orders", "--out", file)
    with workers(file, tmp_path) as both:
        for number in range(20):
            call = called(up)
            assert [worker.code(call) for worker in both] == ["ok", "replayed"], number
            both.reverse()
        assert doctored(up)["ok"]
        assert [worker.close() for worker in both] == ["", ""]
    document = json.loads(file.read_text())
    assert document["nonces"] == document["store"]
    assert document["nonces"].startswith("unix://")


@pytest.mark.slow
def test_where_they_share_nothing_it_is_reported(up: Live, tmp_path: Path) -> None:
    """
    The second process logs a warning that names the setting, once; the doctor finds the two while both run.
    """
    file = tmp_path / "orders.json"
    up.ok("service", "enrol", "orders", "--out", file)
    content = json.loads(file.read_text())
    content.pop("nonces", None)
    file.write_text(json.dumps(content))
    with workers(file, tmp_path) as (first, second):
        assert first.code(called(up)) == "ok"
        assert doctored(up)["ok"], "one process is right without"
        assert second.code(called(up)) == "ok"
        exit_code, _, _ = up.run("doctor")
        found = doctored(up)
        assert (exit_code, found["ok"]) == (exit_codes.DENIED, False)
        assert "2 processes of orders" in found["found"]
        assert '"nonces"' in found["mend"]
        assert first.close() == ""
        assert second.code(called(up)) == "ok"
        up.until(lambda: doctored(up)["ok"])
        answer = second.close()
    assert answer.count("WARNING") == answer.count("\n") == 1
    assert '"nonces": "redis://HOST"' in answer
    assert "ERROR" not in answer


def test_a_store_with_users_has_one_for_it(tmp_path: Path, realm_name: str) -> None:
    """
    The verifier's login is enough, at the address of the service file without one; it writes used calls and no more.
    """
    server = Server(tmp_path / "server", free_ports(1)[0], *LASTING)
    with running(server), server.client() as raw:
        place = f"127.0.0.1:{server.port}/0"
        with RevocationStore(f"redis://{place}", realm_name) as store:
            store.load_functions()
            store.init()
        raw.execute_command("ACL", "SETUSER", "orders", *acl.rules("verifier", realm_name, "v" * 9))
        members = {"v": 1, "realm": realm_name, "audience": "orders", "keys": {"k1.0": "A" * 43}, "max_ttl_ms": 60_000}
        members |= {"store": f"redis://orders@{place}", "nonces": f"redis://{place}", "journal": str(tmp_path / "j")}
        file = tmp_path / "orders.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(members))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ARX_STORE_PASSWORD", "v" * 9)
            used = open_verifier(file).nonces
        now = time.time_ns() // 1_000_000
        assert [used.spend(b"a", now + 15_000, now) for _ in range(2)] == [True, False]
        assert raw.ttl(f"arx:nonce:{realm_name}:orders:a") > 15
        with raw.monitor() as seen:
            assert used.spend(b"b", now + 15_000, now)
            commands = [seen.next_command()["command"] for _ in range(2)]
        assert [command.split()[0] for command in commands] == ["FCALL", "SET"], "so that no call waits for the disk"
        used.close()  # type: ignore[attr-defined]  # of RedisNonces
