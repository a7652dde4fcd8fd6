# SPDX-License-Identifier: Apache-2.0
"""The mint as a process: it starts only when it is safe to, reports that, and leaves nothing running."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from arx_caps.credentials.jose import KeyFile, make_assertion, make_dpop
from arx_caps.embedded import EmbeddedValkey
from arx_caps.http.process import open_listener
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.mint.server.serve import serve
from arx_caps.settings.realm import Realm
from arx_verifier.errors import SettingsError
from tests.mint.harness import now_ms
from tests.postgres import Postgres
from tests.servers import until

UP = """
import json, sys
from arx_caps.mint.server.supervise import Supervisor, run_until_signal
from arx_caps.settings.realm import Realm
run_until_signal(Supervisor(Realm.open(sys.argv[1]), on_ready=lambda said: print(json.dumps(said), flush=True)))
"""


@pytest.fixture
def realm(tmp_path: Path, realm_name: str, free_port: int) -> Realm:
    listen = f"127.0.0.1:{free_port}"
    return init_realm(tmp_path / "realm", name=realm_name, issuer=f"http://{listen}", listen=listen)


@contextlib.contextmanager
def started(command: list[str], **settings: Any) -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, *command], text=True, **pipes, **settings)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()


@contextlib.contextmanager
def mint_process(realm: Realm, store: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "ARX_STORE_URL": store}
    command = ["-m", "arx_caps.mint.server.serve", "--realm-dir", str(realm.folder), *options]
    with started(command, env=environment) as process:
        yield process


def line_of(pipe: IO[str] | None) -> dict[str, Any]:
    assert pipe is not None
    document: dict[str, Any] = json.loads(pipe.readline())
    return document


def sign_in(realm: Realm) -> httpx.Response:
    key, url = KeyFile.load(realm.operator_key_path), realm.issuer + "/v1/operators/token"
    proof = make_dpop(key.key, method="POST", url=url, now=now_ms())
    body = {"assertion": make_assertion(key, audience=realm.issuer, now=now_ms())}
    return httpx.post(url, json=body, headers={"DPoP": proof}, timeout=60)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A zombie whose parent has not looked yet is gone as well.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "mint.example"])
def test_plain_http_is_for_loopback(realm: Realm, host: str) -> None:
    """Beyond loopback the mint does not listen, unless a setting confirms that TLS ends before it."""
    with pytest.raises(SettingsError, match="behind-tls"):
        serve(realm.folder, host=host, store_url="unix:///none")


def test_answers_are_not_delayed() -> None:
    """The listening socket says that it speaks TCP: only then does asyncio turn Nagle's delay off."""
    with open_listener("mint", "127.0.0.1", 0, 1) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_no_store_is_no_start(realm: Realm) -> None:
    """Without a store named anywhere there is an error that says what to do."""
    with pytest.raises(SettingsError, match="arx up"):
        serve(realm.folder)


@pytest.mark.servers
def test_it_reports_when_it_is_ready_and_stops_on_command(realm: Realm, valkey: EmbeddedValkey) -> None:
    """One JSON line on stderr, then it answers; SIGTERM ends it, and nothing secret was written."""
    with mint_process(realm, valkey.url) as process:
        output = line_of(process.stderr)
        assert (output["ready"], output["realm"], output["issuer"]) == (True, realm.name, realm.issuer)
        assert sign_in(realm).status_code == 201
        assert httpx.get(realm.issuer + "/readyz").json()["ready"] is True
        assert "server" not in httpx.get(realm.issuer + "/healthz").headers
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert out + err == ""


@pytest.mark.slow
@pytest.mark.servers
def test_it_serves_out_of_a_shared_database(
    tmp_path: Path, valkey: EmbeddedValkey, postgres: Postgres, realm_name: str, free_port: int
) -> None:
    """A realm that names a PostgreSQL is served out of it by the program as it is run."""
    listen, url = f"127.0.0.1:{free_port}", postgres.database(template="made")
    issuer = f"http://{listen}"
    realm = init_realm(tmp_path / "realm", name=realm_name, issuer=issuer, listen=listen, database=url)
    with mint_process(realm, valkey.url) as process:
        assert line_of(process.stderr)["ready"] is True
        assert sign_in(realm).status_code == 201
    with MintDatabase(url) as db:
        assert [event.kind for event in db.outbox.after(0)][-1] == "operator.signed_in"
    postgres.drop(url)


