# SPDX-License-Identifier: Apache-2.0
"""A server that a real gateway of a real realm starts over stdio reaches nothing of either, by any isolation.

Without one it reaches nearly all: that shows that the ways of ``spy`` lead somewhere.
"""

import contextlib
import ctypes
import functools
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from arx_caps.agent import Agent
from arx_caps.isolation.choice import isolate
from arx_caps.isolation.program import Program
from arx_verifier.errors import ArxError
from tests.house.pages import ROOT
from tests.realm_folder import ARX, RealmFolder
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers
PLANT = f"plant-{secrets.token_hex(16)}"
PYTHON = next(path for path in ("/usr/bin/python3", sys.executable) if Path(path).exists())  # that every user can run
SPY = (ROOT / "tests" / "gateway" / "spy.py").read_text("utf-8")
USER = "nobody"
KINDS = ("bubblewrap", "user", "auto", "none")
OPEN = 20  # ways that lead there without an isolation
KEY = "arx-plant"
WRITTEN = f"written-{secrets.token_hex(8)}"
ADD_KEY, KEYCTL, UNLINK, JOIN = 248, 250, 9, 1  # of x86-64
POLICY = """
[audience.{kind}]
origins = ["http://127.0.0.1:{port}"]
[task.{kind}]
agents = ["acme/**"]
ttl = "10m"
audience = ["{kind}"]
allow = [{{ tool = "{kind}.look", any = true }}]
"""
UPSTREAM = """
[upstream.{kind}]
audience = "{kind}"
command = ["{python}", "-c", {spy}]
isolation = "{kind}"
timeout = "300s"
"""
SESSION = """
[session.all]
agents = ["acme/**"]
ttl = "1h"
"""


@functools.cache
def why_not(kind: str) -> str | None:
    """Return why an isolation does not work on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        user = USER if kind == "user" else ""
        home = Path("/") if user else Path(folder)
        program = Program(name="t", command=("/bin/sh",), environment={}, home=home, user=user)
        try:
            isolate(program, kind).close()
        except ArxError as error:
            return str(error)
    return None


WORKING = [kind for kind in KINDS if why_not(kind) is None]


class World(RealmFolder):
    """The realm, its gateway, and what is planted around them."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        super().__init__(folder)
        self.mint, *ports = free_ports(1 + len(WORKING))
        self.ports = dict(zip(WORKING, ports, strict=True))
        self.environment |= {"OTHER_KEY": PLANT, "HOME": str(folder / "home")}
        self._plant(stack)

    def _plant(self, stack: contextlib.ExitStack) -> None:
        (self.folder / "home").mkdir()
        (self.folder / "planted").write_text(PLANT)
        homes = {"shell_history": ".bash_history", "git_settings": ".gitconfig", "npm_settings": ".npmrc"}
        homes |= {"netrc": ".netrc", "core_dump": "core"}
        self.places = {name: [str(self.folder / "home" / file)] for name, file in homes.items()}
        shared = {
            "temporary_files": "/tmp",
            "long_lived_temporary_files": "/var/tmp",
            "shared_memory_files": "/dev/shm",
        }
        for name, place in shared.items():
            number, path = tempfile.mkstemp(prefix="arx-plant-", dir=place)
            os.close(number)
            stack.callback(Path(path).unlink)
            self.places[name] = [path]
        for [path] in self.places.values():
            Path(path).write_text(PLANT)
        self.memory = stack.enter_context(system_v_memory())
        stack.enter_context(planted_keys())

    def files(self) -> dict[str, list[str]]:
        """The files of ARx by what they are."""
        realm = self.folder / "realm"
        found = {
            "root_key": [*(realm / "keys").glob("*")],
            "operator_key": [*realm.glob("operator*.key*"), *realm.glob("operator*.json")],
            "service": [*self.folder.glob("*.json")],
            "service_key": [*self.folder.glob("*.key")],
            "database": [*realm.rglob("*.db")],
            "journal": [path for path in (realm / "journals").rglob("*") if path.is_file()],
            "settings": [self.folder / "gateway.toml", realm / "realm.toml", realm / "policy.toml"],
            "store": [path for path in realm.rglob("*") if "aof" in path.name or path.name == "valkey.conf"],
            "realm": [path for path in realm.rglob("*") if path.is_file()],
        }
        assert all(found.values()), found
        return {name: [str(path) for path in paths] for name, paths in found.items()}

    def targets(self, pids: list[int]) -> dict[str, Any]:
        """What the spy looks for, without what is planted."""
        realm = self.folder / "realm"
        return {
            "pids": pids,
            "planted": str(self.folder / "planted"),
            "files": self.files(),
            "folders": [str(self.folder), str(realm), str(realm / "keys"), str(self.folder / "home")],
            "programs": [str(Path(sys.executable).parent), str(ROOT)],
            "places": self.places,
            "sockets": [str(path) for path in realm.rglob("*.sock")],
            "ports": [port for pid in family(pids[0]) for port in listening_ports(pid)],
            "written": WRITTEN,
            "mint": self.mint,
            "key": KEY,
            "memory": self.memory,
        }


