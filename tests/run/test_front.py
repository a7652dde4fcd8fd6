# SPDX-License-Identifier: Apache-2.0
"""The front of `arx run` before a gateway: what it signs and forwards, and what it refuses by itself."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from arx_caps.agent import Bundle, Task
from arx_caps.embedded import EmbeddedValkey
from arx_caps.run.authority import RunAuthority
from arx_verifier import Rule
from tests.gateway.gateway_realm import AUDIENCE
from tests.gateway.served_door import Recorder
from tests.house.pages import ROOT
from tests.run.world import RunWorld, run_world
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.4")]

HOST = "api.example"
CATALOGUE = """
[routes]
"GET /items/{name}" = { tool = "get", open = true }
"POST /items" = { tool = "add", open = true }
"PUT /files/{name}" = { tool = "store", body = "stream" }
"""
RAW = (sys.executable, str(ROOT / "tests" / "run" / "raw_client.py"))


class Place(NamedTuple):
    world: RunWorld
    service: Recorder


@pytest.fixture
def place(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> Iterator[Place]:
    (tmp_path / "api.toml").write_text(CATALOGUE, "utf-8")
    service = Recorder()
    with run_world(tmp_path, valkey, realm_name, service, "api.toml", HOST) as world:
        world.start(*(Rule(tool=f"{AUDIENCE}.{name}", open=True) for name in ("get", "add", "store")))
        yield Place(world, service)


def curl(world: RunWorld, *words: str) -> tuple[str, str]:
    """Return the body of an answer, and its status."""
    done = world.run("curl", "-sS", "-w", "\n%{http_code}", *words)
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return body, status


def raw(world: RunWorld, *requests: tuple[str, str]) -> list[str]:
    """Return what the front answers to raw bytes."""
    done = world.run(*RAW, json.dumps(requests))
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_requests_are_signed_and_the_clients_own_credentials_dropped(place: Place) -> None:
    """
    A GET, a POST in chunks, a HEAD and a streamed PUT pass; the service sees no placeholder and no token.
    """
    world, service = place
    keys = ("-H", "Authorization: Bearer arx-run-no-secret", "-H", "x-api-key: arx-run-no-secret")
    assert curl(world, *keys, f"https://{HOST}/items/a?page=2")[1] == "200"
    chunked = ("-H", "Transfer-Encoding: chunked", "-H", "Content-Type: application/json")
    assert curl(world, *keys, *chunked, "-d", '{"n": 1}', f"https://{HOST}/items")[1] == "200"
    (world.folder / "large").write_bytes(bytes(3 << 20))
    assert curl(world, "-T", "large", "-H", "Expect: 100-continue", f"https://{HOST}/files/a")[1] == "200"
    assert curl(world, "-I", f"https://{HOST}/items/a")[1] == "200"
    seen = [(scope["method"], scope["path"], len(body)) for scope, body in service.arrived]
    assert seen == [
        ("GET", "/items/a", 0),
        ("POST", "/items", 8),
        ("PUT", "/files/a", 3 << 20),
        ("HEAD", "/items/a", 0),
    ]
    names = {name for scope, _ in service.arrived for name, _ in scope["headers"]}
    assert not names & {b"authorization", b"x-api-key", b"proxy-authorization"}


def test_what_is_not_of_the_task_is_refused_with_what_would_be(place: Place) -> None:
    """
    Another host and another port are answered within the tunnel, in JSON and in text, and nothing is forwarded.
    """
    world, service = place
    text = f"refused by arx: no upstream of this task has the host other.example; it may call {HOST}. Do not retry."
    body, status = curl(world, "-H", "Accept: application/json", "https://other.example/x")
    assert (json.loads(body)["message"], json.loads(body)["error"], status) == (text, text, "403")
    assert curl(world, "https://other.example/x") == (f"{text}\n", "403")
    body, status = curl(world, f"https://{HOST}:8443/items/a")
    assert "port 8443 is refused" in body
    assert status == "403"
    body, status = curl(world, "-H", "Upgrade: websocket", "-H", "Connection: Upgrade", f"https://{HOST}/items/a")
    assert "WebSocket, is refused. Do not retry." in body
    assert status == "426"
    assert service.arrived == []


def test_the_gateway_refuses_what_the_task_does_not_allow(place: Place) -> None:
    """
    Its reason is in the members that programs print.
    """
    world, service = place
    world.start(Rule(tool=f"{AUDIENCE}.get", args={"name": "a"}))
    body, status = curl(world, "-H", "Accept: application/json", f"https://{HOST}/items/b")
    assert status == "403"
    assert json.loads(body)["code"] == "argument_not_allowed"
    assert json.loads(body)["message"] == f"refused by arx: {json.loads(body)['detail']}"
    assert service.arrived == []


def test_a_request_that_two_readers_could_take_for_two_is_refused(place: Place) -> None:
    """
    Two lengths, two hosts, another host than that of CONNECT, an absolute target, a line that is folded.
    """
    world, service = place
    one = f"POST /items HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    inner = f"GET /items/b HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
    place_ = f"{HOST}:443"
    requests = [
        f"{one}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
        f"{one}Content-Length: 2\r\nContent-Length: 4\r\n\r\n{{}}{inner}",
        f"{one}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{inner}",
        f"{one}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{inner}",
        f"{one}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}",
        f"{one}Content-Length: +2\r\n\r\n{{}}{inner}",
        f"{one}Host: other.example\r\nContent-Length: 0\r\n\r\n",
        "GET /items/a HTTP/1.1\r\nHost: other.example\r\n\r\n",
        f"GET https://{HOST}/items/a HTTP/1.1\r\nHost: {HOST}\r\n\r\n",
        f"GET /items/a HTTP/1.1\r\nHost: {HOST}\r\nX-A: 1\r\n b: 2\r\n\r\n",
        f"GET /items/a\x00 HTTP/1.1\r\nHost: {HOST}\r\n\r\n",
        "GET /items/a HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    for request, answer in zip(requests, raw(world, *((place_, each) for each in requests)), strict=True):
        assert answer.startswith("HTTP/1.1 400 "), (request, answer)
        assert answer.count("HTTP/1.1 ") == 1, (request, answer)
    assert service.arrived == []


def test_the_port_needs_the_password_of_this_run(place: Place) -> None:
    """
    Another user of the machine reaches it: no request passes, and none that is no CONNECT.
    """
    world, service = place
    head = f"CONNECT {HOST}:443 HTTP/1.1\r\n"
    wrong = [
        f"{head}\r\n",
        f"{head}Proxy-Authorization: Basic YXJ4Og==\r\n\r\n",
        f"{head}Proxy-Authorization: Basic LOGIN\r\nProxy-Authorization: Basic LOGIN\r\n\r\n",
        f"GET /items/a HTTP/1.1\r\nHost: {HOST}\r\n\r\n",
    ]
    for answer in raw(world, *(("", each) for each in wrong)):
        assert answer.startswith("HTTP/1.1 407 ")
    login = "Proxy-Authorization: Basic LOGIN\r\n"
    plain, path, early, port = raw(
        world,
        ("", f"GET http://{HOST}/items/a HTTP/1.1\r\nHost: {HOST}\r\n{login}\r\n"),
        ("", f"GET /items/a HTTP/1.1\r\nHost: {HOST}\r\n{login}\r\n"),
        ("", f"{head}{login}\r\nGET /items/a HTTP/1.1\r\n"),
        ("", f"CONNECT {HOST}:99999 HTTP/1.1\r\n{login}\r\n"),
    )
    assert "plain HTTP is refused: use https. Do not retry." in plain
    assert path.startswith("HTTP/1.1 403 ")
    assert early.startswith("HTTP/1.1 400 ")
    assert port.startswith("HTTP/1.1 400 ")
    assert service.arrived == []


def test_the_socket_takes_plain_http_of_its_owner(place: Place) -> None:
    """
    As gh sends it; its folder and the socket are open to this user alone.
    """
    world, service = place
    program = (
        "import json, os, re, subprocess, sys; folder = os.environ['GH_CONFIG_DIR'];"
        "path = json.loads(re.search('http_unix_socket: (.*)', open(folder + '/config.yml').read())[1]);"
        "print(*[oct(os.stat(each).st_mode) for each in (path, os.path.dirname(path))], flush=True);"
        f"subprocess.run(['curl', '-sS', '--unix-socket', path, 'http://{HOST}/items/a', '-o', os.devnull], check=True)"
    )
    done = world.run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [oct(stat.S_IFSOCK | 0o600), oct(stat.S_IFDIR | 0o700)]
    assert [scope["path"] for scope, _ in service.arrived] == ["/items/a"]


def test_a_kill_is_shown_and_ends_the_command_if_it_should(place: Place) -> None:
    """
    The next call is refused with the reason; a line on stderr; with --end-command the command gets SIGTERM, without a
    call.  A task that was ended before starts nothing.
    """
    world, service = place
    call, session = f"curl -sS https://{HOST}/items/a", "s-abcdefghijklmnop"
    world.start(Rule(tool="*"), session=session)
    with (
        world.started("sh", "-c", f"echo begun; read line; {call}; {call}") as calling,
        world.started("sh", "-c", "echo begun; exec sleep 300", options=("--no-box", "--end-command")) as idle,
    ):
        world.realm.kill(session)
        output, errors = calling.communicate("go\n", timeout=60)
        assert output.count('"message": "refused by arx: an operator ended this work') == 2
        assert errors.count("the gateway refuses each further call of the command") == 1
        assert "an operator ended this task: the gateway" in idle.communicate(timeout=60)[1]
        assert idle.returncode == 128 + signal.SIGTERM
    done = world.run("touch", "begun")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        125,
        "arx: an operator ended this task: start another one",
    )
    assert service.arrived == []
    assert not (world.folder / "begun").exists()


def test_a_host_that_the_gateway_got_is_known_soon(place: Place) -> None:
    """
    A reload of the gateway gives the upstream a further host: the command can call it without a restart.
    """
    world, _ = place
    call = "curl -sS -o /dev/null -w '%{http_code}\\n' https://more.example/items/a"
    with world.started("sh", "-c", f"echo begun; while read line; do {call}; done") as running:
        to, answers = running.stdin, running.stdout
        assert to is not None
        assert answers is not None

        def status() -> str:
            to.write("go\n")
            to.flush()
            return answers.readline()

        assert status() == "403\n"
        file = world.folder / "gateway.toml"
        file.write_text(file.read_text("utf-8").replace(f'["{HOST}"]', f'["{HOST}", "more.example"]'), "utf-8")
        world.gateway.send_signal(signal.SIGHUP)
        until(lambda: status() == "200\n")


def test_the_answer_of_a_proxy_ends_no_task(place: Place) -> None:
    """
    Before a gateway it refuses or fails: the hosts stay, and only the gateway's own refusal ends the task.
    """
    world, _ = place
    hosts = httpx.get(f"{world.url}/hosts").content
    answers = iter([(200, hosts), (403, b"<html>Forbidden</html>"), (502, b""), (403, b'{"code": "revoked"}')])
    ended: list[bool] = []

    async def ask(_: str, __: str) -> tuple[int, bytes]:
        return next(answers)

    async def looks() -> None:
        for known in ([], [], [], [True]):
            await authority.look(ask)
            assert (list(authority.hosts), ended) == ([HOST], known)

    authority = RunAuthority(lambda: Task(Bundle.parse(world.secret)), lambda: ended.append(True))
    asyncio.run(looks())


def test_no_part_of_the_task_reaches_the_command(place: Place) -> None:
    """
    A canary: its token is in no variable, argument, file of the run or answer; its memory cannot be read.
    """
    world, _ = place
    program = (
        "import os, pathlib; print(dict(os.environ));"
        "print(pathlib.Path(f'/proc/{os.getpid()}/cmdline').read_bytes());"
        "folder = pathlib.Path(os.environ['SSL_CERT_FILE']).parent;"
        "print([each.read_bytes() for each in folder.rglob('*') if each.is_file()]);"
        "print(pathlib.Path(f'/proc/{os.getppid()}').stat().st_uid)"
    )
    done = world.run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    parts = [world.secret[start : start + 24] for start in range(0, len(world.secret) - 24, 24)]
    assert not [part for part in parts if part in done.stdout + done.stderr]
    assert "PRIVATE KEY" not in done.stdout


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -9 $$"), 137),
        (("no-such-program-of-arx",), 127),
        (("/etc/hostname",), 126),
    ],
)
def test_the_status_is_that_of_the_command(place: Place, command: tuple[str, ...], status: int) -> None:
    """
    Also of one that a signal ends, that is not found or that cannot be executed.
    """
    assert place.world.run(*command).returncode == status


def test_a_script_without_its_interpreter_is_named(place: Place, tmp_path: Path) -> None:
    """
    A shell would run it; the kernel does not.
    """
    (tmp_path / "script").write_text("exit 0\n")
    (tmp_path / "script").chmod(0o755)
    done = place.world.run("./script", cwd=tmp_path)
    assert done.returncode == 126
    assert "./script: neither a program of this machine nor a script that begins with #!\n" in done.stderr


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder in which a socket's path is not too long."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        yield Path(name)


def test_a_killed_run_leaves_its_folder_to_the_next_start(
    place: Place, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The next start removes it, and neither that of a run that goes on nor another folder of this name.
    """
    world, folder = place.world, short_folder
    (folder / "arx-run-notes").mkdir()
    (folder / "arx-run-notes" / "kept").touch()
    (folder / "arx-run-about").mkdir()
    (folder / "arx-run-about" / "lock").touch()  # of a run that is about to lock it
    monkeypatch.setenv("TMPDIR", str(folder))
    others = set(folder.iterdir())
    with world.started("sh", "-c", "echo begun; read line") as killed:
        killed.kill()
        killed.wait()
    [left] = set(folder.iterdir()) - others
    with world.started("sh", "-c", "echo begun; read line; ls $GH_CONFIG_DIR") as running:
        [own] = set(folder.iterdir()) - others
        assert own != left
        assert world.run("true").returncode == 0
        assert set(folder.iterdir()) == {*others, own}
        assert running.communicate("\n")[0] == "config.yml\n"
    assert set(folder.iterdir()) == others


def test_a_task_that_cannot_be_used_is_125(place: Place) -> None:
    """
    Without a gateway that answers, with another one than the policy names, or without a box.
    """
    world = place.world
    done = world.run("true", options=("--no-box", "--gateway", "http://127.0.0.1:9"))
    assert done.returncode == 125
    assert f"--gateway: expected an origin of the task ({world.url}), got http://127.0.0.1:9" in done.stderr
    world.bundle.chmod(0o644)
    assert world.run("true").returncode == 125


def test_signals_reach_the_command(place: Place) -> None:
    """
    SIGTERM to `arx run` is the command's, which ends as it likes.
    """
    program = "trap 'echo caught; exit 3' TERM; echo ready; while :; do read line || :; done"
    with subprocess.Popen(
        place.world.words("sh", "-c", program),
        env=place.world.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        assert running.stdout.readline() == "ready\n"
        os.kill(running.pid, signal.SIGTERM)
        running.stdin.write("\n")
        running.stdin.flush()
        assert running.stdout.readline() == "caught\n"
        assert running.wait(60) == 3
