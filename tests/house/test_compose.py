# SPDX-License-Identifier: Apache-2.0
"""The compose file is valid, and its commands for containers run: here without containers."""

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
def services(compose: dict[str, Any]) -> dict[str, Any]:
    """The services of the compose file."""
    read: dict[str, Any] = compose["services"]
    return read


@pytest.fixture(scope="module")
def gateway_settings(compose: dict[str, Any]) -> str:
    """The gateway's file."""
    return str(compose["configs"]["gateway"]["content"])


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file, as docker-compose reads it."""
    found = shutil.which("docker-compose")
    if found is None:
        assert "ARX_REQUIRE_COMPOSE" not in os.environ, "docker-compose must be there to check docker-compose.yml"
        pytest.skip("docker-compose is not installed; .ci/run installs it")
    done = subprocess.run([found, "config", "--format", "json"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
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
    parts = {
        "redis",
        "postgres",
        "realm",
        "mint-a",
        "mint-b",
        "proxy",
        "enrol",
        "orders",
        "payments",
        "gateway",
        "books",
    }
    assert set(services) == parts


def test_passwords_are_files_that_only_their_users_get(services: dict[str, Any]) -> None:
    """
    No variable holds a password; the database's is a secret of the database, the mints and what makes the realm.
    """
    for name, service in services.items():
        for variable in service.get("environment") or {}:
            assert "PASSWORD" not in variable or variable.endswith("_FILE"), (name, variable)
    assert {name for name in services if services[name].get("secrets")} == {"postgres", "realm", "mint-a", "mint-b"}


def test_no_part_of_arx_can_write_beside_its_volume(services: dict[str, Any]) -> None:
    """
    Each container of the image has a root that it cannot write to, no capability, and asks for no further rights.
    """
    ours = {name: service for name, service in services.items() if name not in ("redis", "postgres", "proxy")}
    assert len({service["image"] for name, service in ours.items() if name != "books"}) == 1
    for name, service in ours.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_the_mcp_server_is_reached_by_the_gateway_alone(services: dict[str, Any]) -> None:
    """
    The MCP server publishes no port, and its network has one other container, whose network the gateway shares.
    """
    assert "ports" not in services["books"]
    assert set(services["books"]["networks"]) == {"upstreams"}
    within = {name for name, service in services.items() if "upstreams" in (service.get("networks") or {})}
    assert within == {"books", "proxy"}
    assert services["gateway"]["network_mode"] == "service:proxy"
    assert "127.0.0.1:9003" in {f"{port['host_ip']}:{port['published']}" for port in services["proxy"]["ports"]}


@pytest.fixture
def started() -> Iterator[ExitStack]:
    """Processes that are ended with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.slow
@pytest.mark.servers
def test_its_commands_run_as_they_stand(
    services: dict[str, Any],
    gateway_settings: str,
    own_valkey: Any,
    postgres: Postgres,
    tmp_path: Path,
    started: ExitStack,
) -> None:
    """
    Realm, both mints, enrolment and both services start with the compose file's own commands, with other paths and
    ports; the second mint takes over where the first one was stopped.
    """
    *free, second = free_ports(5)
    ports = {str(port): str(found) for port, found in zip((8700, 9001, 9002, 9003), free, strict=True)}
    database = postgres.database()
    started.callback(postgres.drop, database)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def here(text: str) -> str:
        text = text.replace("$$", "$").replace("/data", str(tmp_path)).replace("/etc/arx", str(tmp_path))
        text = text.replace("redis://redis:6379/0", own_valkey.url)
        text = text.replace("postgresql://arx@postgres/arx", f"'{database}'")
        for port, free in ports.items():
            text = text.replace(port, free)
        return re.sub(r"(?<![0-9])0\.0\.0\.0", "127.0.0.1", text)

    def command(name: str) -> list[str]:
        return [here(word) for word in services[name]["command"]]

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
    assert Realm.open(tmp_path / "realm").limits.proxies  # the proxy represents no client
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
    (tmp_path / "gateway.toml").write_text(here(gateway_settings))
    serve("gateway")
    until(lambda: answers("9003", "/readyz"))
    assert answers("9003", "/books")  # 401: the gateway asks for a token before the server does anything