@pytest.mark.nightly
@pytest.mark.servers
def test_it_ends_with_its_parent(realm: Realm, valkey: EmbeddedValkey) -> None:
    """When standard input ends, the mint stops by itself."""
    with mint_process(realm, valkey.url, "--until-eof") as process:
        assert line_of(process.stderr)["ready"] is True
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def break_root(realm: Realm) -> None:
    realm.root_key_path.unlink()


def break_policy(realm: Realm) -> None:
    realm.policy_path.write_text("[task.x]")


def open_root(realm: Realm) -> None:
    realm.root_path.chmod(0o644)


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize(
    "damage", [break_policy, *(pytest.param(damage, marks=pytest.mark.nightly) for damage in (break_root, open_root))]
)
def test_a_damaged_realm_does_not_start(realm: Realm, valkey: EmbeddedValkey, damage: Callable[[Realm], None]) -> None:
    """No key, an open key or a broken policy: it ends with one line that says why."""
    damage(realm)
    with mint_process(realm, valkey.url) as process:
        assert process.wait(60) == 2
        output = line_of(process.stderr)
        assert output["ready"] is False
        assert output["error"]


@pytest.mark.slow
@pytest.mark.servers
def test_a_port_is_not_shared(realm: Realm, valkey: EmbeddedValkey) -> None:
    """A second mint at the same address does not start."""
    with mint_process(realm, valkey.url) as first:
        assert line_of(first.stderr)["ready"] is True
        with mint_process(realm, valkey.url) as second:
            assert second.wait(60) == 2
            assert "cannot listen" in line_of(second.stderr)["error"]


@pytest.mark.slow
@pytest.mark.servers
def test_a_store_that_is_down_may_come_back(realm: Realm, tmp_path: Path) -> None:
    """The exit code separates failures that a retry can mend from the others."""
    with mint_process(realm, f"unix://{tmp_path}/none.sock") as process:
        assert process.wait(60) == 3
        assert line_of(process.stderr)["code"] == "store_unavailable"


def valkey_pid(realm: Realm) -> int:
    return EmbeddedValkey(realm.valkey_dir).server_pid


@pytest.mark.slow
@pytest.mark.servers
def test_up_runs_everything_and_stops_everything(realm: Realm) -> None:
    """Store and mint come up, a killed mint is started again with its state, and SIGTERM ends both."""
    with started(["-c", UP, str(realm.folder)]) as process:
        first = line_of(process.stdout)["pid"]
        assert sign_in(realm).status_code == 201
        os.kill(first, signal.SIGKILL)
        second = line_of(process.stdout)["pid"]
        assert second != first
        assert sign_in(realm).status_code == 201
        server = valkey_pid(realm)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert gone(second)
        assert gone(server)
    with MintDatabase(realm.database_url) as db:
        assert [event.kind for event in db.outbox.after(0)].count("epoch.begun") == 1


@pytest.mark.slow
@pytest.mark.servers
def test_nothing_outlives_a_killed_up(realm: Realm) -> None:
    """When the supervisor is killed outright, mint and store end by themselves, and it can be started again."""
    with started(["-c", UP, str(realm.folder)]) as process:
        mint, server = line_of(process.stdout)["pid"], valkey_pid(realm)
        process.kill()
        until(lambda: gone(mint) and gone(server))
    with started(["-c", UP, str(realm.folder)]) as process:
        assert line_of(process.stdout)["ready"] is True
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.servers
def test_a_hangup_reads_the_policy_again(realm: Realm) -> None:
    """SIGHUP reaches the mint: a good policy is applied, one with a mistake is reported and changes nothing."""
    policy = realm.policy_path.read_text()
    with started(["-c", UP, str(realm.folder)]) as process:
        first = line_of(process.stdout)["policy"]
        realm.policy_path.write_text(policy.replace('ttl = "8h"', 'ttl = "7h"'))
        process.send_signal(signal.SIGHUP)
        output = line_of(process.stderr)
        assert (output["reloaded"], output["policy"] != first) == (True, True)
        break_policy(realm)
        process.send_signal(signal.SIGHUP)
        assert line_of(process.stderr) | {"error": ""} == output | {"reloaded": False, "code": "policy", "error": ""}
        assert sign_in(realm).status_code == 201


@pytest.mark.slow
@pytest.mark.servers
def test_up_names_what_must_be_mended(realm: Realm) -> None:
    """A realm that cannot start is not tried for ever."""
    break_policy(realm)
    with started(["-c", UP, str(realm.folder)]) as process:
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert "policy.toml" in process.stderr.read().splitlines()[-1]
