# SPDX-License-Identifier: Apache-2.0
"""`arx run --key` with a mint: it starts a task, ends it with the command, and shows what the policy refuses."""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent import Agent
from arx_caps.agent.tasks.holder_key import make_holder_key
from tests.adapters.asgi_server import serving
from tests.gateway.served_door import Recorder
from tests.realm_folder import ARX, RealmFolder
from tests.servers import free_ports

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.4"), pytest.mark.slow]

POLICY = """
[audience.items]
origins = ["http://127.0.0.1:{gateway}"]
[session.all]
agents = ["acme/**"]
ttl = "1h"
[task.read]
agents = ["acme/**"]
params = {{ name = {{ max_length = 20 }} }}
ttl = "10m"
binding = "bound"
audience = ["items"]
allow = [{{ tool = "items.get", args = {{ name = "$name" }} }}]
"""
GATEWAY = """
[gateway]
listen = ["127.0.0.1:{gateway}"]
[upstream.items]
audience = "items"
url = "http://127.0.0.1:{service}"
hosts = ["items.example"]
[upstream.items.routes]
"GET /items/{{name}}" = "items.get"
"""
CURL = "curl -sS -o /dev/null -w '%{http_code} ' https://items.example/items/"


class Realm(RealmFolder):
    """A realm with a gateway before a service, and the key of an agent."""

    def run(self, *words: str, start: Sequence[str] = ("--key", "agent.key", "read")) -> Any:
        """Run a command under a task that starts now, or of a file."""
        options = ("run", "--no-box", *start, *words)
        return subprocess.run(
            [*ARX, *options], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120
        )

    def tasks(self) -> list[dict[str, Any]]:
        """Return the tasks of the realm, the newest first."""
        return list(self.arx("task", "list")["tasks"])


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    mint, gateway = free_ports(2)
    made = Realm(tmp_path)
    made.arx("init", str(tmp_path / "realm"), "--listen", f"127.0.0.1:{mint}")
    (tmp_path / "realm" / "policy.toml").write_text(POLICY.format(gateway=gateway))
    with serving(Recorder(), log_level="critical") as service:
        (tmp_path / "gateway.toml").write_text(GATEWAY.format(gateway=gateway, service=service))
        with made.up("--gateway", "gateway.toml", ready='"upstreams": ["items"]'):
            made.arx("agent", "enrol", "acme/a", "--key-out", "agent.key")
            yield made


def test_a_task_starts_and_ends_with_the_command(realm: Realm) -> None:
    """
    The command calls what the parameter allows; afterwards no task and no session is open.
    """
    done = realm.run("--param", "name=x", "--", "sh", "-c", f"{CURL}x; {CURL}y; exit 3")
    assert (done.stdout, done.returncode) == ("200 403 ", 3), done.stderr
    [task] = realm.tasks()
    assert task["state"] == "ended", task


def test_what_the_policy_refuses_is_125(realm: Realm) -> None:
    """
    A parameter that the template does not take; no command runs.
    """
    done = realm.run("--param", "other=x", "--", "touch", "ran")
    assert done.returncode == 125, done.stderr
    assert not (realm.folder / "ran").exists()


def test_a_kill_ends_the_command_that_should_end(realm: Realm) -> None:
    """
    The command runs while an operator kills its agent, and ends without a call.
    """
    words = ("run", "--no-box", "--end-command", "--key", "agent.key", "read", "--param", "name=x", "--")
    with subprocess.Popen(
        [*ARX, *words, "sh", "-c", "echo ready; exec sleep 300"],
        cwd=realm.folder,
        env=realm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        realm.arx("kill", "agent:acme/a", "--reason", "a test", "--yes")
        _, errors = running.communicate(timeout=60)
    assert "an operator ended this task" in errors
    assert running.returncode == 128 + signal.SIGTERM


@pytest.mark.spec("16.1")
def test_a_bound_task_runs_with_its_key_alone(realm: Realm) -> None:
    """
    Each call has its proof; without the key, and with another one, no command runs.
    """
    key = make_holder_key(realm.folder / "holder.key")
    make_holder_key(realm.folder / "other.key")
    with Agent.from_key_file(realm.folder / "agent.key") as agent, agent.open_session() as session:
        session.start_task("read", {"name": "x"}, keep=True, holder_key=key).save(realm.folder / "task.bundle")
        held = ("--holder-key", "holder.key")
        for start in ((*held, "--task", "task.bundle"), (*held, "--key", "agent.key", "read", "--param", "name=x")):
            done = realm.run("--", "sh", "-c", f"{CURL}x; {CURL}y", start=start)
            assert (done.stdout, done.returncode) == ("200 403 ", 0), done.stderr
        shown = realm.arx("decisions", "--tool", "items.get")["decisions"]
        allowed = [each for each in shown if each["outcome"] == "allow"]
        assert [each["assurance"] for each in allowed] == ["bound"] * 2, allowed
        for held in ((), ("--holder-key", "other.key")):
            done = realm.run("--", "touch", "ran", start=("--task", "task.bundle", *held))
            assert done.returncode == 125, done.stderr
            assert key.public in done.stderr
    assert not (realm.folder / "ran").exists()
