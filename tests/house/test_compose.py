# SPDX-License-Identifier: Apache-2.0
"""The compose file is valid, and what it tells containers to run does run: here without containers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from arx_caps.settings.realm import Realm
from tests.postgres import Postgres
from tests.servers import free_ports, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of the compose file, as docker-compose reads them."""
    found = shutil.which("docker-compose")
    if found is None:
        assert "ARX_REQUIRE_COMPOSE" not in os.environ, "docker-compose must be there to check docker-compose.yml"
        pytest.skip("docker-compose is not installed; .ci/run installs it")
    done = subprocess.run([found, "config", "--format", "json"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)["services"]
    return read


def test_the_store_keeps_and_never_evicts(services: dict[str, Any]) -> None:
    """
    Redis writes every change to its append-only file before it answers, and evicts nothing.
    """
    words = services["redis"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"


def test_nothing_is_published_beyond_this_host(services: dict[str, Any]) -> None:
    """
    Every published port is bound to loopback; of Redis, PostgreSQL and the mints themselves none is.
    """
    ports = {name: service.get("ports", []) for name, service in services.items()}
    assert not [ports[name] for name in ("redis", "postgres", "mint-a", "mint-b") if ports[name]]
    assert all(port["host_ip"] == "127.0.0.1" for listed in ports.values() for port in listed)
    assert set(services) == {"redis", "postgres", "realm", "mint-a", "mint-b", "proxy", "enrol", "orders", "payments"}


@pytest.fixture
def started() -> Iterator[ExitStack]:
    """Processes that are ended with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.slow
@pytest.mark.servers
def test_its_commands_run_as_they_stand(
    services: dict[str, Any], own_valkey: Any, postgres: Postgres, tmp_path: Path, started: ExitStack
) -> None:
    """
    Realm, both mints, enrolment and both services start with the compose file's own commands, with other paths and
    ports; the second mint takes over where the first one was stopped.
    """
    *free, second = free_ports(4)
    ports = {str(port): str(found) for port, found in zip((8700, 9001, 9002), free, strict=True)}
    database = postgres.database()
    started.callback(postgres.drop, database)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def command(name: str) -> list[str]:
        words = []
        for word in services[name]["command"]:
            told = word.replace("$$", "$").replace("/data", str(tmp_path))
            told = told.replace("redis://redis:6379/0", own_valkey.url)
            told = told.replace("postgresql://arx@postgres/arx", f"'{database}'")
            for port, free in ports.items():
                told = told.replace(port, free)
            words.append(re.sub(r"(?<![0-9])0\.0\.0\.0", "127.0.0.1", told))
        return words

    def once(name: str) -> None:
        done = subprocess.run(command(name), env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    def serve(name: str, *options: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*command(name), *options], env=environment, stderr=subprocess.PIPE)
        assert process.stderr is not None
        started.callback(process.stderr.close)
        started.callback(process.wait, 10)
        started.callback(process.terminate)
        return process

    def answers(port: str, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[port]}{path}", timeout=2):
                return True
        except urllib.error.HTTPError as error:
            with error:
                return error.code == 401
        except OSError:
            return False

    once("realm")
    once("realm")  # a second `up` finds it there
    assert Realm.open(tmp_path / "realm").limits.proxies  # the proxy stands for nobody
    first = serve("mint-a")
    until(lambda: answers("8700", "/readyz"))
    once("enrol")
    assert services["mint-a"]["command"] == services["mint-b"]["command"]
    serve("mint-b", "--port", str(second))
    ports["second"] = str(second)
    until(lambda: answers("second", "/readyz"))
    first.terminate()
    assert first.wait(60) in (0, -signal.SIGTERM)
    assert answers("second", "/readyz")
    for name, port, path in (("orders", "9001", "/orders/o-1001"), ("payments", "9002", "/refunds/o-1001")):
        serve(name)
        until(lambda port=port, path=path: answers(port, path))