@contextlib.contextmanager
def system_v_memory() -> Iterator[int]:
    """Shared memory of this user with what is planted; its id."""
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    number = libc.shmget(0, 4096, 0o600)
    place = libc.shmat(number, None, 0)
    ctypes.memmove(place, PLANT.encode(), len(PLANT))
    yield number
    libc.shmctl(number, 0, None)


@contextlib.contextmanager
def planted_keys() -> Iterator[None]:
    """Keys of the kernel's keyrings of this session and user, which the gateway inherits."""
    libc = ctypes.CDLL(None)
    libc.syscall(KEYCTL, JOIN, None)
    keys = [(libc.syscall(ADD_KEY, b"user", KEY.encode(), PLANT.encode(), len(PLANT), ring), ring) for ring in (-3, -4)]
    yield
    for key, ring in keys:
        libc.syscall(KEYCTL, UNLINK, key, ring)


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def listening_ports(pid: int) -> list[int]:
    """The ports at which a process listens."""
    own = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]


class Running(NamedTuple):
    """A realm that runs."""

    world: World
    pids: list[int]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A realm and its gateway, which has an upstream for each isolation that works on this machine."""
    folder = tmp_path_factory.mktemp("isolation")
    with contextlib.ExitStack() as stack:
        world = World(folder, stack)
        home = Path(tempfile.mkdtemp(prefix="arx-home-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, home)
        world.arx("init", str(folder / "realm"), "--listen", f"127.0.0.1:{world.mint}")
        policy = "".join(POLICY.format(kind=kind, port=port) for kind, port in world.ports.items())
        (folder / "realm" / "policy.toml").write_text(policy + SESSION)
        listen = ", ".join(f'"127.0.0.1:{port}"' for port in world.ports.values())
        text = f"[gateway]\nlisten = [{listen}]\n"
        for kind in WORKING:
            text += UPSTREAM.format(kind=kind, python=PYTHON, spy=json.dumps(SPY))
            if kind == "user":
                os.chown(home, pwd.getpwnam(USER).pw_uid, -1)
                text += f'user = "{USER}"\nhome = "{home}"\n'
        (folder / "gateway.toml").write_text(text)
        with (folder / "up.log").open("w") as log:
            words = [*ARX, "up", "--gateway", "gateway.toml", "--json"]
            up = subprocess.Popen(words, cwd=folder, env=world.environment, stdout=log, stderr=log)
        try:
            lines = folder / "up.log"
            until(lambda: '"upstreams"' in lines.read_text() or up.poll() is not None)
            assert up.poll() is None, lines.read_text()
            entries = [json.loads(line) for line in lines.read_text().splitlines() if line.startswith("{")]
            yield Running(world, [up.pid, *(each["pid"] for each in entries if "pid" in each)])
        finally:
            up.terminate()
            up.wait(60)


def look(running: Running, kind: str) -> dict[str, Any]:
    """Let the server of an isolation try all ways, by a call of an agent; its answer."""
    world, key = running.world, running.world.folder / f"{kind}.agent.json"
    world.arx("agent", "enrol", f"acme/{kind}", "--key-out", str(key))
    with Agent.from_key_file(key) as agent, agent.open_session() as session:
        task = session.start_task(kind)
        with httpx.Client(auth=task.auth(kind), timeout=300) as client:
            headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
            url = f"http://127.0.0.1:{world.ports[kind]}/{kind}"
            about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            opened = client.post(
                url, json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}, headers=headers
            )
            headers["mcp-session-id"] = opened.headers["mcp-session-id"]
            targets = world.targets(running.pids)
            params = {"name": "look", "arguments": {"targets": targets}}
            body = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
            answer = client.post(url, json=body, headers=headers)
    assert "result" in answer.json(), answer.text
    came = dict(json.loads(answer.json()["result"]["content"][0]["text"]))
    written = [Path(folder, WRITTEN) for folder in (*targets["folders"], *targets["programs"])]
    if any(path.exists() for path in written):
        came["found"].append("write_into_folders")
    for path in written:
        path.unlink(missing_ok=True)
    return came


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.skipif(why_not(kind) is not None, reason=str(why_not(kind))))
        for kind in KINDS
        if kind != "none"
    ],
)
def test_a_server_reaches_nothing_of_the_gateway_and_its_realm(running: Running, kind: str) -> None:
    """None of its ways leads anywhere."""
    came = look(running, kind)
    assert len(came["tried"]) >= 50
    assert came["found"] == [], came


@pytest.mark.slow
def test_without_an_isolation_it_reaches_nearly_all(running: Running) -> None:
    """So the ways lead there; and the log says which server that is."""
    came = look(running, "none")
    print(sorted(set(came["tried"]) - set(came["found"])), came["broken"])
    assert len(came["found"]) >= OPEN, came
    log = (running.world.folder / "up.log").read_text()
    assert 'upstream none: isolation = "none": its program can read the keys and secrets' in log
    assert log.count('isolation = "none"') == 1
